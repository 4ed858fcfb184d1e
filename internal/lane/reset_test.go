package lane_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"refinersource/internal/lane"
)

func TestResetBackHasOneCursorOfATenantOrNone(t *testing.T) {
	t.Parallel()
	runs := []lane.Run{{Events: 1, State: lane.Pending}, {Events: 2, State: lane.Done}}
	m := lane.Metadata{Partitions: 12, Owner: lane.Cut, Installation: other, RunsLeftOut: true, Cursors: []lane.Cursor{
		{Tag: acme, From: 10, Runs: runs, Until: 80, Since: at(1), Cause: lane.CauseThrottled},
		{Tag: acme, Key: third, Split: 12, From: 60, Cause: lane.CauseSlow},
		{Tag: other, Key: acme, Split: 20, From: 20, Cause: lane.CauseSlow},
		{Tag: other, From: 30, Since: at(2), Cause: lane.CausePaused},
		{Tag: third, From: 50, Cause: lane.CausePaused},
	}}
	for to, want := range map[lane.Offset][]lane.Cursor{
		100: m.Cursors,
		101: m.Cursors,
		50: {
			{Tag: acme, From: 10, Since: at(1), Cause: lane.CauseThrottled},
			{Tag: other, From: 20, Since: at(2), Cause: lane.CausePaused},
		},
		20: {{Tag: acme, From: 10, Since: at(1), Cause: lane.CauseThrottled}},
		10: nil,
	} {
		got := m.Reset(100, to)
		if diff := cmp.Diff(want, got.Cursors); diff != "" || got.Partitions != 12 || got.Owner != lane.Cut || got.Installation != other {
			t.Errorf("back to %d: %+v, cursors (-want +got):\n%s", to, got, diff)
		}
		if forward := to >= 100; got.RunsLeftOut != forward {
			t.Errorf("back to %d: runs are left out: %v", to, got.RunsLeftOut)
		}
	}
}

func TestLedgerWithoutRunsBeginsAtTheCommit(t *testing.T) {
	t.Parallel()
	plain := lane.Cursor{Tag: acme, From: 10}
	for _, c := range []struct {
		cursors []lane.Cursor
		want    lane.Offset
	}{
		{nil, 100},
		{[]lane.Cursor{plain}, 100},
		{[]lane.Cursor{{Tag: acme, From: 10, Runs: []lane.Run{{Events: 1, State: lane.AfterFirst}}}}, 10},
		{[]lane.Cursor{{Tag: acme, Key: third, From: 10}}, 10},
		{[]lane.Cursor{plain, {Tag: acme, Key: third, From: 20}}, 10},
		{[]lane.Cursor{plain, {Tag: other, From: 5}}, 100},
	} {
		m := lane.Metadata{Cursors: c.cursors}
		if got := m.Ledger(100).Start(); got != c.want {
			t.Errorf("%+v: it starts at %d, want %d", c.cursors, got, c.want)
		}
	}
}

// reset takes the owner out, and moves the last commit to anywhere in the log.
// Nothing that waits is lost but what nobody holds and is skipped; nothing overtakes.
func (m *machine) reset(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "reset") > 0 {
		t.Skip("goes on")
	}
	before := lane.Metadata{Partitions: 1, Cursors: m.cursors}
	to := lane.Offset(rapid.IntRange(0, len(m.log)).Draw(t, "to"))
	moved := before.Reset(m.commit, to)
	text, complete, err := moved.Encode()
	if err != nil || !complete {
		t.Fatalf("encode %+v: complete %v, %v", moved, complete, err)
	}
	if moved, err = lane.Decode(text); err != nil {
		t.Fatal(err)
	}
	was, is := before.Ledger(m.commit), moved.Ledger(to)
	if is.Start() < min(was.Start(), to) {
		t.Fatalf("it has to be read from %d on, before %d and %d", is.Start(), was.Start(), to)
	}
	waiting := make(map[string]lane.Offset) // order keys of which an event waits
	for _, e := range m.log {
		if e.Lane == "" {
			e.over = e.over || e.Offset < to
			continue
		}
		waited, waits := !done(m.log, e.Offset, m.commit, m.cursors), !done(m.log, e.Offset, to, moved.Cursors)
		if e.Offset >= was.Start() && was.Waits(e.Lane, []byte(e.Key), e.Offset) != waited {
			t.Fatalf("before: the ledger says of offset %d: waits %v; the commit at %d with %+v says %v", e.Offset, !waited, m.commit, m.cursors, waited)
		}
		if e.Offset >= is.Start() && is.Waits(e.Lane, []byte(e.Key), e.Offset) != waits {
			t.Fatalf("after: the ledger says of offset %d: waits %v; the commit at %d with %+v says %v", e.Offset, !waits, to, moved.Cursors, waits)
		}
		if e.Offset < min(was.Start(), to) && waited != waits {
			t.Fatalf("offset %d, of which no ledger tells: waited %v, waits %v", e.Offset, waited, waits)
		}
		skipped := m.commit <= e.Offset && e.Offset < to && cursorOf(e, m.cursors) == nil
		switch {
		case waited && !waits && !skipped:
			t.Fatalf("offset %d waited, and was lost by moving from %d to %d", e.Offset, m.commit, to)
		case skipped && waits, to < m.commit && e.Offset >= to && !waits:
			t.Fatalf("offset %d: waits %v, moved from %d to %d", e.Offset, waits, m.commit, to)
		}
		if first, again := waiting[e.Lane+e.Key]; again && !waits && to < m.commit {
			t.Fatalf("offset %d is sent again, and %d of the same key behind it is not", first, e.Offset)
		}
		if waits {
			waiting[e.Lane+e.Key] = e.Offset
		}
		if skipped {
			e.over = true
		}
	}
	m.commit, m.cursors = to, moved.Cursors
	m.takeOver()
}
