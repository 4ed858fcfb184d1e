package delivery_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/attribution"
	"refinersource/internal/delivery"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

// laneParts makes the parts of a lane's request: one call each.
func laneParts(lane string, n int) [][]attribution.Call {
	p := parts(n)
	for i := range p {
		p[i][0].MessageID = fmt.Sprint(lane, i)
	}
	return p
}

// ways are those of a request to travel with another: one waits for it, one is told.
var ways = map[string]func(context.Context, *delivery.Deliverer, [][]attribution.Call) []delivery.Report{
	"deliver": func(ctx context.Context, d *delivery.Deliverer, p [][]attribution.Call) []delivery.Report {
		reports, _ := d.Deliver(ctx, ofAcme, p, delivery.DeliverOptions{})
		return reports
	},
	"join": func(ctx context.Context, d *delivery.Deliverer, p [][]attribution.Call) []delivery.Report {
		told := make(chan []delivery.Report) // a second time would wait for ever, and fail the test
		if d.Join(ctx, ofAcme, p, delivery.DeliverOptions{}, func(reports []delivery.Report, _ delivery.Verdict) { told <- reports }) {
			return <-told
		}
		reports, _ := d.Deliver(ctx, ofAcme, p, delivery.DeliverOptions{})
		return reports
	},
}

// travelling begins deliveries of acme, in turn: the first is being written while the
// others ask to be. It returns their reports when all are over.
type travelling func(context.Context, *delivery.Deliverer, ...[][]attribution.Call) [][]delivery.Report

// eachWay runs a test for each of the ways.
func eachWay(t *testing.T, f func(t *testing.T, travel travelling)) {
	t.Helper()
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f(t, func(ctx context.Context, d *delivery.Deliverer, each ...[][]attribution.Call) [][]delivery.Report {
					reports := make([][]delivery.Report, len(each))
					var lanes sync.WaitGroup
					for i, p := range each {
						lanes.Go(func() { reports[i] = way(ctx, d, p) })
						synctest.Wait()
					}
					lanes.Wait()
					return reports
				})
			})
		})
	}
}

func TestRequestsThatWaitToBeWrittenTravelTogether(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, travel travelling) {
		r := &receiver{took: 5 * time.Millisecond, answer: script()}
		d := newDeliverer(t, delivery.Options{Sender: r, Writers: 1})
		reports := travel(t.Context(), d, laneParts("a", 1), laneParts("b", 2), laneParts("c", 1))
		want := [][]string{{"a0"}, {"b0", "b1", "c0"}}
		if diff := cmp.Diff(want, r.got); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
		for i := range reports {
			for _, report := range reports[i] {
				if report.Outcome != delivery.Accepted || report.Attempts != 1 {
					t.Errorf("lane %d: %+v", i, report)
				}
			}
		}
	})
}

func TestWhoWaitsForNothingTravelsAlone(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, travel travelling) {
		r := &receiver{took: 5 * time.Millisecond, answer: script()}
		d := newDeliverer(t, delivery.Options{Sender: r})
		travel(t.Context(), d, laneParts("a", 1), laneParts("b", 1), laneParts("c", 1))
		if want := [][]string{{"a0"}, {"b0"}, {"c0"}}; !cmp.Equal(want, r.got) {
			t.Errorf("requests %v, want %v", r.got, want)
		}
	})
}

// A refusal of what travelled together is nobody's until each has travelled alone.
func TestRefusalOfWhatTravelledTogetherIsOnlyTheGuiltyOnes(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, travel travelling) {
		r := &receiver{took: 5 * time.Millisecond, answer: func(_ int, ids []string) segment.Result {
			if slices.Contains(ids, "b1") {
				return segment.Result{Class: segment.Refused, Status: 400}
			}
			return segment.Result{Class: segment.Accepted, Status: 200}
		}}
		d := newDeliverer(t, delivery.Options{Sender: r, Writers: 1})
		reports := travel(t.Context(), d, laneParts("a", 1), laneParts("b", 3), laneParts("c", 1))
		want := [][]delivery.Outcome{
			{delivery.Accepted},
			{delivery.Accepted, delivery.Rejected, delivery.Accepted},
			{delivery.Accepted}, // it would be rejected: it cannot be halved
		}
		for i := range want {
			if got := outcomes(reports[i]); !slices.Equal(got, want[i]) {
				t.Errorf("lane %d: %v, want %v", i, got, want[i])
			}
		}
	})
}

// What the receiver asks for after a request of several lanes, it asks of each: none
// sends anything before.
func TestRetryAfterToWhatTravelledTogetherIsForAll(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, travel travelling) {
		const pause = 3 * time.Second
		r := &receiver{took: 5 * time.Millisecond, answer: script(
			segment.Result{Class: segment.Accepted, Status: 200},
			segment.Result{Class: segment.Throttled, Status: 429, RetryAfter: pause},
		)}
		d := newDeliverer(t, delivery.Options{Sender: r, Writers: 1})
		reports := travel(t.Context(), d, laneParts("a", 1), laneParts("b", 1), laneParts("c", 1))
		if len(r.got) < 3 || len(r.got[1]) != 2 {
			t.Fatalf("requests %v, want the second to be of two lanes", r.got)
		}
		for i, at := range r.at[2:] {
			if least := r.at[1] + r.took + pause; at < least {
				t.Errorf("request %d was made at %v, before %v", i+2, at, least)
			}
		}
		for i := range reports {
			if got := outcomes(reports[i]); got[0] != delivery.Accepted {
				t.Errorf("lane %d: %v", i, got)
			}
		}
	})
}

// Who sends for others may be ended by its own context: it takes none of another's
// along.
func TestOnlyWhatEndsTogetherTravelsTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{took: 5 * time.Millisecond, answer: script()}
		d := newDeliverer(t, delivery.Options{Sender: r, Writers: 1})
		ended, end := context.WithCancel(t.Context())
		var lanes sync.WaitGroup
		got := make([]delivery.Outcome, 3)
		for i, ctx := range []context.Context{t.Context(), ended, t.Context()} {
			lanes.Go(func() {
				reports, _ := d.Deliver(ctx, ofAcme, laneParts(string(rune('a'+i)), 1), delivery.DeliverOptions{})
				got[i] = reports[0].Outcome
			})
			synctest.Wait()
		}
		time.Sleep(7 * time.Millisecond) // until the second request is under way
		end()
		lanes.Wait()
		if want := []delivery.Outcome{delivery.Accepted, delivery.Abandoned, delivery.Accepted}; !slices.Equal(got, want) {
			t.Errorf("outcomes %v, want %v", got, want)
		}
		if want := [][]string{{"a0"}, {"b0"}, {"c0"}}; !cmp.Equal(want, r.got) {
			t.Errorf("requests %v, want %v", r.got, want)
		}
	})
}

// The gate is asked by who sends for all; where it is shut, nothing is sent for any.
func TestShutGateAbandonsAllThatWouldTravelTogether(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, travel travelling) {
		r := &receiver{took: 5 * time.Millisecond, answer: script()}
		shut := false
		d := newDeliverer(t, delivery.Options{Sender: r, Writers: 1, Gate: func(context.Context) error {
			if shut {
				return context.Canceled
			}
			shut = true
			return nil
		}})
		reports := travel(t.Context(), d, laneParts("a", 1), laneParts("b", 1), laneParts("c", 1))
		if want := [][]string{{"a0"}}; !cmp.Equal(want, r.got) {
			t.Errorf("requests %v, want %v", r.got, want)
		}
		for i := range reports[1:] {
			if got := reports[1+i][0].Outcome; got != delivery.Abandoned {
				t.Errorf("lane %d: %v, want it abandoned", 1+i, got)
			}
		}
	})
}

func TestWhatTravelsTogetherKeepsTheLimits(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, travel travelling) {
		r := &receiver{took: 5 * time.Millisecond, answer: script()}
		d := newDeliverer(t, delivery.Options{Sender: r, Writers: 1})
		travel(t.Context(), d, laneParts("a", 1), laneParts("b", 1500), laneParts("c", 500), laneParts("d", 1))
		var sizes []int
		for _, ids := range r.got {
			sizes = append(sizes, len(ids))
		}
		if want := []int{1, 2000, 1}; !slices.Equal(sizes, want) {
			t.Errorf("requests of %v calls, want %v", sizes, want)
		}
	})
}

// A receiver that takes long to read what is written to it holds up nobody else.
func TestSlowReaderLeavesTheProcessorToOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(map[string]time.Duration{"slow": 5 * time.Second, "quick": time.Millisecond})
		d := newDeliverer(t, delivery.Options{Sender: g, Writers: 1})
		var calls sync.WaitGroup
		calls.Go(func() { d.Deliver(t.Context(), named("slow0", aHost), parts(1), delivery.DeliverOptions{}) })
		synctest.Wait()
		began := time.Now()
		d.Deliver(t.Context(), named("quick0", aHost), parts(1), delivery.DeliverOptions{})
		if took := time.Since(began); took > time.Second {
			t.Errorf("the other tenant's request took %v", took)
		}
		calls.Wait()
	})
}

// Each request that travelled with others earns what it may need to retry by itself.
func TestRequestsThatTravelTogetherEarnTheirRetries(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, travel travelling) {
		r := &receiver{answer: always(unreachable)}
		d := newDeliverer(t, delivery.Options{Sender: r, Writers: 1, MinBackoff: 1})
		for range 25 { // two retries each, and none is left
			d.Deliver(t.Context(), ofAcme, partOf("x"), delivery.DeliverOptions{})
		}
		lanes := make([][][]attribution.Call, 11)
		for i := range lanes {
			lanes[i] = laneParts(fmt.Sprint(i, "-"), 1)
		}
		r.took, r.answer, r.got = time.Millisecond, always(ok), nil
		travel(t.Context(), d, lanes...)
		if len(r.got) != 2 {
			t.Fatalf("requests %v, want one that is being written and one of all others", r.got)
		}
		r.took, r.answer, r.got = 0, always(unreachable), nil
		d.Deliver(t.Context(), ofAcme, partOf("x"), delivery.DeliverOptions{})
		if want := 3; len(r.got) != want {
			t.Errorf("%d attempts after 11 requests were accepted, want %d", len(r.got), want)
		}
	})
}

// A request that rode on one which was not made, since its tenant has another endpoint
// now, goes by itself.
func TestWhatRodeOnNothingGoesByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{took: 5 * time.Millisecond, answer: script()}
		d := newDeliverer(t, delivery.Options{Sender: r, Writers: 1})
		var now atomic.Pointer[tenant.Tenant]
		now.Store(ofAcme())
		var lanes sync.WaitGroup
		for _, lane := range []string{"a", "b"} {
			lanes.Go(func() { d.Deliver(t.Context(), now.Load, laneParts(lane, 1), delivery.DeliverOptions{}) })
			synctest.Wait()
		}
		told := make(chan []delivery.Report, 1)
		if !d.Join(t.Context(), now.Load, laneParts("c", 1), delivery.DeliverOptions{}, func(reports []delivery.Report, _ delivery.Verdict) { told <- reports }) {
			t.Fatal("the request does not join the one that waits")
		}
		moved := *ofAcme()
		moved.Endpoint = "https://other.test"
		now.Store(&moved)
		lanes.Wait()
		if got := outcomes(<-told); !slices.Equal(got, []delivery.Outcome{delivery.Accepted}) {
			t.Errorf("outcomes %v, want it accepted", got)
		}
		seen := slices.Sorted(slices.Values(slices.Concat(r.got...)))
		if want := []string{"a0", "b0", "c0"}; !slices.Equal(seen, want) {
			t.Errorf("requests %v, want each of %v once", r.got, want)
		}
	})
}

// Who has to wait for something else does not join.
func TestWhoHasToWaitDoesNotJoin(t *testing.T) {
	t.Parallel()
	paused, elsewhere, forgetful := *ofAcme(), *ofAcme(), *ofAcme()
	paused.Paused, elsewhere.Endpoint = true, "https://other.test"
	forgetful.Rules.Forgotten = map[string]struct{}{"ann": {}}
	for name, c := range map[string]struct {
		t       tenant.Tenant
		o       delivery.DeliverOptions
		want    bool
		ended   bool
		other   bool // it ends with another context
		limited bool // the pace would wait
		nothing bool // there is nobody to join
	}{
		"nothing in the way":    {t: *ofAcme(), want: true},
		"a probe":               {t: *ofAcme(), o: delivery.DeliverOptions{Probe: true}},
		"what catches up":       {t: *ofAcme(), o: delivery.DeliverOptions{CatchUp: true}},
		"a paused tenant":       {t: paused},
		"one at its rate limit": {t: *ofAcme(), limited: true},
		"another endpoint":      {t: elsewhere},
		"one to be forgotten":   {t: forgetful},
		"after the end":         {t: *ofAcme(), ended: true},
		"another's end":         {t: *ofAcme(), other: true},
		"nobody to join":        {t: *ofAcme(), nothing: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{took: 5 * time.Millisecond, answer: script()}
				d := newDeliverer(t, delivery.Options{Sender: r, Writers: 1, TryPace: func(_ *tenant.Tenant, calls int, catchUp bool) bool {
					if calls != 1 || catchUp {
						t.Errorf("the pace is asked for %d calls, catching up %v", calls, catchUp)
					}
					return !c.limited
				}})
				ctx, end := context.WithCancel(t.Context())
				defer end()
				var lanes sync.WaitGroup
				for _, lane := range []string{"a", "b"} {
					lanes.Go(func() { d.Deliver(ctx, ofAcme, laneParts(lane, 1), delivery.DeliverOptions{}) })
					synctest.Wait()
				}
				if c.nothing {
					lanes.Wait()
				}
				own := ctx
				switch {
				case c.ended:
					end()
				case c.other:
					own = t.Context()
				}
				told := make(chan struct{}, 1)
				third := laneParts("c", 1)
				third[0][0].UserID = "ann"
				got := d.Join(own, func() *tenant.Tenant { return &c.t }, third, c.o, func([]delivery.Report, delivery.Verdict) { told <- struct{}{} })
				if got != c.want {
					t.Errorf("joined: %v, want %v", got, c.want)
				}
				lanes.Wait()
				synctest.Wait()
				if (len(told) == 1) != c.want {
					t.Errorf("told %d times", len(told))
				}
				// Who has asked to join is forgotten as any other.
				time.Sleep(2 * time.Minute)
				d.Deliver(t.Context(), named("late", aHost), parts(1), delivery.DeliverOptions{})
				if tenants, _ := d.Known(); tenants != 1 {
					t.Errorf("%d tenants are known, want the last one alone", tenants)
				}
			})
		})
	}
}

// Nobody waits for what is still to become of those that travelled with him.
func TestWhatIsRefusedOnARideHoldsUpNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		requests, writing := 0, 5*time.Millisecond
		d := newDeliverer(t, delivery.Options{Writers: 1, Sender: senderFunc(func(_ context.Context, _ segment.Target, calls []attribution.Call) segment.Result {
			requests++
			switch {
			case requests == 2: // of b and c together
				time.Sleep(writing)
				return segment.Result{Class: segment.Refused, Status: 400}
			case calls[0].MessageID == "c0":
				time.Sleep(5 * time.Second)
			default:
				time.Sleep(writing)
			}
			return segment.Result{Class: segment.Accepted, Status: 200}
		})})
		began, took := time.Now(), make([]time.Duration, 2)
		var lanes sync.WaitGroup
		for i, lane := range []string{"a", "b"} {
			lanes.Go(func() {
				d.Deliver(t.Context(), ofAcme, laneParts(lane, 1), delivery.DeliverOptions{})
				took[i] = time.Since(began)
			})
			synctest.Wait()
		}
		told := make(chan []delivery.Report, 1)
		if !d.Join(t.Context(), ofAcme, laneParts("c", 1), delivery.DeliverOptions{}, func(reports []delivery.Report, _ delivery.Verdict) { told <- reports }) {
			t.Fatal("the request does not join the one that waits")
		}
		lanes.Wait()
		if took[1] > time.Second {
			t.Errorf("the one that was joined took %v", took[1])
		}
		if got := outcomes(<-told); !slices.Equal(got, []delivery.Outcome{delivery.Accepted}) {
			t.Errorf("outcomes %v, want it accepted", got)
		}
	})
}
