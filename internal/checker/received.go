package checker

import (
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"
	"time"
)

// received follows the requests in the order in which the receiver decided about
// them (Phantom, Pair, Keys, Order, Determinism, Politeness).
func (c *checking) received() {
	c.commitOf = make(map[int]*committed)
	for i := range c.h.Commits {
		k := &c.h.Commits[i]
		if c.commitOf[k.Partition] == nil {
			c.commitOf[k.Partition] = new(committed)
		}
		c.commitOf[k.Partition].commits = append(c.commitOf[k.Partition].commits, k)
	}
	c.late = make(map[lateness]int64)
	if err := c.h.eachRequest(c.request); err != nil {
		c.breach(Recorded, 0, "%v", err)
	}
}

// request verifies one request.
func (c *checking) request(r *Request) {
	c.requests++
	c.report.Requests++
	c.report.Received += len(r.Calls)
	if r.Applied > 0 {
		if r.Applied != c.applied+1 {
			c.breach(Recorded, r.Begun, "the request that was applied as number %d stands behind number %d", r.Applied, c.applied)
		}
		c.applied = r.Applied
		c.report.Applied += len(r.Calls)
	}
	c.seen = c.seen[:0]
	for _, raw := range r.Calls {
		if at, ok := c.recognize(r, raw); ok {
			c.seen = append(c.seen, at)
		}
	}
	if len(c.seen) == 0 {
		return
	}
	c.ownership(r)
	first := c.calls[c.seen[0]].event
	alone := first
	for _, at := range c.seen {
		if c.calls[at].event != first {
			alone = -1
		}
	}
	e := &c.events[first]
	c.forgets(r)
	c.polite(r, &c.lanes[e.lane])
	c.fenced(r)
	taken := r.Applied > 0 && r.Status/100 == 2
	if !taken && !refusal(r.Status) || !r.SentAnswer {
		c.tenants[e.tenant].failed = true
	}
	c.witness(r, e.tenant, alone)
	for i, at := range c.seen {
		early := c.early(r, i, at)
		if r.Applied > 0 {
			c.apply(r, at, early)
		}
	}
}

// recognize finds the event that a call comes from (Phantom, Determinism).
func (c *checking) recognize(r *Request, raw []byte) (int32, bool) {
	sum := sha256.Sum256(raw)
	n, err := parse(raw)
	if err != nil || n.kind != '{' {
		c.breach(Phantom, r.Begun, "a call at %s is no JSON object", r.Endpoint)
		return 0, false
	}
	id := n.last("messageId").scalar()
	u, ok := parseUUID(id)
	at, known := c.callOf[u]
	if !ok || !known {
		c.breach(Phantom, r.Begun, "a call at %s with the message id %q comes from no event in the log", r.Endpoint, id)
		return 0, false
	}
	cl := &c.calls[at]
	if cl.raw != ([16]byte{}) {
		if cl.raw != [16]byte(sum[:16]) {
			c.breachOf(Determinism, cl.event, r.Begun, "its %s %s came with other bytes than before", kindNames[cl.kind], id)
		}
		return at, true
	}
	copy(cl.raw[:], sum[:])
	n.comparable(c.o.LibraryVersion)
	c.buf = n.appendCanonical(c.buf[:0])
	if sum := sha256.Sum256(c.buf); [16]byte(sum[:16]) != cl.want {
		if c.report.Counts[Phantom] < c.o.MaxPerRule {
			c.differing = append(c.differing, differing{cl.event, len(c.report.Violations), u, string(c.buf)})
		}
		c.breachOf(Phantom, cl.event, r.Begun, "its %s %s is not what the rules give", kindNames[cl.kind], id)
	}
	return at, true
}

// ownership verifies that the calls of a request are where they belong (Keys).
func (c *checking) ownership(r *Request) {
	checked := int32(-1)
	for _, at := range c.seen {
		id := c.calls[at].event
		e := &c.events[id]
		if e.tenant == checked {
			continue
		}
		if checked >= 0 {
			c.breachOf(Keys, id, r.Begun, "it travelled with events of tenant %s", c.tenants[checked].ID)
			return
		}
		checked = e.tenant
		t := &c.tenants[e.tenant]
		if t.Endpoint != r.Endpoint {
			c.breachOf(Keys, id, r.Begun, "it went to %s, and its tenant's endpoint is %s", r.Endpoint, t.Endpoint)
			return
		}
		if !c.opens(t, r) {
			c.breachOf(Keys, id, r.Begun, "it went under a key that its tenant did not have then")
			return
		}
	}
}

func (c *checking) opens(t *tenantState, r *Request) bool {
	for _, k := range t.WriteKeys {
		if k.Key == r.WriteKey && r.Begun >= k.From-int64(c.o.ClockSlack) &&
			(k.Until == 0 || r.Begun <= k.Until+int64(c.o.KeyGrace)) {
			return true
		}
	}
	return false
}

// forgets verifies that a request has nothing of those who are to be forgotten
// (Forgotten). What was on its way in time may come late, where its worker or its link
// stood still since.
func (c *checking) forgets(r *Request) {
	for _, at := range c.seen {
		id := c.calls[at].event
		e := &c.events[id]
		if !e.forgotten || !c.isForgotten(e, r.Begun-int64(c.o.ForgetGrace)) {
			continue
		}
		t := &c.tenants[e.tenant]
		since := t.ForgottenAt
		if c.fault(max(since, r.Begun-int64(c.o.ForgetGrace)), r.Begun, func(f *Fault) bool { return f.strikes(r.Worker) && f.ofWorkers() && f.about(t.ID) }, Frozen, AnswersLost) >= 0 {
			continue
		}
		c.breachOf(Forgotten, id, r.Begun, "its %s was sent %v after its respondent was to be forgotten",
			kindNames[c.calls[at].kind], time.Duration(r.Begun-since).Round(time.Millisecond))
	}
}

// isForgotten reports whether the respondent of an event was to be forgotten by a time.
func (c *checking) isForgotten(e *event, by Time) bool {
	return e.forgotten && c.tenants[e.tenant].ForgottenAt <= by
}

// early verifies that what must be accepted before a call is sent was (Pair,
// Order). It reports true, and notes the breach, if it was not.
func (c *checking) early(r *Request, i int, at int32) bool {
	cl := &c.calls[at]
	e := &c.events[cl.event]
	batch := c.tenants[e.tenant].rules.batch
	before := func(p int32, together bool) bool {
		prior := &c.calls[p]
		if prior.accepted > 0 && prior.accepted <= r.Begun {
			return true
		}
		return together && slices.Contains(c.seen[:i], p)
	}
	if cl.kind == group {
		for p := e.first; p < e.first+int32(e.calls); p++ {
			if c.calls[p].kind == identify && !before(p, batch) {
				c.breachOf(Pair, cl.event, r.Begun, "its group was sent before its identify was accepted")
				return true
			}
		}
	}
	if cl.seq == 0 {
		return false
	}
	p := c.keyCalls[c.keys[e.key].start+cl.seq-1]
	prior := &c.calls[p]
	if cl.kind == group && prior.kind == identify && prior.event == cl.event {
		return false // that was Pair's
	}
	if together := batch || prior.event == cl.event && prior.kind == cl.kind; before(p, together) {
		return false
	}
	other := &c.events[prior.event]
	if other.letter && other.letterAt <= r.Begun+int64(c.o.ClockSlack) || c.trimmedBy(other, r.Begun) || c.isForgotten(other, r.Begun) {
		return false
	}
	c.breachOf(Order, cl.event, r.Begun, "its %s was sent before the %s of the event at %d, which comes before it, was accepted",
		kindNames[cl.kind], kindNames[prior.kind], c.events[prior.event].offset)
	return true
}

// polite verifies that a request came no sooner than its receiver had asked, and
// no more often than agreed (Politeness).
func (c *checking) polite(r *Request, l *lane) {
	slack := int64(c.o.ClockSlack)
	tenant := c.tenants[l.tenant].ID
	if r.Begun >= l.asked && r.Begun < l.notBefore-slack && !c.during(l.asked-int64(c.o.Settle), r.Begun, "", Unclean, Restart) {
		c.note(Violation{Rule: Politeness, Tenant: tenant, Partition: l.partition, Offset: -1, At: r.Begun},
			"a request to tenant %s came %v before the Retry-After of the one before was over", tenant, time.Duration(l.notBefore-r.Begun))
	}
	if r.SentAnswer && (r.Status == 429 || r.Status >= 500) {
		if wait, ok := retryAfter(r.RetryAfter, r.Answered); ok {
			l.asked, l.notBefore = r.Answered, r.Answered+wait
		}
	}
	if r.Status/100 == 2 && r.Applied > 0 || refusal(r.Status) {
		l.failing, l.probes = 0, l.probes[:0]
		return
	}
	if l.failing == 0 {
		l.failing = r.Begun
	}
	if c.o.ProbeMax <= 0 || r.Begun < l.failing+int64(c.o.ProbeAfter) {
		return
	}
	l.probes = append(l.probes, r.Begun)
	for len(l.probes) > 0 && l.probes[0] < r.Begun-int64(c.o.ProbeWindow) {
		l.probes = l.probes[1:]
	}
	if len(l.probes) > c.o.ProbeMax {
		c.note(Violation{Rule: Politeness, Tenant: tenant, Partition: l.partition, Offset: -1, At: r.Begun},
			"tenant %s does not take anything and got %d requests in %v, over %d", tenant, len(l.probes), c.o.ProbeWindow, c.o.ProbeMax)
		l.probes = l.probes[:0]
	}
}

// retryAfter reads the header: seconds, or a time; at most 5 minutes, as agreed.
func retryAfter(header string, answered Time) (wait int64, ok bool) {
	const limit = 300
	header = strings.TrimSpace(header)
	if n, err := strconv.ParseInt(header, 10, 64); err == nil {
		return min(max(n, 0), limit) * int64(time.Second), n > 0
	}
	for _, layout := range []string{time.RFC1123, time.RFC850, time.ANSIC} {
		if t, err := time.Parse(layout, header); err == nil {
			wait := min(t.UnixNano()-answered, limit*int64(time.Second))
			return wait, wait > 0
		}
	}
	return 0, false
}
