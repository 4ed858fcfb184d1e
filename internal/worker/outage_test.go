package worker_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"refinersource/internal/attribution"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// usersOf are so many users of a tenant whose records stand in a partition.
func usersOf(id tenant.ID, partition, users int) (all []string) {
	for n := 0; len(all) < users; n++ {
		user := fmt.Sprintf("user-%d", n)
		if queue.PartitionOf([]byte(string(id)+"/"+user), partitions) == partition {
			all = append(all, user)
		}
	}
	return all
}

func userOf(id tenant.ID, partition int) string { return usersOf(id, partition, 1)[0] }

// skip are the calls of a user's events by their numbers.
func (who person) skip(numbers ...int) (names []string) {
	for _, n := range numbers {
		names = append(names, callName(who, attribution.Identify, fmt.Sprint(n)), callName(who, attribution.Group, fmt.Sprint(n)))
	}
	return names
}

// A suspended tenant is probed with its next event, on a backoff from 1 s that
// doubles up to 5 min, and with nothing else.
func TestProbesComeOnABackoffFromOneSecondToFiveMinutes(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		var at []time.Time
		var calls int
		w.receiver.latency = func(tenant.ID) time.Duration { return 10 * time.Millisecond }
		w.receiver.answer = func(_ tenant.ID, sent []attribution.Call) segment.Result {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Now())
			calls = max(calls, len(sent))
			return segment.Result{Class: segment.Transient, Status: 500}
		}
		// All pauses are as long as they can be.
		m := w.join(func(o *worker.Options) { o.Delivery.Rand = func() float64 { return 0.999 } })
		w.publish("acme", "ann")
		time.Sleep(20 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		want := []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300}
		if len(at) < 3+len(want) {
			t.Fatalf("%d requests in 20 minutes, want the lane's three and more than %d probes", len(at), len(want))
		}
		for i, pause := range want {
			pause *= time.Second
			if got := at[3+i].Sub(at[2+i]); got < pause*99/100 || got > pause+time.Second {
				t.Errorf("probe %d came %v after the request before, want %v", i+1, got, pause)
			}
		}
		if calls != 1 {
			t.Errorf("a request had %d calls, want one", calls)
		}
		m.terminate()
	})
}

// Invariant 2: when no more cursors fit, the commit waits, with an alarm; none is
// dropped, and what waited goes on when there is room.
func TestCommitWaitsWhereNoMoreCursorsFit(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var all []tenant.Tenant
		for n := range lane.MaxCursors + 2 {
			id := tenant.ID(fmt.Sprintf("t-%03d", n))
			all = append(all, tenant.Tenant{
				ID: id, WriteKey: tenant.NewSecret("key-of-" + string(id)), Endpoint: "http://receiver.invalid",
				Rules: attribution.DefaultRules(), Pairing: tenant.Strict,
			})
		}
		var err error
		if w.tenants, err = tenant.NewRegistry(all...); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		failing := true
		w.receiver.answer = func(tenant.ID, []attribution.Call) segment.Result {
			mu.Lock()
			defer mu.Unlock()
			if failing {
				return segment.Result{Class: segment.Misconfigured, Status: 401}
			}
			return segment.Result{}
		}
		logs := &logs{}
		m := w.join(func(o *worker.Options) { o.Logger = logs.logger() })
		var last queue.Position
		for _, t := range all {
			last = w.publish(t.ID, userOf(t.ID, 0))
		}
		time.Sleep(30 * time.Second)
		// Each has one event, and those that have no room for a cursor hold the commit.
		if commit, cursors := w.committed()[0], len(w.allCursors()); commit > last.Offset || int(commit) != cursors {
			t.Errorf("the commit is %d with %d cursors, want one for each event that it passed, and not all %d passed", commit, cursors, len(all))
		}
		if logs.seen.FilterMessageSnippet("no room for another cursor").Len() == 0 {
			t.Error("no log line says that there is no room")
		}
		mu.Lock()
		failing = false
		mu.Unlock()
		w.until("all to be delivered", w.settled)
		w.verify(never)
		m.terminate()
	})
}

// What retention took from behind cursors is said of each tenant with its exact
// range, also if another who waits behind it comes upon it first; the rest goes on.
func TestEventsThatAreGoneBehindACursorAreReported(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		var failing sync.Map
		w.receiver.answer = func(id tenant.ID, _ []attribution.Call) segment.Result {
			if _, fails := failing.Load(id); fails {
				return segment.Result{Class: segment.Misconfigured, Status: 401}
			}
			return segment.Result{}
		}
		failing.Store(tenant.ID("acme"), true)
		failing.Store(tenant.ID("beta"), true)
		ann, bob, cid := person{"acme", userOf("acme", 0)}, person{"beta", userOf("beta", 0)}, person{"gamma", userOf("gamma", 0)}
		for _, who := range []person{ann, cid, bob, ann, cid, bob, ann, cid, bob} { // from 0 to 8
			w.publish(who.tenant, who.user)
		}
		var inForce atomic.Pointer[tenant.Registry]
		inForce.Store(w.tenants)
		logs := &logs{}
		metrics := prometheus.NewPedanticRegistry()
		m := w.join(func(o *worker.Options) { o.Logger, o.Registerer, o.Tenants = logs.logger(), metrics, inForce.Load })
		w.until("both to be passed", func() bool { return w.lag() == 0 && len(w.allCursors()) == 2 })
		time.Sleep(5 * time.Minute) // nothing is tried now for a while
		w.deleteRecords(0, 5)
		// A mended tenant is tried at once.
		mend := func(id tenant.ID) {
			failing.Delete(id)
			var all []tenant.Tenant
			for t := range inForce.Load().All() {
				t := *t
				if t.ID == id {
					t.Endpoint += "/mended"
				}
				all = append(all, t)
			}
			r, err := tenant.NewRegistry(all...)
			if err != nil {
				t.Fatal(err)
			}
			inForce.Store(r)
			w.until("the tenant to go on", func() bool { return len(w.cursors(id)) == 0 })
		}
		mend("beta")
		mend("acme")
		w.verify(never, append(ann.skip(1, 2), bob.skip(1)...)...)
		got := make(map[string]string)
		for _, line := range logs.seen.FilterMessageSnippet("events were deleted from the log").All() {
			f := line.ContextMap()
			got[fmt.Sprint(f["tenant"])] += fmt.Sprintf("partition %d from %d to %d;", f["partition"], f["from"], f["to"])
		}
		if d := cmp.Diff(map[string]string{"acme": "partition 0 from 0 to 5;", "beta": "partition 0 from 2 to 5;"}, got); d != "" {
			t.Errorf("what the log lines say is gone (-want +got):\n%s", d)
		}
		if err := testutil.GatherAndCompare(metrics, strings.NewReader(`
# HELP refiner_source_lost_events_total Events that the log had deleted before they were delivered; the log line names their offsets.
# TYPE refiner_source_lost_events_total counter
refiner_source_lost_events_total 8
`), "refiner_source_lost_events_total"); err != nil {
			t.Error(err)
		}
		m.terminate()
	})
}

// Who waits, and how long the log still keeps what he waits for, are metrics.
func TestMetricsTellOfSuspendedTenants(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		w.fails("acme", segment.Result{Class: segment.Misconfigured, Status: 401})
		metrics := prometheus.NewPedanticRegistry()
		m := w.join(func(o *worker.Options) {
			o.Registerer = metrics
			o.Retention = func(context.Context) (time.Duration, error) { return time.Hour, nil }
		})
		w.publish("acme", userOf("acme", 1))
		w.publish("beta", userOf("beta", 1))
		w.until("it to be passed", func() bool { return w.lag() == 0 && len(w.allCursors()) == 1 })
		time.Sleep(5 * time.Minute)
		got := gauges(t, metrics)
		for name, want := range map[string]float64{
			"suspended_tenants 0": 0, "suspended_tenants 1": 1, "suspended_tenants 2": 0,
			"suspended_backlog_seconds acme": 300, "retention_margin_seconds acme": 3300,
		} {
			if have, ok := got[name]; !ok || have < want-5 || have > want+5 {
				t.Errorf("%s is %v (%v), want %v", name, have, ok, want)
			}
		}
		m.terminate()
	})
}

// gauges returns a registry's, by name without the prefix and the labels' values.
func gauges(t *testing.T, metrics prometheus.Gatherer) map[string]float64 {
	t.Helper()
	got := make(map[string]float64)
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, s := range f.Metric {
			name := strings.TrimPrefix(f.GetName(), "refiner_source_")
			for _, l := range s.Label {
				name += " " + l.GetValue()
			}
			got[name] = s.GetGauge().GetValue()
		}
	}
	return got
}
