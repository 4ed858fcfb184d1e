package delivery_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/attribution"
	"refinersource/internal/delivery"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

// Answers of the kinds that a retry may change, and two that it does not.
var (
	ok          = segment.Result{Class: segment.Accepted, Status: 200}
	down        = segment.Result{Class: segment.Transient, Status: 503, Unknown: true}
	unreachable = segment.Result{Class: segment.Transient}
	hanging     = segment.Result{Class: segment.Transient, Unknown: true}
	throttled   = segment.Result{Class: segment.Throttled, Status: 429}
	forbidden   = segment.Result{Class: segment.Misconfigured, Status: 401}
	refused     = segment.Result{Class: segment.Refused, Status: 400}
)

// after is r with a Retry-After.
func after(r segment.Result, d time.Duration) segment.Result {
	r.RetryAfter = d
	return r
}

// always answers the same.
func always(r segment.Result) func(int, []string) segment.Result {
	return func(int, []string) segment.Result { return r }
}

func all(o delivery.Outcome, n int) []delivery.Outcome {
	return slices.Repeat([]delivery.Outcome{o}, n)
}

func TestBudgetOfALane(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for name, tt := range map[string]struct {
		answers []segment.Result // then it accepts
		parts   int
		took    time.Duration // of each request
		options delivery.DeliverOptions
		at      []time.Duration // of the requests
		outcome delivery.Outcome
		verdict delivery.Verdict
		unknown bool
	}{
		"taken at once":           {nil, 3, 0, delivery.DeliverOptions{}, []time.Duration{0}, delivery.Accepted, delivery.Verdict{}, false},
		"taken at the third":      {[]segment.Result{down, down}, 1, 0, delivery.DeliverOptions{}, []time.Duration{0, s / 2, 3 * s / 2}, delivery.Accepted, delivery.Verdict{}, false},
		"no answer thrice":        {[]segment.Result{unreachable, unreachable, unreachable}, 3, 0, delivery.DeliverOptions{}, []time.Duration{0, s / 2, 3 * s / 2}, delivery.Failing, delivery.Verdict{Cause: delivery.Unavailable}, false},
		"one part down thrice":    {[]segment.Result{down, down, down}, 1, 0, delivery.DeliverOptions{}, []time.Duration{0, s / 2, 3 * s / 2}, delivery.Failing, delivery.Verdict{Cause: delivery.Unavailable}, true},
		"unknown once":            {[]segment.Result{down, unreachable, unreachable}, 1, 0, delivery.DeliverOptions{}, []time.Duration{0, s / 2, 3 * s / 2}, delivery.Failing, delivery.Verdict{Cause: delivery.Unavailable}, true},
		"slow to fail":            {[]segment.Result{unreachable, unreachable, unreachable}, 1, 2 * s, delivery.DeliverOptions{}, []time.Duration{0, 5 * s / 2}, delivery.Failing, delivery.Verdict{Cause: delivery.Unavailable}, false},
		"just within the budget":  {[]segment.Result{unreachable, unreachable}, 1, 7 * s / 4, delivery.DeliverOptions{}, []time.Duration{0, 9 * s / 4, 5 * s}, delivery.Accepted, delivery.Verdict{}, false},
		"slower than the budget":  {[]segment.Result{hanging}, 3, 9 * s, delivery.DeliverOptions{}, []time.Duration{0}, delivery.Failing, delivery.Verdict{Cause: delivery.Unavailable}, true},
		"Retry-After within it":   {[]segment.Result{after(throttled, 3*s)}, 2, 0, delivery.DeliverOptions{}, []time.Duration{0, 3 * s}, delivery.Accepted, delivery.Verdict{}, false},
		"Retry-After uses it up":  {[]segment.Result{after(throttled, 3*s), after(throttled, 3*s)}, 2, 0, delivery.DeliverOptions{}, []time.Duration{0, 3 * s}, delivery.Failing, delivery.Verdict{Cause: delivery.Throttled, RetryAfter: 3 * s}, false},
		"Retry-After beyond it":   {[]segment.Result{after(throttled, 60*s)}, 2, 0, delivery.DeliverOptions{}, []time.Duration{0}, delivery.Failing, delivery.Verdict{Cause: delivery.Throttled, RetryAfter: 60 * s}, false},
		"down with a Retry-After": {[]segment.Result{after(down, 60*s)}, 2, 0, delivery.DeliverOptions{}, []time.Duration{0}, delivery.Failing, delivery.Verdict{Cause: delivery.Unavailable, RetryAfter: 60 * s}, true},
		"throttled thrice":        {[]segment.Result{throttled, throttled, throttled}, 2, 0, delivery.DeliverOptions{}, []time.Duration{0, s / 2, 3 * s / 2}, delivery.Failing, delivery.Verdict{Cause: delivery.Throttled}, false},
		"a wrong key":             {[]segment.Result{forbidden, forbidden}, 2, 0, delivery.DeliverOptions{}, []time.Duration{0, s / 2}, delivery.Failing, delivery.Verdict{Cause: delivery.Misconfigured}, false},
		"a wrong key after 5xx":   {[]segment.Result{down, forbidden, forbidden}, 1, 0, delivery.DeliverOptions{}, []time.Duration{0, s / 2, 3 * s / 2}, delivery.Failing, delivery.Verdict{Cause: delivery.Misconfigured}, true},
		"a probe, taken":          {nil, 1, 0, delivery.DeliverOptions{Probe: true}, []time.Duration{0}, delivery.Accepted, delivery.Verdict{}, false},
		"a probe, down":           {[]segment.Result{down}, 1, 0, delivery.DeliverOptions{Probe: true}, []time.Duration{0}, delivery.Failing, delivery.Verdict{Cause: delivery.Unavailable}, true},
		"a probe, wrong key":      {[]segment.Result{forbidden}, 1, 0, delivery.DeliverOptions{Probe: true}, []time.Duration{0}, delivery.Failing, delivery.Verdict{Cause: delivery.Misconfigured}, false},
		"a probe, refused":        {[]segment.Result{refused}, 1, 0, delivery.DeliverOptions{Probe: true}, []time.Duration{0}, delivery.Rejected, delivery.Verdict{}, false},
		"a wide probe, refused":   {[]segment.Result{refused}, 2, 0, delivery.DeliverOptions{Probe: true}, []time.Duration{0}, delivery.Failing, delivery.Verdict{Cause: delivery.Refusing}, false},
		"a wide probe, down":      {[]segment.Result{down}, 2, 0, delivery.DeliverOptions{Probe: true}, []time.Duration{0}, delivery.Failing, delivery.Verdict{Cause: delivery.Unavailable}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{answer: script(tt.answers...), took: tt.took}
				d := newDeliverer(t, delivery.Options{Sender: r})
				reports, verdict := d.Deliver(t.Context(), ofAcme, parts(tt.parts), tt.options)
				if diff := cmp.Diff(tt.at, r.at); diff != "" {
					t.Errorf("times of the requests (-want +got):\n%s", diff)
				}
				if verdict != tt.verdict {
					t.Errorf("verdict %+v, want %+v", verdict, tt.verdict)
				}
				for i, got := range reports {
					want := delivery.Report{Outcome: tt.outcome, Attempts: len(tt.at), Last: ok, Unknown: tt.unknown}
					if len(tt.at) <= len(tt.answers) {
						want.Last = tt.answers[len(tt.at)-1]
					}
					if got != want {
						t.Errorf("report of part %d is %+v, want %+v", i, got, want)
					}
				}
				for _, ids := range r.got {
					if !slices.Equal(ids, []string{"0", "1", "2"}[:tt.parts]) {
						t.Errorf("a request had %v, want the same calls in the same order", ids)
					}
				}
			})
		})
	}
}

func TestPauseInTheLaneIsARandomPartOfItsCeiling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		draws := []float64{0.5, 0.25}
		r := &receiver{answer: always(unreachable)}
		d := newDeliverer(t, delivery.Options{Sender: r, MinBackoff: time.Second, Rand: func() float64 {
			draw := draws[0]
			draws = draws[1:]
			return draw
		}})
		d.Deliver(t.Context(), ofAcme, parts(1), delivery.DeliverOptions{})
		if diff := cmp.Diff([]time.Duration{0, time.Second / 2, time.Second}, r.at); diff != "" {
			t.Errorf("times of the attempts (-want +got):\n%s", diff)
		}
	})
}

func TestEveryAttemptAsksForTheTenantAsItIsThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		r.answer = func(request int, _ []string) segment.Result {
			if r.keys[request] == "new" {
				return ok
			}
			return forbidden
		}
		d := newDeliverer(t, delivery.Options{Sender: r})
		key := setting[string]{value: "old"}
		source := func() *tenant.Tenant { return &tenant.Tenant{ID: "acme", WriteKey: tenant.NewSecret(key.get())} }
		time.AfterFunc(time.Second/4, func() { key.set("new") })
		reports, verdict := d.Deliver(t.Context(), source, parts(3), delivery.DeliverOptions{})
		if !slices.Equal(outcomes(reports), all(delivery.Accepted, 3)) || verdict != (delivery.Verdict{}) {
			t.Errorf("%v, %+v, want all accepted with the new key", outcomes(reports), verdict)
		}
		if want := []string{"old", "new"}; !slices.Equal(r.keys, want) {
			t.Errorf("keys %v, want %v", r.keys, want)
		}
	})
}

// A tenant that is paused before or between attempts, or while it waits for its
// pace, is sent nothing any more.
func TestPausedTenantIsSaidToBeAtOnce(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		at       time.Duration
		pace     time.Duration
		requests int
	}{
		"before":        {0, 0, 0},
		"in a pause":    {time.Second / 4, 0, 1},
		"at its pace":   {time.Second, time.Minute, 0},
		"never, at all": {time.Hour, 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{answer: always(throttled)}
				d := newDeliverer(t, delivery.Options{Sender: r, Pace: func(context.Context, *tenant.Tenant, int, bool) error {
					time.Sleep(tt.pace)
					return nil
				}})
				started := time.Now()
				reports, verdict := d.Deliver(t.Context(), func() *tenant.Tenant {
					return &tenant.Tenant{ID: "acme", Paused: time.Since(started) >= tt.at}
				}, parts(2), delivery.DeliverOptions{})
				want := delivery.Verdict{Cause: delivery.Paused}
				if tt.requests == 3 {
					want.Cause = delivery.Throttled
				}
				if verdict != want || !slices.Equal(outcomes(reports), all(delivery.Failing, 2)) {
					t.Errorf("%v, %+v, want both failing and %+v", outcomes(reports), verdict, want)
				}
				if len(r.got) != tt.requests {
					t.Errorf("%d requests, want %d", len(r.got), tt.requests)
				}
			})
		})
	}
}

// What is to be forgotten by the time at which it would be sent is not: who asked for it
// is to leave it out, and hears so at once, however long it has waited.
func TestWhatIsToBeForgottenIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		at       time.Duration
		pace     time.Duration
		requests int
	}{
		"before":        {0, 0, 0},
		"in a pause":    {time.Second / 4, 0, 1},
		"at its pace":   {time.Second, time.Minute, 0},
		"never, at all": {time.Hour, 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{answer: always(unreachable)}
				d := newDeliverer(t, delivery.Options{Sender: r, Pace: func(context.Context, *tenant.Tenant, int, bool) error {
					time.Sleep(tt.pace)
					return nil
				}})
				started := time.Now()
				forgetful := &tenant.Tenant{ID: "acme", Rules: attribution.Rules{Forgotten: map[string]struct{}{"ann": {}}}}
				source := func() *tenant.Tenant {
					if time.Since(started) >= tt.at {
						return forgetful
					}
					return &tenant.Tenant{ID: "acme"}
				}
				sent := parts(2)
				sent[1][0].UserID = "ann"
				reports, verdict := d.Deliver(t.Context(), source, sent, delivery.DeliverOptions{})
				want, cause := delivery.Abandoned, delivery.Cause("")
				if tt.requests == 3 {
					want, cause = delivery.Failing, delivery.Unavailable
				}
				if verdict.Cause != cause || !slices.Equal(outcomes(reports), all(want, 2)) {
					t.Errorf("%v, %+v, want both %v and %q", outcomes(reports), verdict, want, cause)
				}
				if len(r.got) != tt.requests {
					t.Errorf("%d requests, want %d", len(r.got), tt.requests)
				}
			})
		})
	}
}

// Nor does it travel with a request that was let go after the change.
func TestWhatIsToBeForgottenJoinsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(ok)}
		d := newDeliverer(t, delivery.Options{
			Sender: r,
			Pace: func(_ context.Context, _ *tenant.Tenant, calls int, _ bool) error {
				if calls == 2 { // the other overtakes it there
					time.Sleep(10 * time.Second)
				}
				return nil
			},
			Gate: func(context.Context) error {
				time.Sleep(10 * time.Second)
				return nil
			},
		})
		began := time.Now()
		plain := &tenant.Tenant{ID: "acme"}
		forgetful := &tenant.Tenant{ID: "acme", Rules: attribution.Rules{Forgotten: map[string]struct{}{"ann": {}}}}
		source := func() *tenant.Tenant {
			if time.Since(began) >= 5*time.Second {
				return forgetful
			}
			return plain
		}
		waits, other := parts(2), parts(1)
		waits[1][0].UserID = "ann"
		var both sync.WaitGroup
		both.Go(func() {
			if reports, _ := d.Deliver(t.Context(), source, waits, delivery.DeliverOptions{}); !slices.Equal(outcomes(reports), all(delivery.Abandoned, 2)) {
				t.Errorf("%v, want both abandoned", outcomes(reports))
			}
		})
		both.Go(func() {
			time.Sleep(6 * time.Second)
			if reports, _ := d.Deliver(t.Context(), source, other, delivery.DeliverOptions{}); !slices.Equal(outcomes(reports), all(delivery.Accepted, 1)) {
				t.Errorf("%v, want the other accepted", outcomes(reports))
			}
		})
		both.Wait()
		if len(r.got) != 1 || len(r.got[0]) != 1 {
			t.Errorf("sent %v, want the other alone", r.got)
		}
	})
}

func TestWaitsForPaceAndSlotAreNotOfTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(unreachable)}
		var asked []int
		d := newDeliverer(t, delivery.Options{Sender: r, Pace: func(_ context.Context, _ *tenant.Tenant, calls int, catchUp bool) error {
			if !catchUp {
				t.Error("the pace was not told of the catch-up")
			}
			asked = append(asked, calls)
			time.Sleep(time.Minute)
			return nil
		}})
		_, verdict := d.Deliver(t.Context(), ofAcme, parts(4), delivery.DeliverOptions{CatchUp: true})
		if verdict.Cause != delivery.Unavailable || len(r.got) != 3 {
			t.Errorf("%+v after %d requests, want 3 whatever the waits", verdict, len(r.got))
		}
		if diff := cmp.Diff([]int{4, 4, 4}, asked); diff != "" {
			t.Errorf("calls the pace was asked for (-want +got):\n%s", diff)
		}
	})
}

func TestShutGateAbandonsAndNothingIsSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(down)}
		shut := false
		gate := func(context.Context) error {
			if shut {
				return errors.New("the lease is over")
			}
			shut = true
			return nil
		}
		d := newDeliverer(t, delivery.Options{Sender: r, Gate: gate})
		reports, verdict := d.Deliver(t.Context(), ofAcme, parts(2), delivery.DeliverOptions{})
		want := delivery.Report{Outcome: delivery.Abandoned, Attempts: 1, Last: down, Unknown: true}
		if diff := cmp.Diff([]delivery.Report{want, want}, reports); diff != "" || verdict != (delivery.Verdict{}) {
			t.Errorf("verdict %+v, reports (-want +got):\n%s", verdict, diff)
		}
		if len(r.got) != 1 {
			t.Errorf("%d requests, want the one before the gate was shut", len(r.got))
		}
	})
}

func TestEndOfTheContextAbandons(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		receiver *receiver
		pace     bool
		unknown  bool
	}{
		"in a pause":  {&receiver{answer: always(down)}, false, true},
		"in flight":   {&receiver{answer: always(ok), took: time.Hour}, false, false},
		"at its pace": {&receiver{answer: always(ok)}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				told := 0
				d := newDeliverer(t, delivery.Options{
					Sender: tt.receiver, MinBackoff: 4 * time.Second,
					Notify: func(delivery.Attempt) { told++ },
					Pace: func(ctx context.Context, _ *tenant.Tenant, _ int, _ bool) error {
						if tt.pace {
							<-ctx.Done()
						}
						return ctx.Err()
					},
				})
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				started := time.Now()
				reports, verdict := d.Deliver(ctx, ofAcme, parts(2), delivery.DeliverOptions{})
				if verdict != (delivery.Verdict{}) || !slices.Equal(outcomes(reports), all(delivery.Abandoned, 2)) {
					t.Errorf("%v, %+v, want both abandoned and no verdict", outcomes(reports), verdict)
				}
				if took := time.Since(started); took != 3*time.Second {
					t.Errorf("it took %v, want to end with the context", took)
				}
				if reports[0].Unknown != tt.unknown {
					t.Errorf("unknown is %v, want %v", reports[0].Unknown, tt.unknown)
				}
				if told != len(tt.receiver.got) {
					t.Errorf("Notify was told of %d attempts, want all %d", told, len(tt.receiver.got))
				}
			})
		})
	}
}

// What one lane was told, all lanes of the tenant heed, and a later call too.
func TestNoRequestBeforeTheReceiversRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: script(after(throttled, 60*time.Second))}
		d := newDeliverer(t, delivery.Options{Sender: r})
		deliver := func(want delivery.Verdict, o delivery.DeliverOptions) {
			t.Helper()
			if _, got := d.Deliver(t.Context(), ofAcme, parts(1), o); got != want {
				t.Errorf("verdict %+v, want %+v", got, want)
			}
		}
		deliver(delivery.Verdict{Cause: delivery.Throttled, RetryAfter: 60 * time.Second}, delivery.DeliverOptions{})
		time.Sleep(20 * time.Second)
		deliver(delivery.Verdict{Cause: delivery.Throttled, RetryAfter: 40 * time.Second}, delivery.DeliverOptions{})
		time.Sleep(37 * time.Second)
		deliver(delivery.Verdict{Cause: delivery.Throttled, RetryAfter: 3 * time.Second}, delivery.DeliverOptions{Probe: true})
		if len(r.got) != 1 {
			t.Errorf("%d requests within the minute, want 1", len(r.got))
		}
		deliver(delivery.Verdict{}, delivery.DeliverOptions{})
		if diff := cmp.Diff([]time.Duration{0, 60 * time.Second}, r.at); diff != "" {
			t.Errorf("times of the requests (-want +got):\n%s", diff)
		}
	})
}
