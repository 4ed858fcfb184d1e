package worker_test

import (
	"fmt"
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
