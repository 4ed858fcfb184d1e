package worker_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// Invariant 7: one whose answers take long does not hold the commit, so that a crash
// beside it repeats no more of the others than a crash without it.
func TestSlowTenantDoesNotHoldTheCommit(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.receiver.latency = func(id tenant.ID) time.Duration {
			if id == "acme" {
				return 8 * time.Second
			}
			return 10 * time.Millisecond
		}
		m := w.join(func(o *worker.Options) { o.CommitInterval = 200 * time.Millisecond })
		most := queue.Offset(0)
		users := usersOf("beta", 0, 10)
		w.publish("acme", userOf("acme", 0))
		for n := range 200 { // 20 a second
			at := w.publish("beta", users[n%len(users)])
			if n%20 == 0 {
				w.publish("acme", userOf("acme", 0))
			}
			time.Sleep(50 * time.Millisecond)
			most = max(most, at.Offset-w.committed()[0])
		}
		if most > 40 {
			t.Errorf("up to %d events were delivered and not committed, want those of less than two seconds", most)
		}
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
	})
}

// One that takes a while does not either, where much is done behind it.
func TestCommitDoesNotWaitForOneWhereManyAreDone(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.receiver.latency = func(id tenant.ID) time.Duration {
			if id == "acme" {
				return 900 * time.Millisecond
			}
			return 10 * time.Millisecond
		}
		m := w.join()
		most := queue.Offset(0)
		users := usersOf("beta", 0, 20)
		for n := range 1000 { // 100 a second
			at := w.publish("beta", users[n%len(users)])
			if n%50 == 0 {
				w.publish("acme", userOf("acme", 0))
			}
			time.Sleep(10 * time.Millisecond)
			most = max(most, at.Offset-w.committed()[0])
		}
		if most > 70 {
			t.Errorf("up to %d events were delivered and not committed, want few more than %d, those of 0.3 s and a commit's interval", most, 30+25)
		}
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
	})
}

// Many events are committed sooner than after a commit's interval.
func TestCommitComesSoonerWhereMuchIsDone(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.receiver.latency = func(tenant.ID) time.Duration { return 5 * time.Millisecond }
		m := w.join()
		most := queue.Offset(0)
		users := usersOf("beta", 0, 100)
		for n := range 2000 { // some 350 a second
			at := w.publish("beta", users[n%len(users)])
			time.Sleep(2 * time.Millisecond)
			if n > 500 { // what was there before the first commit
				most = max(most, at.Offset-w.committed()[0])
			}
		}
		if most > 30 {
			t.Errorf("up to %d events were not committed, want few more than those of 50 ms", most)
		}
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
	})
}

// Nor does a user whose events wait for one another: each of his requests is quick, but
// the last of his row comes long after what the others sent behind it.
func TestUserWithARowOfEventsDoesNotHoldTheCommit(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.receiver.latency = func(tenant.ID) time.Duration { return 50 * time.Millisecond }
		m := w.join(func(o *worker.Options) { o.CommitInterval = 200 * time.Millisecond })
		hot, users := userOf("acme", 0), usersOf("beta", 0, 10)
		for range 80 {
			w.publish("acme", hot)
		}
		most := queue.Offset(0)
		for n := range 200 { // 20 a second
			at := w.publish("beta", users[n%len(users)])
			time.Sleep(50 * time.Millisecond)
			if n > 40 {
				most = max(most, at.Offset-w.committed()[0])
			}
		}
		if most > 40 {
			t.Errorf("up to %d events were delivered and not committed, want those of less than two seconds", most)
		}
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
	})
}

// Where a host is down its tenants wait where they are, and no cursors arise.
func TestTenantsOfADeadHostGetNoCursors(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var all []tenant.Tenant
		for n := range 30 {
			id := tenant.ID(fmt.Sprintf("t-%02d", n))
			all = append(all, tenant.Tenant{
				ID: id, WriteKey: tenant.NewSecret("key-of-" + string(id)), Endpoint: "http://receiver.invalid",
				Rules: attribution.DefaultRules(), Pairing: tenant.Strict,
			})
		}
		var err error
		if w.tenants, err = tenant.NewRegistry(all...); err != nil {
			t.Fatal(err)
		}
		var down atomic.Bool
		down.Store(true)
		w.receiver.answer = func(tenant.ID, []attribution.Call) segment.Result {
			if down.Load() {
				return segment.Result{Class: segment.Transient, Err: errors.New("connection refused")}
			}
			return segment.Result{}
		}
		m := w.join()
		for _, who := range all {
			w.publish(who.ID, userOf(who.ID, 0))
		}
		for range 60 {
			time.Sleep(time.Second)
			if n := len(w.allCursors()); n > 0 {
				t.Errorf("%d cursors while the host is down, want none", n)
				break
			}
		}
		down.Store(false)
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
	})
}

// What travels with others is told of all its parts at once, by their answer: so it must
// be nothing but calls, that can go at once.
func TestOnlyCallsThatCanGoAtOnceTravelWithOthers(t *testing.T) {
	t.Parallel()
	type request = lane.Request[struct{}]
	for name, c := range map[string]struct {
		r      request
		letter bool
		gap    time.Duration
		want   bool
	}{
		"calls":                     {want: true},
		"calls that catch up":       {r: request{Behind: true}, want: true},
		"a probe":                   {r: request{Probe: true}},
		"an event that failed":      {r: request{Alone: true}},
		"a dead letter beside them": {letter: true},
		"a pause before them":       {gap: time.Second},
	} {
		if got := worker.MayJoin(c.r, c.letter, c.gap); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// What nobody says anything of has not been accepted.
func TestPartOfWhichNothingIsKnownIsNotAccepted(t *testing.T) {
	t.Parallel()
	for i, got := range worker.FirstOutcomes() {
		if got != lane.Abandoned {
			t.Errorf("part %d: %v, want %v", i, got, lane.Abandoned)
		}
	}
}
