package worker_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// Invariant 3: what the owner before may still have under way has ended before the
// first request of who takes over. How long that takes is what its last commit says.
func TestTakeoverWaitsAsLongAsTheOwnerBeforeMayStillBeHeard(t *testing.T) {
	t.Parallel()
	const longest = 7 * time.Second // that a request takes
	for name, c := range map[string]struct {
		owner lane.Owner
		wait  time.Duration
	}{
		"drained":                         {lane.Clean, 0},
		"left without a word":             {lane.Working, 2 * time.Second},
		"left requests without an answer": {lane.Cut, longest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *world) {
				at := w.publish("acme", "ann")
				text, _, err := (&lane.Metadata{Partitions: partitions, Owner: c.owner}).Encode()
				if err != nil {
					t.Fatal(err)
				}
				w.commitAs(at.Partition, at.Offset, text)
				m := w.join(func(o *worker.Options) { o.RequestTimeout = longest })
				joined := time.Now()
				w.until("it to be delivered", w.settled)
				if took := w.receiver.got[0].at.Sub(joined); took < c.wait-100*time.Millisecond || took > c.wait+time.Second {
					t.Errorf("the first request came %v after the worker had joined, want %v", took, c.wait)
				}
				w.verify(never)
				m.terminate()
			})
		})
	}
}

// Invariant 7: who takes over knows what came before the commit, so that a copy of
// it behind the commit is dropped.
func TestCopyOfWhatTheOwnerBeforeDeliveredIsDropped(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		m := w.join()
		w.publishAll(3, 2)
		w.until("all to be delivered", w.settled)
		m.terminate()
		w.publishRaw("acme", "user-1", survey.RefinerWebhook, event("user-1", 1))
		m = w.join()
		w.until("the copy to be passed", w.settled)
		w.verify(never)
		if len(m.finished) != 1 || m.finished[0].Reason != "duplicate" {
			t.Errorf("finished events %+v, want the copy", m.finished)
		}
		m.terminate()
	})
}

// Nor is a copy sent that stands behind a cursor, of an event that stands before it.
func TestCopyBehindACursorIsKnownFromBeforeIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(_ *testing.T, w *world) {
		failing := w.fails("acme", segment.Result{Class: segment.Misconfigured, Status: 401})
		failing.Store(false)
		m := w.join()
		w.publish("acme", "ann")
		w.until("it to be delivered", w.settled)
		failing.Store(true)
		w.publish("acme", "ann")
		w.until("the tenant to be passed", func() bool { return w.lag() == 0 && len(w.cursors("acme")) == 1 })
		w.publishRaw("acme", "ann", survey.RefinerWebhook, event("ann", 1))
		w.publish("acme", "ann")
		failing.Store(false)
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
	})
}

// What waits behind a cursor is not delivered either: its users' later events would
// overtake it.
func TestChangedPartitionsAreRefusedWhileATenantWaits(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.fails("acme", segment.Result{Class: segment.Misconfigured, Status: 401})
		m := w.join()
		w.publish("acme", "ann")
		w.until("it to be passed", func() bool { return w.lag() == 0 && len(w.cursors("acme")) == 1 })
		m.terminate()
		w.addPartitions(partitions + 2)
		refused := w.start()
		if err := <-refused.ended; !errors.Is(err, worker.ErrPartitions) {
			t.Errorf("Run returned %v, want %v", err, worker.ErrPartitions)
		}
		refused.stop()
		_ = refused.letters.Close()
		refused.log.Close()
	})
}

// A drain ends with its time, a third of the rebalance timeout, whatever is under
// way: what has no answer by then is given up, and the commit says so.
func TestDrainEndsWithItsTimeAndSaysWhatItCut(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.receiver.latency = func(tenant.ID) time.Duration { return time.Minute }
		m := w.join(func(o *worker.Options) { o.GroupOptions.RebalanceTimeout = 12 * time.Second })
		at := w.publish("acme", "ann")
		w.until("an answer to be under way", func() bool { return w.receiver.count() == 1 })
		began := time.Now()
		m.terminate()
		if took := time.Since(began); took < 4*time.Second || took > 5*time.Second {
			t.Errorf("the drain took %v, want 4s", took)
		}
		c, err := w.log.Committed(t.Context(), "group", w.topics.Events())
		if err != nil {
			t.Fatal(err)
		}
		if said, err := lane.Decode(c[at.Partition].Metadata); err != nil || said.Owner != lane.Cut {
			t.Errorf("the last commit says %v (%v), want %v", said.Owner, err, lane.Cut)
		}
		w.receiver.latency = nil
		m = w.join()
		w.until("all to be delivered", w.settled)
		w.verify(func(tenant.ID, queue.Position, attribution.Kind) bool { return true })
		m.terminate()
	})
}

// A group that has lost its commits is told from a new one by the receipts of what was
// done. It does not begin anew by itself (invariant 10); told to, it sends everything
// again, in order, and passes nothing over.
func TestGroupThatHasLostItsCommitsIsRefused(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		m := w.join()
		w.publishAll(2, 3)
		w.until("all to be delivered", w.settled)
		m.terminate()
		without := func(o *worker.Options) { o.Group = "without commits" }
		refused := w.start(without)
		err := <-refused.ended
		if !errors.Is(err, worker.ErrNoCommits) || !strings.Contains(err.Error(), "--from earliest begins at the start of the log, and sends 18 events again") {
			t.Errorf("Run returned %v, want %v and the remedies", err, worker.ErrNoCommits)
		}
		refused.stop()
		_ = refused.letters.Close()
		refused.log.Close()
		if n := refused.delivered(""); n > 0 {
			t.Errorf("%d events were delivered", n)
		}
		m = w.join(without, func(o *worker.Options) { o.Anew = true })
		w.until("all to be delivered again", func() bool { return m.delivered("") == 18 })
		w.verify(func(tenant.ID, queue.Position, attribution.Kind) bool { return true })
		m.terminate()
		m = w.join(without) // it has commits now
		m.terminate()
	})
}

// A new group whose coordinator does not take commits at first has none when its first
// worker is gone, and no receipts either, so that it is not taken for one that lost them.
func TestNewGroupIsNotTakenForOneThatLostItsCommits(t *testing.T) {
	t.Parallel()
	inBubble(t, func(_ *testing.T, w *world) {
		for u := range 10 { // they make no calls, and so wait for nothing
			user := fmt.Sprintf("user-%d", u)
			w.publishRaw("acme", user, survey.RefinerWebhook, fmt.Appendf(nil, `{"remote_id":%q}`, user))
		}
		var hold atomic.Bool
		hold.Store(true)
		w.holdCommits(hold.Load)
		m := w.join()
		time.Sleep(3 * time.Second)
		m.crash()
		hold.Store(false)
		time.Sleep(time.Minute)
		second := w.join()
		w.until("all to be ignored", w.settled)
		second.terminate()
		m.bury()
	})
}

// Without receipts nobody can tell, and everything is sent again.
func TestGroupWithoutCommitsAndReceiptsBeginsAtTheStartOfTheLog(t *testing.T) {
	t.Parallel()
	inBubble(t, func(_ *testing.T, w *world) {
		none := func(o *worker.Options) { o.Receipts = false }
		m := w.join(none)
		w.publishAll(2, 3)
		w.until("all to be delivered", w.settled)
		m.terminate()
		m = w.join(none, func(o *worker.Options) { o.Group = "without commits" })
		w.until("all to be delivered again", func() bool { return m.delivered("") == 18 })
		w.verify(func(tenant.ID, queue.Position, attribution.Kind) bool { return true })
		m.terminate()
	})
}
