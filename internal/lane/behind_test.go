package lane_test

import (
	"testing"
	"time"

	"refinersource/internal/lane"
)

var since = time.Unix(1_800_000_000, 0)

// again gives a lane that is behind an event again.
func again(t *testing.T, p *lane.Partition[string], offset lane.Offset, tenant, user string, steps ...lane.Cost) {
	t.Helper()
	p.AddBehind(lane.Event[string]{Offset: offset, Lane: tenant, Key: user, Steps: steps, Bytes: 1, Payload: tenant + "/" + user})
}

// cursor is the one cursor that a commit needs now.
func cursor(t *testing.T, p *lane.Partition[string]) lane.Cursor {
	t.Helper()
	c := p.Cursors()
	if len(c) != 1 {
		t.Fatalf("%d cursors, want 1: %+v", len(c), c)
	}
	return c[0]
}

func TestSuspendedLaneIsPassedAndSendsOnlyProbes(t *testing.T) {
	t.Parallel()
	p := lane.New[string](limits, 0)
	add(p, 0, "acme", "ann", pair...)
	add(p, 1, "beta", "bob", pair...)
	add(p, 2, "acme", "eve", pair...)
	_, r := next(t, p)
	p.Done(r, []lane.Outcome{lane.Accepted, lane.Abandoned})
	expect(t, "suspended", p.Suspend("acme", since, lane.CauseUnavailable), true)
	expect(t, "cursor", cursor(t, p), lane.Cursor{
		Tag: lane.TagOf("acme"), From: 0, Since: since, Cause: lane.CauseUnavailable,
		Runs: []lane.Run{{Events: 1, State: lane.AfterFirst}, {Events: 1, State: lane.Pending}},
	})
	expect(t, "commit point", p.CommitPoint(), lane.Offset(1))
	got, r := next(t, p)
	expect(t, "sent", got, []string{"beta/bob@1#0"})
	p.Done(r, all(r, lane.Ended))
	expect(t, "commit point without the others", p.CommitPoint(), lane.Offset(3))
	expect(t, "a live event is skipped", add(p, 3, "acme", "ann", pair...) == nil, true)

	again(t, p, 0, "acme", "ann", pair...)
	again(t, p, 2, "acme", "eve", pair...)
	if got, _ := next(t, p); got != nil {
		t.Errorf("a suspended lane sends %v", got)
	}
	for _, want := range []string{"acme/ann#1", "acme/eve#0", "acme/ann#1"} { // another one each time
		p.Probe("acme")
		r, _ := p.Next()
		if len(r.Parts) != 1 || !r.Probe {
			t.Fatalf("a probe of %d parts, marked %v", len(r.Parts), r.Probe)
		}
		got := r.Parts[0].Item.Payload + "#" + string(rune('0'+r.Parts[0].Step))
		expect(t, "probe", got, want)
		p.Done(r, all(r, lane.Abandoned))
		if more, _ := next(t, p); more != nil {
			t.Errorf("after a probe %v is sent", more)
		}
	}
	p.Open("acme")
	if _, ok := p.Next(); !ok {
		t.Error("an open lane sends nothing")
	}
}

func TestLaneThatIsBehindHasItsRoomAndNoMore(t *testing.T) {
	t.Parallel()
	p := lane.New[string](limits, 0)
	for o := range lane.Offset(20) {
		add(p, o, "acme", "ann", pair[:1]...)
	}
	p.Suspend("acme", since, lane.CausePaused)
	expect(t, "room for a probe", p.Room("acme"), true)
	p.Open("acme")
	n := lane.Offset(0)
	for ; p.Room("acme"); n++ {
		again(t, p, n, "acme", "ann", pair[:1]...)
	}
	expect(t, "events in memory", int(n), limits.BehindEvents)
	unread, behind := p.Unread("acme")
	expect(t, "behind", behind, true)
	expect(t, "unread", unread, n)
}

// What is passed counts no more against the window, and what is finished counts
// against nothing.
func TestMemoryIsCountedOnce(t *testing.T) {
	t.Parallel()
	p := lane.New[string](lane.Limits{RequestCalls: 9, RequestBytes: 900, WindowEvents: 9, WindowBytes: 10, BehindEvents: 9}, 0)
	put := func(offset lane.Offset, tenant string, bytes int) {
		p.Add(lane.Event[string]{Offset: offset, Lane: tenant, Key: "x", Steps: pair[:1], Bytes: bytes})
	}
	for at := lane.Offset(0); at < 20; at += 4 {
		put(at, "acme", 9)
		expect(t, "full", p.Full(), false)
		put(at+1, "beta", 1)
		expect(t, "full by bytes", p.Full(), true)
		expect(t, "passed", p.Pass("acme", since, lane.CauseSlow), true)
		expect(t, "full when it is passed", p.Full(), false)
		expect(t, "passed again", p.Pass("beta", since, lane.CauseSlow), true)
		put(at+2, "gamma", 1)
		expect(t, "a third is passed without room", p.Pass("gamma", since, lane.CauseSlow), true)
		for {
			_, r := next(t, p)
			if len(r.Parts) == 0 {
				break
			}
			p.Done(r, all(r, lane.Accepted))
		}
		expect(t, "in memory", p.InMemory(), 0)

		put(at+3, "acme", 10)
		expect(t, "full", p.Full(), true)
		p.Suspend("acme", since, lane.CausePaused)
		expect(t, "full when it has left memory", p.Full(), false)
		p.Open("acme")
		again(t, p, at+3, "acme", "x")
		p.Live("acme")
	}
}

// Of a lane that is passed no more stays in memory than it may have there, but for
// what is in flight; the rest is read again, and goes on where it was.
func TestPassedLaneKeepsItsShareInMemory(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what       string
		requests   int // with four parts, before it is passed
		unread     lane.Offset
		unfinished int
	}{
		{"nothing in flight", 0, 2, 2},
		{"more in flight than that", 1, 4, 4},
	} {
		p := lane.New[string](lane.Limits{RequestCalls: 4, RequestBytes: 100, WindowEvents: 8, WindowBytes: 1000, BehindEvents: 2}, 0)
		for o, user := range []string{"ann", "bob", "cid", "dan", "ann", "bob", "cid", "dan"} {
			add(p, lane.Offset(o), "much", user, pair...)
		}
		var r lane.Request[string]
		for range c.requests {
			_, r = next(t, p)
		}
		expect(t, "passed", p.Pass("much", since, lane.CauseSlow), true)
		unread, _ := p.Unread("much")
		expect(t, c.what+": read again from", unread, c.unread)
		expect(t, c.what+": in memory", p.Unfinished("much"), c.unfinished)
		expect(t, c.what+": waiting", p.Waiting("much"), c.unfinished)
		if c.requests > 0 {
			p.Done(r, all(r, lane.Accepted))
		}
		steps := 2*8 - 4*c.requests
		for o := unread; ; {
			for ; o < 8 && p.Room("much"); o++ {
				again(t, p, o, "much", []string{"ann", "bob", "cid", "dan"}[o%4], pair...)
			}
			_, r := next(t, p)
			if len(r.Parts) == 0 {
				break
			}
			steps -= len(r.Parts)
			p.Done(r, all(r, lane.Accepted))
		}
		expect(t, c.what+": steps left", steps, 0)
	}
}

// What is sent of a lane that is merely passed is live traffic; what has been read
// again catches up, until nothing is left of it.
func TestOnlyWhatWasReadAgainCatchesUp(t *testing.T) {
	t.Parallel()
	p := lane.New[string](limits, 0)
	add(p, 0, "acme", "ann", pair...)
	p.Pass("acme", since, lane.CauseSlow)
	expect(t, "holding", p.Holding(), 1)
	_, r := next(t, p)
	expect(t, "passed", r.Behind, false)
	p.Done(r, all(r, lane.Abandoned))
	p.Suspend("acme", since, lane.CauseUnavailable)
	p.Open("acme")
	again(t, p, 0, "acme", "ann", pair...)
	_, r = next(t, p)
	expect(t, "behind", r.Behind, true)
	p.Done(r, all(r, lane.Accepted))
	p.Live("acme")
	_, r = next(t, p)
	expect(t, "what is left of that", r.Behind, true)
	p.Done(r, all(r, lane.Accepted))
	expect(t, "holding nothing", p.Holding(), 0)
	add(p, 1, "acme", "ann", pair...)
	p.Pass("acme", since, lane.CauseSlow)
	_, r = next(t, p)
	expect(t, "passed again", r.Behind, false)
}

// Lanes that have all the memory there is for those that are behind leave a little
// of it to each other one.
func TestEveryLaneThatIsBehindHasRoomForOne(t *testing.T) {
	t.Parallel()
	p := lane.New[string](lane.Limits{RequestCalls: 1, RequestBytes: 100, WindowEvents: 8, WindowBytes: 1000, BehindEvents: 4}, 0)
	o := lane.Offset(0)
	for ; o < 11; o++ {
		add(p, o, []string{"slow", "slower"}[o/8], "ann", pair...)
	}
	expect(t, "passed", p.Pass("slow", since, lane.CauseSlow), true)
	expect(t, "passed", p.Pass("slower", since, lane.CauseSlow), true)
	add(p, o, "other", "bob", pair...)
	expect(t, "passed", p.Pass("other", since, lane.CauseSlow), true)
	expect(t, "in memory", p.Unfinished("other"), 1)
	p.Suspend("other", since, lane.CauseUnavailable)
	expect(t, "room for a probe", p.Room("other"), true)
	again(t, p, o, "other", "bob", pair...)
	expect(t, "room for another", p.Room("other"), false)
	expect(t, "room for who has much", p.Room("slow"), false)
}

func TestDrainHandsOutNothingThatACursorHolds(t *testing.T) {
	t.Parallel()
	p := lane.New[string](limits, 0)
	add(p, 0, "acme", "ann", pair...)
	add(p, 1, "beta", "bob", pair...)
	p.Pass("acme", since, lane.CauseSlow)
	_, r := next(t, p) // acme
	_, other := next(t, p)
	p.Drain()
	p.Done(r, all(r, lane.Accepted))
	p.Done(other, all(other, lane.Accepted))
	got, r := next(t, p)
	expect(t, "sent while draining", got, []string{"beta/bob@1#1"})
	p.Done(r, all(r, lane.Accepted))
	if more, _ := next(t, p); more != nil || !p.Drained() {
		t.Errorf("%v is left, drained %v", more, p.Drained())
	}
	expect(t, "runs", cursor(t, p).Runs, []lane.Run{{Events: 1, State: lane.AfterFirst}})
}

// A cursor of other rules may say that more steps were accepted than there are
// now: then the event is sent from the start.
func TestStateOfOtherRulesStartsTheEventAnew(t *testing.T) {
	t.Parallel()
	for state, want := range map[lane.RunState]int{lane.AfterFirst: 1, lane.AfterSecond: 0} {
		p := lane.New[string](limits, 5)
		p.Restore("acme", lane.Cursor{Tag: lane.TagOf("acme"), From: 3, Runs: []lane.Run{{Events: 1, State: state}}, Cause: lane.CauseSlow})
		again(t, p, 3, "acme", "ann", pair...)
		_, r := next(t, p)
		expect(t, state.String(), r.Parts[0].Step, want)
	}
}

// Where events of a lane are gone from the log, nothing can be counted across.
func TestNoRunCountsAcrossAGap(t *testing.T) {
	t.Parallel()
	p := lane.New[string](limits, 10)
	p.Restore("acme", lane.Cursor{Tag: lane.TagOf("acme"), From: 2, Cause: lane.CauseSlow, Until: 9, Runs: []lane.Run{{Events: 1}, {Events: 3, State: lane.Done}}})
	again(t, p, 2, "acme", "ann", pair...)
	p.Lost("acme", 6)
	again(t, p, 6, "acme", "bob", pair...)
	again(t, p, 7, "acme", "eve", pair...)
	c := cursor(t, p)
	expect(t, "runs", c.Runs, []lane.Run{{Events: 1, State: lane.Pending}})
	expect(t, "until", c.Until, lane.Offset(0))
	p.Suspend("acme", since, lane.CauseUnavailable)
	expect(t, "runs when it is read again", cursor(t, p).Runs, []lane.Run{{Events: 1, State: lane.Pending}})
}

// What was known of a lane's events is of no use when it has caught up.
func TestLaneThatIsLiveAgainKnowsNothingOfBefore(t *testing.T) {
	t.Parallel()
	p := lane.New[string](limits, 10)
	p.Restore("acme", lane.Cursor{Tag: lane.TagOf("acme"), From: 2, Until: 10, Cause: lane.CauseSlow, Runs: []lane.Run{{Events: 1, State: lane.Done}}})
	again(t, p, 2, "acme", "ann", pair...)
	p.Live("acme")
	p.Suspend("acme", since, lane.CausePaused)
	add(p, 10, "acme", "ann", pair...)
	expect(t, "known to be done", p.KnownDone("acme", 10), false)
	expect(t, "cursor", cursor(t, p), lane.Cursor{Tag: lane.TagOf("acme"), From: 10, Since: since, Cause: lane.CausePaused})
}

func TestNoMoreCursorsThanFit(t *testing.T) {
	t.Parallel()
	p := lane.New[string](lane.Limits{RequestCalls: 1, RequestBytes: 100, WindowEvents: 10_000, WindowBytes: 1 << 20, BehindEvents: 9}, 0)
	for o := range lane.Offset(lane.MaxCursors + 1) {
		name := "t" + string(rune('a'+o%26)) + string(rune('a'+o/26))
		add(p, o, name, "ann", pair...)
		if got, want := p.Suspend(name, since, lane.CauseUnavailable), int(o) < lane.MaxCursors; got != want {
			t.Fatalf("suspension %d: %v, want %v", o+1, got, want)
		}
	}
	expect(t, "the commit waits with the one that has no cursor", p.CommitPoint(), lane.Offset(lane.MaxCursors))
	m := lane.Metadata{Partitions: 12, Cursors: p.Cursors()}
	if _, _, err := m.Encode(); err != nil || len(m.Cursors) != lane.MaxCursors {
		t.Errorf("%d cursors: %v", len(m.Cursors), err)
	}
}

// What a cursor knows of events behind its commit holds for them when they are read
// the first time, also after the lane has had all that lies before.
func TestKnowledgeBeyondTheCommitIsKept(t *testing.T) {
	t.Parallel()
	p := lane.New[int](limits, 4)
	p.Restore("a", lane.Cursor{
		Tag: lane.TagOf("a"), From: 0, Cause: lane.CauseSlow,
		Runs: []lane.Run{{Events: 2, State: lane.AfterFirst}},
	})
	two := []lane.Cost{{Calls: 1}, {Calls: 1}}
	p.AddBehind(lane.Event[int]{Offset: 0, Lane: "a", Key: "x", Steps: two})
	p.Live("a")
	if it := p.Add(lane.Event[int]{Offset: 4, Lane: "a", Key: "y", Steps: two}); it != nil {
		t.Fatal("the second of two events that are known went the way of new ones")
	}
	p.AddBehind(lane.Event[int]{Offset: 4, Lane: "a", Key: "y", Steps: two})
	p.Live("a")
	r, _ := p.Next()
	for _, part := range r.Parts {
		if part.Step != 1 {
			t.Errorf("step %d of offset %d is sent again", part.Step, part.Item.Offset)
		}
	}
	if len(r.Parts) != 2 {
		t.Errorf("%d events are sent, want 2", len(r.Parts))
	}
	if it := p.Add(lane.Event[int]{Offset: 5, Lane: "a", Key: "z", Steps: two}); it == nil {
		t.Error("the lane does not become live again")
	}
}

// What goes before the events of a key that was set apart takes no room from the others,
// and no more memory than a lane may have: a lane that was passed with a full window of it
// does not take all of that back.
func TestWhatGoesBeforeAKeyThatIsApartIsBounded(t *testing.T) {
	t.Parallel()
	p := lane.New[string](machineLimits, 0)
	for o := range lane.Offset(10) {
		add(p, o, "acme", "hot", pair...)
	}
	if !p.SetApart("acme", []byte("acme/hot"), "hot", since) || !p.Pass("acme", since, lane.CauseSlow) {
		t.Fatal("the user is not set apart, or his tenant not passed")
	}
	o, behind := p.Unread("acme")
	if !behind {
		t.Fatal("the lane has all of its events in memory")
	}
	for ; o < 10 && p.Room("acme"); o++ {
		again(t, p, o, "acme", "hot", pair...)
	}
	expect(t, "events in memory", p.Waiting("acme"), 2*machineLimits.BehindEvents)
}
