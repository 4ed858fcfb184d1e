package simulation

import (
	"bytes"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"slices"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/checker"
	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// place is a position in the topic of events.
type place struct {
	partition int
	offset    int64
}

// fate is what becomes of a record.
type fate struct {
	at      place
	tenant  string
	key     string   // what it is in order by
	calls   []string // message ids, in the order in which they are sent
	bodies  []string
	copy    bool // of an earlier record
	trimmed bool
	dead    bool
}

// check holds a history to the promise.
func check(h *checker.History, p *plan, report *Report) {
	c := &checking{h: h, plan: p, report: report, fates: make(map[place]*fate), rows: make(map[string]*row), bodies: make(map[string]string)}
	c.derive()
	c.promises()
	c.calls()
	c.ends()
	c.positions()
}

// checking is one check.
type checking struct {
	h      *checker.History
	plan   *plan
	report *Report
	fates  map[place]*fate
	rows   map[string]*row
	bodies map[string]string // by message id
}

// row is what is kept in order: the calls of a user or an account.
type row struct {
	calls []step
	next  int
	// unknown is set while the last request for it has an outcome that its sender
	// does not know.
	unknown bool
}

type step struct {
	id   string
	of   *fate
	body string
}

func (c *checking) violate(format string, args ...any) {
	c.report.Violations = append(c.report.Violations, fmt.Sprintf(format, args...))
}

// derive makes the fate of each record.
func (c *checking) derive() {
	seen := make(map[string]bool)
	starts := make(map[int]int64)
	for _, b := range c.h.Bounds {
		starts[b.Partition] = b.Start
	}
	for i := range c.h.Log {
		rec := &c.h.Log[i]
		f := fateOf(c.plan, rec)
		f.trimmed = rec.Offset < starts[rec.Partition]
		c.fates[f.at] = f
		same := fmt.Sprintf("%d %s %s %s", rec.Partition, rec.Headers[queue.HeaderTenant], rec.Headers[queue.HeaderSource], rec.Value)
		f.copy = seen[same]
		seen[same] = true
		if f.key == "" {
			continue
		}
		w := c.rows[f.key]
		if w == nil {
			w = new(row)
			c.rows[f.key] = w
		}
		for j, id := range f.calls {
			w.calls = append(w.calls, step{id, f, f.bodies[j]})
		}
	}
	for _, l := range c.h.Letters {
		letter, err := deadletter.Decode(l.Value)
		if err != nil {
			c.violate("dead letter %d/%d: %v", l.Partition, l.Offset, err)
			continue
		}
		if f := c.fates[place{letter.Origin.Partition, int64(letter.Origin.Offset)}]; f != nil {
			f.dead = true
		}
	}
}

func fateOf(p *plan, rec *checker.Record) *fate {
	f := &fate{at: place{rec.Partition, rec.Offset}, tenant: rec.Headers[queue.HeaderTenant]}
	i := slices.IndexFunc(p.tenants, func(t tenant.Tenant) bool { return string(t.ID) == f.tenant })
	if i < 0 {
		return f
	}
	done, err := survey.Decode(survey.Source(rec.Headers[queue.HeaderSource]), rec.Value)
	if err != nil {
		return f
	}
	received, err := time.Parse(time.RFC3339Nano, rec.Headers[queue.HeaderReceivedAt])
	if err != nil {
		return f
	}
	result, err := attribution.Attribute(done, &p.tenants[i].Rules, f.tenant, received)
	if err != nil || result.Ignored != survey.NotIgnored {
		return f
	}
	f.key = f.tenant + "/" + result.OrderKey
	for j := range result.Calls {
		f.calls = append(f.calls, result.Calls[j].MessageID)
		f.bodies = append(f.bodies, string(result.Calls[j].AppendJSON(nil)))
	}
	return f
}

// promises holds every 202 to the log.
func (c *checking) promises() {
	values := make(map[place][]byte, len(c.h.Log))
	for _, rec := range c.h.Log {
		values[place{rec.Partition, rec.Offset}] = rec.Value
	}
	for _, s := range c.h.Sent {
		if s.Status != http.StatusAccepted {
			continue
		}
		if value, ok := values[place{s.Partition, s.Offset}]; !ok || !bytes.Equal(value, s.Body) {
			c.violate("event %s was answered 202 at %d/%d, where the log has %q", s.EventID, s.Partition, s.Offset, value)
		}
	}
}

// calls goes through what receivers took, in its order.
func (c *checking) calls() {
	of := make(map[string]string) // the row of each message id
	for _, key := range sorted(c.rows) {
		for _, s := range c.rows[key].calls {
			of[s.id] = key
		}
	}
	loose := slices.ContainsFunc(c.h.Faults, func(f checker.Fault) bool {
		return slices.ContainsFunc(f.Effects, func(e checker.Effect) bool {
			return e != checker.Harmless && e != checker.Trimmed
		})
	})
	for i := range c.h.Received {
		q := &c.h.Received[i]
		if want := c.ownerOf(q.Endpoint); want == "" || !c.hasKey(want, q.WriteKey) {
			c.violate("request %d went to %s under another tenant's key", i, q.Endpoint)
		}
		for _, raw := range q.Calls {
			var call struct {
				MessageID string `json:"messageId"`
			}
			_ = json.Unmarshal(raw, &call)
			key, known := of[call.MessageID]
			if !known {
				c.violate("request %d has a call that no event makes: %s", i, raw)
				continue
			}
			w := c.rows[key]
			if q.Applied > 0 {
				c.report.Calls++
				c.step(w, key, call.MessageID, raw, loose)
			}
			w.unknown = q.Status == 0 || q.Status/100 == 5
		}
	}
}

// step lets a call that was taken be the next of its row, or one that comes again
// with a cause.
func (c *checking) step(w *row, key, id string, raw []byte, loose bool) {
	for k := w.next; k < len(w.calls); k++ {
		s := w.calls[k]
		if s.id == id {
			if s.body != string(raw) {
				c.violate("%s: call %s is\n%s, want\n%s", key, id, raw, s.body)
			}
			w.next = k + 1
			return
		}
		if !s.of.copy && !s.of.trimmed && !s.of.dead {
			break
		}
	}
	for k := range slices.Backward(w.calls[:w.next]) {
		if w.calls[k].id == id {
			c.report.Repeats++
			if !loose && !w.unknown {
				c.violate("%s: call %s came again without a cause", key, id)
			}
			w.next = k + 1
			return
		}
	}
	c.violate("%s: call %d of its row, %s, came before what must come first; it has had %d of %d", key,
		slices.IndexFunc(w.calls, func(s step) bool { return s.id == id }), id, w.next, len(w.calls))
	w.next = slices.IndexFunc(w.calls, func(s step) bool { return s.id == id }) + 1
}

func (c *checking) ownerOf(endpoint string) string {
	for _, t := range c.h.Tenants {
		if t.Endpoint == endpoint {
			return t.ID
		}
	}
	return ""
}

func (c *checking) hasKey(id, key string) bool {
	return slices.ContainsFunc(c.h.Tenants, func(t checker.Tenant) bool {
		return t.ID == id && slices.ContainsFunc(t.WriteKeys, func(k checker.WriteKey) bool { return k.Key == key })
	})
}

// ends holds every event to an end.
func (c *checking) ends() {
	for _, key := range sorted(c.rows) {
		w := c.rows[key]
		for _, s := range w.calls[w.next:] {
			if !s.of.copy && !s.of.trimmed && !s.of.dead && !slices.Contains(c.h.Final.Failing, s.of.tenant) {
				c.violate("%s: call %s of the event at %d/%d was never taken", key, s.id, s.of.at.partition, s.of.at.offset)
			}
		}
	}
}

// positions holds the commits to going forwards only.
func (c *checking) positions() {
	last := make(map[int]int64)
	for _, commit := range c.h.Commits {
		if commit.Offset < last[commit.Partition] {
			c.violate("partition %d: a commit goes back from %d to %d", commit.Partition, last[commit.Partition], commit.Offset)
		}
		last[commit.Partition] = commit.Offset
	}
}

// done reports whether all events promised to tenants that are not left out have
// been taken.
func (r *record) done(p *plan, leaveOut func(id string) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := make(map[string]bool)
	for _, q := range r.requests {
		if q.Applied > 0 {
			for _, raw := range q.Calls {
				var call struct {
					MessageID string `json:"messageId"`
				}
				_ = json.Unmarshal(raw, &call)
				taken[call.MessageID] = true
			}
		}
	}
	for _, s := range r.h.Sent {
		if s.Status != http.StatusAccepted || leaveOut(s.Tenant) {
			continue
		}
		f := fateOf(p, &checker.Record{Value: s.Body, Headers: map[string]string{
			queue.HeaderTenant: s.Tenant, queue.HeaderSource: s.Source,
			queue.HeaderReceivedAt: time.Unix(0, s.At).UTC().Format(time.RFC3339Nano),
		}})
		if slices.ContainsFunc(f.calls, func(id string) bool { return !taken[id] }) {
			return false
		}
	}
	return true
}
