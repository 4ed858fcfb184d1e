package delivery_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/delivery"
	"refinersource/internal/segment"
)

// gauge is a Sender that takes as long as the kind of the tenant says, which is
// its id without the digits, and counts what is under way.
type gauge struct {
	takes map[string]time.Duration
	reads map[string]time.Duration // until then nothing is written; all the time if it is 0

	mu                   sync.Mutex
	busy, most, done     map[string]int
	busyInAll, mostInAll int
}

func newGauge(takes map[string]time.Duration) *gauge {
	return &gauge{takes: takes, busy: map[string]int{}, most: map[string]int{}, done: map[string]int{}}
}

func (g *gauge) Send(ctx context.Context, to segment.Target, _ []attribution.Call) segment.Result {
	kind := strings.TrimRight(to.WriteKey.Reveal(), "0123456789")
	g.mu.Lock()
	g.busy[kind]++
	g.busyInAll++
	g.most[kind], g.mostInAll = max(g.most[kind], g.busy[kind]), max(g.mostInAll, g.busyInAll)
	takes := g.takes[kind]
	g.mu.Unlock()
	if reads := g.reads[kind]; reads > 0 {
		time.Sleep(reads)
		to.Written()
		takes -= reads
	}
	select {
	case <-ctx.Done():
	case <-time.After(takes):
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy[kind]--
	g.busyInAll--
	if ctx.Err() != nil {
		return segment.Result{Class: segment.Canceled}
	}
	g.done[kind]++
	return ok
}

func (g *gauge) underWay(kind string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.busy[kind]
}

// reset starts the counting again.
func (g *gauge) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.most, g.done, g.mostInAll = map[string]int{}, map[string]int{}, g.busyInAll
}

// load keeps so many calls of each of n tenants of a kind under way until ctx
// ends. Each has a context of its own, so that none travels with another: what is
// counted here is attempts.
func load(ctx context.Context, calls *sync.WaitGroup, d *delivery.Deliverer, kind string, n, each int) {
	for i := range n {
		for range each {
			calls.Go(func() {
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				for ctx.Err() == nil {
					d.Deliver(ctx, named(fmt.Sprint(kind, i), aHost), parts(1), delivery.DeliverOptions{})
				}
			})
		}
	}
}

func TestAttemptsAreBoundedAndOneTenantHasAQuarterOfThem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(map[string]time.Duration{"greedy": time.Second, "modest": time.Second})
		d := newDeliverer(t, delivery.Options{Sender: g, Slots: 8})
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		load(ctx, &calls, d, "greedy", 1, 100)
		time.Sleep(10 * time.Second)
		load(ctx, &calls, d, "modest", 20, 1)
		g.reset()
		time.Sleep(100*time.Second + time.Millisecond)
		g.mu.Lock()
		if g.mostInAll != 8 || g.most["greedy"] != 2 {
			t.Errorf("%d attempts at once, %d of one tenant, want 8 and 2", g.mostInAll, g.most["greedy"])
		}
		if g.done["modest"] < 595 {
			t.Errorf("the others had %d attempts in 100 s, want 6 a second", g.done["modest"])
		}
		g.mu.Unlock()
		cancel()
		calls.Wait()
	})
}

// Attempts that hang leave the slots to the others after two seconds, and their
// tenants do not come back to them.
func TestSlowTenantsDoNotTakeTheSlotsOfOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(map[string]time.Duration{"slow": 9 * time.Second, "quick": 100 * time.Millisecond})
		d := newDeliverer(t, delivery.Options{Sender: g, Slots: 8, SlowSlots: 40})
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		load(ctx, &calls, d, "slow", 32, 1)
		time.Sleep(time.Millisecond)
		g.mu.Lock()
		if g.busyInAll != 8 {
			t.Errorf("%d attempts at once, want 8", g.busyInAll)
		}
		g.mu.Unlock()
		time.Sleep(7 * time.Second) // four rounds of two seconds
		g.mu.Lock()
		if g.busyInAll != 32 {
			t.Errorf("%d attempts at once after 7 s, want all 32: those that hang have made room", g.busyInAll)
		}
		g.mu.Unlock()
		time.Sleep(time.Minute)
		load(ctx, &calls, d, "quick", 8, 1)
		g.reset()
		time.Sleep(100*time.Second + time.Millisecond)
		g.mu.Lock()
		if g.done["quick"] < 7990 {
			t.Errorf("the quick had %d attempts in 100 s, want 80 a second: 8 slots of their own", g.done["quick"])
		}
		if g.most["slow"] > 32 {
			t.Errorf("%d slow attempts at once", g.most["slow"])
		}
		g.mu.Unlock()
		cancel()
		calls.Wait()
	})
}

func TestSlowAttemptStaysWhereItIsIfTheSlowSlotsAreTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(map[string]time.Duration{"slow": time.Hour})
		d := newDeliverer(t, delivery.Options{Sender: g, Slots: 8, SlowSlots: 4})
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		load(ctx, &calls, d, "slow", 100, 1)
		time.Sleep(time.Minute)
		g.mu.Lock()
		if g.mostInAll != 12 {
			t.Errorf("%d attempts at once, want 12", g.mostInAll)
		}
		g.mu.Unlock()
		cancel()
		calls.Wait()
	})
}

func TestTenantThatIsQuickAgainComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(map[string]time.Duration{"a": 9 * time.Second, "slow": time.Hour})
		d := newDeliverer(t, delivery.Options{Sender: g, Slots: 8, SlowSlots: 4})
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		send := func() time.Duration {
			began := time.Now()
			d.Deliver(ctx, named("a0", aHost), parts(1), delivery.DeliverOptions{})
			return time.Since(began)
		}
		send()
		g.mu.Lock()
		g.takes["a"] = 0
		g.mu.Unlock()
		for range 20 {
			send()
		}
		load(ctx, &calls, d, "slow", 4, 1)
		time.Sleep(time.Minute) // they have all the slow slots
		if took := send(); took != 0 {
			t.Errorf("it waited %v for a slot, want none: its last answers were quick", took)
		}
		cancel()
		calls.Wait()
	})
}

// Who stops waiting for a slot leaves none behind.
func TestSlotsAreWholeAfterCallsWereAbandoned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(map[string]time.Duration{"a": time.Second, "b": time.Second, "c": 3 * time.Second})
		d := newDeliverer(t, delivery.Options{Sender: g, Slots: 4, SlowSlots: 4})
		for range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
			var calls sync.WaitGroup
			load(ctx, &calls, d, "a", 1, 5)
			load(ctx, &calls, d, "b", 10, 2)
			load(ctx, &calls, d, "c", 10, 2)
			calls.Wait()
			cancel()
		}
		g.reset()
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		load(ctx, &calls, d, "b", 10, 1)
		time.Sleep(100*time.Second + time.Millisecond)
		g.mu.Lock()
		if g.done["b"] < 390 || g.mostInAll != 4 {
			t.Errorf("%d attempts in 100 s, %d at once, want 4 a second over 4 slots", g.done["b"], g.mostInAll)
		}
		g.mu.Unlock()
		cancel()
		calls.Wait()
	})
}

// What is known of a tenant and its host is forgotten when it was idle, but for
// what must hold however seldom it gets an event.
func TestIdleTenantsAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answer := ok
		r := &receiver{answer: func(int, []string) segment.Result { return answer }}
		d := newDeliverer(t, delivery.Options{Sender: r})
		send := func(id, endpoint string) {
			d.Deliver(t.Context(), named(id, endpoint), parts(1), delivery.DeliverOptions{})
		}
		check := func(tenants, hosts int) {
			t.Helper()
			if gotTenants, gotHosts := d.Known(); gotTenants != tenants || gotHosts != hosts {
				t.Errorf("%d tenants and %d hosts are known, want %d and %d", gotTenants, gotHosts, tenants, hosts)
			}
		}
		for i := range 1000 {
			send(fmt.Sprint("t", i), fmt.Sprintf("http://h%d.test", i/10))
		}
		check(1000, 100)
		answer = refused
		send("refusing", aHost)
		answer = after(throttled, 200*time.Second)
		send("throttled", aHost)
		answer = ok
		time.Sleep(59 * time.Second)
		send("late", aHost)
		check(1003, 101)
		time.Sleep(2 * time.Second)
		send("t0", "http://h0.test")
		check(4, 2)
		time.Sleep(time.Hour)
		send("t0", "http://h0.test")
		check(2, 1) // and the one that refuses
		send("refusing", aHost)
		time.Sleep(time.Hour)
		send("t0", "http://h0.test")
		check(1, 1)
	})
}

// Of what catches up so much is written at a time, it leaves slots free, and live
// traffic does not wait for it; a receiver that takes long holds up no other who catches
// up, for longer than its request is written.
func TestCatchUpLeavesRoomForLiveTraffic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		takes, reads time.Duration
		slots, most  int
	}{
		{90 * time.Millisecond, 0, 0, 2},                      // as many as there are turns
		{450 * time.Millisecond, 0, 0, 10},                    // a turn is over before it is written
		{90 * time.Millisecond, 2 * time.Millisecond, 0, 20},  // it is written before it is answered
		{90 * time.Millisecond, 2 * time.Millisecond, 16, 12}, // a quarter of the slots is for live traffic
		{3 * time.Second, 2 * time.Millisecond, 16, 20},       // but none of who is among the slow ones
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGauge(map[string]time.Duration{"late": c.takes, "live": 10 * time.Millisecond})
			g.reads = map[string]time.Duration{"late": c.reads}
			d := newDeliverer(t, delivery.Options{Sender: g, Slots: c.slots, TurnCalls: 2 * (16 + 1)})
			var calls sync.WaitGroup
			for i := range 20 {
				calls.Go(func() {
					d.Deliver(t.Context(), named(fmt.Sprint("late", i), aHost), parts(1), delivery.DeliverOptions{CatchUp: true})
				})
			}
			synctest.Wait()
			began := time.Now()
			for i := range 5 {
				d.Deliver(t.Context(), named(fmt.Sprint("live", i), aHost), parts(1), delivery.DeliverOptions{})
			}
			if took := time.Since(began); took != 50*time.Millisecond {
				t.Errorf("five live requests took %v, want 50ms", took)
			}
			calls.Wait()
			if g.most["late"] != c.most || g.done["late"] != 20 {
				t.Errorf("%v, written after %v: of those who catch up %d were under way at once, and %d ended; want %d and 20", c.takes, c.reads, g.most["late"], g.done["late"], c.most)
			}
		})
	}
}

// While there is live traffic, a turn goes on after its request was written, for longer
// if that is larger than all turns.
func TestTurnGoesOnWhereThereIsLiveTraffic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		live         bool
		calls        int
		before, most int // ms since live traffic; requests under way after 70 ms
	}{
		{"no live traffic", false, 100, 0, 10},
		{"live traffic", true, 100, 0, 7},      // one each 5 + 6 ms
		{"large requests", true, 216, 0, 5},    // one each 5 + 12 ms
		{"long ago", true, 100, 150, 10},       // all but the first without a pause
		{"larger than all", false, 500, 0, 10}, // nobody waits for more than there is
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := newGauge(map[string]time.Duration{"late": 90 * time.Millisecond, "live": 0})
				g.reads = map[string]time.Duration{"late": 5 * time.Millisecond}
				d := newDeliverer(t, delivery.Options{Sender: g, TurnCalls: 16 + 100})
				if c.live {
					d.Deliver(t.Context(), named("live", aHost), parts(1), delivery.DeliverOptions{})
				}
				time.Sleep(time.Duration(c.before) * time.Millisecond)
				var calls sync.WaitGroup
				for i := range 10 {
					calls.Go(func() {
						d.Deliver(t.Context(), named(fmt.Sprint("late", i), aHost), parts(c.calls), delivery.DeliverOptions{CatchUp: true})
					})
				}
				time.Sleep(70 * time.Millisecond)
				if n := g.underWay("late"); n != c.most {
					t.Errorf("%d requests are under way, want %d", n, c.most)
				}
				calls.Wait()
			})
		})
	}
}

// Tenants that catch up with receivers that take long hold up no other who catches up.
func TestCatchUpDoesNotWaitForSlowReceivers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(map[string]time.Duration{"slow": 3 * time.Second, "quick": 20 * time.Millisecond})
		g.reads = map[string]time.Duration{"slow": time.Millisecond, "quick": time.Millisecond}
		d := newDeliverer(t, delivery.Options{Sender: g, TurnCalls: 128})
		ctx, stop := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		for i := range 50 {
			for range 24 {
				calls.Go(func() {
					for ctx.Err() == nil {
						d.Deliver(ctx, named(fmt.Sprint("slow", i), aHost), parts(10), delivery.DeliverOptions{CatchUp: true})
					}
				})
			}
		}
		time.Sleep(15 * time.Second) // until they are known to be slow
		for range 100 {
			began := time.Now()
			d.Deliver(ctx, named("quick", aHost), parts(10), delivery.DeliverOptions{CatchUp: true})
			if took := time.Since(began); took > 100*time.Millisecond {
				t.Errorf("a request of 20ms took %v", took)
				break
			}
		}
		stop()
		calls.Wait()
	})
}

// Receivers that take long to read hold up live traffic once, not each time: whoever
// waits for its receiver needs no processor.
func TestLiveTrafficDoesNotWaitForThoseWhoReadSlowly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(map[string]time.Duration{"late": 320 * time.Millisecond, "live": 20 * time.Millisecond})
		g.reads = map[string]time.Duration{"late": 300 * time.Millisecond, "live": time.Millisecond}
		d := newDeliverer(t, delivery.Options{Sender: g, Writers: 1, TurnCalls: 128})
		var calls sync.WaitGroup
		round := func() {
			for i := range 100 {
				calls.Go(func() {
					d.Deliver(t.Context(), named(fmt.Sprint("late", i), aHost), parts(1), delivery.DeliverOptions{CatchUp: true})
				})
			}
		}
		round()
		calls.Wait()
		round()
		synctest.Wait()
		for range 20 {
			began := time.Now()
			d.Deliver(t.Context(), named("live", aHost), parts(1), delivery.DeliverOptions{})
			if took := time.Since(began); took > 41*time.Millisecond {
				t.Errorf("a live request of 20ms took %v", took)
				break
			}
		}
		calls.Wait()
	})
}

// What is live does not travel with what of its tenant catches up, and so does not wait
// for a turn.
func TestLiveTrafficDoesNotWaitForATurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(map[string]time.Duration{"late": 90 * time.Millisecond, "one": 20 * time.Millisecond})
		d := newDeliverer(t, delivery.Options{Sender: g, TurnCalls: 16 + 1})
		var calls sync.WaitGroup
		for _, name := range []string{"late", "one"} { // the first has the turn
			calls.Go(func() { d.Deliver(t.Context(), named(name, aHost), parts(1), delivery.DeliverOptions{CatchUp: true}) })
			synctest.Wait()
		}
		began := time.Now()
		d.Deliver(t.Context(), named("one", aHost), parts(1), delivery.DeliverOptions{})
		if took := time.Since(began); took != 20*time.Millisecond {
			t.Errorf("it took %v, want 20ms", took)
		}
		calls.Wait()
	})
}

// Of the slow slots, too, a quarter is left to live traffic.
func TestCatchUpLeavesSlowSlotsToLiveTraffic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(map[string]time.Duration{"late": 10 * time.Second})
		g.reads = map[string]time.Duration{"late": time.Millisecond}
		d := newDeliverer(t, delivery.Options{Sender: g, Slots: 16, SlowSlots: 8})
		var calls sync.WaitGroup
		for i := range 40 {
			calls.Go(func() {
				d.Deliver(t.Context(), named(fmt.Sprint("late", i), aHost), parts(1), delivery.DeliverOptions{CatchUp: true})
			})
		}
		time.Sleep(3 * time.Second)
		if n := g.underWay("late"); n != 12+6 {
			t.Errorf("%d requests are under way, want %d", n, 12+6)
		}
		calls.Wait()
	})
}

// A probe waits for none of those who catch up.
func TestProbeHasASlotThatIsLeftToLiveTraffic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(map[string]time.Duration{"late": time.Second, "probe": 20 * time.Millisecond})
		g.reads = map[string]time.Duration{"late": time.Millisecond}
		d := newDeliverer(t, delivery.Options{Sender: g, Slots: 16})
		var calls sync.WaitGroup
		for i := range 40 {
			calls.Go(func() {
				d.Deliver(t.Context(), named(fmt.Sprint("late", i), aHost), parts(1), delivery.DeliverOptions{CatchUp: true})
			})
		}
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		d.Deliver(t.Context(), named("probe", aHost), parts(1), delivery.DeliverOptions{CatchUp: true, Probe: true})
		if took := time.Since(began); took != 20*time.Millisecond {
			t.Errorf("it took %v, want 20ms", took)
		}
		calls.Wait()
	})
}

// Who gives up waiting, in whichever queue, leaves nothing behind that others wait for.
func TestWhoGivesUpWaitingLeavesRoomForWhatCatchesUp(t *testing.T) {
	t.Parallel()
	for _, before := range []struct {
		name    string
		catchUp bool
		n       int
	}{
		{"for others that catch up", true, 3},
		{"for live traffic", false, 4},
	} {
		t.Run(before.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := newGauge(map[string]time.Duration{"first": time.Second, "late": 100 * time.Millisecond})
				d := newDeliverer(t, delivery.Options{Sender: g, Slots: 4, TurnCalls: 1000})
				ctx, giveUp := context.WithCancel(t.Context())
				var calls sync.WaitGroup
				send := func(ctx context.Context, kind string, n int, catchUp bool) {
					for i := range n {
						calls.Go(func() {
							d.Deliver(ctx, named(fmt.Sprint(kind, i), aHost), parts(1), delivery.DeliverOptions{CatchUp: catchUp})
						})
					}
					synctest.Wait()
				}
				send(t.Context(), "first", before.n, before.catchUp)
				send(ctx, "late", 8, true) // they find no slot
				giveUp()
				calls.Wait()
				send(t.Context(), "late", 8, true)
				if n := g.underWay("late"); n != 3 {
					t.Errorf("%d are under way, want 3", n)
				}
				calls.Wait()
			})
		})
	}
}
