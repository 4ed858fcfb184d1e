package worker_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/lane"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// However many lanes catch up, a live request waits for little more than a tenth of a
// second's worth of theirs; and together they keep to the rate.
func TestManyLanesThatCatchUpDoNotDelayALiveRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pacer := worker.NewPacer()
		pacer.SetShare(12, 12)
		acme := &tenant.Tenant{ID: "acme", RateLimit: 100}
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		sent := 0
		var lanes sync.WaitGroup
		for range 50 {
			lanes.Go(func() {
				for pacer.Wait(ctx, acme, 20, true) == nil {
					mu.Lock()
					sent += 20
					mu.Unlock()
				}
			})
		}
		begun := time.Now()
		for range 50 {
			time.Sleep(400 * time.Millisecond)
			asked := time.Now()
			if err := pacer.Wait(ctx, acme, 5, false); err != nil {
				t.Error(err)
			}
			if took := time.Since(asked); took > 300*time.Millisecond {
				t.Errorf("a live request waited %v for its turn", took)
			}
		}
		most := 100 * (1 + time.Since(begun).Seconds())
		cancel()
		lanes.Wait()
		if all := float64(sent + 50*5); all > most || all < most*8/10 {
			t.Errorf("%v calls, want little less than the %v that the rate allows", all, most)
		}
	})
}

// Who cannot wait gets no more than who can, and does not overtake.
func TestPaceIsTriedWithoutOvertaking(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pacer := worker.NewPacer()
		pacer.SetShare(12, 12)
		acme := &tenant.Tenant{ID: "acme", RateLimit: 100}
		try := func(what string, calls int, catchUp, want bool) {
			t.Helper()
			if got := pacer.Try(acme, calls, catchUp); got != want {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		wait := func(calls int, catchUp bool) <-chan struct{} {
			over := make(chan struct{})
			go func() {
				defer close(over)
				if err := pacer.Wait(t.Context(), acme, calls, catchUp); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
			return over
		}
		try("more than a second's worth", 101, false, false)
		try("a second's worth", 100, false, true)
		try("one more", 1, false, false)
		time.Sleep(500 * time.Millisecond)
		try("half a second's worth after half a second", 50, false, true)
		over := wait(30, false)
		time.Sleep(200 * time.Millisecond) // 20 are there, and one who waits for 30
		try("before who waits", 1, false, false)
		<-over
		time.Sleep(time.Second)
		try("a tenth of what there is, catching up", 10, true, true)
		try("more than that", 11, true, false)
		over = wait(100, false) // all that is left, and ten more
		try("catching up while live traffic waits", 1, true, false)
		<-over
		over = wait(20, true)
		time.Sleep(50 * time.Millisecond)
		try("catching up out of turn", 1, true, false)
		<-over
		unlimited := &tenant.Tenant{ID: "other"}
		if !pacer.Try(unlimited, 1e6, false) {
			t.Error("a tenant without a limit has to wait")
		}
	})
}

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
			for _, user := range usersOf("acme", partition, 200) {
				w.publish("acme", user)
			}
		}
		w.until("it to be suspended in both", func() bool {
			suspended := slices.DeleteFunc(w.cursors("acme"), func(c lane.Cursor) bool { return c.Cause != lane.CauseMisconfigured })
			return w.lag() == 0 && len(suspended) == 2
		})
		failing.Store(false)
		w.until("it to catch up in both", func() bool { return w.receiver.count() > 80 })
		live := usersOf("acme", 2, 10)
		for n := range 90 { // 12 calls a second, of the 20
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
