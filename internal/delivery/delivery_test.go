package delivery_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"refinersource/internal/attribution"
	"refinersource/internal/delivery"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a Sender that follows a script and writes down what it got.
type receiver struct {
	mu     sync.Mutex
	got    [][]string // message ids of each request
	at     []time.Duration
	keys   []string
	busy   int
	most   int
	begun  time.Time
	answer func(request int, ids []string) segment.Result
	took   time.Duration
}

func (r *receiver) Send(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
	r.mu.Lock()
	if r.begun.IsZero() {
		r.begun = time.Now()
	}
	ids := make([]string, len(calls))
	for i, c := range calls {
		ids[i] = c.MessageID
	}
	request := len(r.got)
	r.got, r.at, r.keys = append(r.got, ids), append(r.at, time.Since(r.begun)), append(r.keys, to.WriteKey.Reveal())
	r.busy++
	r.most = max(r.most, r.busy)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.busy--
		r.mu.Unlock()
	}()
	select {
	case <-ctx.Done():
		return segment.Result{Class: segment.Canceled, Err: ctx.Err()}
	case <-time.After(r.took):
	}
	return r.answer(request, ids)
}

// script answers with one result after another, and with Accepted after the last.
func script(results ...segment.Result) func(int, []string) segment.Result {
	return func(request int, _ []string) segment.Result {
		if request < len(results) {
			return results[request]
		}
		return segment.Result{Class: segment.Accepted, Status: 200}
	}
}

var acme = &tenant.Tenant{ID: "acme", Endpoint: "http://receiver.invalid", WriteKey: tenant.NewSecret("key-1")}

func ofAcme() *tenant.Tenant { return acme }

// parts makes n parts of one call each.
func parts(n int) [][]attribution.Call {
	p := make([][]attribution.Call, n)
	for i := range p {
		p[i] = []attribution.Call{{MessageID: fmt.Sprint(i)}}
	}
	return p
}

func newDeliverer(t *testing.T, o delivery.Options) *delivery.Deliverer {
	t.Helper()
	if o.Rand == nil {
		o.Rand = func() float64 { return 1 } // the whole ceiling: pauses are exact
	}
	d, err := delivery.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func outcomes(reports []delivery.Report) []delivery.Outcome {
	o := make([]delivery.Outcome, len(reports))
	for i, r := range reports {
		o[i] = r.Outcome
	}
	return o
}

func TestPausesDoubleUpToTheirCeilingAndHonourRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		busy := segment.Result{Class: segment.Transient, Status: 500}
		r := &receiver{answer: script(busy, busy, busy,
			segment.Result{Class: segment.Throttled, Status: 429, RetryAfter: 30 * time.Second},
			busy, busy)}
		d := newDeliverer(t, delivery.Options{Sender: r, MinBackoff: time.Second, MaxBackoff: 10 * time.Second})
		reports := d.Deliver(t.Context(), ofAcme, parts(2))
		want := []delivery.Report{
			{Outcome: delivery.Accepted, Attempts: 7, Last: segment.Result{Class: segment.Accepted, Status: 200}},
			{Outcome: delivery.Accepted, Attempts: 7, Last: segment.Result{Class: segment.Accepted, Status: 200}},
		}
		if d := cmp.Diff(want, reports); d != "" {
			t.Errorf("reports (-want +got):\n%s", d)
		}
		s := time.Second
		if d := cmp.Diff([]time.Duration{0, 1 * s, 3 * s, 7 * s, 37 * s, 47 * s, 57 * s}, r.at); d != "" {
			t.Errorf("times of the attempts (-want +got):\n%s", d)
		}
		for _, ids := range r.got {
			if !slices.Equal(ids, []string{"0", "1"}) {
				t.Errorf("a retry sent %v, want the same calls in the same order", ids)
			}
		}
	})
}

func TestPauseIsARandomPartOfTheCeiling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		busy := segment.Result{Class: segment.Transient}
		draws := []float64{0.5, 0, 0.25}
		r := &receiver{answer: script(busy, busy, busy)}
		d := newDeliverer(t, delivery.Options{Sender: r, MinBackoff: time.Second, Rand: func() float64 {
			draw := draws[0]
			draws = draws[1:]
			return draw
		}})
		d.Deliver(t.Context(), ofAcme, parts(1))
		if d := cmp.Diff([]time.Duration{0, time.Second / 2, time.Second / 2, 3 * time.Second / 2}, r.at); d != "" {
			t.Errorf("times of the attempts (-want +got):\n%s", d)
		}
	})
}

func TestBisectingFindsTheGuiltyPartAndDeliversTheOthers(t *testing.T) {
	t.Parallel()
	for class, outcome := range map[segment.Class]delivery.Outcome{
		segment.Refused: delivery.Rejected, segment.TooLarge: delivery.TooLarge, segment.Invalid: delivery.Invalid,
	} {
		for guilty := range 200 {
			accepted := []string{}
			r := &receiver{}
			r.answer = func(_ int, ids []string) segment.Result {
				if slices.Contains(ids, fmt.Sprint(guilty)) {
					return segment.Result{Class: class, Status: 400}
				}
				accepted = append(accepted, ids...)
				return segment.Result{Class: segment.Accepted}
			}
			d := newDeliverer(t, delivery.Options{Sender: r})
			got := outcomes(d.Deliver(t.Context(), ofAcme, parts(200)))
			want := slices.Repeat([]delivery.Outcome{delivery.Accepted}, 200)
			want[guilty] = outcome
			if !slices.Equal(got, want) {
				t.Fatalf("guilty %d: outcomes %v", guilty, got)
			}
			if len(r.got) > 18 {
				t.Errorf("guilty %d: %d requests, want at most 18", guilty, len(r.got))
			}
			others := []string{}
			for i := range 200 {
				if i != guilty {
					others = append(others, fmt.Sprint(i))
				}
			}
			if !slices.Equal(accepted, others) {
				t.Errorf("guilty %d: accepted %v, want the 199 others in order", guilty, accepted)
			}
		}
	}
}

func TestWrongConfigurationIsWaitedForAndTheNewKeyUsedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		key := "old"
		r.answer = func(request int, _ []string) segment.Result {
			if r.keys[request] == "new" {
				return segment.Result{Class: segment.Accepted}
			}
			if request == 50 {
				key = "new"
			}
			return segment.Result{Class: segment.Misconfigured, Status: 401}
		}
		d := newDeliverer(t, delivery.Options{Sender: r})
		got := outcomes(d.Deliver(t.Context(), func() *tenant.Tenant {
			return &tenant.Tenant{ID: "acme", WriteKey: tenant.NewSecret(key)}
		}, parts(3)))
		if !slices.Equal(got, slices.Repeat([]delivery.Outcome{delivery.Accepted}, 3)) {
			t.Errorf("outcomes %v, want all accepted: a wrong key must not burn the backlog", got)
		}
		if want := append(slices.Repeat([]string{"old"}, 51), "new"); !slices.Equal(r.keys, want) {
			t.Errorf("keys %v", r.keys)
		}
	})
}

func TestEndOfTheContextAbandonsInPauseAndInFlight(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*receiver{
		"in a pause": {answer: script(slices.Repeat([]segment.Result{{Class: segment.Transient}}, 1000)...)},
		"in flight":  {answer: script(), took: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var told int
				d := newDeliverer(t, delivery.Options{Sender: r, Notify: func(delivery.Attempt) { told++ }})
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				started := time.Now()
				got := outcomes(d.Deliver(ctx, ofAcme, parts(2)))
				if !slices.Equal(got, []delivery.Outcome{delivery.Abandoned, delivery.Abandoned}) {
					t.Errorf("outcomes %v, want both abandoned", got)
				}
				if took := time.Since(started); took != 5*time.Minute {
					t.Errorf("it took %v, want to end with the context", took)
				}
				if told != len(r.got) {
					t.Errorf("Notify was told of %d attempts, want all %d", told, len(r.got))
				}
			})
		})
	}
}

func TestSlotsBoundTheAttemptsAndAPauseTakesNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{took: time.Second}
		r.answer = func(_ int, ids []string) segment.Result {
			if ids[0] == "down" {
				return segment.Result{Class: segment.Transient}
			}
			return segment.Result{Class: segment.Accepted}
		}
		d := newDeliverer(t, delivery.Options{Sender: r, Slots: 2, MinBackoff: time.Hour, MaxBackoff: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		var down, up sync.WaitGroup
		for range 4 {
			down.Go(func() { d.Deliver(ctx, ofAcme, [][]attribution.Call{{{MessageID: "down"}}}) })
		}
		synctest.Wait()
		time.Sleep(10 * time.Second) // all four are in their pause of an hour
		started := time.Now()
		for range 10 {
			up.Go(func() { d.Deliver(ctx, ofAcme, parts(1)) })
		}
		up.Wait()
		if took := time.Since(started); took != 5*time.Second {
			t.Errorf("ten attempts of a second over two slots took %v, want 5s", took)
		}
		if r.most != 2 {
			t.Errorf("%d attempts at once, want 2", r.most)
		}
		cancel()
		down.Wait()
	})
}

func TestPausedTenantIsSentNothingUntilItGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: script()}
		d := newDeliverer(t, delivery.Options{Sender: r})
		started := time.Now()
		got := outcomes(d.Deliver(t.Context(), func() *tenant.Tenant {
			return &tenant.Tenant{ID: "acme", Paused: time.Since(started) < time.Hour}
		}, parts(1)))
		if !slices.Equal(got, []delivery.Outcome{delivery.Accepted}) || len(r.got) != 1 {
			t.Errorf("outcomes %v after %d requests, want one request after the pause", got, len(r.got))
		}
		if took := time.Since(started); took < time.Hour || took > time.Hour+delivery.DefaultMaxBackoff {
			t.Errorf("delivered after %v, want soon after an hour", took)
		}
	})
}

func TestOptionsAreValidated(t *testing.T) {
	t.Parallel()
	if _, err := delivery.New(delivery.Options{}); err == nil {
		t.Error("a Deliverer without a Sender was made")
	}
	if _, err := delivery.New(delivery.Options{Sender: &receiver{}, Slots: -1}); err == nil {
		t.Error("a Deliverer with negative slots was made")
	}
}
