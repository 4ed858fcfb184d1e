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
// live traffic go first, and never has more of the limit to come than a tenth of a
// second's worth.
type pacer struct {
	mu    sync.Mutex // never held across a wait
	share float64
	paces map[tenant.ID]*pace
}

// pace is one tenant's.
type pace struct {
	limiter *rate.Limiter
	live    atomic.Int32  // live requests that wait
	turn    chan struct{} // holds one: whoever of those that catch up is next
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
	wait := l.limiter.WaitN
	if catchUp {
		wait, burst = l.yield, max(1, burst/10)
	}
	for calls > 0 {
		n := min(calls, burst)
		if err := wait(ctx, n); err != nil {
			return err
		}
		calls -= n
	}
	return nil
}

// try is wait for who cannot: it reports false, and takes nothing, where that would wait.
func (p *pacer) try(t *tenant.Tenant, calls int, catchUp bool) bool {
	if t.RateLimit == 0 {
		return true
	}
	l, burst := p.of(t)
	if catchUp {
		burst = max(1, burst/10)
	}
	// Who waits has its part of what is to come, so that nothing is there before.
	return calls <= burst && l.limiter.AllowN(time.Now(), calls)
}

// yield waits for its turn among those that catch up, then until no live request
// waits, and then until so many calls more may be sent.
func (l *pace) yield(ctx context.Context, calls int) error {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-l.turn }()
	for l.live.Load() > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(yieldFor):
		}
	}
	return l.limiter.WaitN(ctx, calls)
}

func (p *pacer) of(t *tenant.Tenant) (*pace, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := float64(t.RateLimit) * p.share
	burst := max(1, int(math.Ceil(limit)))
	l := p.paces[t.ID]
	if l == nil {
		l = &pace{limiter: rate.NewLimiter(rate.Limit(limit), burst), turn: make(chan struct{}, 1)}
		p.paces[t.ID] = l
	}
	if l.limiter.Limit() != rate.Limit(limit) {
		l.limiter.SetLimit(rate.Limit(limit))
		l.limiter.SetBurst(burst)
	}
	return l, burst
}
