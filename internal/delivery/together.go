package delivery

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"refinersource/internal/attribution"
	"refinersource/internal/segment"
)

// together lets requests of one tenant travel in one POST. Each lane has a request
// of its own, and a worker has lanes of a tenant in many partitions: while one of
// them waits to be written, others join it. Who waits for nothing travels alone, so
// that it costs no time where there is no load; under load it makes of many small
// requests a few large ones. Users are in one partition and so in one lane, and the
// order of a user's calls is that of its lane's requests (invariant 3).
//
// What the receiver answers is the answer to each of them; but if it refuses, each
// travels again alone, since the guilty event may be another's.
type together struct {
	// writing bounds the requests that are being encoded and written: what waits for a
	// processor is what others can join. nil does not bound them.
	writing *semaphore.Weighted

	mu   sync.Mutex // never held across a wait
	open map[tripKey]*trip
}

// Bounds of what travels together; those of a lane's request.
const (
	maxTripCalls = 2000
	maxTripBytes = 450_000
)

// writeTime is how long a request counts as being written: a receiver that does not
// read takes no processor from anybody.
const writeTime = 20 * time.Millisecond

func newTogether(writers int) *together {
	t := &together{open: make(map[tripKey]*trip)}
	if writers > 0 {
		t.writing = semaphore.NewWeighted(int64(writers))
	}
	return t
}

// tripKey is what travels together. What is live waits for nothing that what catches up
// waits for, and so does not travel with it.
type tripKey struct {
	tenant  *tenantState
	catchUp bool
}

// trip is requests that travel together. Who began it sends for all.
type trip struct {
	key      tripKey
	ctx      context.Context // what ends it: the same for all
	requests int
	parts    [][]attribution.Call
	calls    int // of all parts
	bytes    int

	over   chan struct{} // closed when the rest is known
	riders []rider       // who are told then
	made   bool          // the attempt was made
	result segment.Result
	began  time.Time
	took   time.Duration
}

// join takes a request along on the tenant's trip that has not begun, and waits until
// that is over. If there is none, the caller has a trip of its own: it must begin or
// cancel it, and others may join until then.
func (t *together) join(ctx context.Context, tenant *tenantState, catchUp bool, parts [][]attribution.Call) (_ *trip, joined bool) {
	key := tripKey{tenant, catchUp}
	calls, bytes := sizeOf(parts)
	t.mu.Lock()
	if o := t.open[key]; o != nil && o.ctx == ctx && o.hasRoom(calls, bytes) {
		o.add(parts, calls, bytes)
		t.mu.Unlock()
		<-o.over // soon after ctx, which is that of all
		return o, true
	}
	own := &trip{key: key, ctx: ctx, requests: 1, parts: slices.Clip(parts), calls: calls, bytes: bytes, over: make(chan struct{})}
	t.open[key] = own
	t.mu.Unlock()
	return own, false
}

// rider is a request that joined a trip without a goroutine that waits for it.
type rider struct {
	call *call
	done func([]Report, Verdict)
}

// ride takes a request along on the trip that has not begun, if there is one with room and
// it may board, and reports whether it did. The rider is told when that is over.
func (t *together) ride(ctx context.Context, key tripKey, parts [][]attribution.Call, board func(calls int) (rider, bool)) bool {
	calls, bytes := sizeOf(parts)
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[key]
	if o == nil || o.ctx != ctx || !o.hasRoom(calls, bytes) {
		return false
	}
	r, ok := board(calls)
	if !ok {
		return false
	}
	o.add(parts, calls, bytes)
	o.riders = append(o.riders, r)
	return true
}

// hasRoom reports whether a request of so many calls and bytes can join.
func (t *trip) hasRoom(calls, bytes int) bool {
	return t.calls+calls <= maxTripCalls && t.bytes+bytes <= maxTripBytes
}

func (t *trip) add(parts [][]attribution.Call, calls, bytes int) {
	t.requests++
	t.parts, t.calls, t.bytes = append(t.parts, parts...), t.calls+calls, t.bytes+bytes
}

// arrive goes on with a request that rode on a trip which is over. What was accepted is
// done at once; all else may take long.
func (r rider) arrive(ride *trip) {
	r.call.ride = ride
	finish := func() {
		r.call.run(ride.ctx)
		r.done(r.call.reports, r.call.verdict)
	}
	if ride.made && ride.result.Class == segment.Accepted {
		finish()
	} else {
		go finish()
	}
}

// sizeOf is how many calls the parts have, and how many bytes these take of a request.
func sizeOf(parts [][]attribution.Call) (calls, bytes int) {
	for _, part := range parts {
		calls += len(part)
		for i := range part {
			bytes += part[i].Size() + 1
		}
	}
	return calls, bytes
}

// send makes the trip's attempt.
func (t *trip) send(ctx context.Context, s Sender, to segment.Target) {
	all := flat.Get().(*[]attribution.Call)
	for _, calls := range t.parts {
		*all = append(*all, calls...)
	}
	t.began = time.Now()
	t.result = s.Send(ctx, to, *all)
	t.took = time.Since(t.began)
	t.made = true
	clear(*all)
	*all = (*all)[:0]
	flat.Put(all)
}

// end lets go those who joined: what the trip came to is known to all, or that it was
// not made.
func (t *trip) end() {
	if t.over == nil {
		return
	}
	close(t.over)
	for _, r := range t.riders {
		r.arrive(t)
	}
}

// flat keeps the memory of the calls of trips that are over.
var flat = sync.Pool{New: func() any { return new([]attribution.Call) }}

// begin lets nobody join the trip any more; nil is one that nobody may join.
func (t *together) begin(ctx context.Context, own *trip, parts [][]attribution.Call) *trip {
	if own == nil { // nobody waits for this one
		calls, bytes := sizeOf(parts)
		return &trip{ctx: ctx, requests: 1, parts: parts, calls: calls, bytes: bytes}
	}
	t.shut(own)
	return own
}

// cancel ends a trip that does not begin: who has joined it has to ask again.
func (t *together) cancel(p pass) {
	if p.trip != nil && !p.joined {
		t.shut(p.trip)
		p.trip.end()
	}
}

func (t *together) shut(own *trip) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[own.key] == own {
		delete(t.open, own.key)
	}
}

// write waits until a request may be encoded and written. The caller must call
// written, once or more often, when it has been. A tenant whose receiver took long to
// read the one before waits for nobody, and nobody for it.
func (t *together) write(ctx context.Context, tenant *tenantState) (written func(), err error) {
	switch {
	case t.writing == nil:
		return func() {}, nil
	case tenant.readsSlowly.Load():
		began := time.Now()
		return sync.OnceFunc(func() { tenant.readsSlowly.Store(time.Since(began) >= writeTime) }), nil
	}
	if err := t.writing.Acquire(ctx, 1); err != nil {
		return func() {}, context.Cause(ctx)
	}
	var once sync.Once
	back := func() { once.Do(func() { t.writing.Release(1) }) }
	timer := time.AfterFunc(writeTime, func() {
		tenant.readsSlowly.Store(true)
		back()
	})
	return func() {
		timer.Stop()
		back()
	}, nil
}
