package worker_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/attribution"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// spans are the parts of the log from one moment to another.
func (w *world) spans(from, to map[int]queue.Bounds) map[int]worker.ReplaySpan {
	spans := make(map[int]worker.ReplaySpan)
	for p := range to {
		spans[p] = worker.ReplaySpan{From: from[p].End, To: to[p].End}
	}
	return spans
}

// ends are where the log ends now.
func (w *world) ends() map[int]queue.Bounds {
	w.t.Helper()
	b, err := w.log.Bounds(w.t.Context(), w.topics.Events())
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// replayed makes a worker one that replays the spans.
func replayed(spans map[int]worker.ReplaySpan) func(*worker.Options) {
	return func(o *worker.Options) {
		small(o)
		o.Group, o.Replay = "replay", &worker.Replay{Spans: spans}
	}
}

// over waits until a replay has ended by itself.
func (m *member) over() {
	m.w.t.Helper()
	done := false
	m.w.until("the replay to end", func() bool {
		select {
		case err := <-m.ended:
			done = true
			m.ended <- err
		default:
		}
		return done
	})
	m.terminate()
}

// latest fails the test unless the last that the receiver has of each user is his
// last event.
func (w *world) latest() {
	w.t.Helper()
	w.receiver.mu.Lock()
	defer w.receiver.mu.Unlock()
	last := make(map[string]string)
	for _, a := range w.receiver.got {
		last[fmt.Sprint(a.who, a.kind)] = a.seq
	}
	for who, sent := range w.sent {
		for _, kind := range []attribution.Kind{attribution.Identify, attribution.Group} {
			if got, want := last[fmt.Sprint(who, kind)], fmt.Sprint(len(sent)); got != want {
				w.t.Errorf("the receiver's last %v of %v is that of event %s, want %s", kind, who, got, want)
			}
		}
	}
}

// in allows what is in the spans to come again.
func in(spans map[int]worker.ReplaySpan) repeats {
	return func(_ tenant.ID, at queue.Position, kind attribution.Kind) bool {
		s := spans[at.Partition]
		return at.Offset >= s.From && at.Offset < s.To && kind == attribution.Identify
	}
}

// A replay sends the range again, and of each user of it all that came later, in
// order; nobody else hears of it.
func TestReplayFollowsEachUserToTheEnd(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		live := w.join(small)
		w.publishAll(20, 1)
		from := w.ends()
		w.publishAll(8, 2)
		spans := w.spans(from, w.ends())
		w.publishAll(20, 2)
		w.until("all to be delivered", w.settled)
		if again := w.verify(never); again != 0 {
			t.Fatalf("%d repeats before the replay", again)
		}
		before := w.receiver.count()
		m := w.start(replayed(spans))
		m.over()
		again := w.verify(in(spans))
		if want := 8 * w.tenants.Len(); again != want {
			t.Errorf("%d rows were taken up again, want that of each of the %d users in the range", again, want)
		}
		if got, want := w.receiver.count()-before, 8*w.tenants.Len()*4*2; got != want {
			t.Errorf("the replay made %d calls, want %d", got, want)
		}
		w.latest()
		live.terminate()
	})
}

// A user who goes on answering while he is replayed ends with his last answers,
// whoever sends them.
func TestReplayUnderLiveTrafficLeavesNothingOld(t *testing.T) {
	t.Parallel()
	inBubble(t, func(_ *testing.T, w *world) {
		w.receiver.latency = func(tenant.ID) time.Duration { return 150 * time.Millisecond }
		live := w.join(small)
		from := w.ends()
		w.publishAll(10, 6)
		spans := w.spans(from, w.ends())
		w.until("all to be delivered", w.settled)
		m := w.start(replayed(spans))
		for range 40 {
			w.publishAll(10, 1)
			time.Sleep(100 * time.Millisecond)
		}
		m.over()
		w.until("the rest to be delivered", w.settled)
		w.latest()
		live.terminate()
	})
}

// A replay ends although live traffic of its users never pauses: whose last event it
// has sent before he answered again is left to live traffic.
func TestReplayEndsWhileLiveTrafficGoesOn(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.receiver.latency = func(tenant.ID) time.Duration { return 30 * time.Millisecond }
		live := w.join(small)
		from := w.ends()
		w.publishAll(50, 2)
		spans := w.spans(from, w.ends())
		w.until("all to be delivered", w.settled)
		var left atomic.Int32
		m := w.start(func(o *worker.Options) {
			replayed(spans)(o)
			o.OnFinished = func(f worker.Finished) {
				if f.Reason == "sent_live" {
					left.Add(1)
				}
			}
		})
		ended, begun := false, time.Now()
		for u := 0; !ended && time.Since(begun) < time.Minute; u = (u + 1) % 50 {
			for id := range w.tenants.All() {
				w.publish(id.ID, fmt.Sprintf("user-%d", u))
			}
			time.Sleep(20 * time.Millisecond)
			select {
			case err := <-m.ended:
				m.ended <- err
				ended = true
			default:
			}
		}
		if !ended {
			t.Error("the replay did not end within a minute of live traffic")
		}
		if left.Load() == 0 {
			t.Error("nothing was left to live traffic")
		}
		m.terminate()
		w.until("the rest to be delivered", w.settled)
		w.latest()
		live.terminate()
	})
}

// Several members share a replay, and one that is killed is taken over.
func TestReplayIsSharedAndTakenOver(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		live := w.join(small)
		from := w.ends()
		w.publishAll(20, 5)
		spans := w.spans(from, w.ends())
		w.publishAll(20, 1)
		w.until("all to be delivered", w.settled)
		live.terminate()
		before := w.receiver.count()
		w.receiver.latency = func(tenant.ID) time.Duration { return 500 * time.Millisecond }
		first := w.join(replayed(spans))
		second := w.start(replayed(spans))
		w.until("a part to be sent", func() bool { return w.receiver.count() > before+100 })
		first.crash()
		second.over()
		if again := w.verify(func(tenant.ID, queue.Position, attribution.Kind) bool { return true }); again < 60 {
			t.Errorf("%d rows were taken up again, want all 60", again)
		}
		w.latest()
		first.bury()
		third := w.start(replayed(spans)) // it has nothing left to do
		before = w.receiver.count()
		third.over()
		if n := w.receiver.count() - before; n > 0 {
			t.Errorf("a replay that was over made %d calls when it was started again", n)
		}
	})
}

// A replay sends what is wanted, and waits while live traffic has to go first.
func TestReplaySendsWhatIsWantedWhenItMay(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		live := w.join(small)
		from := w.ends()
		w.publishAll(10, 2)
		spans := w.spans(from, w.ends())
		w.until("all to be delivered", w.settled)
		live.terminate()
		before := w.receiver.count()
		began := time.Now()
		m := w.start(replayed(spans), func(o *worker.Options) {
			o.Replay.Wants = func(r *queue.Record) bool { return r.Header(queue.HeaderTenant) == "beta" }
			o.Replay.Held = func(int) bool { return time.Since(began) < time.Minute }
		})
		for time.Since(began) < 59*time.Second {
			time.Sleep(time.Second)
			if n := w.receiver.count() - before; n > 0 {
				t.Fatalf("%d calls were made while live traffic had to go first", n)
			}
		}
		m.over()
		if got := w.receiver.count() - before; got != 40 {
			t.Errorf("the replay made %d calls, want the 40 of beta", got)
		}
		w.verify(func(id tenant.ID, _ queue.Position, kind attribution.Kind) bool {
			return id == "beta" && kind == attribution.Identify
		})
	})
}

// What a replay sends gets receipts of its own, which name the replay; those of live
// traffic name none. Nothing but its range, and what follows for the same users,
// gets one.
func TestReceiptsOfAReplayNameIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		live := w.join(small)
		w.publishAll(20, 1)
		from := w.ends()
		w.publishAll(8, 1)
		spans := w.spans(from, w.ends())
		w.until("all to be delivered", w.settled)
		live.terminate()
		m := w.start(func(o *worker.Options) {
			replayed(spans)(o)
			o.Replay.ID = "r1"
		})
		m.over()
		receipts := w.receipts()
		if got, want := len(receipts), (20+8)*w.tenants.Len(); got != want {
			t.Fatalf("%d events have receipts, want %d", got, want)
		}
		for at, all := range receipts {
			byReplay := make(map[string]int)
			for _, r := range all {
				byReplay[r.Replay]++
			}
			want := map[string]int{"": 1}
			if s := spans[at.Partition]; at.Offset >= s.From && at.Offset < s.To {
				want["r1"] = 1
			}
			if diff := cmp.Diff(want, byReplay); diff != "" {
				t.Errorf("receipts of %v by replay (-want +got)\n%s", at, diff)
			}
			for _, r := range all[1:] {
				if diff := cmp.Diff(all[0].Calls, r.Calls); diff != "" {
					t.Errorf("the replay's calls of %v differ (-live +replay)\n%s", at, diff)
				}
			}
		}
	})
}
