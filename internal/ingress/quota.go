package ingress

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"refinersource/internal/tenant"
)

// quotas hold tenants to the events a second that they may send to this ingress. A
// second's worth may come at once, and at least a full batch.
type quotas struct {
	burst int // at least

	mu       sync.Mutex // never held across a wait
	limiters map[tenant.ID]*rate.Limiter
}

func newQuotas(burst int) *quotas {
	return &quotas{burst: burst, limiters: make(map[tenant.ID]*rate.Limiter)}
}

// take takes so many events of the tenant's quota; if they are over it, it takes
// nothing and returns when they would not be.
func (q *quotas) take(t *tenant.Tenant, events int, now time.Time) time.Duration {
	if t.Quota == 0 {
		return 0
	}
	limit, burst := rate.Limit(t.Quota), max(t.Quota, q.burst)
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.limiters[t.ID]
	if l == nil {
		l = rate.NewLimiter(limit, burst)
		q.limiters[t.ID] = l
	}
	if l.Limit() != limit { // the tenants file has changed
		l.SetLimitAt(now, limit)
		l.SetBurstAt(now, burst)
	}
	r := l.ReserveN(now, events)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// overQuota asks to come again when there is room, in whole seconds.
func overQuota(t *tenant.Tenant, wait time.Duration) *problem {
	return &problem{
		Status:     http.StatusTooManyRequests,
		Detail:     fmt.Sprintf("over the tenant's quota of %d events a second; send it again later, or raise quota in the tenants file", t.Quota),
		retryAfter: (wait + time.Second - 1).Truncate(time.Second),
	}
}
