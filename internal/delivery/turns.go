package delivery

import (
	"context"
	"sync"
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
}

const (
	// turnsPerCPU is how many calls, for each processor, may have just begun to travel.
	turnsPerCPU = 64
	// requestCost is what a request costs beside its calls, in calls.
	requestCost = 16
	// turnTime is how long a request counts as just begun: one that is not written by then
	// waits for its receiver, and takes no processor from anybody.
	turnTime = 100 * time.Millisecond
	// liveSlots is 1/x, the part of the quick slots that is left to live traffic.
	liveSlots = 4
)

func newTurns(calls, slots int) turns {
	return turns{
		calls:   int64(calls),
		writing: semaphore.NewWeighted(int64(calls)),
		slots:   semaphore.NewWeighted(int64(max(1, slots-slots/liveSlots))),
	}
}

// turn is that of one request. The methods may be called on nil.
type turn struct {
	processor, slot *lease
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

func (l *lease) release() { l.back.Do(func() { l.of.Release(l.n) }) }

// take waits for the turn of a request. The caller must call end, once or more
// often.
func (t turns) take(ctx context.Context, calls int) (*turn, error) {
	slot, err := newLease(ctx, t.slots, 1, slowAfter)
	if err != nil {
		return nil, err
	}
	processor, err := newLease(ctx, t.writing, min(t.calls, int64(requestCost+calls)), turnTime)
	if err != nil {
		slot.end()
		return nil, err
	}
	return &turn{processor: processor, slot: slot}, nil
}

// written gives the processor to others: the receiver has the request.
func (t *turn) written() {
	if t != nil {
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
	t.joined()
	t.written()
}
