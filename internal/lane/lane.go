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
//     is finished.
//   - Pair (invariant 4): the steps of an event are its identifies, then its
//     groups; an event that ends early hands out none of its later steps.
//   - Isolation (invariant 5): a lane has at most one request in flight, and no
//     lane waits for another's.
//   - Nothing lost (invariant 2): the commit point never passes an event that is
//     not finished.
//   - Bounded (invariant 8): Full says when the window holds as much as it may;
//     what is kept for a tenant goes when its last event is finished.
//
// A lane batches by itself: what arrives while its request is in flight goes into
// the next one, and an idle lane sends at once. There is no timer.
package lane

// Offset is a place in the partition's log.
type Offset int64

// Limits bound a request and the window. All must be positive.
type Limits struct {
	RequestCalls int // calls in one request
	RequestBytes int // encoded bytes of the calls in one request
	WindowEvents int // events that are fetched and not finished
	WindowBytes  int // bytes of memory that these hold
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
	// limits by itself travels alone. Without steps the event waits for Finish.
	Steps   []Cost
	Bytes   int // of memory, counted against the window
	Payload T
}

// Item is an event in the partition's window.
type Item[T any] struct {
	Event[T]

	step     int
	finished bool
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
)

// Partition is the state machine. Use New. Not safe for concurrent use.
type Partition[T any] struct {
	limits Limits
	lanes  map[string]*queue[T]
	// ready are the lanes that may send: something to send, nothing in flight.
	// First in, first out, so that no lane starves another.
	ready fifo[*queue[T]]
	// window are the items from the commit point on, in the order of the log.
	window fifo[*Item[T]]
	bytes  int
	open   int // requests in flight

	next     Offset // one past the last event added
	begun    Offset // one past the last event handed out
	draining bool
}

// queue is a lane: the events of one tenant.
type queue[T any] struct {
	name  string
	keys  map[string]*fifo[*Item[T]] // per key its unfinished items; the first is the one under way
	heads heap[T]                    // first items whose step may be sent
	busy  bool                       // a request is in flight
}

// New returns a partition whose commit point is start.
func New[T any](limits Limits, start Offset) *Partition[T] {
	return &Partition[T]{
		limits: limits,
		lanes:  make(map[string]*queue[T]),
		next:   start,
		begun:  start,
	}
}

// Add takes in an event. Offsets must increase; one that does not is a fault of
// the caller and panics, since going on would break the order.
func (p *Partition[T]) Add(e Event[T]) *Item[T] {
	if e.Offset < p.next {
		panic("lane: offset added twice or out of order")
	}
	it := &Item[T]{Event: e}
	p.next = e.Offset + 1
	p.bytes += e.Bytes
	p.window.push(it)
	if len(e.Steps) == 0 {
		return it
	}
	q := p.lanes[e.Lane]
	if q == nil {
		q = &queue[T]{name: e.Lane, keys: make(map[string]*fifo[*Item[T]])}
		p.lanes[e.Lane] = q
	}
	items := q.keys[e.Key]
	if items == nil {
		items = new(fifo[*Item[T]])
		q.keys[e.Key] = items
	}
	items.push(it)
	if items.len() == 1 {
		p.offer(q, it)
	}
	return it
}

// offer puts an item among those that its lane may send.
func (p *Partition[T]) offer(q *queue[T], it *Item[T]) {
	q.heads.push(it)
	if len(q.heads) == 1 && !q.busy {
		p.ready.push(q)
	}
}

// Next returns a request that may be sent now; false if there is none. The lane
// is busy until Done is called with it.
func (p *Partition[T]) Next() (Request[T], bool) {
	for p.ready.len() > 0 {
		q := p.ready.pop()
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
	r := Request[T]{Lane: q.name}
	var used Cost
	for len(q.heads) > 0 {
		it := q.heads[0]
		if p.draining && it.Offset >= p.begun {
			break
		}
		c := it.Steps[it.step]
		if len(r.Parts) > 0 && (used.Calls+c.Calls > p.limits.RequestCalls || used.Bytes+c.Bytes > p.limits.RequestBytes) {
			break
		}
		q.heads.pop()
		used.Calls += c.Calls
		used.Bytes += c.Bytes
		p.begun = max(p.begun, it.Offset+1)
		r.Parts = append(r.Parts, Part[T]{Item: it, Step: it.step})
	}
	return r
}

// Done takes in what became of a request: outcomes[i] is that of r.Parts[i]. It
// returns the items that are finished by it, in the order of the request.
func (p *Partition[T]) Done(r Request[T], outcomes []Outcome) []*Item[T] {
	if len(outcomes) != len(r.Parts) {
		panic("lane: one outcome for each part")
	}
	q := p.lanes[r.Lane]
	p.open--
	var finished []*Item[T]
	for i, part := range r.Parts {
		it := part.Item
		switch outcomes[i] {
		case Accepted:
			it.step++
		case Ended:
			it.step = len(it.Steps)
		case Abandoned:
		}
		if it.step < len(it.Steps) {
			q.heads.push(it)
			continue
		}
		finished = append(finished, it)
		it.finished = true
		items := q.keys[it.Key]
		items.pop()
		if items.len() > 0 {
			q.heads.push(items.first())
		} else {
			delete(q.keys, it.Key)
		}
	}
	q.busy = false
	switch {
	case len(q.heads) > 0:
		p.ready.push(q)
	case len(q.keys) == 0:
		delete(p.lanes, q.name)
	}
	p.advance()
	return finished
}

// Finish ends an event that has no steps.
func (p *Partition[T]) Finish(it *Item[T]) {
	if len(it.Steps) > 0 {
		panic("lane: an event with steps is finished by them")
	}
	it.finished = true
	p.advance()
}

// advance drops from the window what is finished at its front.
func (p *Partition[T]) advance() {
	for p.window.len() > 0 && p.window.first().finished {
		p.bytes -= p.window.pop().Bytes
	}
}

// CommitPoint is the offset below which every event is finished: what may be
// committed (invariant 2). It never goes back.
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

// Full reports whether the window holds as much as it may. The caller then adds
// nothing more; one that adds in batches overruns by at most one batch.
func (p *Partition[T]) Full() bool {
	return p.window.len() >= p.limits.WindowEvents || p.bytes >= p.limits.WindowBytes
}

// Len is the number of events in the window: those from the commit point on.
func (p *Partition[T]) Len() int { return p.window.len() }

// InFlight is the number of requests in flight.
func (p *Partition[T]) InFlight() int { return p.open }

// Drain ends the taking-up of events: from now on Next hands out only events
// before the last one that was begun. When they are finished, every event that
// the receiver has seen lies below the commit point: a clean hand-over repeats
// nothing (invariant 7).
func (p *Partition[T]) Drain() { p.draining = true }

// Drained reports whether a draining partition has nothing left to do. Call it
// when Next has nothing more.
func (p *Partition[T]) Drained() bool { return p.draining && p.open == 0 && p.ready.len() == 0 }
