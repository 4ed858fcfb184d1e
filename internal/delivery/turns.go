package delivery

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// turns hold back what catches up, so that live traffic finds processors and slots
// free: after an outage hundreds of tenants have full requests at once. Who waits is
// served in the order of arrival.
type turns struct {
	calls   int64
	writing *semaphore.Weighted // calls that have just begun to travel
	slots   *semaphore.Weighted // requests under way
	began   time.Time
	live    atomic.Int64 // when live traffic was last seen, in ns since began
}

const (
	// turnsPerCPU is how many calls, for each processor, may have just begun to travel.
	turnsPerCPU = 64
	// requestCost is what a request costs beside its calls, in calls.
	requestCost = 16
	// turnTime is how long a request has its turn at most: one that is not written by then
	// waits for its receiver, and takes no processor from anybody.
	turnTime = 100 * time.Millisecond
	// callTime is how long the turn goes on for each call that it counts for, when the
	// request is written, while there is live traffic: so much processor time is left to that.
	callTime = 250 * time.Microsecond
	// liveFor is how long after its last attempt there is live traffic.
	liveFor = 100 * time.Millisecond
	// liveSlots is 1/x, the part of the quick slots that is left to live traffic.
	liveSlots = 4
)

func newTurns(calls, slots int) *turns {
	return &turns{
		began:   time.Now(),
		calls:   int64(calls),
		writing: semaphore.NewWeighted(int64(calls)),
		slots:   semaphore.NewWeighted(int64(max(1, slots-slots/liveSlots))),
	}
}

// turn is that of one request. The methods may be called on nil.
type turn struct {
	of              *turns
	processor, slot *lease
	goesOn          time.Duration // after it was written, while there is live traffic
}

// sawLive notes that there is live traffic.
func (t *turns) sawLive() { t.live.Store(int64(time.Since(t.began)) + 1) }

// isLive reports whether there is.
func (t *turns) isLive() bool {
	last := t.live.Load()
	return last > 0 && time.Since(t.began)-time.Duration(last) < liveFor
}

// lease is a part of a semaphore, given back once: by hand, or when its time is over.
type lease struct {
	back  sync.Once
	of    *semaphore.Weighted
	n     int64
	timer *time.Timer
}

func newLease(ctx context.Context, of *semaphore.Weighted, n int64, most time.Duration) (*lease, error) {
	if err := of.Acquire(ctx, n); err != nil {
		return nil, context.Cause(ctx)
	}
	l := &lease{of: of, n: n}
	l.timer = time.AfterFunc(most, l.release)
	return l, nil
}

func (l *lease) end() {
	l.timer.Stop()
	l.release()
}

// endIn ends it after a time, if that comes first.
func (l *lease) endIn(d time.Duration) {
	if l.timer.Stop() {
		l.timer.Reset(d)
	}
}

func (l *lease) release() { l.back.Do(func() { l.of.Release(l.n) }) }

// take waits for the turn of a request. The caller must call end, once or more
// often.
func (t *turns) take(ctx context.Context, calls int) (*turn, error) {
	slot, err := newLease(ctx, t.slots, 1, slowAfter)
	if err != nil {
		return nil, err
	}
	cost := int64(requestCost + calls)
	processor, err := newLease(ctx, t.writing, min(t.calls, cost), turnTime)
	if err != nil {
		slot.end()
		return nil, err
	}
	return &turn{of: t, processor: processor, slot: slot, goesOn: min(turnTime, time.Duration(cost)*callTime)}, nil
}

// written gives the processor to others: the receiver has the request.
func (t *turn) written() {
	switch {
	case t == nil:
	case t.of.isLive():
		t.processor.endIn(t.goesOn)
	default:
		t.processor.end()
	}
}

// joined gives the slot to others: the request travels on another's.
func (t *turn) joined() {
	if t != nil {
		t.slot.end()
	}
}

// end gives both to others.
func (t *turn) end() {
	if t != nil {
		t.slot.end()
		t.processor.end()
	}
}
