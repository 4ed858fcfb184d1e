package worker_test

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/attribution"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
	"refinersource/internal/segment"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// receipts returns the receipts in the log, by the place of their event.
func (w *world) receipts() map[queue.Position][]receipt.Receipt {
	w.t.Helper()
	bounds, err := w.log.Bounds(w.t.Context(), w.topics.Receipts())
	if err != nil {
		w.t.Fatal(err)
	}
	all := make(map[queue.Position][]receipt.Receipt)
	for p, b := range bounds {
		r := w.log.Reader(w.topics.Receipts(), p, b.Start, queue.ReaderOptions{})
		for r.Offset() < b.End {
			batch, err := r.Next(w.t.Context())
			if err != nil {
				w.t.Fatal(err)
			}
			for i := range batch.Records {
				rec := &batch.Records[i]
				got, err := receipt.Parse(rec.Value)
				if err != nil {
					w.t.Fatal(err)
				}
				if got.Partition != p || rec.Header(queue.HeaderTenant) != got.Tenant || rec.Header(queue.HeaderEventID) != got.EventID ||
					!rec.Time.Equal(got.FinishedAt.Truncate(time.Millisecond)) {
					w.t.Errorf("receipt %+v stands in partition %d with headers %s, time %v", got, p, rec.Headers, rec.Time)
				}
				at := queue.Position{Topic: w.topics.Events(), Partition: p, Offset: got.Offset}
				all[at] = append(all[at], got)
			}
		}
	}
	return all
}

// covered checks that each event that the group's commits pass, but for those that a
// cursor holds, has a receipt, and returns how many events have one too many. The
// commits are read before the receipts: what is in the log stays there.
func (w *world) covered() (again int) {
	w.t.Helper()
	commits, err := w.log.Committed(w.t.Context(), "group", w.topics.Events())
	if err != nil {
		w.t.Fatal(err)
	}
	receipts := w.receipts()
	for id, c := range commits {
		m, err := lane.Decode(c.Metadata)
		if err != nil {
			w.t.Fatal(err)
		}
		for at := range c.Offset {
			position := queue.Position{Topic: w.topics.Events(), Partition: id, Offset: at}
			held := slices.ContainsFunc(m.Cursors, func(x lane.Cursor) bool { return lane.Offset(at) >= x.From })
			if len(receipts[position]) == 0 && !held {
				w.t.Errorf("partition %d is committed at %d, and event %d has no receipt", id, c.Offset, at)
			}
		}
	}
	for at, all := range receipts {
		again += len(all) - 1
		for _, r := range all[1:] {
			if d := cmp.Diff(all[0], r, cmpopts.IgnoreFields(receipt.Receipt{}, "Attempts", "FirstAttemptAt", "FinishedAt")); d != "" {
				w.t.Errorf("the receipts of %v differ (-first +later):\n%s", at, d)
			}
		}
	}
	return again
}

// refuseReceipts makes the broker refuse records of the receipts topic, in one
// partition or (below 0) all, for as long as refuse says.
func (w *world) refuseReceipts(partition int32, refuse func() bool) {
	cluster := w.broker.Cluster()
	cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		r := request.(*kmsg.ProduceRequest)
		p := r.Topics[0].Partitions[0].Partition
		if r.Topics[0].Topic != w.topics.Receipts() || partition >= 0 && p != partition || !refuse() {
			return nil, nil, false
		}
		response := r.ResponseKind().(*kmsg.ProduceResponse)
		topic, answer := kmsg.NewProduceResponseTopic(), kmsg.NewProduceResponseTopicPartition()
		answer.Partition, answer.ErrorCode = p, kerr.NotEnoughReplicas.Code
		topic.Topic, topic.Partitions = r.Topics[0].Topic, append(topic.Partitions, answer)
		response.Topics = append(response.Topics, topic)
		return response, nil, true
	})
}

func TestReceiptSaysWhatBecameOfAnEvent(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.receiver.answer = func(_ tenant.ID, calls []attribution.Call) segment.Result {
			if calls[0].UserID == "dan" && calls[0].Kind == attribution.Group {
				return segment.Result{Class: segment.TooLarge, Status: 413}
			}
			return segment.Result{}
		}
		ann := w.publish("acme", "ann")
		copied := w.publishRaw("acme", "ann", survey.RefinerWebhook, event("ann", 1))
		dan := w.publish("gamma", "dan")
		garbage := w.publishRaw("acme", "x", survey.RefinerWebhook, []byte("\x00garbage"))
		unknown := w.publishRaw("nobody", "y", survey.RefinerWebhook, event("y", 1))
		noResponse := []byte(`{"remote_id":"z","triggered_event":"Entered Segment"}`)
		ignored := w.publishRaw("acme", "z", survey.RefinerWebhook, noResponse)
		noAccount := w.publishRaw("beta", "eve", survey.RefinerWebhook, []byte(
			`{"remote_id":"eve","account":{"attributes":{"size":0}},"response":{"uuid":"r-eve","completed_at":"2026-10-12T02:00:00Z","data":{"size":1}}}`))
		m := w.join()
		w.until("all to be committed", w.settled)
		m.terminate()
		if again := w.covered(); again != 0 {
			t.Errorf("%d receipts too many", again)
		}

		acme, _ := w.tenants.Get("acme")
		noID := fmt.Sprintf("sha256:%x", sha256.Sum256(noResponse))
		want := map[queue.Position]receipt.Receipt{
			ann:       {Tenant: "acme", EventID: "r-ann-1", Outcome: receipt.Delivered, Calls: w.called("acme", "ann"), Attempts: 2, RulesOf: acme.RulesOf},
			copied:    {Tenant: "acme", Outcome: receipt.Ignored, Reason: "duplicate"},
			dan:       {Tenant: "gamma", EventID: "r-dan-1", Outcome: receipt.Dead, Reason: "too_large", Calls: w.called("gamma", "dan"), RulesOf: acme.RulesOf},
			garbage:   {Tenant: "acme", Outcome: receipt.Dead, Reason: "undecodable", RulesOf: acme.RulesOf},
			unknown:   {Tenant: "nobody", Outcome: receipt.Dead, Reason: "unknown_tenant"},
			ignored:   {Tenant: "acme", EventID: noID, Outcome: receipt.Ignored, Reason: "no_response", RulesOf: acme.RulesOf},
			noAccount: {Tenant: "beta", EventID: "r-eve", Outcome: receipt.Delivered, Calls: w.called("beta", "eve"), Attempts: 1, RulesOf: acme.RulesOf, Withheld: []string{"refiner_size"}},
		}
		got := make(map[queue.Position]receipt.Receipt)
		for at, all := range w.receipts() {
			r := all[0]
			if sent := r.Attempts > 0; sent == r.FirstAttemptAt.IsZero() || r.FinishedAt.Before(r.ReceivedAt) || r.Offset != at.Offset || r.Partition != at.Partition {
				t.Errorf("receipt at %v: %+v", at, r)
			}
			r.ReceivedAt, r.FirstAttemptAt, r.FinishedAt, r.Offset, r.Partition = time.Time{}, time.Time{}, time.Time{}, 0, 0
			if r.Outcome == receipt.Dead {
				r.Attempts = 0
			}
			got[at] = r
		}
		for at, r := range want {
			r.Source, r.Rules, r.Library = string(survey.RefinerWebhook), attribution.RulesVersion, attribution.Version
			want[at] = r
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("receipts (-want +got):\n%s", d)
		}
		if len(want[ann].Calls) != 2 || len(want[dan].Calls) != 1 {
			t.Errorf("the receiver has taken %v of ann and %v of dan, want 2 and 1", want[ann].Calls, want[dan].Calls)
		}

		rules, err := receipt.RulesOf(t.Context(), w.log, w.topics)
		if err != nil {
			t.Fatal(err)
		}
		if len(rules) != 3 {
			t.Errorf("the log has the rules %q, want those of the three tenants", rules)
		}
		parsed, err := tenant.ParseRules(rules[receipt.RulesKey{Tenant: "acme", Fingerprint: acme.RulesOf}])
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(acme.Rules, parsed, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("rules of acme (-want +got):\n%s", d)
		}
	})
}

// count is how many events the worker has finished.
func (m *member) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.finished)
}

// called are the calls that the receiver has taken of a user, as a receipt has them.
func (w *world) called(id tenant.ID, user string) (calls []receipt.Call) {
	w.receiver.mu.Lock()
	defer w.receiver.mu.Unlock()
	for _, a := range w.receiver.got {
		if (a.who == person{id, user}) {
			calls = append(calls, receipt.Call{Type: a.kind.String(), ID: a.messageID, Digest: digestOf(a.body)})
		}
	}
	return calls
}

// digestOf is a call's digest, by its definition.
func digestOf(body string) receipt.Digest {
	sum := sha256.Sum256([]byte(body))
	return receipt.Digest(sum[:16])
}

func TestNoReceiptsAreWrittenWhereNoneAreWanted(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		m := w.join(func(o *worker.Options) { o.Receipts = false })
		w.publishAll(5, 2)
		w.until("all to be committed", w.settled)
		m.terminate()
		rules, err := receipt.RulesOf(t.Context(), w.log, w.topics)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(w.receipts()) + len(rules); n != 0 {
			t.Errorf("%d receipts and rules, want none", n)
		}
	})
}

// Invariant 2, of receipts: at whatever moment a worker dies, each event that its
// commits have passed has a receipt.
func TestCrashLeavesNoCommittedEventWithoutReceipt(t *testing.T) {
	t.Parallel()
	for calls := 1; calls < 360; calls += 29 {
		t.Run(fmt.Sprintf("after %d calls", calls), func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *world) {
				w.publishAll(10, 6)
				quick := func(o *worker.Options) { o.CommitInterval = 20 * time.Millisecond }
				first := w.join(small, quick)
				w.until("some calls", func() bool { return w.receiver.count() >= calls })
				first.crash()
				behind := w.fromCommits()
				w.covered()
				second := w.join(small, quick)
				w.until("all to be committed", w.settled)
				w.verify(behind)
				w.covered()
				if n := len(w.receipts()); n != 180 {
					t.Errorf("%d of 180 events have a receipt", n)
				}
				second.terminate()
				first.bury()
			})
		})
	}
}

// While receipts cannot be written nothing more is committed, what is finished is
// bounded in size and in time; then all goes on, and nothing comes twice.
func TestEventsWaitForReceipts(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var refuse atomic.Bool
		refuse.Store(true)
		w.refuseReceipts(-1, refuse.Load)
		var l logs
		logger := l.logger()
		m := w.join(small, func(o *worker.Options) { o.Limits.WindowBytes, o.Logger = 256<<10, logger })
		w.publishAll(100, 4)
		time.Sleep(30 * time.Second)
		// Each partition holds 64 KiB of receipts, and what was in flight then.
		finished := m.count()
		if finished >= 1000 || finished == 0 {
			t.Errorf("%d of 1200 events are finished while no receipt can be written", finished)
		}
		time.Sleep(5 * time.Minute)
		w.covered()
		for p, at := range w.committed() {
			if at != 0 {
				t.Errorf("partition %d is committed at %d without receipts", p, at)
			}
		}
		if n := m.count(); n != finished {
			t.Errorf("%d events were finished in five minutes more, want none", n-finished)
		}
		if n := l.seen.FilterMessageSnippet("receipts cannot be written").Len(); n < 12 || n > 18 {
			t.Errorf("said %d times in 5 minutes that receipts of 3 partitions cannot be written, want once a minute", n)
		}
		refuse.Store(false)
		w.until("all to be committed", w.settled)
		w.verify(never)
		if again := w.covered(); again != 0 {
			t.Errorf("%d receipts too many", again)
		}
		m.terminate()
	})
}

// Only the partition whose receipts cannot be written is held back.
func TestOtherPartitionsAreCommittedWhileReceiptsOfOneCannotBe(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var refuse atomic.Bool
		refuse.Store(true)
		w.refuseReceipts(0, refuse.Load)
		m := w.join(small)
		w.publishAll(20, 2)
		ends, err := w.log.Bounds(t.Context(), w.topics.Events())
		if err != nil {
			t.Fatal(err)
		}
		w.until("the others to be committed", func() bool {
			c := w.committed()
			return c[1] == ends[1].End && c[2] == ends[2].End
		})
		if at := w.committed()[0]; at != 0 || ends[0].End == 0 {
			t.Errorf("partition 0 is committed at %d of %d", at, ends[0].End)
		}
		refuse.Store(false)
		w.until("all to be committed", w.settled)
		w.verify(never)
		w.covered()
		m.terminate()
	})
}

// Nor does a partition go on sending what could not be committed: what is finished
// while its receipts cannot be written is little, however few events there are.
func TestPartitionRestsWhileItsReceiptsCannotBeWritten(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		m := w.join()
		w.publishAll(8, 1)
		w.until("all to be committed", w.settled)
		var refuse atomic.Bool
		refuse.Store(true)
		w.refuseReceipts(0, refuse.Load)
		before := m.count()
		for range 30 {
			w.publishAll(8, 1)
			time.Sleep(time.Second)
		}
		var all, finished [partitions]int
		for _, offsets := range w.sent {
			all[offsets[0].Partition] += len(offsets) - 1
		}
		m.mu.Lock()
		for _, f := range m.finished[before:] {
			finished[f.Position.Partition]++
		}
		m.mu.Unlock()
		for p := range partitions {
			switch least := all[p] / 30; {
			case p == 0 && (finished[p] < least || finished[p] > 3*least):
				t.Errorf("%d of %d events are finished while no receipt of their partition can be written, want those of a second or two: from %d to %d", finished[p], all[p], least, 3*least)
			case p != 0 && finished[p] != all[p]:
				t.Errorf("%d of %d events of partition %d are finished, want all: its receipts can be written", finished[p], all[p], p)
			}
		}
		refuse.Store(false)
		w.until("all to be committed", w.settled)
		w.verify(never)
		w.covered()
		m.terminate()
	})
}

// A drain waits for the receipts, and without them leaves behind what has none.
func TestDrainWaitsForReceipts(t *testing.T) {
	t.Parallel()
	for _, mended := range []bool{true, false} {
		t.Run(fmt.Sprintf("mended %t", mended), func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *world) {
				var refuse atomic.Bool
				w.refuseReceipts(-1, refuse.Load)
				w.publishAll(20, 3)
				first := w.join(small)
				w.until("some calls", func() bool { return w.receiver.count() >= 100 })
				refuse.Store(true)
				time.Sleep(300 * time.Millisecond)
				if mended {
					time.AfterFunc(3*time.Second, func() { refuse.Store(false) })
				}
				first.terminate()
				allowed := never
				if !mended {
					allowed = w.fromCommits()
				}
				w.covered()
				refuse.Store(false)
				second := w.join(small)
				w.until("all to be committed", w.settled)
				again := w.verify(allowed)
				if !mended && again == 0 {
					t.Error("nothing came again: there was nothing that the commit had to leave behind")
				}
				w.covered()
				second.terminate()
			})
		})
	}
}

// One receipt more or less: the commit stands right before the event that has none.
func TestCommitStandsBeforeTheFirstEventWithoutReceipt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var refuse atomic.Bool
		w.refuseReceipts(-1, refuse.Load)
		m := w.join()
		for i := range 5 {
			w.publish("acme", "ann")
			w.until("it to be committed", w.settled)
			refuse.Store(true)
			w.publish("acme", "ann")
			w.until("its calls", func() bool { return w.receiver.count() == 4*(i+1) })
			time.Sleep(5 * time.Second)
			if lag := w.lag(); lag != 1 {
				t.Errorf("%d events are not committed, want the one without a receipt", lag)
			}
			w.covered()
			refuse.Store(false)
		}
		w.until("all to be committed", w.settled)
		w.verify(never)
		m.terminate()
	})
}

// Receipts that are always late hold the commits back, but not for ever.
func TestCommitsFollowReceiptsThatAreAlwaysLate(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		began := time.Now()
		w.refuseReceipts(-1, func() bool { return time.Since(began)%(1500*time.Millisecond) < 1000*time.Millisecond })
		m := w.join()
		moved := make(map[int64]struct{})
		// How soon is up to the writer's random pauses; that it happens is not.
		for i := 0; i < 4000 && len(moved) < 4; i++ {
			w.publish("acme", "ann")
			time.Sleep(30 * time.Millisecond)
			w.covered()
			moved[int64(len(w.sent[person{"acme", "ann"}]))-w.lag()] = struct{}{}
		}
		if len(moved) < 4 {
			t.Errorf("the commit moved %d times in %v", len(moved), time.Since(began))
		}
		w.until("all to be committed", w.settled)
		w.covered()
		m.terminate()
	})
}

// Events that make no call take no window; they wait for receipts all the same.
func TestIgnoredEventsWaitForReceipts(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var refuse atomic.Bool
		refuse.Store(true)
		w.refuseReceipts(-1, refuse.Load)
		// Small events, in many batches.
		m := w.join(small, func(o *worker.Options) { o.Limits.WindowBytes = 256 << 10 })
		for i := range 1500 {
			w.publishRaw("acme", "a", survey.RefinerWebhook, fmt.Appendf(nil, `{"remote_id":"f","n":%d,"triggered_event":"Entered Segment"}`, i))
		}
		time.Sleep(time.Minute)
		if waiting := w.lag(); waiting != 1500 {
			t.Errorf("%d of 1500 events wait", waiting)
		}
		if n := m.count(); n == 0 || n >= 1000 {
			t.Errorf("%d of 1500 events are finished while no receipt can be written", n)
		}
		refuse.Store(false)
		w.until("all to be committed", w.settled)
		if again := w.covered(); again != 0 || len(w.receipts()) != 1500 {
			t.Errorf("%d events have receipts, %d too many, want 1500", len(w.receipts()), again)
		}
		m.terminate()
	})
}
