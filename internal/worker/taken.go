package worker

import (
	"sync"
	"time"

	"refinersource/internal/tenant"
)

// taken is when a suspended tenant's receiver last took something in any
// partition: reason for the others of the worker to probe at once, in place of
// waiting for what an outage has made of their backoff.
type taken struct {
	mu sync.Mutex
	at map[tenant.ID]time.Time // of tenants that have been suspended
}

func (t *taken) note(id tenant.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at == nil {
		t.at = make(map[tenant.ID]time.Time)
	}
	t.at[id] = time.Now()
}

// since reports whether it took something after that time.
func (t *taken) since(id tenant.ID, failed time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.at[id].After(failed)
}
