package worker

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"refinersource/internal/tenant"
)

// pacer holds each tenant to its rate limit. The limit is that of all workers
// together; a worker's share is its share of the partitions. What catches up lets
// live traffic go first.
type pacer struct {
	mu    sync.Mutex // never held across a wait
	share float64
	paces map[tenant.ID]*pace
}

// pace is one tenant's.
type pace struct {
	limiter *rate.Limiter
	live    atomic.Int32 // live requests that wait
}

// yieldFor is how long what catches up waits before it looks again whether live
// traffic still waits.
const yieldFor = 50 * time.Millisecond

func newPacer() *pacer { return &pacer{paces: make(map[tenant.ID]*pace)} }

// setShare sets how much of each limit is this worker's.
func (p *pacer) setShare(assigned, all int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.share = float64(assigned) / float64(max(1, all))
}

// wait waits until the tenant may be sent so many calls more. A second's worth
// may go at once.
func (p *pacer) wait(ctx context.Context, t *tenant.Tenant, calls int, catchUp bool) error {
	if t.RateLimit == 0 {
		return nil
	}
	l, burst := p.of(t)
	if !catchUp {
		l.live.Add(1)
		defer l.live.Add(-1)
	}
	for calls > 0 {
		for catchUp && l.live.Load() > 0 {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(yieldFor):
			}
		}
		n := min(calls, burst)
		if err := l.limiter.WaitN(ctx, n); err != nil {
			return err
		}
		calls -= n
	}
	return nil
}

func (p *pacer) of(t *tenant.Tenant) (*pace, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := float64(t.RateLimit) * p.share
	burst := max(1, int(math.Ceil(limit)))
	l := p.paces[t.ID]
	if l == nil {
		l = &pace{limiter: rate.NewLimiter(rate.Limit(limit), burst)}
		p.paces[t.ID] = l
	}
	if l.limiter.Limit() != rate.Limit(limit) {
		l.limiter.SetLimit(rate.Limit(limit))
		l.limiter.SetBurst(burst)
	}
	return l, burst
}
