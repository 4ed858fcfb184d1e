package lane_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"refinersource/internal/lane"
)

// machine drives a partition with random schedules, through crashes and clean
// hand-overs, against a model: the log, and what was accepted of each event.
type machine struct {
	p        *lane.Partition[int]
	log      []*logged // the offset is the index
	open     []lane.Request[int]
	deferred []*lane.Item[int]
	begun    lane.Offset // one past the last event that this owner handed out
	draining bool
	start    lane.Offset   // where this owner started
	restored []lane.Cursor // and from which cursors

	commit  lane.Offset
	cursors []lane.Cursor
}

// logged is an event in the log and what became of it.
type logged struct {
	lane.Event[int]
	step     int  // of this owner's knowledge: steps accepted
	finished bool // likewise
	busy     bool

	of, key lane.Tag

	reached int  // steps that were ever accepted
	over    bool // it was finished once
}

var machineLimits = lane.Limits{RequestCalls: 4, RequestBytes: 100, WindowEvents: 12, WindowBytes: 700, BehindEvents: 4}

func TestPartitionKeepsItsPromisesUnderAnySchedule(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{p: lane.New[int](machineLimits, 0)}
		t.Repeat(map[string]func(*rapid.T){
			"append": m.append, "read": m.read, "read more": m.read, "read again": m.readAgain, "read more again": m.readAgain, "reach": m.reach,
			"send": m.send, "send more": m.send, "return": m.returned, "return more": m.returned, "suspend": m.suspend, "probe": m.probe,
			"open": m.openLane, "pass": m.pass, "release": m.release, "set apart": m.setApart, "commit": m.committed, "drain": m.drain, "crash": m.crash, "reset": m.reset,
			"": m.check,
		})
		m.heal(t)
	})
}

func (m *machine) append(t *rapid.T) {
	for range rapid.IntRange(1, 12).Draw(t, "events") {
		m.appendOne(t)
	}
}

func (m *machine) appendOne(t *rapid.T) {
	e := &logged{Event: lane.Event[int]{
		Offset: lane.Offset(len(m.log)),
		Lane:   rapid.SampledFrom([]string{"a", "a", "b", "c"}).Draw(t, "lane"),
		Key:    rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "key"),
		Bytes:  rapid.IntRange(0, 100).Draw(t, "bytes"),
	}}
	for range rapid.SampledFrom([]int{0, 1, 2, 2, 2, 3}).Draw(t, "steps") {
		e.Steps = append(e.Steps, lane.Cost{Calls: rapid.IntRange(1, 6).Draw(t, "calls"), Bytes: rapid.IntRange(1, 150).Draw(t, "size")})
	}
	e.Payload = len(m.log)
	if rapid.IntRange(0, 9).Draw(t, "none") == 0 {
		// An offset without an event: a transaction's marker, or one that is gone.
		e.Event = lane.Event[int]{Offset: e.Offset}
	}
	e.of, e.key = tags[e.Lane], tags[e.Event.Key]
	m.log = append(m.log, e)
}

// read adds the next live events.
func (m *machine) read(t *rapid.T) {
	for range rapid.IntRange(1, 8).Draw(t, "events") {
		if int(m.p.Position()) == len(m.log) || m.p.Full() || m.draining {
			return
		}
		m.readOne(t)
	}
}

// labelled is the event in the lane that it belongs to now.
func (m *machine) labelled(e *logged) lane.Event[int] {
	event := e.Event
	event.Lane = m.p.LaneOf(e.Lane, []byte(e.Key), e.Offset)
	return event
}

// tenant is that of a lane.
func tenant(name string) string { return name[:1] }

// names are those of all lanes that may be there.
func (m *machine) names() []string {
	names := []string{"a", "b", "c"}
	for _, h := range m.lanes(func(h lane.Held) bool { return len(h.Lane) > 1 }) {
		names = append(names, h.Lane)
	}
	return names
}

// setApart gives the events of a key a lane of their own.
func (m *machine) setApart(t *rapid.T) {
	key := rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "key")
	name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "lane")
	if rapid.Bool().Draw(t, "out of memory before") && !m.busy(name) {
		m.p.Suspend(name, time.Unix(1, 0), lane.CauseUnavailable)
		m.p.Open(name)
	}
	m.p.SetApart(name, []byte(key), key, time.Unix(1, 0))
}

// busy reports whether a lane has a request in flight.
func (m *machine) busy(name string) bool {
	return slices.ContainsFunc(m.open, func(r lane.Request[int]) bool { return r.Lane == name })
}

func (m *machine) readOne(t *rapid.T) {
	e := m.log[m.p.Position()]
	if e.Lane == "" {
		m.p.Reach(e.Offset + 1)
		e.finished, e.over = true, true
		return
	}
	event := m.labelled(e)
	skips := m.p.Skips(event.Lane)
	it := m.p.Add(event)
	if skips != (it == nil) {
		t.Fatalf("Skips says %v, Add returned %v", skips, it)
	}
	if it != nil && len(e.Steps) == 0 {
		e.finished, e.over = true, true
	}
}

// lanes are the held lanes for which ok holds, in the order of their names.
func (m *machine) lanes(ok func(lane.Held) bool) []lane.Held {
	var lanes []lane.Held
	for _, h := range m.p.Held() {
		if ok(h) {
			lanes = append(lanes, h)
		}
	}
	slices.SortFunc(lanes, func(a, b lane.Held) int { return strings.Compare(a.Lane, b.Lane) })
	return lanes
}

// readAgain gives a lane that is behind its next event, or makes it live.
func (m *machine) readAgain(t *rapid.T) {
	behind := m.lanes(func(h lane.Held) bool { return h.Behind && m.p.Room(h.Lane) })
	if len(behind) == 0 || m.draining {
		t.Skip("none is behind")
	}
	name := rapid.SampledFrom(behind).Draw(t, "lane").Lane
	for range rapid.IntRange(1, 6).Draw(t, "events") {
		for _, h := range m.lanes(func(h lane.Held) bool { return h.Lane == name && h.Behind && m.p.Room(name) }) {
			m.catchUp(h)
		}
	}
}

// reach tells a lane that is behind how far it has no event.
func (m *machine) reach(t *rapid.T) {
	behind := m.lanes(func(h lane.Held) bool { return h.Behind })
	if len(behind) == 0 {
		t.Skip("none is behind")
	}
	h := rapid.SampledFrom(behind).Draw(t, "lane")
	at := h.Unread
	for int(at) < len(m.log) && (m.log[at].Lane == "" || m.labelled(m.log[at]).Lane != h.Lane) {
		at++
	}
	m.p.ReachBehind(h.Lane, at)
}

func (m *machine) catchUp(h lane.Held) {
	for at := h.Unread; at < m.p.Position(); at++ {
		e := m.log[at]
		if e.Lane != tenant(h.Lane) {
			continue
		}
		event := m.labelled(e)
		if event.Lane != h.Lane {
			continue
		}
		if m.p.Blocked(h.Lane, e.Key) {
			return
		}
		done := m.p.KnownDone(h.Lane, at)
		it := m.p.AddBehind(event)
		if done != (it == nil) {
			panic("KnownDone and AddBehind differ")
		}
		if it == nil || len(e.Steps) == 0 {
			e.finished, e.over = true, true
		}
		return
	}
	if !h.Suspended {
		m.p.Live(h.Lane)
	}
}

func (m *machine) send(t *rapid.T) {
	r, ok := m.p.Next()
	if !ok {
		return
	}
	var cost lane.Cost
	for i, part := range r.Parts {
		e := m.log[part.Item.Payload]
		if e.Lane != tenant(r.Lane) {
			t.Fatalf("isolation: an event of lane %s in a request of %s", e.Lane, r.Lane)
		}
		if e.finished || e.busy || part.Step > e.step || part.Step < e.step && e.step < 3 {
			t.Fatalf("pair: step %d of offset %d was handed out, want %d (finished %v, busy %v)", part.Step, e.Offset, e.step, e.finished, e.busy)
		}
		if m.draining && e.Offset >= m.begun {
			t.Fatalf("drain: offset %d was begun", e.Offset)
		}
		if i > 0 && part.Item.Offset <= r.Parts[i-1].Item.Offset {
			t.Fatalf("the request is not in the order of the log")
		}
		for _, other := range m.log[:e.Offset] {
			if len(other.Steps) > 0 && other.Lane == e.Lane && other.Key == e.Key && !other.finished && !m.restoredDone(other) {
				t.Fatalf("order: offset %d overtakes %d of the same key", e.Offset, other.Offset)
			}
		}
		e.busy = true
		cost.Calls += e.Steps[part.Step].Calls
		cost.Bytes += e.Steps[part.Step].Bytes
		m.begun = max(m.begun, e.Offset+1)
	}
	if len(r.Parts) > 1 && (cost.Calls > machineLimits.RequestCalls || cost.Bytes > machineLimits.RequestBytes) {
		t.Fatalf("the request is over its limits: %+v", cost)
	}
	if (r.Probe || r.Alone) && len(r.Parts) != 1 {
		t.Fatalf("a probe, or what travels alone, has %d parts", len(r.Parts))
	}
	for _, other := range m.open {
		if other.Lane == r.Lane {
			t.Fatalf("lane %s has two requests in flight", r.Lane)
		}
	}
	m.open = append(m.open, r)
}

// restoredDone: an event that this owner knows to be done from the cursors, and
// has not come by yet.
func (m *machine) restoredDone(e *logged) bool {
	return done(m.log, e.Offset, m.start, m.restored)
}

func (m *machine) returned(t *rapid.T) {
	if len(m.open) == 0 {
		t.Skip("nothing in flight")
	}
	i := rapid.IntRange(0, len(m.open)-1).Draw(t, "request")
	outcomes := make([]lane.Outcome, len(m.open[i].Parts))
	for j := range outcomes {
		outcomes[j] = rapid.SampledFrom([]lane.Outcome{lane.Accepted, lane.Accepted, lane.Accepted, lane.Ended, lane.Abandoned, lane.Deferred}).Draw(t, "outcome")
	}
	m.settle(t, i, outcomes)
}

func (m *machine) settle(t *rapid.T, i int, outcomes []lane.Outcome) {
	r := m.open[i]
	m.open = slices.Delete(m.open, i, i+1)
	var want []int
	for j, part := range r.Parts {
		e := m.log[part.Item.Payload]
		e.busy = false
		switch outcomes[j] {
		case lane.Accepted:
			e.step = part.Step + 1
			e.reached = max(e.reached, e.step)
			e.finished = e.step == len(e.Steps)
		case lane.Ended:
			e.finished = true
		case lane.Abandoned:
		case lane.Deferred:
			m.deferred = append(m.deferred, part.Item)
		}
		if e.finished {
			e.over = true
			want = append(want, e.Payload)
		}
	}
	if got := m.p.Done(r, outcomes); !slices.Equal(got, want) {
		t.Fatalf("finished %v, want %v", got, want)
	}
}

// name of a lane that has no request in flight.
func (m *machine) idle(t *rapid.T) string {
	name := rapid.SampledFrom(m.names()).Draw(t, "lane")
	if m.busy(name) {
		t.Skip("busy")
	}
	return name
}

func (m *machine) suspend(t *rapid.T) { m.p.Suspend(m.idle(t), time.Unix(1, 0), lane.CauseUnavailable) }

func (m *machine) probe(t *rapid.T) {
	if m.draining {
		t.Skip("drains")
	}
	m.p.Probe(m.idle(t))
}

func (m *machine) openLane(t *rapid.T) { m.p.Open(m.idle(t)) }

func (m *machine) pass(t *rapid.T) {
	pass := m.p.Pass
	if rapid.Bool().Draw(t, "whole") {
		pass = m.p.PassWhole
	}
	pass(rapid.SampledFrom(m.names()).Draw(t, "lane"), time.Unix(1, 0), lane.CauseSlow)
}

func (m *machine) release(t *rapid.T) {
	if len(m.deferred) == 0 {
		t.Skip("none is deferred")
	}
	m.p.Release(m.deferred[0])
	m.deferred = m.deferred[1:]
}

// committed commits: what another owner will go on from went through a commit's
// metadata.
func (m *machine) committed(t *rapid.T) {
	metadata := lane.Metadata{Partitions: 1, Cursors: m.p.Cursors()}
	text, complete, err := metadata.Encode()
	if err != nil || !complete {
		t.Fatalf("encode %+v: complete %v, %v", metadata, complete, err)
	}
	if metadata, err = lane.Decode(text); err != nil {
		t.Fatal(err)
	}
	m.commit, m.cursors = m.p.CommitPoint(), metadata.Cursors
}

// drain is a clean hand-over: what is in flight comes back, then another owner
// goes on, and repeats nothing.
func (m *machine) drain(t *rapid.T) {
	if !rapid.Bool().Draw(t, "drain") {
		t.Skip("goes on")
	}
	m.draining = true
	m.p.Drain()
	for range 1000 {
		m.send(t)
		if len(m.open) == 0 {
			break
		}
		m.settle(t, 0, slices.Repeat([]lane.Outcome{rapid.SampledFrom([]lane.Outcome{lane.Accepted, lane.Deferred}).Draw(t, "outcome")}, len(m.open[0].Parts)))
	}
	if !m.p.Drained() {
		t.Fatalf("it does not drain")
	}
	if !m.p.PassBegun(time.Unix(2, 0)) {
		t.Fatalf("no room for the cursors of three lanes")
	}
	m.check(t)
	m.committed(t)
	for _, e := range m.log[m.commit:] {
		if held, _ := stateOf(m.log, e.Offset, m.cursors); !held && (e.step > 0 || e.finished && len(e.Steps) > 0) {
			t.Fatalf("offset %d was begun, and the hand-over is at %d", e.Offset, m.commit)
		}
	}
	m.takeOver()
}

// crash takes the owner out; another goes on at the last commit.
func (m *machine) crash(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "crash") > 0 {
		t.Skip("goes on")
	}
	m.takeOver()
}

func (m *machine) takeOver() {
	m.p = lane.New[int](machineLimits, m.commit)
	m.open, m.deferred, m.draining, m.begun, m.start, m.restored = nil, nil, false, m.commit, m.commit, m.cursors
	for _, e := range m.log {
		e.busy, e.step = false, 0
		if e.finished = done(m.log, e.Offset, m.commit, m.cursors); e.finished {
			continue
		}
		switch _, s := stateOf(m.log, e.Offset, m.cursors); {
		case s == lane.AfterFirst && len(e.Steps) > 1:
			e.step = 1
		case s == lane.AfterSecond && len(e.Steps) > 2:
			e.step = 2
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		for _, c := range m.cursors {
			if c.Tag == lane.TagOf(name) {
				m.p.Restore(name, c)
			}
		}
	}
}

// stateOf is what the cursors of a commit say of an event before it.
func stateOf(log []*logged, at lane.Offset, cursors []lane.Cursor) (held bool, s lane.RunState) {
	c := cursorOf(log[at], cursors)
	if c == nil || at < c.From {
		return false, lane.Done // if it lies before the commit
	}
	runs := slices.Clone(c.Runs)
	for _, e := range log[c.From : at+1] {
		if cursorOf(e, cursors) != c {
			continue
		}
		switch {
		case len(runs) > 0:
			s = runs[0].State
			if runs[0].Events--; runs[0].Events == 0 {
				runs = runs[1:]
			}
		case e.Offset < c.Until:
			s = lane.Done
		default:
			s = lane.Pending
		}
	}
	return true, s
}

// tags of the lanes and keys.
var tags = func() map[string]lane.Tag {
	m := make(map[string]lane.Tag)
	for _, name := range []string{"a", "b", "c", "x", "y", "z"} {
		m[name] = lane.TagOf(name)
	}
	return m
}()

// cursorOf is the cursor that speaks of an event: that of its key, if it is set
// apart by then, or of its lane; nil if there is none.
func cursorOf(e *logged, cursors []lane.Cursor) (of *lane.Cursor) {
	for i := range cursors {
		c := &cursors[i]
		switch {
		case c.Tag != e.of:
		case c.Key == e.key && e.Offset >= c.Split:
			return c
		case c.Key == lane.Tag{}:
			of = c
		}
	}
	return of
}

// done reports whether a commit says of an event that it is done. The runs of a
// cursor may go on behind the commit.
func done(log []*logged, at, commit lane.Offset, cursors []lane.Cursor) bool {
	held, s := stateOf(log, at, cursors)
	return s == lane.Done && (held || at < commit)
}

// check holds after every step: what a commit at this moment would say of each
// event before it is what became of it.
func (m *machine) check(t *rapid.T) {
	to, cursors := m.p.CommitPoint(), m.p.Cursors()
	if to > m.p.Position() || to < m.commit && m.start == m.commit {
		t.Fatalf("commit point %d; the last was %d, read is up to %d", to, m.commit, m.p.Position())
	}
	for _, e := range m.log[:to] {
		_, s := stateOf(m.log, e.Offset, cursors)
		finished := e.finished || m.restoredDone(e)
		if (s == lane.Done) != finished {
			if len(e.Steps) == 0 && s != lane.Done {
				continue // it was skipped: to decide it again changes nothing
			}
			t.Fatalf("the commit at %d says of offset %d (lane %s): %v; finished: %v; cursors %+v", to, e.Offset, e.Lane, s, finished, cursors)
		}
		if want := map[int]lane.RunState{1: lane.AfterFirst, 2: lane.AfterSecond}[e.step]; !finished && len(e.Steps) > 0 && s != want {
			t.Fatalf("the commit at %d says of offset %d: %v, it has had %d steps accepted", to, e.Offset, s, e.step)
		}
	}
	if m.p.InFlight() != len(m.open) {
		t.Fatalf("%d in flight, want %d", m.p.InFlight(), len(m.open))
	}
	if got, want := m.p.Uncommitted(), m.p.CountUncommitted(); got != want {
		t.Fatalf("%d events are said to be finished behind the commit point, there are %d", got, want)
	}
	memory := m.p.Len()
	for _, h := range m.p.Held() {
		memory += h.Waiting
	}
	if bound := 3 * machineLimits.WindowEvents; memory > bound {
		t.Fatalf("%d events in memory, want at most %d", memory, bound)
	}
}

// heal lets all go well from here: every event is finished, and nothing is kept.
func (m *machine) heal(t *rapid.T) {
	m.draining = false
	for range 100_000 {
		for _, name := range m.names() {
			m.p.Open(name)
		}
		for _, it := range m.deferred {
			m.p.Release(it)
		}
		m.deferred = nil
		if int(m.p.Position()) < len(m.log) && !m.p.Full() {
			m.readOne(t)
		}
		for _, h := range m.lanes(func(h lane.Held) bool { return h.Behind && m.p.Room(h.Lane) }) {
			m.catchUp(h)
		}
		m.send(t)
		if len(m.open) > 0 {
			m.settle(t, 0, slices.Repeat([]lane.Outcome{lane.Accepted}, len(m.open[0].Parts)))
		}
		m.check(t)
		if int(m.p.CommitPoint()) == len(m.log) && len(m.p.Held()) == 0 {
			break
		}
	}
	for _, e := range m.log {
		if !e.over || e.busy {
			t.Fatalf("offset %d never ended", e.Offset)
		}
	}
	if int(m.p.CommitPoint()) != len(m.log) || m.p.Len() != 0 || m.p.Kept() != 0 {
		// Bounded (invariant 8): nothing is kept for tenants and users that have been.
		t.Fatalf("commit point %d of %d, %d events are left, and something is kept for %d lanes and keys: %+v",
			m.p.CommitPoint(), len(m.log), m.p.Len(), m.p.Kept(), m.p.Held())
	}
}
