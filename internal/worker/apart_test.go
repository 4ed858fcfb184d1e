package worker_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

// hot publishes so many events of a user, each followed by one of another user of
// the same tenant and partition, and returns how many of others there were.
func (w *world) hot(events int) (others int) {
	for range events {
		partition := w.publish("acme", "hot").Partition
		for there := false; !there; others++ {
			there = w.publish("acme", fmt.Sprint("user-", others)).Partition == partition
		}
	}
	return others
}

// done counts the finished events of a user, and of the others of its tenant.
func (m *member) done(user string) (his, others int) {
	r := m.w.receiver
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.got {
		switch {
		case a.kind.String() != "group":
		case a.who.user == user:
			his++
		default:
			others++
		}
	}
	return his, others
}

// apart are the group's cursors of keys that are set apart.
func (w *world) apart() (keys []lane.Cursor) {
	for _, c := range w.allCursors() {
		if c.Key != (lane.Tag{}) {
			keys = append(keys, c)
		}
	}
	return keys
}

// Invariant 5 within a tenant: a user with half of all events keeps its order, and
// the others do not wait for it, also when the tenant had fallen behind before;
// a clean hand-over in the middle repeats nothing.
func TestHotUserHoldsUpItselfAlone(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]bool{"from the start": false, "after an outage": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *world) {
				w.receiver.latency = func(tenant.ID) time.Duration { return 100 * time.Millisecond }
				failing := w.fails("acme", segment.Result{Class: segment.Transient, Status: 500})
				failing.Store(outage)
				others := w.hot(40)
				m := w.join(small)
				for range 40 {
					others += w.hot(4)
					time.Sleep(250 * time.Millisecond)
				}
				failing.Store(false)
				w.until("the others", func() bool { _, n := m.done("hot"); return n == others })
				if his, _ := m.done("hot"); his > 130 {
					t.Errorf("the others were done when the hot user had %d of 200 events delivered: they waited for it", his)
				}
				if len(w.apart()) == 0 {
					t.Error("no cursor of a key that is set apart")
				}
				m.terminate()
				m = w.join(small)
				w.until("some more of the hot user", func() bool { n, _ := m.done("hot"); return n > 180 })
				w.publish("acme", "hot")
				w.publish("acme", "user-0")
				w.until("all to be delivered", func() bool { return w.settled() && len(w.apart()) == 0 })
				w.verify(never)
				m.terminate()
			})
		})
	}
}

// A crash while a user is set apart repeats what was not committed, in order.
func TestCrashWhileAUserIsSetApart(t *testing.T) {
	t.Parallel()
	inBubble(t, func(_ *testing.T, w *world) {
		failing := w.fails("acme", segment.Result{Class: segment.Transient, Status: 503})
		failing.Store(false)
		w.receiver.latency = func(tenant.ID) time.Duration { return 500 * time.Millisecond }
		w.hot(150)
		var crashed []*member
		for range 4 {
			m := w.start(small)
			crashed = append(crashed, m)
			his, _ := m.done("hot")
			w.until("some of the hot user", func() bool { n, _ := m.done("hot"); return n >= his+10 })
			failing.Store(len(crashed) == 2)
			time.Sleep(20 * time.Second)
			m.crash()
			failing.Store(false)
			w.publish("acme", "hot")
		}
		m := w.start(small)
		w.until("all to be delivered", w.settled)
		w.verify(func(id tenant.ID, _ queue.Position, _ attribution.Kind) bool { return id == "acme" })
		m.terminate()
		for _, m := range crashed {
			m.bury()
		}
	})
}

// What a receiver asks for with Retry-After it asks of the tenant: all its lanes in
// the partition keep to it.
func TestRetryAfterHoldsForAllLanesOfATenant(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.receiver.latency = func(tenant.ID) time.Duration { return 300 * time.Millisecond }
		var throttled atomic.Bool
		var until time.Time
		early := 0
		there := w.inHotPartition(100)
		w.receiver.answer = func(id tenant.ID, calls []attribution.Call) segment.Result {
			switch now := time.Now(); {
			case id != "acme" || !there[calls[0].UserID]:
			case throttled.CompareAndSwap(true, false):
				until = now.Add(time.Minute)
				return segment.Result{Class: segment.Throttled, Status: 429, RetryAfter: time.Minute}
			case now.Before(until.Add(-time.Second)) && now.After(until.Add(-59*time.Second)): // but for what was on its way
				early++
			}
			return segment.Result{}
		}
		w.hot(40)
		m := w.join(small)
		// The others are well, so that this is not the host's trouble.
		others := func(d time.Duration) {
			for range d / (250 * time.Millisecond) {
				w.publish("beta", "bob")
				w.publish("gamma", "cid")
				time.Sleep(250 * time.Millisecond)
			}
		}
		for range 40 {
			w.hot(4)
			others(250 * time.Millisecond)
		}
		w.until("a user who is set apart", func() bool { return len(w.apart()) > 0 })
		throttled.Store(true)
		w.until("the answer", func() bool { return !throttled.Load() })
		others(5 * time.Second)
		w.hot(10)
		others(90 * time.Second)
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
		if early > 0 {
			t.Errorf("%d requests came before the receiver wanted them", early)
		}
	})
}

// inHotPartition are the hot user and those of the first others who share its
// partition.
func (w *world) inHotPartition(others int) map[string]bool {
	w.hot(1)
	partition := w.sent[person{"acme", "hot"}][0].Partition
	there := map[string]bool{"hot": true}
	for u := range others {
		name := fmt.Sprint("user-", u)
		there[name] = w.publish("acme", name).Partition == partition
	}
	return there
}

// After an outage the first success of a tenant ends its waiting everywhere: its
// other partitions do not wait for what the outage has made of their backoff.
func TestOneSuccessEndsATenantsWaitingEverywhere(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		failing := w.fails("acme", segment.Result{Class: segment.Transient, Status: 500})
		m := w.join(small)
		w.publishAll(20, 2)
		time.Sleep(30 * time.Minute)
		if n := len(w.cursors("acme")); n < 2 {
			t.Fatalf("the tenant waits in %d partitions, want more", n)
		}
		failing.Store(false)
		before := w.receiver.count()
		w.until("the first success", func() bool { return w.receiver.count() > before })
		first := time.Now()
		w.until("all to be delivered", w.settled)
		if took := time.Since(first); took > 10*time.Second {
			t.Errorf("from the first success to the last delivery it took %v", took)
		}
		w.verify(never)
		m.terminate()
	})
}
