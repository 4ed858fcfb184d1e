package delivery

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// turns hold back what catches up, so that live traffic finds processors free: after an
// outage hundreds of tenants have full requests at once. Who waits is served in the order
// of arrival.
type turns struct {
	calls int64
	free  *semaphore.Weighted
	began time.Time
	live  atomic.Int64 // when live traffic was last seen, in ns since began; 0 is never
}

const (
	// turnsPerCPU is how many calls, for each processor, may have their turn.
	turnsPerCPU = 64
	// requestCost is what a request costs beside its calls, in calls.
	requestCost = 16
	// turnTime is how long a request is waited for to be written: one that takes longer
	// waits for its receiver, and takes no processor from anybody.
	turnTime = 100 * time.Millisecond
	// turnGap is how long all turns together go on after they were written, while there is
	// live traffic: so much of the processors is left to that. The turn of more calls than
	// all have goes on for as many times as long, up to turnTime.
	turnGap = 6 * time.Millisecond
	// liveFor is how long after its last attempt there is live traffic.
	liveFor = 100 * time.Millisecond
)

func newTurns(calls int) *turns {
	return &turns{calls: int64(calls), free: semaphore.NewWeighted(int64(calls)), began: time.Now()}
}

// sawLive notes that there is live traffic.
func (t *turns) sawLive() { t.live.Store(int64(time.Since(t.began)) + 1) }

// isLive reports whether there is.
func (t *turns) isLive() bool {
	last := t.live.Load()
	return last > 0 && time.Since(t.began)-time.Duration(last) < liveFor
}

// turn is that of one request.
type turn struct {
	of    *turns
	n     int64
	timer *time.Timer
	over  sync.Once
}

// take waits for the turn of a request. The caller must call written.
func (t *turns) take(ctx context.Context, calls int) (*turn, error) {
	x := &turn{of: t, n: min(t.calls, int64(requestCost+calls))}
	if err := t.free.Acquire(ctx, x.n); err != nil {
		return nil, context.Cause(ctx)
	}
	x.timer = time.AfterFunc(turnTime, x.release)
	return x, nil
}

func (x *turn) release() { x.of.free.Release(x.n) }

// written ends the turn of a request that is written, or will not be, with so many calls
// that travelled on it. It may be called more often than once, and on nil.
func (x *turn) written(calls int) {
	if x == nil {
		return
	}
	x.over.Do(func() {
		switch {
		case !x.timer.Stop(): // it is released
		case x.of.isLive():
			larger := max(1, float64(requestCost+calls)/float64(x.of.calls))
			x.timer.Reset(min(turnTime, time.Duration(larger*float64(turnGap))))
		default:
			x.release()
		}
	})
}
