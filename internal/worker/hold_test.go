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

// Invariant 7: nothing holds the commit for long, so that a crash repeats little: neither
// one whose answers take long, where others are done behind it, and much sooner where many
// are; nor a user whose events wait for one another, each of whose requests is quick.
func TestNothingHoldsTheCommit(t *testing.T) {
	t.Parallel()
	quick := func(tenant.ID) time.Duration { return 10 * time.Millisecond }
	acmeTakes := func(d time.Duration) func(tenant.ID) time.Duration {
		return func(id tenant.ID) time.Duration {
			if id == "acme" {
				return d
			}
			return quick(id)
		}
	}
	for name, c := range map[string]struct {
		latency func(tenant.ID) time.Duration
		row     int           // of acme's events, first of all
		of      int           // users whose they are
		events  int           // of the others, one by one
		every   time.Duration // of them
		acme    int           // every so many comes one of acme
		from    int           // what counts
		most    queue.Offset  // that were delivered and are not committed
	}{
		"a slow tenant":              {acmeTakes(8 * time.Second), 1, 1, 200, 50 * time.Millisecond, 20, 0, 40},
		"a slow tenant, and a crowd": {acmeTakes(900 * time.Millisecond), 0, 1, 1000, 10 * time.Millisecond, 50, 0, 70}, // those of 0.3 s and an interval
		"a user with a row of events": {
			func(tenant.ID) time.Duration { return 50 * time.Millisecond }, 80, 1, 200, 50 * time.Millisecond, 0, 41, 40,
		},
		"a user with a row, and few others": {
			func(tenant.ID) time.Duration { return 50 * time.Millisecond }, 80, 1, 70, 100 * time.Millisecond, 0, 12, 16, // those of a second
		},
		"a slow import": {acmeTakes(8 * time.Second), 600, 600, 200, 50 * time.Millisecond, 0, 41, 40},
		"much is done":  {quick, 0, 1, 2000, 2 * time.Millisecond, 0, 501, 30}, // some 350 a second, committed every 50 ms
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *world) {
				w.receiver.latency = c.latency
				m := w.join()
				first, users := usersOf("acme", 0, c.of), usersOf("beta", 0, 100)
				for n := range c.row {
					w.publish("acme", first[n%len(first)])
				}
				most := queue.Offset(0)
				for n := range c.events {
					at := w.publish("beta", users[n%len(users)])
					if c.acme > 0 && n%c.acme == 0 {
						w.publish("acme", first[0])
					}
					time.Sleep(c.every)
					if n >= c.from {
						most = max(most, at.Offset-w.committed()[0])
					}
				}
				if most > c.most {
					t.Errorf("up to %d events were delivered and not committed, want at most %d", most, c.most)
				}
				w.until("all to be delivered", w.settled)
				w.verify(never)
				m.terminate()
			})
		})
	}
}

// Where little is done commits keep to their interval.
func TestCommitsKeepToTheirIntervalWhereLittleIsDone(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var commits atomic.Int64
		w.answerCommits(nil, func() bool {
			commits.Add(1)
			return false
		})
		m := w.join()
		users := usersOf("beta", 0, 10)
		for n := range 200 { // 10 a second
			w.publish("beta", users[n%len(users)])
			time.Sleep(100 * time.Millisecond)
		}
		// 20 s by 250 ms, and a few for whenever as much is done as asks for one.
		if n := commits.Load(); n > 95 {
			t.Errorf("%d commits in 20 s", n)
		}
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
