package worker_test

import (
	"testing"
	"time"

	"refinersource/internal/segment"
)

// Within a tenant's rate live traffic goes first: what catches up takes what is left.
func TestLiveTrafficGoesBeforeWhatCatchesUpWithinTheRate(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		for t := range w.tenants.All() {
			t.RateLimit = 20
		}
		failing := w.fails("acme", segment.Result{Class: segment.Misconfigured, Status: 401})
		m := w.join()
		for _, partition := range []int{0, 1} {
			for _, user := range usersOf("acme", partition, 400) {
				w.publish("acme", user)
			}
		}
		w.until("it to be passed", func() bool { return w.lag() == 0 && len(w.cursors("acme")) == 2 })
		failing.Store(false)
		w.until("it to catch up in both", func() bool { return w.receiver.count() > 80 })
		live := usersOf("acme", 2, 10)
		for n := range 180 { // 12 calls a second, of the 20
			w.publish("acme", live[n%len(live)])
			time.Sleep(time.Second / 6)
		}
		if len(w.cursors("acme")) != 2 {
			t.Error("it has caught up before: nothing was in the way")
		}
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
		slowest := time.Duration(0)
		for _, f := range m.finished {
			if f.Position.Partition == 2 {
				slowest = max(slowest, f.Finished.Sub(f.Accepted))
			}
		}
		if slowest > 4*time.Second {
			t.Errorf("a live event took %v beside what caught up", slowest)
		}
	})
}
