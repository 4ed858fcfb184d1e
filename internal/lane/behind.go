package lane

import (
	"cmp"
	"iter"
	"slices"
	"time"
)

// Suspend ends the sending of a lane that fails: from now on it hands out only
// what Probe asks for, until Open. Its request has come back. If a cursor can be
// had for it (see Pass), its events leave memory and the partition goes on without
// it; otherwise they stay, and the window waits with them: a cursor is never
// dropped to make room for another. It reports whether the partition goes on.
func (p *Partition[T]) Suspend(name string, since time.Time, cause Cause) bool {
	q := p.lane(name)
	if q.busy {
		panic("lane: suspended while its request is in flight")
	}
	if !q.suspended {
		q.probes = 0
	}
	q.suspended, q.probing = true, false
	if !p.hold(q, since, cause) {
		return false
	}
	q.cause = cause
	if !q.behind {
		q.behind, q.unread = true, p.next
	}
	p.drop(q, 0)
	p.advance()
	return true
}

// Probe lets a suspended lane hand out one step of one event, another event each
// time. One that is behind must be given events first, by AddBehind.
func (p *Partition[T]) Probe(name string) {
	if q := p.lanes[name]; q != nil && q.suspended && !q.busy {
		q.probing = true
		p.offer(q)
	}
}

// Open ends the suspension of a lane.
func (p *Partition[T]) Open(name string) {
	q := p.lanes[name]
	if q == nil || !q.suspended {
		return
	}
	q.suspended, q.probing = false, false
	p.offer(q)
	p.settle(q)
}

// Pass moves the events of a lane out of the window: from now on a cursor holds
// them, and the commit point goes on without them. As many as the lane may have in
// memory are sent as before; of more, the later ones leave it, and the lane skips
// live events from here on, and catches up by AddBehind. It reports whether that
// could be done: not if there is no room for one more cursor.
func (p *Partition[T]) Pass(name string, since time.Time, cause Cause) bool {
	q := p.lanes[name]
	if q == nil || !p.hold(q, since, cause) {
		return false
	}
	p.keep(q, p.limits.BehindEvents)
	if p.full() {
		p.keep(q, p.reserved())
	}
	p.settle(q)
	p.advance()
	return true
}

// PassWhole passes a lane of which everything can stay in memory, so that nothing has
// to be read again. It reports whether that could be done: there must be room for one
// more cursor, and the lane have no more events than it may have in memory.
func (p *Partition[T]) PassWhole(name string, since time.Time, cause Cause) bool {
	q := p.lanes[name]
	if q == nil || q.items > p.limits.BehindEvents || p.full() || !p.hold(q, since, cause) {
		return false
	}
	p.advance()
	return true
}

// keep leaves so many events of a lane in memory.
func (p *Partition[T]) keep(q *queue[T], events int) {
	if q.waiting <= events {
		return
	}
	if !q.behind {
		q.behind, q.unread = true, p.next
	}
	p.drop(q, events)
}

// full reports whether the lanes that cursors hold have as many events in memory as
// they may have together, but for what is reserved for each.
func (p *Partition[T]) full() bool {
	return p.behind >= p.limits.WindowEvents || p.behindBytes >= p.limits.WindowBytes
}

// reserved is how many events a lane may have in memory whatever others have: those
// who are slow take nobody's chance to go on.
func (p *Partition[T]) reserved() int {
	if p.behindBytes >= 2*p.limits.WindowBytes {
		return 1
	}
	return max(1, p.limits.WindowEvents/MaxCursors)
}

// PassBegun passes every lane that has events left from before the last one that
// was begun: at the end of a drain, so that the next member repeats none of what
// lies behind them. It reports whether there was room for all.
func (p *Partition[T]) PassBegun(since time.Time) bool {
	all := true
	for p.window.len() > 0 {
		it := p.window.first()
		if it.Offset >= p.begun {
			break
		}
		if !p.hold(p.lanes[it.Lane], since, CauseSlow) {
			all = false
			break
		}
		p.advance()
	}
	return all
}

// hold makes a cursor hold all events of a lane.
func (p *Partition[T]) hold(q *queue[T], since time.Time, cause Cause) bool {
	if p.held[q.name] == nil {
		if len(p.held) >= MaxCursors {
			return false
		}
		p.held[q.name] = q
		q.since, q.cause = since, cause
	}
	from := len(q.passed)
	for _, items := range q.keys {
		for _, it := range items.all() {
			if !it.passed {
				it.passed = true
				p.bytes -= it.Bytes
				q.waiting++
				p.behind++
				p.behindBytes += it.Bytes
				q.passed = append(q.passed, it)
			}
		}
	}
	slices.SortFunc(q.passed[from:], func(a, b *Item[T]) int { return cmp.Compare(a.Offset, b.Offset) })
	return true
}

// drop takes the items of a lane out of memory but for the first so many and those
// before one that is in flight, and notes what became of them: the lane is behind,
// and they will be read again. A cursor holds all of them.
func (p *Partition[T]) drop(q *queue[T], keep int) {
	q.passed = slices.DeleteFunc(q.passed, func(it *Item[T]) bool { return it.finished })
	for i := len(q.passed) - 1; q.busy && i >= keep; i-- {
		if q.passed[i].out {
			keep = i + 1
		}
	}
	if len(q.passed) <= keep {
		return
	}
	rest := q.passed[keep:]
	first := rest[0]
	if q.tears(first) {
		q.until = 0
	}
	if len(q.known) == 0 || q.upTo > 0 {
		q.upTo = p.next
	}
	q.known = q.runs(rest, true)
	q.unread, q.counted = first.Offset, first.ordinal
	for _, it := range slices.Backward(rest) {
		p.behind--
		p.behindBytes -= it.Bytes
		items := q.keys[it.Key]
		if items.popLast(); items.len() == 0 {
			delete(q.keys, it.Key)
		}
		it.over()
	}
	q.waiting -= len(rest)
	q.items -= len(rest)
	clear(rest)
	q.passed = q.passed[:keep]
	heads := q.heads
	q.heads = nil
	for _, it := range heads {
		if !it.finished {
			q.heads.push(it)
		}
	}
}

// runs says what is known of a lane's events from the first of the given items
// on: these, those between them, which are done, and, if the lane is behind and
// its unread events count as well, what is known of those.
func (q *queue[T]) runs(items []*Item[T], unread bool) []Run {
	var runs []Run
	at := items[0].ordinal
	torn := q.tears(items[0])
	for _, it := range items {
		if torn && it.ordinal >= q.torn {
			break
		}
		runs = appendRun(runs, Done, it.ordinal-at)
		runs = appendRun(runs, stateAfter(it.step), 1)
		at = it.ordinal + 1
	}
	if unread && !torn {
		runs = appendRun(runs, Done, q.counted-at)
		for _, r := range q.known {
			runs = appendRun(runs, r.State, int64(r.Events))
		}
	}
	return runs
}

// tears reports whether events between the item and the last one are gone from the
// log, so that nothing can be counted across.
func (q *queue[T]) tears(first *Item[T]) bool { return q.torn > first.ordinal }

func appendRun(runs []Run, s RunState, events int64) []Run {
	if events == 0 {
		return runs
	}
	if n := len(runs); n > 0 && runs[n-1].State == s {
		runs[n-1].Events += int(events)
		return runs
	}
	return append(runs, Run{Events: int(events), State: s})
}

// stateAfter is the state of an event that has had so many steps accepted.
func stateAfter(step int) RunState {
	switch step {
	case 0:
		return Pending
	case 1:
		return AfterFirst
	case 2:
		return AfterSecond
	default:
		return Pending // to be repeated from the start
	}
}

// steps is how many steps an event in that state has had accepted.
func (s RunState) steps() int {
	switch s {
	case AfterFirst:
		return 1
	case AfterSecond:
		return 2
	case Pending, Done:
		return 0
	default:
		return 0
	}
}

// AddBehind takes in an event of a lane that is behind: the next one from Unread
// on. It returns nil for one that was finished before. The caller gives all events
// of the lane, in their order, and none from Position on.
func (p *Partition[T]) AddBehind(e Event[T]) *Item[T] {
	q := p.lanes[e.Lane]
	if q == nil || !q.behind || e.Offset < q.unread || e.Offset >= p.next {
		panic("lane: an event that is not of a lane that is behind, or out of order")
	}
	state := q.state(e.Offset)
	q.unread = e.Offset + 1
	if state == Done {
		q.counted++
		return nil
	}
	it := &Item[T]{Event: e}
	if len(e.Steps) == 0 {
		it.over()
		q.counted++
		return it
	}
	if it.step = state.steps(); it.step >= len(e.Steps) {
		it.step = 0 // other rules cut it now
	}
	it.passed = true
	q.passed = append(q.passed, it)
	q.waiting++
	p.behind++
	p.behindBytes += e.Bytes
	p.enqueue(q, it)
	return it
}

// KnownDone reports whether AddBehind would return nil for the event at that
// offset, so that the caller need not decide what it makes.
func (p *Partition[T]) KnownDone(name string, at Offset) bool {
	q := p.lanes[name]
	if q == nil || len(q.known) == 0 {
		return q != nil && at < q.until
	}
	return q.known[0].State == Done
}

// state takes the state of the next unread event from what is known.
func (q *queue[T]) state(at Offset) RunState {
	if len(q.known) == 0 {
		if at < q.until {
			return Done
		}
		return Pending
	}
	s := q.known[0].State
	if q.known[0].Events--; q.known[0].Events == 0 {
		q.known = q.known[1:]
	}
	return s
}

// Room reports whether a lane that is behind may be given another event: one
// that is suspended takes a few to choose a probe from.
func (p *Partition[T]) Room(name string) bool {
	q := p.lanes[name]
	if q == nil || !q.behind {
		return false
	}
	if end := q.unread >= p.next; end && len(q.known) > 0 || p.blocked(q, end) {
		return false
	}
	most, waiting := p.limits.BehindEvents, q.waiting
	if q.suspended {
		most = probeChoice
	} else {
		waiting -= p.ahead(q)
	}
	if p.full() {
		most = min(most, p.reserved())
	}
	return waiting < most
}

// probeChoice is how many events a suspended lane chooses its probes from.
const probeChoice = 16

// Lost takes in that the log no longer has the events of a lane that is behind
// before an offset.
func (p *Partition[T]) Lost(name string, before Offset) {
	q := p.lanes[name]
	if q == nil || !q.behind || before <= q.unread {
		return
	}
	// How many of its events are gone is not known: no run counts across.
	q.counted++
	q.unread, q.known, q.until, q.torn = before, nil, 0, q.counted
}

// ReachBehind takes in that a lane that is behind has no event in the log from
// Unread up to an offset.
func (p *Partition[T]) ReachBehind(name string, next Offset) {
	if q := p.lanes[name]; q != nil && q.behind {
		q.unread = max(q.unread, min(next, p.next))
	}
}

// Live makes a lane that is behind a live one again: every event of it before
// Position was added. What is not finished of it stays with its cursor. It stays
// behind while something is known of events from Position on, which an owner before
// this one had begun; the lane of a key also while events may be left that come
// before its own.
func (p *Partition[T]) Live(name string) {
	q := p.lanes[name]
	if q == nil || !q.behind {
		return
	}
	if len(q.known) > 0 || p.blocked(q, true) {
		q.unread = max(q.unread, p.next)
		return
	}
	if q.of != "" {
		q.cause = CauseSlow
	}
	q.behind, q.known, q.until, q.fell = false, nil, 0, true
	p.settle(q)
}

// Restore makes a lane go on from a cursor of the commit at which the partition
// starts. It must be called before anything is added. The lane is behind, and
// suspended unless it was just slow. It returns the lane's name: the given one, or
// that of a key of this lane that is set apart.
func (p *Partition[T]) Restore(name string, c Cursor) string {
	var k apart
	if c.Key != (Tag{}) {
		k = apart{of: name, key: c.Key, split: c.Split}
		name = nameApart(name, c.Key)
	}
	q := p.lane(name)
	q.apart = k
	q.behind, q.unread, q.known, q.until, q.upTo = true, c.From, slices.Clone(c.Runs), c.Until, 0
	q.since, q.cause = c.Since, c.Cause
	q.suspended = c.Cause != CauseSlow
	if k.of != "" {
		p.admit(q)
	} else {
		p.held[name] = q
	}
	return name
}

// Behind yields the lanes that are behind, in no order, and the offset of the
// first event that each is to be given.
func (p *Partition[T]) Behind() iter.Seq2[string, Offset] {
	return func(yield func(string, Offset) bool) {
		for name, q := range p.held {
			if q.behind && !yield(name, q.unread) {
				return
			}
		}
	}
}

// Unread is the offset of the first event that a lane is to be given; false if it
// is not behind.
func (p *Partition[T]) Unread(name string) (Offset, bool) {
	q := p.lanes[name]
	if q == nil || !q.behind {
		return 0, false
	}
	return q.unread, true
}

// Unfinished is how many events of a lane are in memory and not finished.
func (p *Partition[T]) Unfinished(name string) int {
	if q := p.lanes[name]; q != nil {
		return q.items
	}
	return 0
}

// Waiting is how many of them a cursor holds.
func (p *Partition[T]) Waiting(name string) int {
	if q := p.lanes[name]; q != nil {
		return q.waiting
	}
	return 0
}

// Held is a lane whose events a cursor holds, or would hold.
type Held struct {
	Lane      string
	Suspended bool
	Probing   bool
	Busy      bool
	Behind    bool
	Unread    Offset // of the first event that is to be read, if Behind
	Waiting   int    // events in memory
	From      Offset // of the first event that is not finished
	Since     time.Time
	Cause     Cause
}

// Held returns the lanes whose events a cursor holds, in no order, and those that
// are suspended without one.
func (p *Partition[T]) Held() []Held {
	all := make([]Held, 0, len(p.held))
	for _, q := range p.held {
		h := Held{
			Lane: q.name, Suspended: q.suspended, Probing: q.probing, Busy: q.busy, Behind: q.behind, Unread: q.unread,
			Waiting: q.waiting, From: q.unread, Since: q.since, Cause: q.cause,
		}
		for _, it := range q.passed {
			if !it.finished {
				h.From = it.Offset
				break
			}
		}
		all = append(all, h)
	}
	return all
}

// Holding is how many lanes cursors hold, of MaxCursors.
func (p *Partition[T]) Holding() int { return len(p.held) }

// Cursors returns the cursors that a commit of CommitPoint needs, ordered by
// From.
func (p *Partition[T]) Cursors() []Cursor {
	if len(p.held) == 0 {
		return nil
	}
	to := p.CommitPoint()
	cursors := make([]Cursor, 0, len(p.held))
	for _, q := range p.held {
		if q.of != "" {
			continue
		}
		c, ok := q.cursor(to)
		if ok {
			cursors = append(cursors, c)
		}
		for _, k := range p.apart[q.name] {
			torn := ok && c.From < k.split && len(q.passed) > 0 && q.tears(q.passed[0])
			if c, ok := k.cursorApart(to, ok, torn); ok {
				cursors = append(cursors, c)
			}
		}
	}
	for name, all := range p.apart {
		if p.held[name] != nil {
			continue
		}
		for _, k := range all {
			if c, ok := k.cursorApart(to, false, false); ok {
				cursors = append(cursors, c)
			}
		}
	}
	slices.SortFunc(cursors, func(a, b Cursor) int {
		return cmp.Or(cmp.Compare(a.From, b.From), slices.Compare(a.Tag[:], b.Tag[:]), slices.Compare(a.Key[:], b.Key[:]))
	})
	return cursors
}

// cursor is what a commit of that point needs for the lane; false if nothing.
func (q *queue[T]) cursor(to Offset) (Cursor, bool) {
	c := Cursor{Tag: TagOf(q.name), Since: q.since, Cause: q.cause}
	unread := q.behind && q.unread < to
	q.passed = slices.DeleteFunc(q.passed, func(it *Item[T]) bool { return it.finished })
	n, _ := slices.BinarySearchFunc(q.passed, to, func(it *Item[T], to Offset) int { return cmp.Compare(it.Offset, to) })
	switch {
	case n > 0 && unread:
		c.From, c.Runs, c.Until = q.passed[0].Offset, q.runs(q.passed[:n], true), q.until
		if q.tears(q.passed[0]) {
			c.Until = 0
		}
	case n > 0:
		if c.From, c.Until = q.passed[0].Offset, to; q.tears(q.passed[0]) {
			c.Until = 0
		}
		c.Runs = q.runs(q.passed[:n], false)
	case unread:
		c.From, c.Runs, c.Until = q.unread, slices.Clone(q.known), q.until
	default:
		return c, false
	}
	return c, true
}
