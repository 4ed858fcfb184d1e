package lane_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"refinersource/internal/lane"
)

var limits = lane.Limits{RequestCalls: 4, RequestBytes: 100, WindowEvents: 32, WindowBytes: 250}

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
	first := p.Add(lane.Event[string]{Offset: 0, Bytes: 1})
	expect(t, "full with one", p.Full(), false)
	p.Add(lane.Event[string]{Offset: 1, Bytes: 1})
	expect(t, "full with two", p.Full(), true)
	p.Finish(first)
	expect(t, "full after one has finished", p.Full(), false)
	p.Add(lane.Event[string]{Offset: 2, Bytes: 10})
	expect(t, "full by bytes", p.Full(), true)
}

// machine drives a partition with random schedules against a model that is a
// list of events.
type machine struct {
	p        *lane.Partition[int]
	events   []*modelEvent // in the order of the log
	open     []lane.Request[int]
	next     lane.Offset
	begun    lane.Offset
	draining bool
}

type modelEvent struct {
	lane.Event[int]
	item     *lane.Item[int]
	step     int
	busy     bool
	finished bool
}

func TestPartitionKeepsItsPromisesUnderAnySchedule(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{p: lane.New[int](limits, 5), next: 5, begun: 5}
		t.Repeat(map[string]func(*rapid.T){
			"add": m.add, "send": m.send, "return": m.returned, "finish": m.finish, "drain": m.drain, "": m.check,
		})
		m.healAndDrain(t)
	})
}

func (m *machine) add(t *rapid.T) {
	if m.draining || m.p.Full() {
		t.Skip("no room")
	}
	m.next += lane.Offset(rapid.SampledFrom([]int{0, 0, 0, 3}).Draw(t, "gap"))
	e := &modelEvent{Event: lane.Event[int]{
		Offset: m.next,
		Lane:   rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "lane"),
		Key:    rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "key"),
		Bytes:  rapid.IntRange(0, 100).Draw(t, "bytes"),
	}}
	for range rapid.IntRange(0, 3).Draw(t, "steps") {
		e.Steps = append(e.Steps, lane.Cost{Calls: rapid.IntRange(1, 6).Draw(t, "calls"), Bytes: rapid.IntRange(1, 150).Draw(t, "size")})
	}
	e.Payload = len(m.events)
	e.item = m.p.Add(e.Event)
	m.events = append(m.events, e)
	m.next++
}

func (m *machine) send(t *rapid.T) {
	r, ok := m.p.Next()
	if !ok {
		if e := m.sendable(); e != nil {
			t.Fatalf("nothing to send, but offset %d of lane %s may go", e.Offset, e.Lane)
		}
		return
	}
	m.sent(t, r)
}

// sendable returns an event that may go: its lane idle, and it the first of its key.
func (m *machine) sendable() *modelEvent {
	busy, seen := map[string]bool{}, map[string]bool{}
	for _, e := range m.events {
		if e.busy {
			busy[e.Lane] = true
		}
	}
	for _, e := range m.events {
		if e.finished || len(e.Steps) == 0 {
			continue
		}
		key := e.Lane + "/" + e.Key
		if !seen[key] && !busy[e.Lane] && (!m.draining || e.Offset < m.begun) {
			return e
		}
		seen[key] = true
	}
	return nil
}

func (m *machine) sent(t *rapid.T, r lane.Request[int]) {
	var cost lane.Cost
	for i, part := range r.Parts {
		e := m.events[part.Item.Payload]
		if e.Lane != r.Lane {
			t.Fatalf("isolation: an event of lane %s in a request of %s", e.Lane, r.Lane)
		}
		if e.finished || part.Step != e.step {
			t.Fatalf("pair: step %d of offset %d was handed out, want %d (finished: %v)", part.Step, e.Offset, e.step, e.finished)
		}
		if m.draining && e.Offset >= m.begun {
			t.Fatalf("drain: offset %d was begun", e.Offset)
		}
		if i > 0 && part.Item.Offset <= r.Parts[i-1].Item.Offset {
			t.Fatalf("the request is not in the order of the log")
		}
		for _, other := range m.events {
			if other != e && len(other.Steps) > 0 && other.Lane == e.Lane && other.Key == e.Key && !other.finished && (other.Offset < e.Offset || other.busy) {
				t.Fatalf("order: offset %d overtakes %d of the same key", e.Offset, other.Offset)
			}
		}
		e.busy = true
		cost.Calls += e.Steps[e.step].Calls
		cost.Bytes += e.Steps[e.step].Bytes
		m.begun = max(m.begun, e.Offset+1)
	}
	if len(r.Parts) > 1 && (cost.Calls > limits.RequestCalls || cost.Bytes > limits.RequestBytes) {
		t.Fatalf("the request is over its limits: %+v", cost)
	}
	for _, other := range m.open {
		if other.Lane == r.Lane {
			t.Fatalf("lane %s has two requests in flight", r.Lane)
		}
	}
	m.open = append(m.open, r)
}

func (m *machine) returned(t *rapid.T) {
	if len(m.open) == 0 {
		t.Skip("nothing in flight")
	}
	i := rapid.IntRange(0, len(m.open)-1).Draw(t, "request")
	outcomes := make([]lane.Outcome, len(m.open[i].Parts))
	for j := range outcomes {
		outcomes[j] = rapid.SampledFrom([]lane.Outcome{lane.Accepted, lane.Accepted, lane.Ended, lane.Abandoned}).Draw(t, "outcome")
	}
	m.settle(t, i, outcomes)
}

func (m *machine) settle(t *rapid.T, i int, outcomes []lane.Outcome) {
	r := m.open[i]
	m.open = slices.Delete(m.open, i, i+1)
	var want []int
	for j, part := range r.Parts {
		e := m.events[part.Item.Payload]
		e.busy = false
		switch outcomes[j] {
		case lane.Accepted:
			e.step++
			e.finished = e.step == len(e.Steps)
		case lane.Ended:
			e.finished = true
		case lane.Abandoned:
		}
		if e.finished {
			want = append(want, e.Payload)
		}
	}
	var got []int
	for _, it := range m.p.Done(r, outcomes) {
		got = append(got, it.Payload)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("finished %v, want %v", got, want)
	}
}

func (m *machine) finish(t *rapid.T) {
	for _, e := range m.events {
		if len(e.Steps) == 0 && !e.finished {
			e.finished = true
			m.p.Finish(e.item)
			return
		}
	}
	t.Skip("nothing to finish")
}

func (m *machine) drain(t *rapid.T) {
	if !rapid.Bool().Draw(t, "drain") || m.draining {
		t.Skip("goes on")
	}
	m.draining = true
	m.p.Drain()
}

// check holds after every step: the commit point is the first unfinished event.
func (m *machine) check(t *rapid.T) {
	want := m.next
	open := 0
	for _, e := range slices.Backward(m.events) {
		if !e.finished {
			want = e.Offset
		}
	}
	bytes := 0
	for _, e := range m.events {
		if e.Offset >= want {
			open++
			bytes += e.Bytes
		}
	}
	if full := open >= limits.WindowEvents || bytes >= limits.WindowBytes; m.p.Full() != full {
		t.Fatalf("full: %v with %d events and %d bytes in the window", m.p.Full(), open, bytes)
	}
	if got := m.p.CommitPoint(); got != want {
		t.Fatalf("commit point %d, want %d", got, want)
	}
	if m.p.Len() != open || m.p.InFlight() != len(m.open) {
		t.Fatalf("window %d and %d in flight, want %d and %d", m.p.Len(), m.p.InFlight(), open, len(m.open))
	}
}

// healAndDrain lets all go well from here: every event that may go is finished.
func (m *machine) healAndDrain(t *rapid.T) {
	for {
		for _, e := range m.events {
			if len(e.Steps) == 0 && !e.finished {
				e.finished = true
				m.p.Finish(e.item)
			}
		}
		m.send(t)
		if len(m.open) == 0 {
			break
		}
		m.settle(t, 0, slices.Repeat([]lane.Outcome{lane.Accepted}, len(m.open[0].Parts)))
	}
	m.check(t)
	if m.draining {
		if !m.p.Drained() || m.p.CommitPoint() < m.begun {
			t.Fatalf("drained %v with the commit point at %d and begun up to %d", m.p.Drained(), m.p.CommitPoint(), m.begun)
		}
	} else if m.p.Len() != 0 || m.p.Kept() != 0 {
		// Bounded (invariant 8): nothing is kept for tenants and users that have been.
		t.Fatalf("%d events are left, and something is kept for %d lanes and keys", m.p.Len(), m.p.Kept())
	}
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
