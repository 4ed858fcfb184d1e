package checker

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// final verifies how things stood at the end (Complete, Convergence, DeadLetters,
// Duplicates, Isolation).
func (c *checking) final() {
	c.positions()
	c.complete()
	c.converged()
	c.justify()
	n := &c.report.Repeats
	if applied := c.report.Applied - n.Calls; applied > 0 {
		n.Share = float64(n.Calls) / float64(applied)
		n.Avoidable = float64(n.Calls-n.Unavoidable) / float64(applied)
	}
	if c.o.MaxRepeats > 0 && n.Avoidable > c.o.MaxRepeats {
		c.breach(Duplicates, 0, "%d calls were applied again that need not have been, %.2f %%, over %.2f %%",
			n.Calls-n.Unavoidable, 100*n.Avoidable, 100*c.o.MaxRepeats)
	}
	c.isolated()
	c.describe()
}

// position is what held at the end.
type position struct {
	committed int64
	meta      metadata
}

// positions reads the last commits.
func (c *checking) positions() {
	c.held = make(map[int]position)
	for p, k := range c.commitOf {
		last := k.commits[len(k.commits)-1]
		c.hold(p, last.Offset, last.Metadata)
	}
	for i := range c.h.Final.Positions {
		p := &c.h.Final.Positions[i]
		if p.Committed < 0 {
			continue
		}
		if k := c.commitOf[p.Partition]; k != nil {
			if last := k.commits[len(k.commits)-1]; last.Offset != p.Committed || last.Metadata != p.Metadata {
				c.breach(Recorded, c.h.Final.At, "the last commit of partition %d is %d, and the group's position at the end %d, or their metadata differ",
					p.Partition, last.Offset, p.Committed)
			}
		}
		c.hold(p.Partition, p.Committed, p.Metadata)
	}
}

func (c *checking) hold(partition int, offset int64, text string) {
	meta, _ := decodeMetadata(text) // what cannot be read was reported, and holds nothing
	c.held[partition] = position{offset, meta}
}

// complete verifies that every event ended (Complete).
func (c *checking) complete() {
	for i := range c.events {
		e := &c.events[i]
		switch {
		case e.fate == isCopy:
			c.report.Ended.Copies++
		case e.fate == isIgnored:
			c.report.Ended.Ignored++
		case e.letter:
			c.report.Ended.Dead++
		case e.fate == makesCalls && c.appliedAll(e):
			c.report.Ended.Delivered++
		case e.forgotten:
			c.report.Ended.Forgotten++
		case c.trimmed(e):
			c.report.Trimmed++
		case c.waits(e):
			c.report.Ended.Waiting++
		case e.fate == isDead:
			c.breachOf(Complete, int32(i), 0, "by the rules it is a dead letter (%s), and there is none", reasons[e.reason])
		default:
			c.breachOf(Complete, int32(i), 0, "it has no outcome: %s", c.missing(e))
		}
	}
}

func (c *checking) appliedAll(e *event) bool {
	for at := e.first; at < e.first+int32(e.calls); at++ {
		if c.calls[at].request == 0 {
			return false
		}
	}
	return true
}

// missing names the calls that never took effect.
func (c *checking) missing(e *event) string {
	s := ""
	for at := e.first; at < e.first+int32(e.calls); at++ {
		if c.calls[at].request == 0 {
			if s != "" {
				s += " and "
			}
			s += kindNames[c.calls[at].kind]
		}
	}
	return "its " + s + " never took effect"
}

// waits reports whether an event waits for a tenant that still fails, and will be
// found again: by the tenant's cursor, or because nothing has passed it.
func (c *checking) waits(e *event) bool {
	l := &c.lanes[e.lane]
	if !slices.Contains(c.h.Final.Failing, l.name) {
		return false
	}
	held, ok := c.held[int(e.partition)]
	if !ok {
		return true // nothing was committed: all will be read again
	}
	passed := e.offset < held.committed
	id, cur, ok := c.cursorOf(&held.meta, e)
	if !ok || cur.from > e.offset {
		return !passed && (!ok || id.key == (tag{}))
	}
	n := c.counts(&held.meta, l, id)
	return n.state(&cur, e) != done
}

// converged verifies, of the keys in which calls came again, that what was
// applied last of each trait is what the log says last (Convergence).
func (c *checking) converged() {
	var order []int32
	for i := range c.keys {
		k := &c.keys[i]
		if !k.inverted {
			continue
		}
		order = order[:0]
		for _, at := range c.keyCalls[k.start : k.start+k.calls] {
			if c.calls[at].last > 0 {
				order = append(order, at)
			}
		}
		want, have := make(map[uint32]uint32), make(map[uint32]uint32)
		by := make(map[uint32]int32)
		for _, at := range order {
			for _, t := range c.foldedOf(at) {
				want[t.of], by[t.of] = t.value, at
			}
		}
		slices.SortStableFunc(order, func(a, b int32) int { return int(c.calls[a].last) - int(c.calls[b].last) })
		for _, at := range order {
			for _, t := range c.foldedOf(at) {
				have[t.of] = t.value
			}
		}
		worst := int32(-1)
		for of, value := range want {
			if have[of] != value {
				worst = max(worst, by[of])
			}
		}
		if worst >= 0 && !c.cutShort(c.calls[worst].event, order[len(order)-1]) {
			c.breachOf(Convergence, c.calls[worst].event, 0, "the receiver ends with an older value than that of its %s", kindNames[c.calls[worst].kind])
		}
	}
}

// cutShort reports whether retention may have taken an event before it came again, behind
// the call that was applied last of its key: a sequence that had begun anew.
func (c *checking) cutShort(event, last int32) bool {
	return c.trimmed(&c.events[event]) && c.during(c.calls[last].begun, math.MaxInt64, "", Trimmed)
}

func (c *checking) foldedOf(at int32) []folded {
	cl := &c.calls[at]
	return c.traits[cl.traits : cl.traits+uint32(cl.nTraits)]
}

// isolated measures how long the healthy tenants' events took, before the first
// fault and during them (Isolation).
func (c *checking) isolated() {
	from, until := Time(1<<62), Time(0)
	for i := range c.h.Faults {
		from, until = min(from, c.h.Faults[i].At), max(until, c.h.Faults[i].end())
	}
	var before, during, after []int64
	for i := range c.events {
		e := &c.events[i]
		if e.fate != makesCalls || e.left > 0 || c.tenants[e.tenant].failed {
			continue
		}
		took := e.delivered - e.accepted
		switch {
		case e.accepted < from:
			before = append(before, took)
		case e.accepted <= until:
			during = append(during, took)
		default:
			after = append(after, took)
		}
	}
	l := &c.report.Latency
	l.Before, l.During, l.After = spread(before), spread(during), spread(after)
	for i := range c.tenants {
		if c.tenants[i].failed {
			l.FailedTenants++
		}
	}
	if c.o.MaxLatencyRatio <= 0 || len(before) == 0 || len(during) == 0 {
		return
	}
	bound := max(time.Duration(float64(l.Before.P99)*c.o.MaxLatencyRatio), l.Before.P99+c.o.LatencyGrace)
	if l.During.P99 > bound {
		c.breach(Isolation, from, "the healthy tenants' p99 was %v before the faults and %v during them, over %v", l.Before.P99, l.During.P99, bound)
	}
}

// spread sorts the times and takes what matters of them.
func spread(took []int64) Spread {
	if len(took) == 0 {
		return Spread{}
	}
	slices.Sort(took)
	at := func(q float64) time.Duration { return time.Duration(took[int(q*float64(len(took)-1))]) }
	return Spread{Events: len(took), P50: at(0.5), P99: at(0.99), Max: at(1)}
}

// differing is a call that was not what the rules give.
type differing struct {
	event     int32
	violation int
	id        uuid
	got       string
}

// describe reads the log again for the keys and ids of the events in the report,
// and for what was different in calls.
func (c *checking) describe() {
	if len(c.report.Violations) == 0 {
		return
	}
	type place struct {
		partition int
		offset    int64
	}
	about := make(map[place][]int)
	for i, v := range c.report.Violations {
		if v.Offset >= 0 {
			p := place{v.Partition, v.Offset}
			about[p] = append(about[p], i)
		}
	}
	differs := make(map[int]*differing)
	for i := range c.differing {
		differs[c.differing[i].violation] = &c.differing[i]
	}
	err := c.h.eachRecord(func(r *Record) {
		for _, i := range about[place{r.Partition, r.Offset}] {
			v := &c.report.Violations[i]
			v.User = string(r.Key)
			if v.Event == "" {
				v.Event = r.Headers["event-id"]
			}
			if d := differs[i]; d != nil {
				v.Text += ": " + c.difference(d, r)
			}
		}
	})
	if err != nil {
		c.breach(Recorded, 0, "%v", err)
	}
}

// difference names the members in which a call differs from what the rules give,
// never their values: they are hostile text.
func (c *checking) difference(d *differing, r *Record) string {
	e := &c.events[d.event]
	want := derive(r.Headers["source"], r.Value, c.tenants[e.tenant].rules, receivedAt(r))
	got, err := parse([]byte(d.got))
	if err != nil {
		return "unreadable"
	}
	for i := range want.calls {
		if want.calls[i].id == d.id {
			return fmt.Sprintf("different in %v", diff("", &want.calls[i].value, &got))
		}
	}
	return "of another event"
}

// diff lists the paths at which two values differ, at most a few.
func diff(path string, a, b *node) []string {
	const few = 5
	if string(a.appendCanonical(nil)) == string(b.appendCanonical(nil)) {
		return nil
	}
	if a.kind != '{' || b.kind != '{' {
		return []string{path}
	}
	var all []string
	for i, name := range a.names {
		if other := b.last(name); other == nil {
			all = append(all, path+"/"+name+" (missing)")
		} else {
			all = append(all, diff(path+"/"+name, &a.kids[i], other)...)
		}
	}
	for _, name := range b.names {
		if a.last(name) == nil {
			all = append(all, path+"/"+name+" (too much)")
		}
	}
	return all[:min(len(all), few)]
}
