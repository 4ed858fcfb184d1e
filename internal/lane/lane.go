// Package lane is the state machine of one partition: it says what may be sent
// now and what may be committed. It is pure: no I/O, no clock, no goroutines, no
// locks; it does not know what an event means or where it goes. Package worker
// drives it from one goroutine.
//
// A lane is the queue of one tenant within the partition. It guarantees:
//
//   - Order (invariant 3): of the events with one order key, at most one is under
//     way, and of that event at most one step; the next step is handed out only
//     when the one before was accepted, the next event only when the one before
//     is finished. A lane that is behind is read again in the order of the log.
//   - Pair (invariant 4): the steps of an event are its identifies, then its
//     groups; an event that ends early hands out none of its later steps.
//   - Isolation (invariant 5): a lane has at most one request in flight, and no
//     lane waits for another's. One that fails or is slow is passed: a cursor
//     holds its events, and the commit point goes on without it.
//   - Nothing lost (invariant 2): the commit point never passes an event that is
//     neither finished nor held by one of the Cursors of the same moment.
//   - Bounded (invariant 8): Full says when the window holds as much as it may,
//     Room when a lane that is behind does; of an event that is finished no more is
//     kept than its place, and what is kept for a tenant goes when its last event is
//     finished.
//
// A key with so many events that the others of its lane would wait for room with
// them can be set apart (SetApart): its further events are a lane of their own.
//
// A lane batches by itself: what arrives while its request is in flight goes into
// the next one, and an idle lane sends at once. There is no timer.
package lane

import (
	"slices"
	"time"
)

// Offset is a place in the partition's log.
type Offset int64

// Limits bound a request and the window. All must be positive.
type Limits struct {
	RequestCalls int // calls in one request
	RequestBytes int // encoded bytes of the calls in one request
	WindowEvents int // events from the commit point on
	WindowBytes  int // bytes of memory of those that are not finished
	// BehindEvents bounds the events of one lane that are in memory while its
	// cursor holds them, but for those in flight. Of all lanes together they take at
	// most one window more, and a few that are each lane's own.
	BehindEvents int
}

// Cost is what a step takes of a request.
type Cost struct {
	Calls int
	Bytes int
}

// Event is an event on its way. Payload is the caller's.
type Event[T any] struct {
	Offset Offset
	Lane   string // whose queue it joins: the tenant
	Key    string // what it is kept in order by, within the lane
	// Steps are accepted one after another. A step that is over a request's
	// limits by itself travels alone. An event without steps is finished as it is
	// added.
	Steps   []Cost
	Bytes   int // of memory, counted against the window
	Payload T
}

// Item is an event that is in memory.
type Item[T any] struct {
	Event[T]

	ordinal  int64 // among the lane's events
	step     int
	deferred bool // not handed out until Release
	alone    bool // it travels alone: the last time it was what failed
	finished bool
	passed   bool // a cursor holds it, not the window
	out      bool // a step of it is in flight
}

// Part is one step of one event in a request.
type Part[T any] struct {
	Item *Item[T]
	Step int
}

// Request is what a lane may send now: one step each of events with different
// keys, in the order of their offsets.
type Request[T any] struct {
	Lane  string
	Parts []Part[T]
	// Probe says that the lane is suspended: this is one step of one event, to
	// find out whether it would be accepted.
	Probe bool
	// Alone says that the one part was deferred before: nothing travels with what may
	// be what fails.
	Alone bool
	// Behind says that the lane is catching up: live traffic goes first.
	Behind bool
}

// Outcome says what became of a part.
type Outcome uint8

const (
	// Accepted says: the receiver has it. The event goes on with its next step.
	Accepted Outcome = iota
	// Ended says: the event is over, with or without steps left; its dead letter is
	// in the log.
	Ended
	// Abandoned says: nothing became of it. It is handed out again, in its place.
	Abandoned
	// Deferred says: nothing became of it, and it is not to be handed out before
	// Release. Later events with its key wait for it, and no others.
	Deferred
)

// Partition is the state machine. Use New. Not safe for concurrent use.
type Partition[T any] struct {
	limits Limits
	lanes  map[string]*queue[T]
	// held are the lanes whose events a cursor may have to hold: a part of lanes.
	held map[string]*queue[T]
	// apart are the lanes of keys, by the lane that they were taken from: a part of
	// held, so many.
	apart  map[string][]*queue[T]
	aparts int
	// ready are the lanes that may send: something to send, nothing in flight.
	// First in, first out, so that no lane starves another.
	ready fifo[*queue[T]]
	// window are the items from the commit point on, in the order of the log.
	window fifo[*Item[T]]
	bytes  int
	done   int // of the window, those that are finished and not passed
	// behind are the items that are passed and not finished, of all lanes.
	behind      int
	behindBytes int
	open        int // requests in flight
	// spare are the empty queues of keys that are gone, for others to use.
	spare []*fifo[*Item[T]]

	next     Offset // one past the last event that was added or skipped, or does not exist
	begun    Offset // one past the last event handed out
	draining bool
}

// queue is a lane: the events of one tenant.
type queue[T any] struct {
	apart

	name   string
	keys   map[string]*fifo[*Item[T]] // per key its unfinished items; the first is the one under way
	heads  heap[T]                    // first items whose step may be sent
	items  int                        // unfinished ones
	busy   bool                       // a request is in flight
	listed bool                       // it is in ready

	// counted is the ordinal of the lane's next event in memory.
	counted int64
	// passed are the items that a cursor holds, in the order of the log, among
	// them finished ones that have not been taken out yet.
	passed  []*Item[T]
	waiting int // of passed, those that are not finished

	// A lane that is behind skips live events: those from unread on are read again.
	behind bool
	unread Offset
	// known says what became of the events from unread on while they were in
	// memory before; behind these runs, what lies before until is done, and
	// nothing is known of the rest.
	known []Run
	until Offset
	// upTo is where what is known ends, if it is known of; 0 if it is not.
	upTo Offset
	torn int64 // no run counts across this ordinal: events before it are gone
	fell bool  // it was behind, and what waits is from then

	suspended bool // hands out nothing but probes
	probing   bool // hands out one
	probes    int
	since     time.Time
	cause     Cause
}

// maxSpare bounds the queues that are kept for use.
const maxSpare = 1024

// New returns a partition whose commit point is start.
func New[T any](limits Limits, start Offset) *Partition[T] {
	return &Partition[T]{
		limits: limits,
		lanes:  make(map[string]*queue[T]),
		held:   make(map[string]*queue[T]),
		apart:  make(map[string][]*queue[T]),
		next:   start,
		begun:  start,
	}
}

// lane returns the lane of that name; a new one if there is none.
func (p *Partition[T]) lane(name string) *queue[T] {
	q := p.lanes[name]
	if q == nil {
		q = &queue[T]{name: name, keys: make(map[string]*fifo[*Item[T]])}
		p.lanes[name] = q
	}
	return q
}

// Skips reports whether Add would skip an event of the lane.
func (p *Partition[T]) Skips(name string) bool {
	q := p.lanes[name]
	return q != nil && q.behind
}

// Add takes in the next event of the log. Of a lane that is behind it is skipped:
// its cursor holds it, and AddBehind will take it in. Offsets must increase; one
// that does not is a fault of the caller and panics, since going on would break
// the order. It returns nil for an event that was skipped.
func (p *Partition[T]) Add(e Event[T]) *Item[T] {
	if e.Offset < p.next {
		panic("lane: offset added twice or out of order")
	}
	p.next = e.Offset + 1
	q := p.lanes[e.Lane]
	if q != nil && q.behind {
		return nil
	}
	it := &Item[T]{Event: e}
	if len(e.Steps) == 0 {
		it.over()
		if q != nil {
			q.counted++
		}
		if p.window.len() > 0 {
			p.window.push(it)
			p.done++
		}
		return it
	}
	p.bytes += e.Bytes
	p.window.push(it)
	p.enqueue(p.lane(e.Lane), it)
	return it
}

// Reach takes in that the log has no more events before an offset: what follows
// the last one that was added is none of ours, or is gone from the log.
func (p *Partition[T]) Reach(next Offset) { p.next = max(p.next, next) }

// enqueue puts an item behind the others of its lane.
func (p *Partition[T]) enqueue(q *queue[T], it *Item[T]) {
	it.ordinal = q.counted
	q.counted++
	q.items++
	items := q.keys[it.Key]
	if items == nil {
		if n := len(p.spare); n > 0 {
			items, p.spare = p.spare[n-1], p.spare[:n-1]
		} else {
			items = new(fifo[*Item[T]])
		}
		q.keys[it.Key] = items
	}
	items.push(it)
	if items.len() == 1 {
		q.heads.push(it)
		p.offer(q)
	}
}

// offer puts a lane among those that may send, if it may.
func (p *Partition[T]) offer(q *queue[T]) {
	if len(q.heads) == 0 || q.busy || q.listed || q.suspended && !q.probing {
		return
	}
	q.listed = true
	p.ready.push(q)
}

// Next returns a request that may be sent now; false if there is none. The lane
// is busy until Done is called with it.
func (p *Partition[T]) Next() (Request[T], bool) {
	for p.ready.len() > 0 {
		q := p.ready.pop()
		q.listed = false
		if q.busy || len(q.heads) == 0 || q.suspended && (!q.probing || p.draining) {
			continue
		}
		if r := p.fill(q); len(r.Parts) > 0 {
			q.busy = true
			p.open++
			return r, true
		}
	}
	return Request[T]{}, false
}

// fill takes the parts of a request from a lane: the oldest first, until one
// does not fit.
func (p *Partition[T]) fill(q *queue[T]) Request[T] {
	r := Request[T]{Lane: q.name, Probe: q.probing, Behind: q.behind || q.fell && q.waiting > 0}
	if q.probing {
		// Another one each time: the oldest may be what is wrong.
		p.take(&r, q.heads.popNth(q.probes%min(len(q.heads), probeChoice)))
		q.probes++
		return r
	}
	r.Parts = make([]Part[T], 0, min(len(q.heads), p.limits.RequestCalls))
	var used Cost
	var aside []*Item[T]
	for len(q.heads) > 0 {
		it := q.heads[0]
		if p.draining && (it.passed || it.Offset >= p.begun) {
			aside = append(aside, q.heads.pop())
			continue
		}
		if it.alone && len(r.Parts) > 0 {
			aside = append(aside, q.heads.pop())
			continue
		}
		c := it.Steps[it.step]
		if len(r.Parts) > 0 && (used.Calls+c.Calls > p.limits.RequestCalls || used.Bytes+c.Bytes > p.limits.RequestBytes) {
			break
		}
		q.heads.pop()
		used.Calls += c.Calls
		used.Bytes += c.Bytes
		p.take(&r, it)
		if it.alone {
			r.Alone = true
			break
		}
	}
	for _, it := range aside {
		q.heads.push(it)
	}
	return r
}

// take puts the next step of an item into a request.
func (p *Partition[T]) take(r *Request[T], it *Item[T]) {
	p.begun = max(p.begun, it.Offset+1)
	it.out = true
	r.Parts = append(r.Parts, Part[T]{Item: it, Step: it.step})
}

// Done takes in what became of a request: outcomes[i] is that of r.Parts[i]. It
// returns the payloads of the events that are finished by it, in the order of the
// request.
func (p *Partition[T]) Done(r Request[T], outcomes []Outcome) []T {
	if len(outcomes) != len(r.Parts) {
		panic("lane: one outcome for each part")
	}
	q := p.lanes[r.Lane]
	p.open--
	q.busy, q.probing = false, false
	var finished []T
	for i, part := range r.Parts {
		it := part.Item
		it.out = false
		switch outcomes[i] {
		case Accepted:
			it.step++
			it.alone = false
		case Ended:
			it.step = len(it.Steps)
		case Abandoned:
		case Deferred:
			it.deferred = true
			continue
		}
		if it.step < len(it.Steps) {
			q.heads.push(it)
			continue
		}
		finished = append(finished, it.Payload)
		p.finish(q, it)
	}
	p.offer(q)
	p.settle(q)
	p.advance()
	return finished
}

// finish takes an item out of its lane; it is the first of its key.
func (p *Partition[T]) finish(q *queue[T], it *Item[T]) {
	q.items--
	items := q.keys[it.Key]
	items.pop()
	if items.len() > 0 {
		q.heads.push(items.first())
	} else {
		delete(q.keys, it.Key)
		if len(p.spare) < maxSpare {
			p.spare = append(p.spare, items)
		}
	}
	if !it.passed {
		p.bytes -= it.Bytes
		p.done++
		it.over()
		return
	}
	q.waiting--
	p.behind--
	p.behindBytes -= it.Bytes
	it.over()
	for len(q.passed) > 0 && q.passed[0].finished {
		q.passed = q.passed[1:]
	}
}

// over makes an item one that is finished: its place is all that is left of it.
func (it *Item[T]) over() {
	it.Event = Event[T]{Offset: it.Offset}
	it.finished, it.deferred = true, false
}

// Release lets an event that was deferred be handed out again, alone. It does
// nothing if its lane has left memory since.
func (p *Partition[T]) Release(it *Item[T]) {
	if !it.deferred {
		return
	}
	it.deferred, it.alone = false, true
	q := p.lanes[it.Lane]
	q.heads.push(it)
	p.offer(q)
}

// settle forgets what is no longer needed of a lane.
func (p *Partition[T]) settle(q *queue[T]) {
	if q.behind || q.waiting > 0 {
		return
	}
	q.passed, q.fell = nil, false
	if q.of != "" {
		p.join(q)
		return
	}
	delete(p.held, q.name)
	if q.items == 0 && !q.suspended && !q.busy {
		delete(p.lanes, q.name)
		for _, k := range slices.Clone(p.apart[q.name]) {
			p.join(k)
		}
	}
}

// advance drops from the window what is finished or passed at its front.
func (p *Partition[T]) advance() {
	for p.window.len() > 0 {
		it := p.window.first()
		if !it.finished && !it.passed {
			return
		}
		if !it.passed {
			p.done--
		}
		p.window.pop()
	}
}

// CommitPoint is the offset below which every event is finished or held by a
// cursor: what may be committed together with Cursors (invariant 2). It never
// goes back.
func (p *Partition[T]) CommitPoint() Offset {
	if p.window.len() == 0 {
		return p.next
	}
	return p.window.first().Offset
}

// Oldest returns the first event of the window, the one that holds the commit
// point; false if the window is empty.
func (p *Partition[T]) Oldest() (*Item[T], bool) {
	if p.window.len() == 0 {
		return nil, false
	}
	return p.window.first(), true
}

// Uncommitted is how many events are finished behind the one that holds the commit
// point: if this owner dies they come again.
func (p *Partition[T]) Uncommitted() int { return p.done }

// Full reports whether the window holds as much as it may. The caller then adds
// nothing more; one that adds in batches overruns by at most one batch.
func (p *Partition[T]) Full() bool {
	return p.window.len() >= p.limits.WindowEvents || p.bytes >= p.limits.WindowBytes
}

// Len is the number of events in the window: those from the commit point on.
func (p *Partition[T]) Len() int { return p.window.len() }

// InMemory is the number of events that are in memory and not finished, or in the
// window behind one that is not.
func (p *Partition[T]) InMemory() int { return p.window.len() + p.behind }

// InFlight is the number of requests in flight.
func (p *Partition[T]) InFlight() int { return p.open }

// Position is the offset of the next event that Add expects, at the earliest.
func (p *Partition[T]) Position() Offset { return p.next }

// Drain ends the taking-up of events: from now on Next hands out only events
// before the last one that was begun, and none that a cursor holds. When they are
// finished, every event that the receiver has seen lies below the commit point or
// in the runs of a cursor: a clean hand-over repeats nothing (invariant 7).
func (p *Partition[T]) Drain() { p.draining = true }

// Drained reports whether a draining partition has nothing left to do. Call it
// when Next has nothing more.
func (p *Partition[T]) Drained() bool { return p.draining && p.open == 0 && p.ready.len() == 0 }
