package delivery_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/delivery"
	"refinersource/internal/segment"
)

// spoiled answers with r what holds one of the guilty, and accepts all else.
func spoiled(r segment.Result, guilty ...int) func(int, []string) segment.Result {
	return func(_ int, ids []string) segment.Result {
		for _, g := range guilty {
			if slices.Contains(ids, fmt.Sprint(g)) {
				return r
			}
		}
		return ok
	}
}

// partOf is one part with that message id.
func partOf(id string) [][]attribution.Call { return [][]attribution.Call{{{MessageID: id}}} }

// deliver is a call with no options.
func deliver(t *testing.T, d *delivery.Deliverer, p [][]attribution.Call) ([]delivery.Outcome, delivery.Verdict) {
	t.Helper()
	reports, verdict := d.Deliver(t.Context(), ofAcme, p, delivery.DeliverOptions{})
	return outcomes(reports), verdict
}

// acceptedIDs are the parts that r accepted, in order.
func (r *receiver) acceptedIDs(t *testing.T) []string {
	t.Helper()
	var accepted []string
	for i, ids := range r.got {
		if r.answer(i, ids).Class == segment.Accepted {
			accepted = append(accepted, ids...)
		}
	}
	return accepted
}

func TestOneGuiltyPartIsFoundAndTheOthersDelivered(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer  segment.Result
		outcome delivery.Outcome
		most    int // 1 + 2·⌈log₂ 200⌉, and one retry
		inOrder bool
	}{
		"refused":   {refused, delivery.Rejected, 17, true},
		"too large": {segment.Result{Class: segment.TooLarge, Status: 413}, delivery.TooLarge, 17, true},
		"invalid":   {segment.Result{Class: segment.Invalid}, delivery.Invalid, 17, true},
		"5xx":       {down, delivery.Failing, 18, false},
		"408":       {segment.Result{Class: segment.Transient, Status: 408}, delivery.Failing, 18, false},
		"cut off":   {hanging, delivery.Failing, 18, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for guilty := range 200 {
				synctest.Test(t, func(t *testing.T) {
					r := &receiver{answer: spoiled(tt.answer, guilty)}
					got, verdict := deliver(t, newDeliverer(t, delivery.Options{Sender: r}), parts(200))
					want := all(delivery.Accepted, 200)
					want[guilty] = tt.outcome
					if !slices.Equal(got, want) || verdict != (delivery.Verdict{}) {
						t.Fatalf("guilty %d: verdict %+v, outcomes %v", guilty, verdict, got)
					}
					if len(r.got) > tt.most {
						t.Errorf("guilty %d: %d requests, want at most %d", guilty, len(r.got), tt.most)
					}
					accepted := r.acceptedIDs(t)
					if len(accepted) != 199 {
						t.Errorf("guilty %d: %d parts were accepted, want each of the others once", guilty, len(accepted))
					}
					// A half that passes comes before the half that is looked into, unless
					// it is the first.
					if tt.inOrder && !slices.IsSortedFunc(accepted, func(a, b string) int { return len(a) - len(b) }) {
						t.Errorf("guilty %d: accepted %v, want them in order", guilty, accepted)
					}
				})
			}
		})
	}
}

func TestReceiverThatRefusesAllIsSuspendedAfterFewRequests(t *testing.T) {
	t.Parallel()
	for n, most := range map[int]int{1: 1, 2: 3, 3: 4, 200: 11, 2000: 14} {
		r := &receiver{answer: always(refused)}
		d := newDeliverer(t, delivery.Options{Sender: r})
		var got []delivery.Outcome
		var verdict delivery.Verdict
		dead := 0
		for range 10 {
			if got, verdict = deliver(t, d, parts(n)); verdict.Cause == delivery.Refusing {
				break
			}
			dead += len(got) // of one part
			r.got = nil
		}
		if verdict.Cause != delivery.Refusing || !slices.Equal(got, all(delivery.Failing, n)) {
			t.Errorf("%d parts: verdict %+v, outcomes %v, want refusing and all failing", n, verdict, got)
		}
		if dead > delivery.MaxRefusedInRow {
			t.Errorf("%d parts: %d were given up, want at most %d", n, dead, delivery.MaxRefusedInRow)
		}
		if len(r.got) > most {
			t.Errorf("%d parts: %d requests, want at most %d", n, len(r.got), most)
		}
	}
}

func TestMoreThanHalfRefusedIsTheReceiversFault(t *testing.T) {
	t.Parallel()
	f, a, r := delivery.Failing, delivery.Accepted, delivery.Rejected
	for name, tt := range map[string]struct {
		guilty []int
		want   []delivery.Outcome
		cause  delivery.Cause
	}{
		"1 of 2":          {[]int{1}, []delivery.Outcome{a, r}, ""},
		"2 of 2":          {[]int{0, 1}, []delivery.Outcome{f, f}, delivery.Refusing},
		"2 of 3":          {[]int{0, 2}, []delivery.Outcome{f, a, f}, delivery.Refusing},
		"2 of 4":          {[]int{0, 2}, []delivery.Outcome{r, a, r, a}, ""},
		"3 of 5 mixed":    {[]int{0, 2, 4}, []delivery.Outcome{f, a, f, a, f}, delivery.Refusing},
		"3 in a row of 8": {[]int{2, 3, 4}, []delivery.Outcome{a, a, f, f, f, f, f, f}, delivery.Refusing},
		"3 of 8 apart":    {[]int{1, 4, 6}, []delivery.Outcome{a, r, a, a, r, a, r, a}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec := &receiver{answer: spoiled(refused, tt.guilty...)}
			got, verdict := deliver(t, newDeliverer(t, delivery.Options{Sender: rec}), parts(len(tt.want)))
			if !slices.Equal(got, tt.want) || verdict.Cause != tt.cause {
				t.Errorf("outcomes %v, verdict %+v, want %v, %q", got, verdict, tt.want, tt.cause)
			}
		})
	}
}

// At low load each request has one event: the row is kept over calls, however
// long they are apart, and a part that is accepted ends it.
func TestRowOfRefusalsGoesOverCalls(t *testing.T) {
	t.Parallel()
	large := segment.Result{Class: segment.TooLarge, Status: 413}
	invalid := segment.Result{Class: segment.Invalid}
	synctest.Test(t, func(t *testing.T) {
		answer := ok
		r := &receiver{answer: func(int, []string) segment.Result { return answer }}
		d := newDeliverer(t, delivery.Options{Sender: r})
		for i, step := range []struct {
			answer segment.Result
			want   delivery.Outcome
			cause  delivery.Cause
		}{
			{refused, delivery.Rejected, ""},
			{large, delivery.TooLarge, ""},
			{refused, delivery.Failing, delivery.Refusing},
			{refused, delivery.Failing, delivery.Refusing},
			{large, delivery.Failing, delivery.Refusing},
			{throttled, delivery.Failing, delivery.Throttled},
			{refused, delivery.Failing, delivery.Refusing},
			{ok, delivery.Accepted, ""},
			{refused, delivery.Rejected, ""},
			{invalid, delivery.Invalid, ""},
			{invalid, delivery.Invalid, ""},
			{invalid, delivery.Invalid, ""},
			{refused, delivery.Rejected, ""},
			{ok, delivery.Accepted, ""},
			{refused, delivery.Rejected, ""},
		} {
			answer = step.answer
			got, verdict := deliver(t, d, parts(1))
			if got[0] != step.want || verdict.Cause != step.cause {
				t.Errorf("step %d: %v, %+v, want %v, %q", i, got[0], verdict, step.want, step.cause)
			}
			time.Sleep(time.Hour)
			other := *acme
			other.ID = "other"
			d.Deliver(t.Context(), source(&other), partOf("x"), delivery.DeliverOptions{})
		}
	})
}

// Once most of a batch was refused, no event is given up until one is accepted.
func TestReceiverThatRefusedMostIsNotBelievedUntilItAccepts(t *testing.T) {
	t.Parallel()
	r := &receiver{answer: spoiled(refused, 0, 2)}
	d := newDeliverer(t, delivery.Options{Sender: r})
	for i, step := range []struct {
		parts [][]attribution.Call
		want  []delivery.Outcome
		cause delivery.Cause
	}{
		{parts(3), []delivery.Outcome{delivery.Failing, delivery.Accepted, delivery.Failing}, delivery.Refusing},
		{partOf("0"), []delivery.Outcome{delivery.Failing}, delivery.Refusing},
		{partOf("1"), []delivery.Outcome{delivery.Accepted}, ""},
		{partOf("0"), []delivery.Outcome{delivery.Rejected}, ""},
	} {
		got, verdict := deliver(t, d, step.parts)
		if !slices.Equal(got, step.want) || verdict.Cause != step.cause {
			t.Errorf("step %d: %v, %+v, want %v, %q", i, got, verdict, step.want, step.cause)
		}
	}
}

func TestLanesOfATenantGiveUpFewEventsTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(refused), took: time.Second}
		d := newDeliverer(t, delivery.Options{Sender: r})
		var mu sync.Mutex
		var lanes sync.WaitGroup
		given, suspended := 0, 0
		for range 12 {
			lanes.Go(func() {
				reports, verdict := d.Deliver(t.Context(), ofAcme, parts(1), delivery.DeliverOptions{})
				mu.Lock()
				defer mu.Unlock()
				if reports[0].Outcome == delivery.Rejected {
					given++
				}
				if verdict.Cause == delivery.Refusing {
					suspended++
				}
			})
		}
		lanes.Wait()
		if given >= delivery.MaxRefusedInRow || given+suspended != 12 {
			t.Errorf("%d of 12 lanes gave up an event and %d were suspended, want less than %d given up, and the others suspended", given, suspended, delivery.MaxRefusedInRow)
		}
	})
}

func TestReceiverThatIsDownCostsFewRequestsWhateverTheBatch(t *testing.T) {
	t.Parallel()
	for _, answer := range []segment.Result{down, hanging} {
		for _, n := range []int{2, 3, 200, 2000} {
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{answer: always(answer)}
				got, verdict := deliver(t, newDeliverer(t, delivery.Options{Sender: r}), parts(n))
				if verdict != (delivery.Verdict{Cause: delivery.Unavailable}) || !slices.Equal(got, all(delivery.Failing, n)) {
					t.Errorf("%d parts: %+v, %v, want all failing, unavailable", n, verdict, got)
				}
				if len(r.got) != 4 { // twice all, then both halves
					t.Errorf("%d parts: %d requests, want 4", n, len(r.got))
				}
			})
		}
	}
}

func TestReceiverThatDiesWhileABatchIsBisected(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		r.answer = func(request int, ids []string) segment.Result {
			if request < 2 || request > 3 { // the first two fail, two more pass, then nothing does
				return down
			}
			return spoiled(down, 199)(request, ids)
		}
		got, verdict := deliver(t, newDeliverer(t, delivery.Options{Sender: r}), parts(200))
		if verdict.Cause != delivery.Unavailable {
			t.Errorf("verdict %+v, want unavailable", verdict)
		}
		if want := append(all(delivery.Accepted, 100), all(delivery.Failing, 100)...); !slices.Equal(got, want) {
			t.Errorf("outcomes %v, want the first half accepted", got)
		}
		if len(r.got) > 9 { // six in a row failed
			t.Errorf("%d requests, want at most 9", len(r.got))
		}
	})
}

func TestSeveralGuiltyPartsAreFound(t *testing.T) {
	t.Parallel()
	for name, guilty := range map[string][]int{
		"in one half": {3, 77}, "neighbours": {40, 41}, "three": {101, 120, 199},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{answer: spoiled(down, guilty...)}
				got, verdict := deliver(t, newDeliverer(t, delivery.Options{Sender: r}), parts(200))
				want := all(delivery.Accepted, 200)
				for _, g := range guilty {
					want[g] = delivery.Failing
				}
				if !slices.Equal(got, want) || verdict != (delivery.Verdict{}) {
					t.Errorf("verdict %+v, outcomes %v", verdict, got)
				}
			})
		})
	}
}

// Guilty parts in both halves look like a receiver that is down, unless it has
// accepted something else meanwhile.
func TestGuiltyPartsInBothHalvesAreFoundWhileOtherLanesPass(t *testing.T) {
	t.Parallel()
	for _, others := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := &receiver{answer: spoiled(down, 3, 177), took: 100 * time.Millisecond}
			d := newDeliverer(t, delivery.Options{Sender: r})
			if others {
				time.AfterFunc(time.Second/4, func() {
					d.Deliver(t.Context(), ofAcme, partOf("x"), delivery.DeliverOptions{})
				})
			}
			got, verdict := deliver(t, d, parts(200))
			want, cause := all(delivery.Failing, 200), delivery.Unavailable
			if others {
				want, cause = all(delivery.Accepted, 200), ""
				want[3], want[177] = delivery.Failing, delivery.Failing
			}
			if !slices.Equal(got, want) || verdict.Cause != cause {
				t.Errorf("others %v: verdict %+v, outcomes %v", others, verdict, got)
			}
		})
	}
}

// An event over which the receiver hangs cannot be told from a receiver that
// hangs, until a smaller request passes.
func TestBatchThatHangsIsBisectedOnceTheTenantIsKnownToBeAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		r.answer = func(request int, ids []string) segment.Result {
			result := spoiled(hanging, 5)(request, ids)
			if result.Class != segment.Accepted {
				time.Sleep(9 * time.Second)
			}
			return result
		}
		d := newDeliverer(t, delivery.Options{Sender: r})
		deliver(t, d, partOf("1"))
		time.Sleep(time.Minute)
		got, verdict := deliver(t, d, parts(10))
		if verdict.Cause != delivery.Unavailable || !slices.Equal(got, all(delivery.Failing, 10)) || len(r.got) != 2 {
			t.Errorf("%+v after %d requests: %v, want unavailable after one", verdict, len(r.got)-1, got)
		}
		if got, verdict = deliver(t, d, partOf("0")); verdict != (delivery.Verdict{}) || got[0] != delivery.Accepted {
			t.Errorf("%+v, %v, want the probe accepted", verdict, got)
		}
		got, verdict = deliver(t, d, parts(10))
		want := all(delivery.Accepted, 10)
		want[5] = delivery.Failing
		if !slices.Equal(got, want) || verdict != (delivery.Verdict{}) {
			t.Errorf("%+v, %v, want all but part 5 accepted", verdict, got)
		}
	})
}

func TestPartThatFailsAlone(t *testing.T) {
	t.Parallel()
	const s = time.Second
	unavailable := delivery.Verdict{Cause: delivery.Unavailable}
	for name, tt := range map[string]struct {
		answer segment.Result
		took   time.Duration
		other  time.Duration // when another lane's request is accepted; the part's first begins at 0, its last ends at 1.5 s
		want   delivery.Verdict
	}{
		"no other request":        {down, 0, time.Hour, unavailable},
		"one shortly before":      {down, 0, -delivery.AliveBefore, delivery.Verdict{}},
		"one before":              {down, 0, -delivery.AliveBefore - 1, unavailable},
		"one between":             {down, 0, s, delivery.Verdict{}},
		"one while it hangs":      {hanging, 9 * s, 5 * s, delivery.Verdict{}},
		"one at the start of it":  {hanging, 12 * s, s, unavailable},
		"not reached":             {unreachable, 0, s, unavailable},
		"throttled":               {throttled, 0, s, delivery.Verdict{Cause: delivery.Throttled}},
		"told to wait a little":   {after(down, s), 0, -s, delivery.Verdict{}},
		"told to come back later": {after(down, 60*s), 5 * s, s, delivery.Verdict{Cause: delivery.Unavailable, RetryAfter: 60 * s}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{}
				r.answer = func(_ int, ids []string) segment.Result {
					if ids[0] == "x" {
						return ok
					}
					time.Sleep(tt.took)
					return tt.answer
				}
				d := newDeliverer(t, delivery.Options{Sender: r})
				other := time.AfterFunc(max(0, tt.other), func() {
					d.Deliver(t.Context(), ofAcme, partOf("x"), delivery.DeliverOptions{})
				})
				defer other.Stop()
				time.Sleep(max(0, -tt.other))
				got, verdict := deliver(t, d, parts(1))
				if got[0] != delivery.Failing || verdict != tt.want {
					t.Errorf("%v, %+v, want failing, %+v", got[0], verdict, tt.want)
				}
			})
		})
	}
}

func TestWhatABisectionMeetsOnItsWay(t *testing.T) {
	t.Parallel()
	const s = time.Second
	a, f, j := delivery.Accepted, delivery.Failing, delivery.Rejected
	for name, tt := range map[string]struct {
		answers []segment.Result // then it accepts
		want    []delivery.Outcome
		verdict delivery.Verdict
		at      []time.Duration
	}{
		"refused, then throttled": {
			[]segment.Result{refused, ok, after(throttled, 9*s)},
			[]delivery.Outcome{a, a, f, f},
			delivery.Verdict{Cause: delivery.Throttled, RetryAfter: 9 * s},
			[]time.Duration{0, 0, 0},
		},
		"refused, then throttled for a while": {
			[]segment.Result{refused, ok, after(throttled, 4*s)},
			[]delivery.Outcome{a, a, a, a},
			delivery.Verdict{},
			[]time.Duration{0, 0, 0, 4 * s},
		},
		"refused, then a wrong key": {
			[]segment.Result{refused, ok, forbidden, forbidden},
			[]delivery.Outcome{a, a, f, f},
			delivery.Verdict{Cause: delivery.Misconfigured},
			[]time.Duration{0, 0, 0, s / 2},
		},
		"refused, then down": {
			[]segment.Result{refused, ok, down, down, down, down},
			[]delivery.Outcome{a, a, f, f},
			delivery.Verdict{},
			[]time.Duration{0, 0, 0, s / 2, 3 * s / 2, 3 * s / 2},
		},
		"down, then a half refused": {
			[]segment.Result{down, down, ok, refused, refused, ok},
			[]delivery.Outcome{a, a, j, a},
			delivery.Verdict{},
			[]time.Duration{0, s / 2, 3 * s / 2, 3 * s / 2, 3 * s / 2, 3 * s / 2},
		},
		"down, then throttled": {
			[]segment.Result{down, down, ok, after(throttled, 9*s)},
			[]delivery.Outcome{a, a, f, f},
			delivery.Verdict{Cause: delivery.Throttled, RetryAfter: 9 * s},
			[]time.Duration{0, s / 2, 3 * s / 2, 3 * s / 2},
		},
		"down for a while": {
			[]segment.Result{down, down, after(down, 3*s), ok, ok, ok},
			[]delivery.Outcome{a, a, a, a},
			delivery.Verdict{},
			[]time.Duration{0, s / 2, 3 * s / 2, 9 * s / 2, 9 * s / 2, 9 * s / 2},
		},
		"down for longer": {
			[]segment.Result{down, down, after(down, 6*s)},
			[]delivery.Outcome{f, f, f, f},
			delivery.Verdict{Cause: delivery.Unavailable, RetryAfter: 6 * s},
			[]time.Duration{0, s / 2, 3 * s / 2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{answer: script(tt.answers...)}
				got, verdict := deliver(t, newDeliverer(t, delivery.Options{Sender: r}), parts(4))
				if !slices.Equal(got, tt.want) || verdict != tt.verdict {
					t.Errorf("%v, %+v, want %v, %+v", got, verdict, tt.want, tt.verdict)
				}
				if !slices.Equal(r.at, tt.at) {
					t.Errorf("requests at %v, want %v", r.at, tt.at)
				}
			})
		})
	}
}

// Retries are a share of what the host accepts, over all its tenants, and a few
// beside it; a first attempt is always made, and a refused batch bisected.
func TestRetriesAreBudgeted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(unreachable)}
		d := newDeliverer(t, delivery.Options{Sender: r, MinBackoff: 1, MinHostFailures: 1e6})
		retries := func(calls int) int {
			before := len(r.got)
			for i := range calls {
				d.Deliver(t.Context(), named(fmt.Sprint(i), "http://receiver.invalid"), parts(1), delivery.DeliverOptions{})
			}
			return len(r.got) - before - calls
		}
		if got := retries(100); got != 50 {
			t.Errorf("%d retries for 100 requests that fail, want the 50 that the budget begins with", got)
		}
		if got := retries(100); got != 0 {
			t.Errorf("%d retries for 100 more, want none", got)
		}
		time.Sleep(10 * time.Second)
		if got := retries(100); got != 30 {
			t.Errorf("%d retries after ten seconds, want 30", got)
		}
		r.answer = always(ok)
		if got := retries(100); got != 0 {
			t.Errorf("%d retries of what was accepted", got)
		}
		r.answer = always(unreachable)
		if got := retries(100); got != 20 {
			t.Errorf("%d retries after 100 were accepted, want 20", got)
		}
		r.answer = always(down)
		before := len(r.got)
		if got, verdict := deliver(t, d, parts(9)); verdict.Cause != delivery.Unavailable || len(r.got)-before != 1 {
			t.Errorf("%v, %+v after %d requests, want no bisection of what fails", got, verdict, len(r.got)-before)
		}
		r.answer = spoiled(refused, 4)
		if got, verdict := deliver(t, d, parts(9)); verdict.Cause != "" || got[4] != delivery.Rejected || got[5] != delivery.Accepted {
			t.Errorf("%v, %+v, want the refused part found", got, verdict)
		}
		time.Sleep(time.Hour)
		r.answer = always(unreachable)
		if got := retries(100); got != 50 {
			t.Errorf("%d retries after an hour, want no more than 50", got)
		}
	})
}

func TestBisectionOfWhatFailsEndsWithTheRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(unreachable)}
		d := newDeliverer(t, delivery.Options{Sender: r, MinBackoff: 1})
		for range 23 { // two retries each: 4 are left
			d.Deliver(t.Context(), ofAcme, partOf("x"), delivery.DeliverOptions{})
		}
		r.got, r.answer = nil, spoiled(down, 7)
		got, verdict := deliver(t, d, parts(8))
		want := append(all(delivery.Accepted, 6), all(delivery.Failing, 2)...)
		if !slices.Equal(got, want) || verdict.Cause != delivery.Unavailable {
			t.Errorf("%v, %+v, want six accepted, and unavailable", got, verdict)
		}
		if want := 5; len(r.got) != want { // all, all again, two halves, a quarter
			t.Errorf("%d requests, want %d", len(r.got), want)
		}
	})
}

// A refusal that other lanes make one of a row while its call goes on is not
// reported.
func TestRefusalStandsOnlyIfTheTenantIsNotRefusingAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		invalid := segment.Result{Class: segment.Invalid}
		r.answer = func(_ int, ids []string) segment.Result {
			switch {
			case ids[0] == "0", ids[0] == "x":
				return refused
			case ids[0] == "1":
				time.Sleep(time.Second)
			}
			return invalid
		}
		d := newDeliverer(t, delivery.Options{Sender: r})
		time.AfterFunc(time.Second/2, func() {
			for range 2 {
				d.Deliver(t.Context(), ofAcme, partOf("x"), delivery.DeliverOptions{})
			}
		})
		got, verdict := deliver(t, d, parts(4))
		want := []delivery.Outcome{delivery.Failing, delivery.Invalid, delivery.Invalid, delivery.Invalid}
		if !slices.Equal(got, want) || verdict.Cause != delivery.Refusing {
			t.Errorf("%v, %+v, want %v, refusing", got, verdict, want)
		}
	})
}

// A Retry-After that another lane was given counts into the budget of a request
// that has failed already.
func TestRestForAnotherLanesRetryAfterIsOfTheBudget(t *testing.T) {
	t.Parallel()
	const s = time.Second
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		r.answer = func(_ int, ids []string) segment.Result {
			if ids[0] == "x" {
				return after(throttled, 4*s)
			}
			time.Sleep(s) // of the budget of 5 s
			return unreachable
		}
		d := newDeliverer(t, delivery.Options{Sender: r, LaneAttempts: 9})
		time.AfterFunc(5*s/4, func() {
			d.Deliver(t.Context(), ofAcme, partOf("x"), delivery.DeliverOptions{Probe: true})
		})
		_, verdict := deliver(t, d, parts(1))
		// The attempt took 1 s, the pause 0.5 s; then 3.75 s are left to wait.
		if want := (delivery.Verdict{Cause: delivery.Throttled, RetryAfter: 15 * s / 4}); verdict != want {
			t.Errorf("verdict %+v, want %+v", verdict, want)
		}
		if want := []time.Duration{0, 5 * s / 4}; !slices.Equal(r.at, want) {
			t.Errorf("requests at %v, want %v", r.at, want)
		}
	})
}

func TestCausesAreDistinct(t *testing.T) {
	t.Parallel()
	causes := delivery.Causes()
	slices.Sort(causes)
	if len(slices.Compact(slices.Clone(causes))) != len(causes) || slices.Contains(causes, "") {
		t.Errorf("causes %q", causes)
	}
}
