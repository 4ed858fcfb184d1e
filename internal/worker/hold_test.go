package worker_test

import (
	"testing"
	"time"

	"refinersource/internal/queue"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// Invariant 7: one whose answers take long does not hold the commit, so that a crash
// beside it repeats no more of the others than a crash without it.
func TestSlowTenantDoesNotHoldTheCommit(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.receiver.latency = func(id tenant.ID) time.Duration {
			if id == "acme" {
				return 8 * time.Second
			}
			return 10 * time.Millisecond
		}
		m := w.join(func(o *worker.Options) { o.CommitInterval = 200 * time.Millisecond })
		most := queue.Offset(0)
		users := usersOf("beta", 0, 10)
		w.publish("acme", userOf("acme", 0))
		for n := range 200 { // 20 a second
			at := w.publish("beta", users[n%len(users)])
			if n%20 == 0 {
				w.publish("acme", userOf("acme", 0))
			}
			time.Sleep(50 * time.Millisecond)
			most = max(most, at.Offset-w.committed()[0])
		}
		if most > 40 {
			t.Errorf("up to %d events were delivered and not committed, want those of less than two seconds", most)
		}
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
	})
}
