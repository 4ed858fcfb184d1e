package lane_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/lane"
)

var limits = lane.Limits{RequestCalls: 4, RequestBytes: 100, WindowEvents: 32, WindowBytes: 250, BehindEvents: 6}

// pair is the steps of an event with an identify and a group.
var pair = []lane.Cost{{Calls: 1, Bytes: 10}, {Calls: 1, Bytes: 10}}

func add(p *lane.Partition[string], offset lane.Offset, tenant, user string, steps ...lane.Cost) *lane.Item[string] {
	return p.Add(lane.Event[string]{
		Offset: offset, Lane: tenant, Key: user, Steps: steps, Bytes: 1,
		Payload: fmt.Sprintf("%s/%s@%d", tenant, user, offset),
	})
}

// next returns what may be sent now as "payload#step", and the request.
func next(t *testing.T, p *lane.Partition[string]) ([]string, lane.Request[string]) {
	t.Helper()
	r, ok := p.Next()
	if ok != (len(r.Parts) > 0) {
		t.Fatalf("Next says %v with %d parts", ok, len(r.Parts))
	}
	var parts []string
	for _, part := range r.Parts {
		parts = append(parts, fmt.Sprintf("%s#%d", part.Item.Payload, part.Step))
	}
	return parts, r
}

func all(r lane.Request[string], o lane.Outcome) []lane.Outcome {
	return slices.Repeat([]lane.Outcome{o}, len(r.Parts))
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestGroupIsHandedOutOnlyAfterItsIdentifyWasAccepted(t *testing.T) {
	t.Parallel()
	p := lane.New[string](limits, 0)
	add(p, 0, "acme", "ann", pair...)
	add(p, 1, "acme", "ann", pair...)
	add(p, 2, "acme", "bob", pair...)

	got, r := next(t, p)
	expect(t, "first request", got, []string{"acme/ann@0#0", "acme/bob@2#0"})
	if more, _ := next(t, p); more != nil {
		t.Errorf("a lane has a second request in flight: %v", more)
	}
	p.Done(r, []lane.Outcome{lane.Accepted, lane.Abandoned})
	got, r = next(t, p)
	expect(t, "second request", got, []string{"acme/ann@0#1", "acme/bob@2#0"})
	expect(t, "commit point", p.CommitPoint(), lane.Offset(0))
	p.Done(r, all(r, lane.Accepted))
	expect(t, "commit point", p.CommitPoint(), lane.Offset(1))
	got, _ = next(t, p)
	expect(t, "third request", got, []string{"acme/ann@1#0", "acme/bob@2#1"})
}

func TestEndedEventHandsOutNoLaterStep(t *testing.T) {
	t.Parallel()
	p := lane.New[string](limits, 7)
	add(p, 7, "acme", "ann", pair...)
	add(p, 8, "acme", "ann", pair...)
	_, r := next(t, p)
	finished := p.Done(r, all(r, lane.Ended))
	expect(t, "finished", len(finished), 1)
	got, _ := next(t, p)
	expect(t, "after the end", got, []string{"acme/ann@8#0"})
}

func TestLanesDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	p := lane.New[string](limits, 0)
	add(p, 0, "slow", "ann", pair...)
	_, slow := next(t, p)
	for o := lane.Offset(1); o <= 3; o++ {
		add(p, o, "quick", "bob", pair...)
		for range 2 {
			got, r := next(t, p)
			if len(got) != 1 {
				t.Fatalf("offset %d: the quick lane has %v to send, want one part", o, got)
			}
			p.Done(r, all(r, lane.Accepted))
		}
	}
	expect(t, "commit point behind the slow lane", p.CommitPoint(), lane.Offset(0))
	p.Done(slow, all(slow, lane.Ended))
	expect(t, "commit point", p.CommitPoint(), lane.Offset(4))
	expect(t, "window", p.Len(), 0)
}

func TestRequestKeepsItsLimitsButOneLargeStepTravelsAlone(t *testing.T) {
	t.Parallel()
	p := lane.New[string](limits, 0)
	add(p, 0, "acme", "a", lane.Cost{Calls: 1, Bytes: 500})
	add(p, 1, "acme", "b", lane.Cost{Calls: 3, Bytes: 40})
	add(p, 2, "acme", "c", lane.Cost{Calls: 2, Bytes: 1})
	add(p, 3, "acme", "d", lane.Cost{Calls: 1, Bytes: 99})
	for _, want := range [][]string{{"acme/a@0#0"}, {"acme/b@1#0"}, {"acme/c@2#0", "acme/d@3#0"}} {
		got, r := next(t, p)
		expect(t, "request", got, want)
		p.Done(r, all(r, lane.Accepted))
	}
}

func TestDrainFinishesWhatItHasBegunAndAllBeforeIt(t *testing.T) {
	t.Parallel()
	p := lane.New[string](lane.Limits{RequestCalls: 1, RequestBytes: 100, WindowEvents: 32, WindowBytes: 1000}, 0)
	add(p, 0, "acme", "ann", pair...)
	add(p, 1, "acme", "bob", pair...)
	add(p, 2, "other", "eve", pair...)
	add(p, 3, "acme", "ann", pair...)
	_, acme := next(t, p)
	_, other := next(t, p)
	p.Drain()
	open := []lane.Request[string]{acme, other}
	var sent []string
	for !p.Drained() {
		for _, r := range open {
			p.Done(r, all(r, lane.Accepted))
		}
		open = nil
		for {
			got, r := next(t, p)
			if got == nil {
				break
			}
			sent, open = append(sent, got...), append(open, r)
		}
	}
	slices.Sort(sent)
	expect(t, "sent while draining", sent, []string{"acme/ann@0#1", "acme/bob@1#0", "acme/bob@1#1", "other/eve@2#1"})
	expect(t, "commit point", p.CommitPoint(), lane.Offset(3))
}

func TestFullCountsEventsAndBytes(t *testing.T) {
	t.Parallel()
	p := lane.New[string](lane.Limits{RequestCalls: 1, RequestBytes: 1, WindowEvents: 2, WindowBytes: 10}, 0)
	p.Add(lane.Event[string]{Offset: 0, Lane: "a", Steps: pair[:1], Bytes: 1})
	expect(t, "full with one", p.Full(), false)
	p.Add(lane.Event[string]{Offset: 1, Lane: "b", Steps: pair[:1], Bytes: 1})
	expect(t, "full with two", p.Full(), true)
	_, r := next(t, p)
	p.Done(r, all(r, lane.Accepted))
	expect(t, "full after one has finished", p.Full(), false)
	p.Add(lane.Event[string]{Offset: 2, Lane: "c", Steps: pair[:1], Bytes: 10})
	expect(t, "full by bytes", p.Full(), true)
}

// What is finished takes no memory, also behind an event that is not.
func TestBytesOfFinishedEventsAreFreeAtOnce(t *testing.T) {
	t.Parallel()
	p := lane.New[string](lane.Limits{RequestCalls: 9, RequestBytes: 9, WindowEvents: 9, WindowBytes: 10, BehindEvents: 9}, 0)
	add := func(at lane.Offset, tenant string) *lane.Item[string] {
		return p.Add(lane.Event[string]{Offset: at, Lane: tenant, Key: "k", Steps: pair[:1], Bytes: 5, Payload: tenant})
	}
	add(0, "slow")
	b := add(1, "b")
	expect(t, "full with two", p.Full(), true)
	_, slow := next(t, p)
	_, r := next(t, p)
	p.Done(r, all(r, lane.Accepted))
	expect(t, "full with one", p.Full(), false)
	expect(t, "events from the commit point on", p.Len(), 2)
	expect(t, "what is kept of an event that is finished", b.Event, lane.Event[string]{Offset: 1})
	add(2, "c")
	expect(t, "full with two again", p.Full(), true)
	p.Pass("slow", time.Time{}, lane.CauseSlow)
	p.Pass("c", time.Time{}, lane.CauseSlow)
	expect(t, "full when cursors hold them", p.Full(), false)
	p.Done(slow, all(slow, lane.Accepted))
	expect(t, "bytes of all", p.Full(), false)
	add(3, "d")
	expect(t, "full with one more", p.Full(), false)
}

func BenchmarkPartition(b *testing.B) {
	b.ReportAllocs()
	p := lane.New[int](lane.Limits{RequestCalls: 2000, RequestBytes: 450_000, WindowEvents: 4096, WindowBytes: 8 << 20}, 0)
	users := make([]string, 512)
	for i := range users {
		users[i] = fmt.Sprint("user-", i)
	}
	tenants := []string{"a", "b", "c", "d"}
	var outcomes []lane.Outcome
	offset := lane.Offset(0)
	for b.Loop() {
		for range 16 {
			p.Add(lane.Event[int]{Offset: offset, Lane: tenants[offset%4], Key: users[offset%512], Steps: pair, Bytes: 1000})
			offset++
		}
		for {
			r, ok := p.Next()
			if !ok {
				break
			}
			outcomes = outcomes[:0]
			for range r.Parts {
				outcomes = append(outcomes, lane.Accepted)
			}
			p.Done(r, outcomes)
		}
	}
	if p.Len() != 0 {
		b.Fatalf("%d events are left", p.Len())
	}
}
