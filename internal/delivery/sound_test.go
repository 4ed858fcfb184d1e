package delivery_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"refinersource/internal/attribution"
	"refinersource/internal/delivery"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

// judge is a receiver that answers as drawn and holds every request, and every
// report, to what the package guarantees.
type judge struct {
	answers []segment.Result // one after another, over and over
	took    []time.Duration
	bad     map[string]segment.Result // parts that no request may hold
	until   map[string]time.Time      // calls; none of their requests starts later

	mu              sync.Mutex
	n               int
	busy            map[string]int              // requests under way, by call
	travelled       map[string][]segment.Result // of each part
	alone           map[string]bool             // the part's last request held nothing else
	accepted        int                         // requests
	notBefore, told time.Time                   // Retry-After, and when it was
	faults          []string
}

func (j *judge) faultf(format string, args ...any) {
	j.faults = append(j.faults, fmt.Sprintf(format, args...))
}

func (j *judge) Send(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
	ids := make([]string, len(calls))
	for i, c := range calls {
		ids[i] = c.MessageID
	}
	call, _, _ := strings.Cut(ids[0], "/")
	j.mu.Lock()
	if to.WriteKey.IsZero() {
		j.faultf("a request to a tenant that is paused: %v", ids)
	}
	if j.busy[call]++; j.busy[call] > 1 {
		j.faultf("two requests of call %s at once", call)
	}
	now := time.Now()
	if now.After(j.until[call]) {
		j.faultf("a request after the end of its context: %v", ids)
	}
	if now.Before(j.notBefore) && now.After(j.told) {
		j.faultf("a request %v before its time: %v", j.notBefore.Sub(now), ids)
	}
	last := -1
	for _, id := range ids {
		_, index, _ := strings.Cut(id, "/")
		at, err := strconv.Atoi(index)
		if err != nil || at <= last {
			j.faultf("calls out of order: %v", ids)
		}
		last = at
		for _, r := range j.travelled[id] {
			if r.Class == segment.Accepted {
				j.faultf("%s was sent again after it was accepted", id)
			}
		}
	}
	answer, took := j.answers[j.n%len(j.answers)], j.took[j.n%len(j.took)]
	j.n++
	for _, id := range ids {
		if r, ok := j.bad[id]; ok {
			answer = r
		}
	}
	j.mu.Unlock()

	select {
	case <-ctx.Done():
		answer = segment.Result{Class: segment.Canceled, Unknown: true}
	case <-time.After(took):
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.busy[call]--
	for _, id := range ids {
		j.travelled[id] = append(j.travelled[id], answer)
		j.alone[id] = len(ids) == 1
	}
	if answer.Class == segment.Accepted {
		j.accepted++
	}
	if until := time.Now().Add(answer.RetryAfter); answer.RetryAfter > 0 && until.After(j.notBefore) {
		j.notBefore, j.told = until, time.Now()
	}
	return answer
}

// check holds the reports of a call to what was answered.
func (j *judge) check(ctx context.Context, call string, reports []delivery.Report, v delivery.Verdict) (givenUp int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, r := range reports {
		id := fmt.Sprint(call, "/", i)
		sent := j.travelled[id]
		var last segment.Result
		if len(sent) > 0 {
			last = sent[len(sent)-1]
		}
		unknown := slices.ContainsFunc(sent, func(r segment.Result) bool { return r.Unknown })
		fail := func(why string) { j.faultf("%s: %s: %+v, verdict %+v, answers %+v", id, why, r, v, sent) }
		if r.Attempts != len(sent) || len(sent) > 0 && r.Last != last {
			fail("attempts or last answer do not agree")
		}
		if (r.Outcome == delivery.Accepted) != (last.Class == segment.Accepted) {
			fail("reported accepted or not against the answer")
		}
		if r.Outcome != delivery.Accepted && r.Unknown != unknown {
			fail("unknown is not what the answers make it")
		}
		switch r.Outcome {
		case delivery.Accepted:
		case delivery.Rejected, delivery.TooLarge:
			givenUp++
			if !j.alone[id] || last.Class != segment.Refused && last.Class != segment.TooLarge {
				fail("given up without being refused alone")
			}
		case delivery.Invalid:
			if !j.alone[id] || last.Class != segment.Invalid {
				fail("invalid without being so alone")
			}
		case delivery.Abandoned:
			if ctx.Err() == nil {
				fail("abandoned before the end of the context")
			}
		case delivery.Failing:
			if v == (delivery.Verdict{}) && (!j.alone[id] || last.Class != segment.Transient || last.RetryAfter > delivery.DefaultLaneBudget) {
				fail("failing, without a verdict, although it did not fail alone")
			}
		}
	}
	return givenUp
}

func TestWhatIsReportedIsWhatWasAnswered(t *testing.T) {
	t.Parallel()
	kinds := []segment.Result{
		ok, ok, ok, down, hanging, unreachable, throttled, refused, forbidden,
		{Class: segment.TooLarge, Status: 413},
		{Class: segment.Invalid},
		{Class: segment.Transient, Status: 408},
		after(throttled, 2*time.Second), after(down, 20*time.Second), after(forbidden, time.Second),
	}
	spoilers := []segment.Result{refused, down, hanging, {Class: segment.Invalid}, {Class: segment.TooLarge, Status: 413}}
	seconds := rapid.Custom(func(rt *rapid.T) time.Duration {
		return rapid.SampledFrom([]time.Duration{0, 1, time.Millisecond, time.Second / 3, 3 * time.Second, 9 * time.Second}).Draw(rt, "took")
	})
	type lane struct {
		sizes  []int // of its calls, one after another
		ends   []time.Duration
		pauses []time.Duration
		o      []delivery.DeliverOptions
	}
	rapid.Check(t, func(rt *rapid.T) {
		alphabet := rapid.SliceOfN(rapid.SampledFrom(kinds), 1, 4).Draw(rt, "kinds")
		answers := rapid.SliceOfN(rapid.SampledFrom(alphabet), 1, 30).Draw(rt, "answers")
		took := rapid.SliceOfN(seconds, 1, 10).Draw(rt, "times")
		pausedAt := rapid.SampledFrom([]time.Duration{time.Hour, time.Second, 10 * time.Second}).Draw(rt, "paused")
		tight := rapid.Bool().Draw(rt, "few slots")
		lanes := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) lane {
			n := rapid.IntRange(1, 4).Draw(rt, "calls")
			return lane{
				sizes:  rapid.SliceOfN(rapid.IntRange(1, 20), n, n).Draw(rt, "sizes"),
				ends:   rapid.SliceOfN(rapid.SampledFrom([]time.Duration{time.Hour, time.Hour, 4 * time.Second}), n, n).Draw(rt, "ends"),
				pauses: rapid.SliceOfN(seconds, n, n).Draw(rt, "pauses"),
				o:      rapid.SliceOfN(rapid.SampledFrom([]delivery.DeliverOptions{{}, {}, {Probe: true}}), n, n).Draw(rt, "options"),
			}
		}), 1, 3).Draw(rt, "lanes")
		bad := make(map[string]segment.Result)
		for range rapid.IntRange(0, 4).Draw(rt, "bad parts") {
			id := fmt.Sprintf("%d.%d/%d", rapid.IntRange(0, 2).Draw(rt, "lane"), rapid.IntRange(0, 3).Draw(rt, "call"), rapid.IntRange(0, 19).Draw(rt, "part"))
			bad[id] = rapid.SampledFrom(spoilers).Draw(rt, "spoiler")
		}
		j := &judge{
			answers: answers, took: took, bad: bad, until: map[string]time.Time{},
			busy: map[string]int{}, travelled: map[string][]segment.Result{}, alone: map[string]bool{},
		}
		synctest.Test(t, func(t *testing.T) {
			o := delivery.Options{Sender: j}
			if tight {
				o.Slots, o.SlowSlots = 1, 1
			}
			d := newDeliverer(t, o)
			begun := time.Now()
			givenUp := 0
			var running sync.WaitGroup
			for l, lane := range lanes {
				running.Go(func() {
					for n, size := range lane.sizes {
						time.Sleep(lane.pauses[n])
						call := fmt.Sprintf("%d.%d", l, n)
						batch := make([][]attribution.Call, size)
						for i := range batch {
							batch[i] = []attribution.Call{{MessageID: fmt.Sprint(call, "/", i)}}
						}
						ctx, cancel := context.WithTimeout(t.Context(), lane.ends[n])
						j.mu.Lock()
						j.until[call] = time.Now().Add(lane.ends[n])
						j.mu.Unlock()
						reports, verdict := d.Deliver(ctx, func() *tenant.Tenant {
							now := &tenant.Tenant{ID: "acme", WriteKey: tenant.NewSecret("key")}
							if time.Since(begun) >= pausedAt {
								now.Paused, now.WriteKey = true, tenant.Secret{}
							}
							return now
						}, batch, lane.o[n])
						gone := j.check(ctx, call, reports, verdict)
						j.mu.Lock()
						givenUp += gone
						if lane.o[n].Probe && len(j.travelled[call+"/0"]) > 1 {
							j.faultf("call %s is a probe, and made %d requests", call, len(j.travelled[call+"/0"]))
						}
						j.mu.Unlock()
						cancel()
					}
				})
			}
			running.Wait()
			if j.accepted == 0 && givenUp > delivery.MaxRefusedInRow {
				j.faultf("%d events were given up by a receiver that accepted nothing", givenUp)
			}
		})
		for _, f := range j.faults {
			rt.Error(f)
		}
	})
}
