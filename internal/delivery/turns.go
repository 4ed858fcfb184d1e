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
	size int64
	free *semaphore.Weighted
}

const (
	// turnsPerCPU is how many calls, for each processor, may have just begun to travel.
	turnsPerCPU = 64
	// requestCost is what a request costs beside its calls, in calls.
	requestCost = 16
	// turnTime is how long an attempt has its turn: one that takes longer waits for its
	// receiver, and takes no processor from anybody.
	turnTime = 100 * time.Millisecond
)

func newTurns(calls int) turns {
	return turns{size: int64(calls), free: semaphore.NewWeighted(int64(calls))}
}

// take waits for the turn of a request. The caller must call end, once or more
// often.
func (t turns) take(ctx context.Context, calls int) (end func(), err error) {
	cost := min(t.size, int64(requestCost+calls))
	if err := t.free.Acquire(ctx, cost); err != nil {
		return func() {}, context.Cause(ctx)
	}
	var once sync.Once
	back := func() { once.Do(func() { t.free.Release(cost) }) }
	timer := time.AfterFunc(turnTime, back)
	return func() {
		timer.Stop()
		back()
	}, nil
}
