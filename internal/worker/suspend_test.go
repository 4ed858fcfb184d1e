package worker_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/deadletter"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// fails makes the receiver fail one tenant while it is set.
func (w *world) fails(id tenant.ID, with segment.Result) *atomic.Bool {
	failing := new(atomic.Bool)
	failing.Store(true)
	w.receiver.answer = func(who tenant.ID, _ []attribution.Call) segment.Result {
		if who == id && failing.Load() {
			return with
		}
		return segment.Result{}
	}
	return failing
}

// delivered counts the finished events that were delivered to the tenants but one.
func (m *member) delivered(but tenant.ID) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, f := range m.finished {
		if f.Outcome == worker.Delivered && f.Tenant != but {
			n++
		}
	}
	return n
}

// slowest is the longest time from acceptance to delivery of the tenants but one.
func (m *member) slowest(but tenant.ID) (slowest time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.finished {
		if f.Tenant != but {
			slowest = max(slowest, f.Finished.Sub(f.Accepted))
		}
	}
	return slowest
}

// Invariants 2, 3 and 5: an outage of one tenant costs the others nothing, however
// long it is: a cursor holds its events, and the commit goes on.
func TestFailingTenantIsPassedByACursorAndCatchesUpInOrder(t *testing.T) {
	t.Parallel()
	for name, with := range map[string]segment.Result{
		"500": {Class: segment.Transient, Status: 500},
		"401": {Class: segment.Misconfigured, Status: 401},
		"429": {Class: segment.Throttled, Status: 429, RetryAfter: 40 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *world) {
				failing := w.fails("acme", with)
				m := w.join(small)
				for range 60 {
					w.publishAll(10, 1)
					time.Sleep(10 * time.Second)
				}
				w.until("the others", func() bool { return m.delivered("acme") == 1200 })
				if slow := m.slowest("acme"); slow > 2*time.Second {
					t.Errorf("an event of another tenant took %v beside a failing one", slow)
				}
				w.until("the commits to pass", func() bool { return w.lag() == 0 })
				if n := len(w.cursors("acme")); n == 0 {
					t.Error("the commits passed the failing tenant without a cursor")
				}
				if n := w.receiver.sent(); n > 2500 {
					t.Errorf("%d requests: the failing tenant is not left alone", n)
				}
				failing.Store(false)
				w.publishAll(10, 1)
				w.until("all to be delivered", w.settled)
				w.verify(never)
				if n := len(w.letters()); n != 0 {
					t.Errorf("an outage made %d dead letters, want none", n)
				}
				m.terminate()
			})
		})
	}
}

// Invariant 7: neither does a clean hand-over in the middle of an outage repeat
// anything, even of what was delivered beyond the cursor.
func TestRestartWhileSuspendedRepeatsNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(_ *testing.T, w *world) {
		random, pauses := rand.New(rand.NewPCG(3, 4)), rand.New(rand.NewPCG(5, 6))
		w.receiver.answer = func(id tenant.ID, _ []attribution.Call) segment.Result {
			if id == "acme" && random.IntN(3) > 0 {
				return segment.Result{Class: segment.Misconfigured, Status: 403}
			}
			return segment.Result{}
		}
		m := w.join(small)
		for range 8 {
			w.publishAll(8, 2)
			time.Sleep(time.Duration(pauses.Int64N(int64(40 * time.Second))))
			m.terminate()
			m = w.join(small)
		}
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
	})
}

// Invariants 2, 3 and 7: after a crash at any moment of a suspension, another
// member goes on from what the log holds.
func TestCrashWhileSuspendedResumesFromTheCommit(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(_ *testing.T, w *world) {
				random := rand.New(rand.NewPCG(seed, 7))
				failing := w.fails("acme", segment.Result{Class: segment.Transient, Status: 503})
				first := w.join(small)
				for range 4 {
					w.publishAll(10, 2)
					time.Sleep(time.Duration(random.Int64N(int64(20 * time.Second))))
				}
				failing.Store(false)
				time.Sleep(time.Duration(random.Int64N(int64(5 * time.Second))))
				first.crash()
				behind := w.fromCommits()
				second := w.join(small)
				w.publishAll(10, 1)
				w.until("all to be delivered", w.settled)
				w.verify(behind)
				second.terminate()
				first.bury()
			})
		})
	}
}

// One bad event is not a bad tenant: it holds its own user, for its budget, and is
// then a dead letter with the evidence.
func TestPoisonEventHoldsOnlyItsUserAndDies(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		poison := func(c attribution.Call) bool {
			return c.UserID == "user-3" && slices.ContainsFunc(c.Traits, func(t attribution.Trait) bool {
				return t.Name == "refiner_seq" && string(t.Value) == "2"
			})
		}
		w.receiver.answer = func(id tenant.ID, calls []attribution.Call) segment.Result {
			if id == "acme" && slices.ContainsFunc(calls, poison) {
				return segment.Result{Class: segment.Transient, Status: 500}
			}
			return segment.Result{}
		}
		m := w.join()
		for i := range 60 {
			w.publishAll(10, 1)
			time.Sleep(5 * time.Second)
			if i == 15 {
				w.until("the commit to pass it", func() bool { return w.lag() == 0 })
				if n := len(w.cursors("acme")); n != 1 || len(w.letters()) > 0 {
					t.Errorf("%d cursors of the tenant, want one that holds the event put aside", n)
				}
			}
		}
		w.until("all to be delivered", w.settled)
		m.mu.Lock()
		for _, f := range m.finished {
			late := f.Finished.Sub(f.Accepted)
			if whose := f.Calls[0].UserID; whose != "user-3" && late > 15*time.Second || late > 4*time.Minute {
				t.Errorf("an event of %s of %s took %v", whose, f.Tenant, late)
			}
		}
		m.mu.Unlock()
		letters := w.letters()
		if len(letters) != 1 || letters[0].Reason != deadletter.Poison || letters[0].Status != 500 || letters[0].Stage != deadletter.StageIdentify {
			t.Errorf("dead letters %+v, want the poisonous one", letters)
		}
		who := person{"acme", "user-3"}
		w.verify(never, callName(who, attribution.Identify, "2"), callName(who, attribution.Group, "2"))
		m.terminate()
	})
}

// An event that comes back with 403 again and again, while others are accepted, is
// not given up: that answer is the tenant's trouble.
func TestForbiddenEventIsNotPoison(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		until := time.Now().Add(2 * time.Minute)
		w.receiver.answer = func(id tenant.ID, calls []attribution.Call) segment.Result {
			hit := slices.ContainsFunc(calls, func(c attribution.Call) bool { return c.UserID == "user-0" })
			if id == "acme" && hit && time.Now().Before(until) {
				return segment.Result{Class: segment.Misconfigured, Status: 403}
			}
			return segment.Result{}
		}
		m := w.join(small, func(o *worker.Options) { o.EventBudget = 5 * time.Second })
		for range 20 {
			w.publishAll(6, 1)
			time.Sleep(5 * time.Second)
		}
		w.until("all to be delivered", w.settled)
		w.verify(never)
		if letters := w.letters(); len(letters) > 0 {
			t.Errorf("dead letters %+v, want none", letters)
		}
		m.terminate()
	})
}

// A paused tenant waits at a cursor, is sent nothing, and goes on soon after.
func TestPausedTenantWaitsAtACursor(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var inForce atomic.Pointer[tenant.Registry]
		inForce.Store(w.tenants)
		pause := func(paused bool) {
			var all []tenant.Tenant
			for t := range w.tenants.All() {
				t := *t
				t.Paused = paused && t.ID == "acme"
				all = append(all, t)
			}
			r, err := tenant.NewRegistry(all...)
			if err != nil {
				t.Fatal(err)
			}
			inForce.Store(r)
		}
		pause(true)
		m := w.join(small, func(o *worker.Options) { o.Tenants = inForce.Load })
		w.publishAll(30, 5)
		time.Sleep(10 * time.Minute)
		if n, sent := m.delivered("acme"), w.receiver.count(); n != 300 || sent != 600 {
			t.Errorf("%d events of the others and %d calls, want 300 and 600", n, sent)
		}
		if c := w.cursors("acme"); len(c) == 0 || c[0].Cause != lane.CausePaused {
			t.Errorf("cursors of the paused tenant: %+v", c)
		}
		pause(false)
		time.Sleep(20 * time.Second)
		if !w.settled() {
			t.Error("20 s after the pause something is left")
		}
		w.verify(never)
		m.terminate()
	})
}

// Invariant 5: an import of one tenant that is held to its rate does not delay
// others behind it in the log.
func TestImportOfOneTenantDoesNotDelayOthers(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		for t := range w.tenants.All() {
			if t.ID == "acme" {
				t.RateLimit = 20
			}
		}
		for u := range 700 {
			w.publish("acme", fmt.Sprint("imported-", u))
		}
		m := w.join(small)
		for range 20 {
			w.publish("beta", "ann")
			w.publish("gamma", "bob")
			time.Sleep(2 * time.Second)
		}
		w.until("the others", func() bool { return m.delivered("acme") == 40 })
		if slow := m.slowest("acme"); slow > 5*time.Second {
			t.Errorf("an event behind the import took %v", slow)
		}
		if n := w.receiver.count(); n > 1200 {
			t.Errorf("%d calls so soon: the rate is not kept", n)
		}
		w.until("the import to end", w.settled)
		w.verify(never)
		m.terminate()
	})
}

// A copy of an event that a sender made is finished without being sent, and so it
// is behind a cursor and after a takeover.
func TestCopiesAreDropped(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		failing := w.fails("acme", segment.Result{Class: segment.Misconfigured, Status: 401})
		failing.Store(false)
		copyOf := func(seq int) {
			w.publishRaw("acme", "ann", survey.RefinerWebhook, event("ann", seq))
		}
		m := w.join()
		w.publishAll(1, 1)
		w.publish("acme", "ann")
		copyOf(1)
		w.until("all to be delivered", w.settled)
		failing.Store(true)
		w.publish("acme", "ann")
		copyOf(1)
		time.Sleep(time.Minute)
		m.terminate()
		copyOf(1)
		m = w.join()
		w.publish("acme", "ann")
		copyOf(1)
		failing.Store(false)
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.mu.Lock()
		for _, f := range m.finished {
			if f.Outcome == worker.Ignored && f.Reason != "duplicate" {
				t.Errorf("an event was ignored for %q", f.Reason)
			}
		}
		m.mu.Unlock()
		m.terminate()
	})
}

// Invariant 3: a member whose commits are not acknowledged stops sending before
// its session can be over.
func TestNothingIsSentWithoutALease(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var cut atomic.Bool
		w.answerCommits(nil, func() bool { return false })
		m := w.join()
		w.publishAll(5, 1)
		w.until("all to be delivered", w.settled)
		w.holdCommits(cut.Load)
		cut.Store(true)
		since := time.Now()
		last := since
		for range 200 {
			before := w.receiver.sent()
			w.publish("acme", "ann")
			time.Sleep(100 * time.Millisecond)
			if w.receiver.sent() > before {
				last = time.Now()
			}
		}
		if took := last.Sub(since); took < 400*time.Millisecond || took > time.Second {
			t.Errorf("the last request started %v after the last acknowledged commit, want no later than 0.6s: commits were quick", took)
		}
		cut.Store(false)
		w.until("all to be delivered", w.settled)
		w.verify(func(tenant.ID, queue.Position, attribution.Kind) bool { return true })
		m.terminate()
	})
}

// Invariant 2: what the log is about to drop becomes a dead letter before; what has
// more time goes on waiting.
func TestWhatTheLogIsAboutToDropBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		failing := w.fails("acme", segment.Result{Class: segment.Misconfigured, Status: 401})
		logs := &logs{}
		m := w.join(func(o *worker.Options) {
			o.Retention = func(context.Context) (time.Duration, error) { return 10 * time.Minute, nil }
			o.Logger = logs.logger()
		})
		for range 12 { // one a minute
			w.publish("acme", "ann")
			w.publish("acme", "bob")
			time.Sleep(time.Minute)
		}
		letters := w.letters()
		old := 0
		for _, l := range letters {
			if l.Reason != deadletter.Outlived {
				t.Errorf("a dead letter for %s", l.Reason)
			}
			if age := l.DeadAt.Sub(l.ReceivedAt); age < 9*time.Minute || age > 9*time.Minute+10*time.Second {
				t.Errorf("an event became a dead letter after %v, want soon after 9m", age)
			}
			old++
		}
		if old != 6 {
			t.Errorf("%d dead letters after 12 minutes, want the 6 events that are over 9 minutes old", old)
		}
		if logs.seen.FilterMessageSnippet("half of the log's retention").Len() == 0 {
			t.Error("no log line says that the retention runs out")
		}
		failing.Store(false)
		w.until("the rest to be delivered", w.settled)
		var skipped []string
		for _, l := range w.letters() {
			id := strings.Split(l.EventID, "-")
			who := person{"acme", id[1]}
			skipped = append(skipped, callName(who, attribution.Identify, id[2]), callName(who, attribution.Group, id[2]))
		}
		w.verify(never, skipped...)
		m.terminate()
	})
}

// Invariant 10: a commit that cannot be understood is not worked from, and stays.
func TestUnreadableCommitIsLeftAlone(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		at := w.publish("acme", "ann")
		w.commitAs(at.Partition, at.Offset, "r9.something")
		other := w.publish("beta", "bob")
		for u := 0; other.Partition == at.Partition; u++ {
			other = w.publish("beta", fmt.Sprint("bob-", u))
		}
		logs := &logs{}
		m := w.join(func(o *worker.Options) { o.Logger = logs.logger() })
		w.until("the other partition", func() bool { return w.committed()[other.Partition] > other.Offset })
		time.Sleep(time.Minute)
		m.terminate()
		c, err := w.log.Committed(t.Context(), "group", w.topics.Events())
		if got := c[at.Partition]; err != nil || got.Offset != at.Offset || got.Metadata != "r9.something" {
			t.Errorf("the commit is %+v now (%v)", got, err)
		}
		if n := logs.seen.FilterMessageSnippet("leave the partition alone").Len(); n != 1 {
			t.Errorf("%d log lines of it, want 1", n)
		}
	})
}

// A changed number of partitions is refused while something is not delivered: users
// have moved.
func TestChangedPartitionsAreRefused(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		m := w.join()
		w.publishAll(5, 1)
		w.until("all to be delivered", w.settled)
		m.terminate()
		w.publish("acme", "user-1")
		w.addPartitions(partitions + 2)
		refused := w.start()
		err := <-refused.ended
		if !errors.Is(err, worker.ErrPartitions) || !strings.Contains(err.Error(), "--accept-partitions 5") {
			t.Errorf("Run returned %v, want %v and the remedy", err, worker.ErrPartitions)
		}
		refused.stop()
		_ = refused.letters.Close()
		refused.log.Close()
		m = w.join(func(o *worker.Options) { o.AcceptPartitions = partitions + 2 })
		w.until("all to be delivered", w.settled)
		m.terminate()
		m = w.join()
		w.verify(never)
		m.terminate()
	})
}

// A partition whose loop does not go on is found, and the worker leaves the group
// so that others have its partitions.
func TestStuckPartitionEndsTheWorker(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		release := make(chan struct{})
		m := w.join(func(o *worker.Options) {
			o.OnFinished = func(worker.Finished) { <-release }
		})
		w.publish("acme", "ann")
		begun := time.Now()
		if err := <-m.ended; err == nil || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("Run returned %v, want that a partition does not answer", err)
		}
		if took := time.Since(begun); took > 2*time.Minute {
			t.Errorf("it was found after %v", took)
		}
		second := w.join()
		w.until("another member to go on", w.settled)
		second.terminate()
		close(release)
		m.stop()
		_ = m.letters.Close()
		m.log.Close()
	})
}

// A tenant whose receiver is well again does not wait until another one, who is
// slow, has caught up.
func TestNoProbeWaitsForAnotherToCatchUp(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		failing := w.fails("acme", segment.Result{Class: segment.Transient, Status: 500})
		w.receiver.latency = func(id tenant.ID) time.Duration {
			if id == "beta" {
				return 4 * time.Second
			}
			return 10 * time.Millisecond
		}
		for u := range 30 {
			w.publish("acme", fmt.Sprint("user-", u))
		}
		for u := range 300 {
			w.publish("beta", fmt.Sprint("user-", u))
			w.publish("gamma", fmt.Sprint("user-", u))
		}
		m := w.join(small)
		w.until("acme to be suspended", func() bool { return len(w.cursors("acme")) > 0 })
		w.until("beta to be behind", func() bool { return len(w.cursors("beta")) > 0 })
		failing.Store(false)
		well := time.Now()
		w.until("the events of acme", func() bool { return len(w.cursors("acme")) == 0 })
		took := time.Since(well)
		if len(w.cursors("beta")) == 0 {
			t.Fatal("beta had caught up before: nobody was in the way")
		}
		if took > 20*time.Second {
			t.Errorf("acme went on %v after its receiver was well, before beta had caught up", took)
		}
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
	})
}
