package checker

import "time"

// lateness is the one request of a lane that a frozen worker may still have
// under way when it goes on.
type lateness struct {
	fault  int
	lane   int32
	strand int
}

// apply follows what a call does at the receiver (Order, Duplicates).
func (c *checking) apply(r *Request, at int32, early bool) {
	cl := &c.calls[at]
	e := &c.events[cl.event]
	k := &c.keys[e.key]
	again := cl.request != 0
	stray := false
	switch {
	case cl.seq == k.next:
		if again {
			c.count(cl)
			c.report.Repeats.Continued++
			c.blame(k.fault)
		}
		k.next++
	case cl.seq > k.next:
		stray = c.overtakes(r, at, k, early)
		if !stray {
			k.next = cl.seq + 1
		}
	case again:
		stray = c.repeated(r, at, k)
	case e.letter && !early && c.resumed(cl.event, e.letterAt, r.Begun):
		// It was given up, and the commit that says so is not there: the sequence
		// begins anew with it.
		k.next = cl.seq + 1
	case e.letter && c.copyOf(at, r) != nil:
		// It was given up, and came again as a late copy, of which no worker could know.
		if l := c.copyOf(at, r); l.used == 0 {
			l.used = r.Begun
		}
		stray = true
	default:
		// The overtaking has been reported, but for what was given up.
		if e.letter && !early && !c.isLate(r, e) && !c.any(Rewind) {
			c.breachOf(Order, cl.event, r.Begun, "its %s was applied after it was given up, behind later events", kindNames[cl.kind])
		}
		stray = true
	}
	k.high = max(k.high, k.next)
	if !stray || !again {
		cl.begun, cl.answered, cl.request = r.Begun, r.Answered, int32(c.requests)
		cl.unknown = !r.SentAnswer || r.Status/100 != 2 || r.Answered-r.Begun > int64(c.o.Deadline)
		cl.lost = cl.unknown || c.lost(r, c.tenants[e.tenant].ID)
	}
	if !stray {
		k.stamp(c, at)
	}
	if r.Status/100 == 2 && cl.accepted == 0 {
		cl.accepted = max(r.Answered, r.Begun)
		if e.left--; e.left == 0 {
			e.delivered = cl.accepted
		}
	}
}

// stamp remembers in which order calls took effect last, where that is not the
// order of the log.
func (k *key) stamp(c *checking, at int32) {
	if c.calls[at].seq+1 < k.high {
		k.inverted = true
	}
	c.calls[at].last = int32(c.requests)
}

// overtakes judges a call that comes sooner than its turn. It reports whether it
// is to be passed over.
func (c *checking) overtakes(r *Request, at int32, k *key, early bool) bool {
	cl := &c.calls[at]
	e := &c.events[cl.event]
	for seq := k.next; seq < cl.seq; seq++ {
		skipped := &c.calls[c.keyCalls[k.start+seq]]
		other := &c.events[skipped.event]
		if by := max(r.Begun, r.Answered); other.letter && other.letterAt <= by+int64(c.o.ClockSlack) || c.trimmedBy(other, by) || c.isForgotten(other, by) {
			continue
		}
		switch {
		case c.isLate(r, e):
			c.report.Repeats.Late++
			return true
		case early:
			return false // has been reported
		}
		if skipped.request != 0 {
			c.breachOf(Order, cl.event, r.Begun, "its %s came in a sequence that had begun anew, which left out the %s of the event at %d",
				kindNames[cl.kind], kindNames[skipped.kind], other.offset)
		} else {
			c.breachOf(Order, cl.event, r.Begun, "its %s was applied before the %s of the event at %d, which comes before it",
				kindNames[cl.kind], kindNames[skipped.kind], other.offset)
		}
		return false
	}
	return false
}

// repeated judges a call that was applied before. It reports whether it is to be
// passed over; otherwise the sequence begins anew there.
func (c *checking) repeated(r *Request, at int32, k *key) (stray bool) {
	cl := &c.calls[at]
	e := &c.events[cl.event]
	n := &c.report.Repeats
	c.count(cl)
	switch {
	case c.copyOf(at, r) != nil:
		// It may be the event itself that came again: then the copy is still to come.
		if l := c.copyOf(at, r); l.used == 0 && !c.caused(at, r, k) {
			l.used = r.Begun
		}
		n.Copies++
		return true
	case r.Begun < cl.begun:
		n.Late++ // the sender had given that request up and made another
		return true
	case c.isLate(r, e):
		n.Late++
		return true
	case c.inDoubt(at, k):
		n.Unknown++
		k.fault = c.latest(cl.begun, max(cl.begun, cl.answered), c.tenants[e.tenant].ID)
	case c.during(cl.begun-int64(c.o.Settle), r.Begun, "", Unclean) && c.uncommitted(at, r.Begun, false):
		n.Takeover++
		k.fault = c.nearest(cl.begun, r.Begun, Unclean)
	case c.any(Unclean, Restart) && c.uncommitted(at, r.Begun, true):
		n.Forgotten++
		k.fault = c.latest(0, r.Begun, "", Unclean, Restart)
	case c.during(cl.begun-int64(c.o.Settle), r.Begun, "", Trimmed) && c.torn(at, r.Begun):
		n.Forgotten++
		k.fault = c.latest(cl.begun-int64(c.o.Settle), r.Begun, "", Trimmed)
	case c.during(0, r.Begun, c.tenants[e.tenant].ID, Rewind):
		n.Replayed++
		k.fault = c.latest(0, r.Begun, c.tenants[e.tenant].ID, Rewind)
	default:
		n.Uncaused++
		if c.any(Unclean) {
			c.breachOf(Order, cl.event, r.Begun, "its %s was applied again without a cause", kindNames[cl.kind])
		} else {
			c.breachOf(Duplicates, cl.event, r.Begun, "its %s was applied again, in a run in which no worker ended uncleanly", kindNames[cl.kind])
		}
		return true
	}
	c.blame(k.fault)
	k.next = cl.seq + 1
	return false
}

// count counts a repeat. No sender can avoid the first one of a call whose request
// before had an outcome that it could not know.
func (c *checking) count(cl *call) {
	c.report.Repeats.Calls++
	if cl.lost && !cl.spent {
		cl.spent = true
		c.report.Repeats.Unavoidable++
	}
}

// onItsWay is how long an answer may take from the receiver to its sender: a fault
// that begins meanwhile may take it.
const onItsWay = int64(time.Second)

// lost reports whether a fault may have kept the answer to a request from the very
// worker that made it: one that loses answers, or the worker's own end.
func (c *checking) lost(r *Request, tenant string) bool {
	answered := max(r.Begun, r.Answered)
	if c.fault(r.Begun, answered+onItsWay, func(f *Fault) bool { return f.about(tenant) && f.strikes(r.Worker) }, AnswersLost) >= 0 {
		return true
	}
	return c.fault(r.Begun, answered+int64(c.o.ClockSlack), func(f *Fault) bool {
		return f.At >= r.Begun && f.strikes(r.Worker) && f.ofWorkers()
	}, Unclean, Restart) >= 0
}

// blame counts a repeat that a fault is the cause of; 0 is none of them.
func (c *checking) blame(fault int32) {
	if fault == 0 {
		return
	}
	n := &c.report.Repeats
	if n.Faults == nil {
		n.Faults = make(map[string]int)
	}
	n.Faults[c.h.Faults[fault-1].Fault]++
}

// resumed reports whether a worker that took over between two times, the second at
// most the time now, had to go on with an event from the last commit, although it
// had ended.
func (c *checking) resumed(id int32, ended, when Time) bool {
	e := &c.events[id]
	unclean := c.during(ended-int64(c.o.Settle), when, "", Unclean)
	forgotten := c.during(0, when, "", Unclean, Restart)
	for at := e.first; at < e.first+int32(e.calls); at++ {
		if unclean && c.uncommitted(at, when, false) || forgotten && c.uncommitted(at, when, true) {
			return true
		}
	}
	return c.during(0, when, c.lanes[e.lane].name, Rewind)
}

// inDoubt reports whether the sender may not know what became of the very
// request before, in which this call was the user's.
func (c *checking) inDoubt(at int32, k *key) bool {
	cl := &c.calls[at]
	for seq := cl.seq + 1; seq < k.next; seq++ {
		if c.calls[c.keyCalls[k.start+seq]].request != cl.request {
			return false
		}
	}
	tenant := c.tenants[c.events[cl.event].tenant].ID
	answered := max(cl.begun, cl.answered)
	return cl.unknown || c.during(cl.begun, answered, tenant, Unclean) || c.during(cl.begun, answered+onItsWay, tenant, AnswersLost)
}

// isLate reports whether a request is what a frozen worker had under way: one of
// each lane and each freeze. A key that is set apart at any time counts as a lane:
// no commit need have said so by then. Where it is not known whose the request was, or who
// was frozen, it may be.
func (c *checking) isLate(r *Request, e *event) bool {
	slack := int64(c.o.Deadline)
	i := c.fault(r.Begun-slack, r.Begun+slack, func(f *Fault) bool {
		known := r.Worker != "" && f.Target != ""
		return (!known || f.Target == r.Worker) && (r.Answered == 0 || r.Answered >= f.end())
	}, Frozen)
	if i < 0 {
		return false
	}
	id := lateness{i, e.lane, c.strandOf(e)}
	if first, ok := c.late[id]; ok {
		return first == c.requests
	}
	c.late[id] = c.requests
	return true
}

// committed are the commits of a partition.
type committed struct {
	commits []*Commit
	decoded int // index of the commit whose metadata this is, counted from 1
	meta    metadata
}

// uncommitted reports whether, by the last commit before a time, a worker that
// takes over has to make a call: its event is not done by that. With forgotten, it
// is so only because the commit had no room for all that it knew.
func (c *checking) uncommitted(at int32, when Time, forgotten bool) bool {
	return c.unfinishedBy(c.calls[at].event, c.calls[at].kind, when, forgotten)
}

// unfinishedBy is uncommitted of an event's calls of a kind, where the event may be a copy
// of another, whose calls are these.
func (c *checking) unfinishedBy(event int32, kind uint8, when Time, forgotten bool) bool {
	e := &c.events[event]
	k, meta := c.lastCommit(int(e.partition), when)
	if k == nil {
		return !forgotten
	}
	if forgotten && !meta.leftOut {
		return false
	}
	passed := e.offset < k.Offset
	id, cur, ok := c.cursorOf(&meta, e)
	apart := ok && id.key != (tag{})
	switch {
	case apart && forgotten && !meta.clean:
		return true // what is left of the lane that it was taken from comes first, and then all of it
	case apart && e.offset < cur.from:
		return false
	case !ok || e.offset < cur.from:
		return !passed && !forgotten
	}
	n := c.counts(&meta, &c.lanes[e.lane], id)
	switch n.state(&cur, e) {
	case done:
		return false
	case afterFirst:
		return kind != identify
	case afterSecond:
		return kind == track
	default:
		return true
	}
}

// torn reports whether an event may have to be sent again because retention took
// others of its lane from behind the cursor that held them: then nothing can be
// counted from there, and what was done behind is not known any more.
func (c *checking) torn(at int32, when Time) bool {
	e := &c.events[c.calls[at].event]
	l := &c.lanes[e.lane]
	_, meta := c.lastCommit(int(e.partition), when)
	id, cur, ok := c.cursorOf(&meta, e)
	if !ok {
		return false
	}
	gone := func(id cursorID, from int64) bool {
		n := c.counts(&meta, l, id)
		first := n.first(from)
		return first >= 0 && c.trimmedBy(&c.events[first], when)
	}
	if split, apart := meta.splitOf(id); apart {
		// Behind the others of its key, if these come again.
		if of, ok := meta.cursors[cursorID{tenant: l.tag}]; ok && of.from < split && gone(cursorID{tenant: l.tag}, of.from) {
			return true
		}
	}
	if e.offset < cur.from {
		return false
	}
	// The commit says so already, or will.
	return c.uncommitted(at, when, false) && c.trimmedBy(&c.events[l.events[0]], when) || gone(id, cur.from)
}

// lastCommit is the last one of a partition before a time, nil if there is none,
// and its metadata.
func (c *checking) lastCommit(partition int, when Time) (*Commit, metadata) {
	p := c.commitOf[partition]
	if p == nil {
		return nil, metadata{}
	}
	n := p.before(when - int64(c.o.ClockSlack))
	if n == 0 {
		return nil, metadata{}
	}
	k := p.commits[n-1]
	if p.decoded != n {
		p.decoded = n
		p.meta, _ = decodeMetadata(k.Metadata) // what cannot be read is reported elsewhere
	}
	return k, p.meta
}

// before is how many commits were made until a time.
func (p *committed) before(when Time) int {
	low, high := 0, len(p.commits)
	for low < high {
		if mid := (low + high) / 2; p.commits[mid].At <= when {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// copyOf is a late copy of a call that was in the log when a request was made, and that
// may be what it delivers: it has not come yet, or comes again after a takeover. nil if
// there is none.
func (c *checking) copyOf(at int32, r *Request) *lateCopy {
	all := c.again[at]
	for i := range all {
		l := &all[i]
		if l.came > r.Begun+int64(c.o.ClockSlack) {
			return nil
		}
		kind, tenant := c.calls[at].kind, c.tenants[c.events[c.calls[at].event].tenant].ID
		if l.used == 0 || c.during(l.used-int64(c.o.Settle), r.Begun, tenant, Unclean, AnswersLost) && c.unfinishedBy(l.event, kind, r.Begun, false) ||
			c.any(Unclean, Restart) && c.unfinishedBy(l.event, kind, r.Begun, true) {
			return l
		}
	}
	return nil
}

// caused reports whether there is a cause for a call to come again in a request, other
// than a copy in the log.
func (c *checking) caused(at int32, r *Request, k *key) bool {
	cl := &c.calls[at]
	since := cl.begun - int64(c.o.Settle)
	return c.inDoubt(at, k) ||
		c.during(since, r.Begun, "", Unclean) && c.uncommitted(at, r.Begun, false) ||
		c.any(Unclean, Restart) && c.uncommitted(at, r.Begun, true) ||
		c.during(since, r.Begun, "", Trimmed) && c.torn(at, r.Begun) ||
		c.during(0, r.Begun, c.tenants[c.events[cl.event].tenant].ID, Rewind)
}
