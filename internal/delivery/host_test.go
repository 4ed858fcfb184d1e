package delivery_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/delivery"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

func source(t *tenant.Tenant) delivery.Source { return func() *tenant.Tenant { return t } }

// named is a tenant with that endpoint, whose write key is its id.
func named(id, endpoint string) delivery.Source {
	return source(&tenant.Tenant{ID: tenant.ID(id), Endpoint: endpoint, WriteKey: tenant.NewSecret(id)})
}

// hosts is a Sender whose answer depends on the tenant, by its write key.
type hosts struct {
	answer func(id string) segment.Result
	took   time.Duration

	mu   sync.Mutex
	at   map[string][]time.Time // of each tenant's requests
	sent []string               // tenants, one for each request
	busy int
	most int // requests at once
}

func (h *hosts) Send(ctx context.Context, to segment.Target, _ []attribution.Call) segment.Result {
	id := to.WriteKey.Reveal()
	h.mu.Lock()
	if h.at == nil {
		h.at = make(map[string][]time.Time)
	}
	h.at[id] = append(h.at[id], time.Now())
	h.sent = append(h.sent, id)
	h.busy++
	h.most = max(h.most, h.busy)
	h.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(h.took):
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy--
	if ctx.Err() != nil {
		return segment.Result{Class: segment.Canceled}
	}
	return h.answer(id)
}

// requests is how many were made so far.
func (h *hosts) requests() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.sent)
}

// setting is a value that a test changes while calls are under way.
type setting[T any] struct {
	mu    sync.Mutex
	value T
}

func (s *setting[T]) get() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value
}

func (s *setting[T]) set(value T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value = value
}

const aHost = "https://a.test/some/path"

// changes writes down what NotifyHost is told.
type changes struct {
	mu   sync.Mutex
	told []delivery.HostChange
}

func (c *changes) notify(change delivery.HostChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, change)
}

// states are the openings and closings told of, such as "open a.test".
func (c *changes) states() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var s []string
	for _, change := range c.told {
		word := "close "
		if change.Open {
			word = "open "
		}
		s = append(s, word+change.Host)
	}
	return s
}

// ending is how a call ended.
type ending struct {
	outcome delivery.Outcome
	verdict delivery.Verdict
}

// callAll begins a call of one part for each tenant, the next a millisecond after
// the one before, and returns how they ended.
func callAll(ctx context.Context, d *delivery.Deliverer, n int, of func(int) delivery.Source) func() []ending {
	ends := make([]ending, n)
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() {
			time.Sleep(time.Duration(i) * time.Millisecond)
			reports, verdict := d.Deliver(ctx, of(i), parts(1), delivery.DeliverOptions{})
			ends[i] = ending{reports[0].Outcome, verdict}
		})
	}
	return func() []ending { calls.Wait(); return ends }
}

func ofHost(endpoint string) func(int) delivery.Source {
	return func(i int) delivery.Source { return named(fmt.Sprintf("t%03d", i), endpoint) }
}

func TestBreakerKeepsTenantsOfADeadHostFromBeingSuspended(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		h, told := &hosts{}, &changes{}
		h.answer = func(string) segment.Result {
			if time.Since(begun) < time.Hour {
				return unreachable
			}
			return ok
		}
		d := newDeliverer(t, delivery.Options{Sender: h, NotifyHost: told.notify})
		wait := callAll(t.Context(), d, 200, ofHost(aHost))
		time.Sleep(time.Second)
		if got := told.states(); !slices.Equal(got, []string{"open a.test"}) || told.told[0].Failing != 20 || told.told[0].Active != 20 {
			t.Errorf("told %+v, want the breaker open after 20 tenants", told.told)
		}
		if got := h.requests(); got != 200 {
			t.Errorf("%d requests, want the first one of each of 200 tenants", got)
		}
		time.Sleep(59*time.Minute - time.Second)
		// 1, 2, 4, 8, 16 and then 30 seconds apart.
		if got := h.requests() - 200; got < 110 || got > 130 {
			t.Errorf("%d requests in an hour, want one in 30 s", got)
		}
		probes := map[string]int{}
		h.mu.Lock()
		sent := h.sent[200:]
		h.mu.Unlock()
		for _, id := range sent {
			if probes[id]++; probes[id] > 1 {
				t.Errorf("%s was let through again before all had their turn", id)
			}
		}
		for i, end := range wait() {
			if end != (ending{delivery.Accepted, delivery.Verdict{}}) {
				t.Errorf("tenant %d: %+v, want accepted and no verdict", i, end)
			}
		}
		if took := time.Since(begun); took > time.Hour+31*time.Second {
			t.Errorf("all were delivered after %v, want at most 30 s after the hour", took)
		}
		if got := told.states(); !slices.Equal(got, []string{"open a.test", "close a.test"}) {
			t.Errorf("told %v, want open, close", got)
		}
	})
}

func TestProbesOfAHostComeOneAtATimeOnABackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &hosts{answer: func(string) segment.Result { return hanging }}
		d := newDeliverer(t, delivery.Options{Sender: h})
		ctx, cancel := context.WithCancel(t.Context())
		wait := callAll(ctx, d, 30, ofHost(aHost))
		time.Sleep(100 * time.Millisecond)
		h.mu.Lock()
		h.most, h.took = 0, 9*time.Second
		first := len(h.sent)
		h.mu.Unlock()
		time.Sleep(5 * time.Minute)
		cancel()
		for i, end := range wait() {
			if end.outcome != delivery.Abandoned || end.verdict != (delivery.Verdict{}) {
				t.Errorf("tenant %d: %+v, want abandoned with the context", i, end)
			}
		}
		if h.most != 1 {
			t.Errorf("%d probes at once, want 1", h.most)
		}
		var gaps []time.Duration
		var last time.Time
		for _, id := range h.sent[first:] {
			at := h.at[id][1]
			if !last.IsZero() {
				gaps = append(gaps, at.Sub(last)-h.took)
			}
			last = at
		}
		const s = time.Second
		want := []time.Duration{2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s, 30 * s}
		if len(gaps) < len(want) || !slices.Equal(gaps[:len(want)], want) {
			t.Errorf("pauses between probes %v, want %v", gaps, want)
		}
	})
}

// A host is down only if most of its tenants that were sent something lately say
// so, and a good many of them; and only by failures that a host can have.
func TestBreakerOpensForCorrelatedFailuresAlone(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer  segment.Result
		healthy int
		failing int
		between time.Duration // the healthy and the failing
		host    func(i int) string
		open    bool
	}{
		"twenty fail":          {unreachable, 0, 20, 0, nil, true},
		"nineteen fail":        {unreachable, 0, 19, 0, nil, false},
		"half fail":            {down, 30, 30, 0, nil, false},
		"more than half fail":  {down, 30, 31, 0, nil, true},
		"the others are quiet": {down, 30, 20, 11 * time.Second, nil, true},
		"on other hosts each":  {down, 0, 30, 0, func(i int) string { return fmt.Sprintf("http://h%d.test", i) }, false},
		"wrong keys":           {forbidden, 0, 30, 0, nil, false},
		"throttled":            {throttled, 0, 30, 0, nil, false},
		"refused":              {refused, 0, 30, 0, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h, told := &hosts{}, &changes{}
				h.answer = func(id string) segment.Result {
					if strings.HasPrefix(id, "healthy") {
						return ok
					}
					return tt.answer
				}
				d := newDeliverer(t, delivery.Options{Sender: h, NotifyHost: told.notify})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				callAll(ctx, d, tt.healthy, func(i int) delivery.Source { return named(fmt.Sprint("healthy", i), aHost) })()
				time.Sleep(tt.between)
				ends := callAll(ctx, d, tt.failing, func(i int) delivery.Source {
					if tt.host != nil {
						return named(fmt.Sprint(i), tt.host(i))
					}
					return named(fmt.Sprint(i), aHost)
				})()
				if open := slices.Contains(told.states(), "open a.test"); open != tt.open {
					t.Errorf("the breaker opened: %v, want %v", open, tt.open)
				}
				for i, end := range ends {
					if held := end.outcome == delivery.Abandoned; held != tt.open {
						t.Errorf("tenant %d: %+v, want held %v", i, end, tt.open)
					}
				}
			})
		})
	}
}

func TestTenantWhoseLastRequestPassedIsNotHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, told := &hosts{}, &changes{}
		h.answer = func(id string) segment.Result {
			if strings.HasPrefix(id, "healthy") {
				return ok
			}
			return down
		}
		d := newDeliverer(t, delivery.Options{Sender: h, NotifyHost: told.notify})
		ctx, cancel := context.WithCancel(t.Context())
		wait := callAll(ctx, d, 30, ofHost(aHost))
		time.Sleep(time.Second)
		for range 100 {
			_, verdict := d.Deliver(ctx, named("healthy", aHost), parts(5), delivery.DeliverOptions{})
			if verdict != (delivery.Verdict{}) {
				t.Errorf("verdict %+v on a tenant that passes", verdict)
			}
		}
		// Not held either: a tenant that had no request yet. It is from then on.
		reports, verdict := d.Deliver(ctx, named("another", aHost), parts(1), delivery.DeliverOptions{Probe: true})
		if reports[0].Attempts != 1 || verdict.Cause != delivery.Unavailable {
			t.Errorf("%+v, %+v, want one attempt", reports[0], verdict)
		}
		if got := told.states(); !slices.Equal(got, []string{"open a.test"}) {
			t.Errorf("told %v, want it to be open still", got)
		}
		cancel()
		wait()
	})
}

// An answer that judges what was sent, or that is slow in coming, closes the
// breaker too, whichever call gets it; a wrong key does not.
func TestWhatClosesTheBreaker(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer segment.Result
		closes bool
	}{
		"accepted":  {ok, true},
		"refused":   {refused, true},
		"wrong key": {forbidden, false},
		"throttled": {throttled, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h, told := &hosts{}, &changes{}
				answer := setting[segment.Result]{value: down}
				h.answer = func(string) segment.Result { return answer.get() }
				d := newDeliverer(t, delivery.Options{Sender: h, NotifyHost: told.notify})
				ctx, cancel := context.WithCancel(t.Context())
				wait := callAll(ctx, d, 30, ofHost(aHost))
				time.Sleep(900 * time.Millisecond)
				answer.set(tt.answer)
				time.Sleep(time.Second) // one probe
				if closed := len(told.states()) == 2; closed != tt.closes {
					t.Errorf("told %v, want closed %v", told.states(), tt.closes)
				}
				cancel()
				wait()
			})
		})
	}
}

func TestBreakerOpensAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, told := &hosts{}, &changes{}
		passes := 0
		h.answer = func(string) segment.Result { // under the lock of h
			if passes > 0 {
				passes--
				return ok
			}
			return down
		}
		pass := func(n int) {
			h.mu.Lock()
			defer h.mu.Unlock()
			passes = n
		}
		d := newDeliverer(t, delivery.Options{Sender: h, NotifyHost: told.notify})
		ctx, cancel := context.WithCancel(t.Context())
		wait := callAll(ctx, d, 40, ofHost(aHost))
		time.Sleep(900 * time.Millisecond)
		pass(1)
		time.Sleep(10 * time.Second)
		if got := told.states(); !slices.Equal(got, []string{"open a.test", "close a.test", "open a.test"}) {
			t.Errorf("told %v, want open, close, open", got)
		}
		pass(1e6)
		time.Sleep(30 * time.Second)
		cancel()
		suspended := 0
		for _, end := range wait() {
			if end.outcome != delivery.Accepted {
				suspended++
			}
		}
		if suspended >= delivery.DefaultMinHostFailures {
			t.Errorf("%d tenants were suspended, want less than it takes to open the breaker", suspended)
		}
	})
}

func TestHeldTenantThatIsPausedOrMovedIsNotHeldAnyMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &hosts{answer: func(id string) segment.Result {
			if id == "moved" {
				return ok
			}
			return down
		}}
		d := newDeliverer(t, delivery.Options{Sender: h})
		ctx, cancel := context.WithCancel(t.Context())
		wait := callAll(ctx, d, 30, ofHost(aHost))
		time.Sleep(time.Second / 2)
		paused := &tenant.Tenant{ID: "paused", Endpoint: aHost}
		moved := &tenant.Tenant{ID: "moved", Endpoint: aHost, WriteKey: tenant.NewSecret("moves")}
		now := []*setting[*tenant.Tenant]{{value: paused}, {value: moved}}
		ends := callAll(ctx, d, 2, func(i int) delivery.Source { return now[i].get })
		time.Sleep(time.Minute)
		now[0].set(&tenant.Tenant{ID: "paused", Endpoint: aHost, Paused: true})
		now[1].set(&tenant.Tenant{ID: "moved", Endpoint: "https://b.test", WriteKey: tenant.NewSecret("moved")})
		begun := time.Now()
		got := ends()
		want := []ending{{delivery.Failing, delivery.Verdict{Cause: delivery.Paused}}, {delivery.Accepted, delivery.Verdict{}}}
		if !slices.Equal(got, want) {
			t.Errorf("paused and moved ended %+v, want %+v", got, want)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("it took %v to see the change, want 10s at most", took)
		}
		cancel()
		wait()
	})
}

// A probe that is not made, for its context ended or its tenant was paused, does
// not use up the turn.
func TestProbeThatIsNotMadeIsTheNextOnes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answer := setting[segment.Result]{value: down}
		h := &hosts{answer: func(string) segment.Result { return answer.get() }}
		var shut setting[bool] // for the first one
		d := newDeliverer(t, delivery.Options{Sender: h, Pace: func(ctx context.Context, of *tenant.Tenant, _ int, _ bool) error {
			if of.ID == "t000" && shut.get() {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}})
		first, cancel := context.WithCancel(t.Context())
		one := callAll(first, d, 1, ofHost(aHost))
		time.Sleep(time.Millisecond / 2)
		others := callAll(t.Context(), d, 29, func(i int) delivery.Source { return named(fmt.Sprint("other", i), aHost) })
		time.Sleep(500 * time.Millisecond)
		shut.set(true)
		time.Sleep(time.Minute) // the first one's turn has come, and it waits for its pace
		if got := h.requests(); got != 30 {
			t.Errorf("%d requests, want none while one is let through", got)
		}
		answer.set(ok)
		begun := time.Now()
		cancel()
		if got := one()[0]; got.outcome != delivery.Abandoned {
			t.Errorf("the first one ended %+v, want abandoned", got)
		}
		for i, end := range others() {
			if end.outcome != delivery.Accepted {
				t.Errorf("tenant %d: %+v, want accepted", i, end)
			}
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("the next one came after %v, want it at once", took)
		}
	})
}

// A host that says when to come back is not asked before, and is no reason to
// suspend its tenants one by one.
func TestHostDownWithARetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &hosts{}
		begun := time.Now()
		h.answer = func(string) segment.Result {
			if time.Since(begun) < 2*time.Minute {
				return after(down, time.Minute)
			}
			return ok
		}
		d := newDeliverer(t, delivery.Options{Sender: h})
		ends := callAll(t.Context(), d, 100, ofHost(aHost))()
		suspended := 0
		for i, end := range ends {
			switch {
			case end.verdict.Cause == delivery.Unavailable && i < 20:
				suspended++ // before it was known of the host
			case end.outcome != delivery.Accepted:
				t.Errorf("tenant %d: %+v, want accepted", i, end)
			}
		}
		for id, at := range h.at {
			for i := 1; i < len(at); i++ {
				if at[i].Sub(at[i-1]) < time.Minute {
					t.Errorf("%s was sent requests %v apart, want a minute", id, at[i].Sub(at[i-1]))
				}
			}
		}
	})
}

// A host that has recovered begins anew: neither what its tenants met before nor
// the length of the outage before counts.
func TestHostThatHasRecoveredBeginsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answer := setting[segment.Result]{value: down}
		h, told := &hosts{answer: func(string) segment.Result { return answer.get() }}, &changes{}
		d := newDeliverer(t, delivery.Options{Sender: h, NotifyHost: told.notify})
		outage := func(lasts time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), lasts)
			defer cancel()
			callAll(ctx, d, 30, ofHost(aHost))()
		}
		one := func(id string) delivery.Verdict {
			_, verdict := d.Deliver(t.Context(), named(id, aHost), parts(1), delivery.DeliverOptions{})
			return verdict
		}
		outage(8 * time.Second) // probes after 1, 3 and 7 s; the next would be after 15
		time.Sleep(8 * time.Second)
		for i := range 30 { // other tenants keep the host in mind, and fail as well
			d.Deliver(t.Context(), named(fmt.Sprint("other", i), aHost), parts(1), delivery.DeliverOptions{Probe: true})
		}
		answer.set(ok)
		// None waited when it was time for a probe: this call is one at once.
		if verdict := one("t001"); verdict != (delivery.Verdict{}) {
			t.Errorf("verdict %+v, want it accepted", verdict)
		}
		if got := told.states(); !slices.Equal(got, []string{"open a.test", "close a.test"}) {
			t.Errorf("told %v, want open, close", got)
		}
		answer.set(down)
		if verdict := one("t002"); verdict.Cause != delivery.Unavailable {
			t.Errorf("verdict %+v, want unavailable: one tenant that fails is no outage", verdict)
		}
		if got := told.states(); len(got) != 2 {
			t.Errorf("told %v, want it closed still", got)
		}
		time.Sleep(20 * time.Second)
		before := h.requests()
		outage(1500 * time.Millisecond)
		if got := h.requests() - before; got != 31 {
			t.Errorf("%d requests in the first 1.5 s of an outage, want 30 and a probe after 1 s", got)
		}
	})
}

// What was accepted before the host failed is not sent again when it is back.
func TestCallThatWaitedForItsHostSendsOnlyWhatIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		r := &receiver{}
		r.answer = func(request int, ids []string) segment.Result {
			switch {
			case ids[0] == "x", time.Since(begun) >= time.Minute:
				return unreachable
			case request == 0:
				return refused
			case ids[0] == "0":
				return ok
			}
			return unreachable
		}
		var back setting[bool]
		sender := senderFunc(func(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
			if back.get() {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.got = append(r.got, messageIDs(calls))
				return ok
			}
			return r.Send(ctx, to, calls)
		})
		d := newDeliverer(t, delivery.Options{Sender: sender, MinHostFailures: 1})
		time.AfterFunc(30*time.Second, func() { back.set(true) })
		got, verdict := deliver(t, d, parts(4))
		if !slices.Equal(got, all(delivery.Accepted, 4)) || verdict != (delivery.Verdict{}) {
			t.Errorf("%v, %+v, want all accepted", got, verdict)
		}
		sent := 0
		for _, ids := range r.got[2:] { // all, the half that was accepted, then the rest
			if slices.Contains(ids, "0") || slices.Contains(ids, "1") {
				t.Errorf("request with %v after these were accepted", ids)
			}
			sent++
		}
		if sent < 2 {
			t.Errorf("%d requests after the first half was accepted", sent)
		}
	})
}

// senderFunc is a function as a Sender.
type senderFunc func(context.Context, segment.Target, []attribution.Call) segment.Result

func (f senderFunc) Send(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
	return f(ctx, to, calls)
}

func messageIDs(calls []attribution.Call) []string {
	ids := make([]string, len(calls))
	for i, c := range calls {
		ids[i] = c.MessageID
	}
	return ids
}

// A tenant that is kept because it was refused last, and has been sent nothing for
// long, is one of no host.
func TestHostOfATenantThatIsSentNothingIsNotDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDeliverer(t, delivery.Options{Sender: &receiver{answer: always(refused)}})
		d.Deliver(t.Context(), ofAcme, parts(1), delivery.DeliverOptions{})
		time.Sleep(time.Hour)
		d.Deliver(t.Context(), named("other", "http://receiver.invalid"), parts(1), delivery.DeliverOptions{})
		if id := ofAcme().ID; d.HostIsDown(id) {
			t.Errorf("the host of %s is said to be down", id)
		}
	})
}
