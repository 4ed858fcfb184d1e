package worker_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"

	"refinersource/internal/attribution"
	"refinersource/internal/deadletter"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// Invariants 2 to 4.
func TestEveryEventIsDeliveredInOrderAndOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		one, two := w.join(small), w.join(small)
		w.publishAll(20, 5)
		w.until("all to be committed", func() bool { return w.settled() })
		w.verify(never)
		one.terminate()
		two.terminate()
		if n := w.receiver.sent(); n >= 600 {
			t.Errorf("%d requests for 600 calls: lanes do not batch", n)
		}
	})
}

// Invariant 7: a clean hand-over repeats nothing, in the middle of everything.
func TestRollingRestartRepeatsNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.receiver.latency = func(tenant.ID) time.Duration { return 400 * time.Millisecond }
		members := []*member{w.join(small), w.join(small)}
		for restart := range 4 {
			w.publishAll(30, 6)
			calls := w.receiver.count() + 100
			w.until("some calls", func() bool { return w.receiver.count() >= calls })
			members[0].terminate()
			if w.settled() {
				t.Errorf("all was delivered by restart %d: it was not in the middle", restart)
			}
			members = append(members[1:], w.join(small))
		}
		w.until("all to be committed", func() bool { return w.settled() })
		w.verify(never)
		for _, m := range members {
			m.terminate()
		}
	})
}

// Invariant 7: after a crash, only what lies behind the commit comes again, in
// the same order and with the same bytes.
func TestCrashRepeatsOnlyFromTheCommitOn(t *testing.T) {
	t.Parallel()
	for calls := 1; calls < 300; calls += 37 {
		t.Run(fmt.Sprintf("after %d calls", calls), func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *world) {
				w.publishAll(10, 6)
				quick := func(o *worker.Options) { o.CommitInterval = 20 * time.Millisecond }
				first := w.join(small, quick)
				w.until("some calls", func() bool { return w.receiver.count() >= calls })
				first.crash()
				committed, behind := w.committed(), w.fromCommits()
				second := w.join(small, quick)
				w.until("all to be committed", func() bool { return w.settled() })
				again := w.verify(behind)
				t.Logf("%v committed before the crash, %d identifies came again", committed, again)
				second.terminate()
				first.bury()
			})
		})
	}
}

// Issue: 500 and 429 with Retry-After for a while, then 400 to one event.
func TestTroubleKeepsTheOrderAndOnlyTheGuiltyEventDies(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		started := time.Now()
		var refusals int
		w.receiver.answer = func(_ tenant.ID, calls []attribution.Call) segment.Result {
			switch at := time.Since(started); {
			case at < 20*time.Second:
				return segment.Result{Class: segment.Transient, Status: 500}
			case at < 40*time.Second:
				return segment.Result{Class: segment.Throttled, Status: 429, RetryAfter: 2 * time.Second}
			}
			for _, c := range calls {
				if c.UserID == "user-3" && c.Kind == attribution.Identify && slices.ContainsFunc(c.Traits, func(t attribution.Trait) bool {
					return t.Name == "refiner_seq" && string(t.Value) == "2"
				}) {
					refusals++
					return segment.Result{Class: segment.Refused, Status: 400}
				}
			}
			return segment.Result{}
		}
		m := w.join()
		w.publishAll(10, 4)
		w.until("all to be committed", func() bool { return w.settled() })
		var skipped []string
		for t := range w.tenants.All() {
			who := person{t.ID, "user-3"}
			skipped = append(skipped, callName(who, attribution.Identify, "2"), callName(who, attribution.Group, "2"))
		}
		w.verify(never, skipped...)
		w.receiver.mu.Lock()
		if refusals < 3 {
			t.Errorf("%d refusals, want one for each tenant at least", refusals)
		}
		w.receiver.mu.Unlock()
		letters := w.letters()
		if len(letters) != 3 {
			t.Fatalf("%d dead letters, want 3", len(letters))
		}
		for _, l := range letters {
			want := deadletter.Letter{
				Source: string(survey.RefinerWebhook), EventID: "r-user-3-2", Reason: deadletter.Rejected, Stage: deadletter.StageIdentify,
				Detail: "refused when it was sent alone: refused 400", Status: 400, RulesVersion: attribution.RulesVersion,
				Key: []byte(l.Tenant + "/user-3"), Raw: event("user-3", 2),
			}
			if d := cmp.Diff(want, l, cmpopts.IgnoreFields(deadletter.Letter{}, "Tenant", "ReceivedAt", "DeadAt", "FirstAttemptAt", "Attempts", "Origin")); d != "" {
				t.Errorf("dead letter (-want +got):\n%s", d)
			}
			if l.Origin.Topic != w.topics.Events() || l.Attempts < 2 || l.DeadAt.IsZero() {
				t.Errorf("dead letter of %+v after %d attempts at %v", l.Origin, l.Attempts, l.DeadAt)
			}
		}
		m.terminate()
	})
}

// A group that is refused makes a dead letter of its own stage; the identify was
// accepted and stays.
func TestRefusedGroupIsADeadLetterOfTheGroup(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.receiver.answer = func(_ tenant.ID, calls []attribution.Call) segment.Result {
			if calls[0].Kind == attribution.Group {
				return segment.Result{Class: segment.TooLarge, Status: 413}
			}
			return segment.Result{}
		}
		m := w.join()
		w.publish("acme", "ann")
		w.until("it to be committed", func() bool { return w.settled() })
		letters := w.letters()
		if len(letters) != 1 || letters[0].Stage != deadletter.StageGroup || letters[0].Reason != deadletter.TooLarge {
			t.Errorf("dead letters %+v, want one of stage group and reason too_large", letters)
		}
		m.terminate()
	})
}

// What can never make a call becomes a dead letter or is ignored, with its reason,
// and nothing waits for it.
func TestEventsWithoutCallsHaveTheirOutcome(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		webhook := survey.RefinerWebhook
		w.publishRaw("acme", "a", webhook, []byte("\x00garbage"))
		w.publishRaw("acme", "b", webhook, nil)
		w.publishRaw("nobody", "c", webhook, event("c", 1))
		w.publishRaw("acme", "d", "no-source", event("d", 1))
		w.publishRaw("acme", "e", webhook, []byte(`{"remote_id":true,"response":{"uuid":"e","completed_at":"2026-10-12T02:05:55Z","data":{"q":"a"}}}`))
		w.publishRaw("acme", "f", webhook, []byte(`{"remote_id":"f","triggered_event":"Entered Segment"}`))
		w.publishRaw("acme", "g", webhook, []byte(`{"uuid":"g","response":{"uuid":"g","completed_at":"2026-10-12T02:05:55Z","data":{"q":"a"}}}`))
		m := w.join()
		w.until("all to be committed", func() bool { return w.settled() })
		m.terminate()
		got := make(map[string]int)
		for _, f := range m.finished {
			got[fmt.Sprintf("%s %s %s", f.Tenant, f.Outcome, f.Reason)]++
		}
		want := map[string]int{
			"acme dead undecodable":      3,
			"nobody dead unknown_tenant": 1,
			"acme dead bad_identity":     1,
			"acme ignored no_response":   1,
			"acme ignored anonymous":     1,
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("outcomes (-want +got):\n%s", d)
		}
		if n := len(w.letters()); n != 5 {
			t.Errorf("%d dead letters in the log, want 5", n)
		}
		if n := w.receiver.count(); n != 0 {
			t.Errorf("%d calls were sent, want none", n)
		}
	})
}

// The largest record that the log takes can be buried.
func TestLargestRecordHasRoomInALetter(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.publishRaw("acme", "a", survey.RefinerWebhook, bytes.Repeat([]byte{0xff}, queue.DefaultMaxRecordBytes-1000))
		w.publish("acme", "a")
		m := w.join()
		w.until("all to be committed", func() bool { return w.settled() })
		if n := len(w.letters()); n != 1 {
			t.Errorf("%d dead letters, want 1", n)
		}
		w.verify(never)
		m.terminate()
	})
}

// Invariant 2: a dead letter that the log has not acknowledged holds the commit.
func TestCommitWaitsForTheDeadLetter(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var refused atomic.Bool
		refused.Store(true)
		w.refuseLetters(refused.Load)
		at := w.publishRaw("acme", "a", survey.RefinerWebhook, []byte("garbage"))
		m := w.join()
		time.Sleep(5 * time.Minute)
		if c := w.cursors("acme"); w.committed()[at.Partition] > at.Offset && (len(c) != 1 || c[0].From != lane.Offset(at.Offset)) {
			t.Errorf("the commit passed the event at %d without its letter; cursors %+v", at.Offset, c)
		}
		refused.Store(false)
		w.until("it to be committed", func() bool { return w.settled() })
		if n := len(w.letters()); n != 1 {
			t.Errorf("%d dead letters, want 1", n)
		}
		m.terminate()
	})
}

// Invariant 2: neither does a drain pass it, but with a cursor.
func TestDrainDoesNotPassAnUnwrittenLetter(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var refused atomic.Bool
		refused.Store(true)
		w.refuseLetters(refused.Load)
		at := w.publishRaw("acme", "a", survey.RefinerWebhook, []byte("garbage"))
		m := w.join()
		time.Sleep(time.Minute)
		m.terminate()
		if c := w.cursors("acme"); len(c) != 1 || c[0].From != lane.Offset(at.Offset) || c[0].Cause != lane.CauseLetters {
			t.Errorf("cursors of the tenant after the drain: %+v, want one at %d: the letter is not in the log", c, at.Offset)
		}
		refused.Store(false)
		m = w.join()
		w.until("it to be committed", w.settled)
		if n := len(w.letters()); n != 1 {
			t.Errorf("%d dead letters, want 1", n)
		}
		m.terminate()
	})
}

// While there is progress, it is committed at least once a second; that is also
// how a worker learns that the group has gone on without it.
func TestProgressIsCommittedAtLeastOnceASecond(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		var commits []time.Time
		w.answerCommits(nil, func() bool {
			mu.Lock()
			defer mu.Unlock()
			commits = append(commits, time.Now())
			return false
		})
		m := w.join()
		begun := time.Now()
		for range 100 {
			w.publish("acme", "ann")
			time.Sleep(100 * time.Millisecond)
		}
		m.terminate()
		last := begun
		for _, at := range append(commits, time.Now()) {
			if gap := at.Sub(last); gap > time.Second {
				t.Errorf("%v without a commit after %v of progress", gap, last.Sub(begun))
			}
			last = at
		}
	})
}

// A commit that failed for the moment is made again, also when nothing more comes.
func TestFailedCommitIsMadeAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var commits atomic.Int32
		w.answerCommits(kerr.CoordinatorLoadInProgress, func() bool { return commits.Add(1) <= 5 })
		m := w.join()
		w.publish("acme", "ann")
		w.until("it to be committed", func() bool { return w.settled() })
		if n := commits.Load(); n < 6 {
			t.Errorf("%d commits, want one after five that failed", n)
		}
		w.verify(never)
		m.terminate()
	})
}

// A group that goes on without this member stops it at once: what it would send
// from then on could not be recorded.
func TestRefusedCommitEndsTheGeneration(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var commits atomic.Int32
		w.answerCommits(kerr.IllegalGeneration, func() bool { return commits.Add(1) == 1 })
		m := w.join(small)
		w.publishAll(10, 6)
		w.until("all to be committed", func() bool { return w.settled() })
		if n := commits.Load(); n < 2 {
			t.Fatalf("%d commits, want the one that was refused and those of a new generation", n)
		}
		w.verify(func(tenant.ID, queue.Position, attribution.Kind) bool { return true })
		m.terminate()
	})
}

// Invariant 5: a slow tenant costs the others of its partition nothing while the
// window has room.
func TestSlowTenantDoesNotDelayOthers(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.receiver.latency = func(id tenant.ID) time.Duration {
			if id == "acme" {
				return 9 * time.Second
			}
			return 10 * time.Millisecond
		}
		m := w.join()
		w.publishAll(20, 3)
		w.until("the events of beta and gamma", func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			quick := 0
			for _, f := range m.finished {
				if f.Tenant != "acme" {
					quick++
				}
			}
			return quick == 120
		})
		m.mu.Lock()
		for _, f := range m.finished {
			if took := f.Finished.Sub(f.Accepted); f.Tenant != "acme" && took > 5*time.Second {
				t.Errorf("an event of %s took %v beside a slow tenant", f.Tenant, took)
			}
		}
		m.mu.Unlock()
		w.until("all to be committed", func() bool { return w.settled() })
		w.verify(never)
		m.terminate()
	})
}

// Events that the log no longer has are reported with their exact range, and the
// rest goes on.
func TestDeletedEventsAreReported(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		for range 5 {
			w.publish("acme", "ann")
		}
		m := w.join()
		w.until("all to be committed", func() bool { return w.settled() })
		m.terminate()
		var at queue.Position
		for range 4 {
			at = w.publish("acme", "ann")
		}
		w.deleteRecords(at.Partition, at.Offset-1) // the 6th and the 7th
		logs := &logs{}
		m = w.join(func(o *worker.Options) { o.Logger = logs.logger() })
		w.until("the rest to be committed", func() bool { return w.settled() })
		who := person{"acme", "ann"}
		var skipped []string
		for _, seq := range []string{"6", "7"} {
			skipped = append(skipped, callName(who, attribution.Identify, seq), callName(who, attribution.Group, seq))
		}
		w.verify(never, skipped...)
		if d := cmp.Diff([]string{fmt.Sprintf("partition %d from %d to %d", at.Partition, at.Offset-3, at.Offset-1)}, logs.gaps()); d != "" {
			t.Errorf("gaps in the log lines (-want +got):\n%s", d)
		}
		m.terminate()
	})
}

// The commit goes up to the end of a log whose last events are gone, so that the
// lag falls to zero.
func TestCommitPassesEventsThatAreGoneAtTheEnd(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.publish("acme", "ann")
		m := w.join()
		w.until("the first to be committed", func() bool { return w.settled() })
		m.terminate()
		var at queue.Position
		for range 4 {
			at = w.publish("acme", "ann")
		}
		w.deleteRecords(at.Partition, at.Offset+1)
		logs := &logs{}
		m = w.join(func(o *worker.Options) { o.Logger = logs.logger() })
		w.until("the end of the log to be committed", func() bool { return w.committed()[at.Partition] == at.Offset+1 })
		if d := cmp.Diff([]string{fmt.Sprintf("partition %d from %d to %d", at.Partition, at.Offset-3, at.Offset+1)}, logs.gaps()); d != "" {
			t.Errorf("gaps in the log lines (-want +got):\n%s", d)
		}
		m.terminate()
	})
}

// Invariant 6: what an event does not say of its time is when it was accepted, as
// its envelope tells; no clock is read, so that a redelivery has the same bytes.
func TestTimeOfAcceptanceComesFromTheEnvelope(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		const accepted = "2026-10-12T02:05:55.123456789Z"
		_, err := w.events.Publish(t.Context(), queue.Record{
			Value: []byte(`{"id":"e","user":{"id":"ann"},"answers":[{"question":"Q","value":1}]}`),
			Headers: []queue.Header{
				{Key: queue.HeaderTenant, Value: []byte("acme")},
				{Key: queue.HeaderSource, Value: []byte(survey.SurveyEvent)},
				{Key: queue.HeaderReceivedAt, Value: []byte(accepted)},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		m := w.join()
		w.until("it to be committed", func() bool { return w.settled() })
		m.terminate()
		if len(w.receiver.got) != 1 || !strings.Contains(w.receiver.got[0].body, `"timestamp":"`+accepted+`"`) {
			t.Errorf("calls %+v, want one of %s", w.receiver.got, accepted)
		}
	})
}

// What waits because of a wrong write key goes out under the new one.
func TestRotatedWriteKeyIsUsedForWhatWaits(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		stale := tenant.Tenant{
			ID: "acme", WriteKey: tenant.NewSecret("stale"), Endpoint: "http://receiver.invalid",
			Rules: attribution.DefaultRules(), Pairing: tenant.Strict,
		}
		before, err := tenant.NewRegistry(stale)
		if err != nil {
			t.Fatal(err)
		}
		var inForce atomic.Pointer[tenant.Registry]
		inForce.Store(before)
		w.receiver.answer = func(key tenant.ID, _ []attribution.Call) segment.Result {
			if key == "stale" {
				return segment.Result{Class: segment.Misconfigured, Status: 401}
			}
			return segment.Result{}
		}
		m := w.join(func(o *worker.Options) { o.Tenants = inForce.Load })
		w.publish("acme", "ann")
		w.until("some refusals", func() bool { return w.receiver.sent() > 1 })
		inForce.Store(w.tenants) // with the key that is right
		w.until("it to be committed", func() bool { return w.settled() })
		w.verify(never)
		m.terminate()
	})
}

// A request that is tried again goes under the key that is in force then.
func TestRotatedWriteKeyIsUsedForTheNextAttempt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		before, err := tenant.NewRegistry(tenant.Tenant{
			ID: "acme", WriteKey: tenant.NewSecret("stale"), Endpoint: "http://receiver.invalid",
			Rules: attribution.DefaultRules(), Pairing: tenant.Strict,
		})
		if err != nil {
			t.Fatal(err)
		}
		var inForce atomic.Pointer[tenant.Registry]
		inForce.Store(before)
		stale := 0
		w.receiver.answer = func(key tenant.ID, _ []attribution.Call) segment.Result {
			if key != "stale" {
				return segment.Result{}
			}
			stale++
			inForce.Store(w.tenants)
			return segment.Result{Class: segment.Transient, Status: 503}
		}
		m := w.join(func(o *worker.Options) { o.Tenants = inForce.Load })
		w.publish("acme", "ann")
		w.until("it to be committed", func() bool { return w.settled() })
		if stale != 1 {
			t.Errorf("%d requests under the key that was replaced by the first, want that one", stale)
		}
		m.terminate()
	})
}

// A dead letter tells which trace its event is part of.
func TestDeadLetterHasTheTraceOfItsEvent(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		_, err := w.events.Publish(t.Context(), queue.Record{
			Value: []byte("no JSON"),
			Headers: []queue.Header{
				{Key: queue.HeaderTenant, Value: []byte("acme")},
				{Key: queue.HeaderSource, Value: []byte(survey.SurveyEvent)},
				{Key: queue.HeaderTraceparent, Value: []byte(trace)},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		m := w.join()
		w.until("it to be committed", func() bool { return w.settled() })
		m.terminate()
		if letters := w.letters(); len(letters) != 1 || letters[0].Traceparent != trace {
			t.Errorf("letters %+v, want one of the trace %s", letters, trace)
		}
	})
}

// Pairing batch: identify and group travel side by side.
func TestBatchPairingSendsBothInOneRequest(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		for t := range w.tenants.All() {
			t.Pairing = tenant.Batch
		}
		m := w.join()
		w.publish("acme", "ann")
		w.until("it to be committed", func() bool { return w.settled() })
		w.verify(never)
		if n := w.receiver.sent(); n != 1 {
			t.Errorf("%d requests for one pair, want 1", n)
		}
		m.terminate()
	})
}

// A tenant's limit is kept over all workers, and costs others nothing.
func TestRateLimitHoldsOverAllWorkers(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		for t := range w.tenants.All() {
			if t.ID == "acme" {
				t.RateLimit = 10
			}
		}
		one, two := w.join(), w.join()
		w.until("both to have partitions", func() bool { return len(one.worker.Lags()) > 0 && len(two.worker.Lags()) > 0 })
		started := time.Now()
		w.publishAll(30, 5) // 300 calls of acme
		w.until("all to be committed", func() bool { return w.settled() })
		if took := time.Since(started); took < 25*time.Second {
			t.Errorf("300 calls took %v, want at least 25s at 10 a second with a second's worth at once on each worker", took)
		}
		w.verify(never)
		one.terminate()
		two.terminate()
	})
}

// The pause between identify and group is kept.
func TestPairGapLiesBetweenIdentifyAndGroup(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		for t := range w.tenants.All() {
			t.PairGap = 3 * time.Second
		}
		m := w.join()
		w.publishAll(3, 3)
		w.until("all to be committed", func() bool { return w.settled() })
		w.verify(never)
		m.terminate()
		identified := make(map[string]time.Time)
		for _, a := range w.receiver.got {
			key := fmt.Sprint(a.who, a.seq)
			if a.kind == attribution.Identify {
				identified[key] = a.at
			} else if gap := a.at.Sub(identified[key]); gap < 3*time.Second {
				t.Errorf("%v: %v between identify and group, want 3s", key, gap)
			}
		}
	})
}

func TestOptionsAreValidated(t *testing.T) {
	t.Parallel()
	if _, err := worker.New(worker.Options{}); err == nil {
		t.Error("a worker without a log was made")
	}
}

// Invariant 8: what a producer's batch holds is decided by and by, so that a window overruns
// by a part of it and no more.
func TestWindowOverrunsByAPortionOfALargeBatch(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		const limit = 64 << 10
		w.receiver.latency = func(tenant.ID) time.Duration { return 10 * time.Second }
		batch, size := new(queue.Bundle), 0
		for i := range 400 {
			user := fmt.Sprint("user-", i)
			value := event(user, 1)
			size = len(value)
			batch.Add(&queue.Record{Key: []byte("acme/" + user), Value: value, Time: time.Now(), Headers: []queue.Header{
				{Key: queue.HeaderTenant, Value: []byte("acme")}, {Key: queue.HeaderSource, Value: []byte(survey.RefinerWebhook)},
			}})
		}
		if err := w.log.AppendBundle(t.Context(), w.topics.Events(), 0, batch, nil); err != nil {
			t.Fatal(err)
		}
		metrics := prometheus.NewRegistry()
		m := w.join(func(o *worker.Options) {
			o.Limits, o.Registerer = worker.DefaultLimits, metrics
			o.Limits.WindowBytes = limit
		})
		inMemory := func() int { return int(gauges(t, metrics)["in_flight_events 0"]) }
		w.until("events to be under way", func() bool { return inMemory() > 0 })
		time.Sleep(500 * time.Millisecond) // before anything is passed
		least := 640 + size                // what an event takes, without its calls
		if n, most := inMemory(), (limit+limit/8)/least+1; n > most {
			t.Errorf("%d events are in memory, want at most %d", n, most)
		}
		m.terminate()
	})
}

// However small the window is, an event at a time goes through it.
func TestWindowSmallerThanAnyEvent(t *testing.T) {
	t.Parallel()
	inBubble(t, func(_ *testing.T, w *world) {
		m := w.join(small, func(o *worker.Options) { o.Limits.WindowBytes = 1 })
		w.publishAll(3, 2)
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
	})
}
