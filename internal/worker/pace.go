package worker

import (
	"context"
	"math"
	"sync"

	"golang.org/x/time/rate"

	"refinersource/internal/tenant"
)

// pacer holds each tenant to its rate limit. The limit is that of all workers
// together; a worker's share is its share of the partitions.
type pacer struct {
	mu       sync.Mutex // never held across a wait
	share    float64
	limiters map[tenant.ID]*rate.Limiter
}

func newPacer() *pacer { return &pacer{limiters: make(map[tenant.ID]*rate.Limiter)} }

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
	l, burst := p.limiter(t)
	for calls > 0 {
		n := min(calls, burst)
		if err := l.WaitN(ctx, n); err != nil {
			return err
		}
		calls -= n
	}
	return nil
}

func (p *pacer) limiter(t *tenant.Tenant) (*rate.Limiter, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := float64(t.RateLimit) * p.share
	burst := max(1, int(math.Ceil(limit)))
	l := p.limiters[t.ID]
	if l == nil {
		l = rate.NewLimiter(rate.Limit(limit), burst)
		p.limiters[t.ID] = l
	}
	if l.Limit() != rate.Limit(limit) {
		l.SetLimit(rate.Limit(limit))
		l.SetBurst(burst)
	}
	return l, burst
}
