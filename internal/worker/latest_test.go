package worker_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/replay"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// fold makes a worker one that sends what the spans are folded to.
func (w *world) fold(spans map[int]worker.ReplaySpan) func(*worker.Options) {
	var list []replay.Span
	for p, s := range spans {
		list = append(list, replay.Span{Partition: p, From: s.From, To: s.To})
	}
	return func(o *worker.Options) {
		replayed(spans)(o)
		folder := replay.NewFolder(replay.Scan{Log: o.Log, Topic: w.topics.Events(), Tenants: w.tenants}, list)
		o.Replay.Fold = func(ctx context.Context, partition int) (worker.Folded, error) {
			return folder.Partition(ctx, partition)
		}
	}
}

// since are the calls that the receiver has accepted after the first so many, as
// kinds and numbers, by who they are of.
func (r *receiver) since(before int) map[person][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := make(map[person][]string)
	for _, a := range r.got[before:] {
		rows[a.who] = append(rows[a.who], fmt.Sprint(a.kind, " ", a.seq))
	}
	return rows
}

// A fold sends of each user of the range one identify and then one group, with the
// latest values; then what he has answered since, as it stands. Nobody else hears of
// it.
func TestFoldSendsOnePairAndWhatCameSince(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		live := w.join(small)
		w.publishAll(20, 1)
		from := w.ends()
		w.publishAll(8, 3)
		spans := w.spans(from, w.ends())
		w.publishAll(4, 1)
		w.until("all to be delivered", w.settled)
		live.terminate()
		before := w.receiver.count()
		w.receiver.answer = func(_ tenant.ID, calls []attribution.Call) segment.Result {
			kinds := make(map[string]attribution.Kind)
			for _, c := range calls {
				if kind, sent := kinds[c.UserID]; sent && kind != c.Kind {
					t.Errorf("one request has both calls of %s", c.UserID)
				}
				kinds[c.UserID] = c.Kind
			}
			return segment.Result{}
		}
		m := w.start(w.fold(spans))
		m.over()
		rows := w.receiver.since(before)
		if got, want := len(rows), 8*w.tenants.Len(); got != want {
			t.Errorf("%d users had calls, want the %d of the range", got, want)
		}
		for who, row := range rows {
			want := []string{"identify 4", "group 4"}
			if len(w.sent[who]) > 4 {
				want = append(want, "identify 5", "group 5")
			}
			if !slices.Equal(row, want) {
				t.Errorf("%v got %q, want %q", who, row, want)
			}
		}
		w.latest()
	})
}

// What a user answers after the range was read, and live traffic delivers before the
// fold is sent, is not the older for it: the fold's older values do not stay.
func TestFoldUnderLiveTrafficLeavesNothingOld(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		live := w.join(small)
		from := w.ends()
		w.publishAll(10, 2)
		spans := w.spans(from, w.ends())
		w.until("all to be delivered", w.settled)
		var held atomic.Bool
		held.Store(true)
		before := w.receiver.count()
		m := w.join(w.fold(spans), func(o *worker.Options) { o.Replay.Held = func(int) bool { return held.Load() } })
		time.Sleep(10 * time.Second)
		w.publishAll(5, 2)
		w.until("live traffic to be delivered", w.settled)
		if got, want := w.receiver.count()-before, 5*2*2*w.tenants.Len(); got != want {
			t.Fatalf("%d calls before the fold was let go, want the %d of live traffic", got, want)
		}
		w.receiver.latency = func(tenant.ID) time.Duration { return 150 * time.Millisecond }
		held.Store(false)
		for range 20 { // of the others: who answers again mends it himself
			for user := 5; user < 10; user++ {
				w.publish("beta", fmt.Sprintf("user-%d", user))
			}
			time.Sleep(100 * time.Millisecond)
		}
		m.over()
		w.until("the rest to be delivered", w.settled)
		w.latest()
		live.terminate()
	})
}

// A member of a fold that is killed is taken over, and what is sent again has the
// message ids that it had.
func TestFoldGoesOnAfterACrashWithTheSameIDs(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		from := w.ends()
		w.publishAll(60, 2)
		spans := w.spans(from, w.ends())
		w.receiver.latency = func(tenant.ID) time.Duration { return 500 * time.Millisecond }
		first := w.join(w.fold(spans))
		w.until("a part to be sent", func() bool { return w.receiver.count() > 150 })
		first.crash()
		second := w.start(w.fold(spans))
		second.over()
		first.bury()
		ids := make(map[string]map[string]bool)
		for _, a := range w.receiver.got {
			name := callName(a.who, a.kind, a.seq)
			if ids[name] == nil {
				ids[name] = make(map[string]bool)
			}
			ids[name][a.messageID] = true
		}
		if got, want := len(ids), 60*2*w.tenants.Len(); got != want {
			t.Errorf("%d different calls, want a pair for each user: %d", got, want)
		}
		for name, all := range ids {
			if len(all) != 1 {
				t.Errorf("%s came with %d message ids", name, len(all))
			}
		}
		if n := w.receiver.count(); n == len(ids) || n > len(ids)*3/2 {
			t.Errorf("%d calls for %d: want a few sent again, and not all", n, len(ids))
		}
		w.latest()
	})
}

// A tenant that fails does not hold up the fold of others, and gets his own when he
// goes on, from whichever member.
func TestFailingTenantDoesNotHoldUpTheFoldOfOthers(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		from := w.ends()
		w.publishAll(20, 2)
		spans := w.spans(from, w.ends())
		w.publishAll(20, 1)
		failing := w.fails("acme", segment.Result{Class: segment.Misconfigured, Status: 403})
		m := w.join(w.fold(spans))
		want := 20 * 2 * 2 * 2 // users, tenants, fold and tail, calls
		w.until("the others to have all of it", func() bool { return w.receiver.count() == want })
		m.terminate()
		m = w.join(w.fold(spans))
		time.Sleep(time.Minute)
		if n := w.receiver.count(); n != want {
			t.Errorf("%d calls after the restart, want the %d of before", n, want)
		}
		failing.Store(false)
		m.over()
		for who, row := range w.receiver.since(0) {
			if want := []string{"identify 2", "group 2", "identify 3", "group 3"}; !slices.Equal(row, want) {
				t.Errorf("%v got %q, want %q", who, row, want)
			}
		}
	})
}

// A fold keeps to the tenants' rate limits.
func TestFoldKeepsToTheRateLimit(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		from := w.ends()
		w.publishAll(30, 2)
		spans := w.spans(from, w.ends())
		var all []tenant.Tenant
		for each := range w.tenants.All() {
			limited := *each
			if each.ID == "acme" {
				limited.RateLimit = 3
			}
			all = append(all, limited)
		}
		var err error
		if w.tenants, err = tenant.NewRegistry(all...); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		m := w.start(w.fold(spans))
		m.over()
		last := make(map[tenant.ID]time.Duration)
		for _, a := range w.receiver.got {
			last[a.who.tenant] = max(last[a.who.tenant], a.at.Sub(began))
		}
		// A second's worth may go at once.
		if least := 30*2/3*time.Second - time.Second; last["acme"] < least {
			t.Errorf("60 calls at 3 a second took %v, want at least %v", last["acme"], least)
		}
		if last["beta"] > 10*time.Second {
			t.Errorf("the fold of another tenant took %v beside one with a limit", last["beta"])
		}
	})
}

// The receipt of a place names the folded calls; where the events of a place make no
// call it says so.
func TestReceiptsOfAFoldAreThoseOfItsPlaces(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		from := w.ends()
		w.publishAll(5, 3)
		anonymous := w.publishRaw("acme", "nobody", "refiner-webhook", []byte(`{"cookie_uuid":"c","response":{"uuid":"r","completed_at":"2026-10-12T02:00:00Z","data":{"a":1}}}`))
		spans := w.spans(from, w.ends())
		m := w.start(w.fold(spans))
		m.over()
		receipts := w.receipts()
		if got, want := len(receipts), 5*w.tenants.Len()+1; got != want {
			t.Errorf("%d events have receipts, want one for each user: %d", got, want)
		}
		for who, sent := range w.sent {
			all := receipts[sent[2]]
			if len(all) != 1 || len(all[0].Calls) != 2 {
				t.Errorf("the last event of %v has receipts %v, want one with a pair", who, all)
			}
		}
		if all := receipts[anonymous]; len(all) != 1 || all[0].Reason != "no_calls" {
			t.Errorf("the place that makes no call has receipts %v", all)
		}
	})
}
