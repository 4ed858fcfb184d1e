package worker_test

import (
	"fmt"
	"testing"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// reset moves the group's commits, as `offsets reset` does, and returns where they
// are now.
func (w *world) reset(to func(partition int, b queue.Bounds) queue.Offset) (is map[int]queue.Offset) {
	w.t.Helper()
	ctx, topic := w.t.Context(), w.topics.Events()
	was, err := w.log.Committed(ctx, "group", topic)
	if err != nil {
		w.t.Fatal(err)
	}
	bounds, err := w.log.Bounds(ctx, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	var commits []queue.Commit
	is = make(map[int]queue.Offset)
	for p, c := range was {
		m, err := lane.Decode(c.Metadata)
		if err != nil {
			w.t.Fatal(err)
		}
		at := to(p, bounds[p])
		moved := m.Reset(lane.Offset(c.Offset), lane.Offset(at))
		text, _, err := moved.Encode()
		if err != nil {
			w.t.Fatal(err)
		}
		is[p] = at
		commits = append(commits, queue.Commit{Partition: p, Offset: at, Metadata: text})
	}
	if err := w.log.ResetCommits(ctx, "group", topic, commits); err != nil {
		w.t.Fatal(err)
	}
	return is
}

func toEnd(_ int, b queue.Bounds) queue.Offset      { return b.End }
func toMiddle(_ int, b queue.Bounds) queue.Offset   { return b.End / 2 }
func toEarliest(_ int, b queue.Bounds) queue.Offset { return b.Start }

// Invariant 2: to skip what is in the log does not skip what a tenant waits with.
func TestResetForwardDeliversWhatACursorHolds(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		failing := w.fails("acme", segment.Result{Class: segment.Misconfigured, Status: 401})
		m := w.join(small)
		w.publishAll(10, 3)
		w.until("the commits to pass it", func() bool { return w.lag() == 0 })
		m.terminate()
		held := len(w.cursors("acme"))
		w.publishAll(10, 2)
		w.reset(toEnd)
		if n := len(w.cursors("acme")); held == 0 || n != held {
			t.Errorf("of %d cursors %d are left", held, n)
		}
		failing.Store(false)
		m = w.join(small)
		w.publishAll(10, 1)
		w.until("all to be delivered", w.settled)
		var skipped []string
		for who := range w.sent {
			for seq := range 2 {
				if who.tenant != "acme" {
					for _, kind := range []attribution.Kind{attribution.Identify, attribution.Group} {
						skipped = append(skipped, callName(who, kind, fmt.Sprint(4+seq)))
					}
				}
			}
		}
		w.verify(never, skipped...)
		m.terminate()
	})
}

// Invariants 3 and 7: what is sent again is sent in order, all of it, and that
// copies are known does not hold it back.
func TestResetBackSendsAgainInOrder(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		m := w.join(small)
		w.publishAll(10, 4)
		w.publishRaw("acme", "user-0", survey.RefinerWebhook, event("user-0", 1)) // a copy is one afterwards too
		w.until("all to be delivered", w.settled)
		m.terminate()
		first := w.receiver.count()
		middle := w.reset(toMiddle)
		m = w.join(small)
		w.until("the rest to be delivered again", w.settled)
		if again := w.verify(func(_ tenant.ID, at queue.Position, kind attribution.Kind) bool {
			return at.Offset >= middle[at.Partition] && kind == attribution.Identify
		}); again == 0 {
			t.Error("nothing was sent again")
		}
		want := 0
		for _, positions := range w.sent {
			for _, at := range positions {
				if at.Offset >= middle[at.Partition] {
					want += 2
				}
			}
		}
		if got := w.receiver.count() - first; got != want {
			t.Errorf("%d calls were sent again, want %d", got, want)
		}
		m.terminate()
	})
}

// A cursor that lies before the new commit holds its tenant's events; one that does
// not is void. Either way nothing is lost, and nobody's older events come last, also
// where a user is set apart.
func TestResetBackWhileTenantsWait(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]func(int, queue.Bounds) queue.Offset{
		"before all cursors": toEarliest,
		"among them":         toMiddle,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *world) {
				failing := w.fails("acme", segment.Result{Class: segment.Transient, Status: 503})
				failing.Store(false)
				w.receiver.latency = func(tenant.ID) time.Duration { return 200 * time.Millisecond }
				w.hot(150)
				w.publishAll(4, 2)
				m := w.start(small)
				w.until("the user to be set apart", func() bool { return len(w.apart()) > 0 })
				time.Sleep(2 * time.Second)
				failing.Store(true)
				time.Sleep(20 * time.Second)
				m.terminate()
				if len(w.apart()) == 0 {
					t.Fatal("the user is not set apart any more")
				}
				held := len(w.allCursors())
				if held < 2 {
					t.Fatal("its tenant is not suspended")
				}
				is := w.reset(to)
				if len(w.apart()) > 0 || len(w.allCursors()) >= held {
					t.Errorf("of %d cursors these are left: %+v", held, w.allCursors())
				}
				failing.Store(false)
				m = w.start(small)
				w.until("all to be delivered", w.settled)
				if again := w.verify(func(id tenant.ID, at queue.Position, kind attribution.Kind) bool {
					return id == "acme" || at.Offset >= is[at.Partition] && kind == attribution.Identify
				}); again == 0 {
					t.Error("nothing was sent again")
				}
				m.terminate()
			})
		})
	}
}
