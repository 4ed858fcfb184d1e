package lane

import (
	"cmp"
	"slices"
)

// Reset returns what a commit at to says in place of one at from that says m, when
// somebody moves it while nobody works.
//
// Forward, all cursors stay as they are: only what no cursor holds is passed over.
// Backward, everything from to on is to be sent again, whatever was done of it. So
// what cursors tell of that is forgotten: a lane that goes on at to or behind it has
// no cursor any more, and one that goes on before has one without runs, which holds
// the events of all its keys. That repeats what was done behind it, in order.
//
// The owner stays: its last requests may still be under way. So do the number of
// partitions, since whether users have moved is not decided here, and the installation.
func (m *Metadata) Reset(from, to Offset) Metadata {
	if to >= from {
		return *m
	}
	moved := Metadata{Partitions: m.Partitions, Owner: m.Owner, Installation: m.Installation}
	first := make(map[Tag]int) // index of the lane's cursor
	for _, c := range slices.SortedStableFunc(slices.Values(m.Cursors), func(a, b Cursor) int { return cmp.Compare(a.From, b.From) }) {
		i, again := first[c.Tag]
		switch {
		case !again && c.From < to:
			first[c.Tag] = len(moved.Cursors)
			moved.Cursors = append(moved.Cursors, Cursor{Tag: c.Tag, From: c.From, Since: c.Since, Cause: c.Cause})
		case again && c.Key == (Tag{}): // why the tenant waits says more than why one of its keys does
			moved.Cursors[i].Since, moved.Cursors[i].Cause = c.Since, c.Cause
		}
	}
	return moved
}

// Ledger tells of the events of a partition what a commit says of them. Use
// Metadata.Ledger. It is not safe for concurrent use.
type Ledger struct {
	commit Offset
	start  Offset
	lanes  map[Tag][]*page
}

// page is a cursor, and what is left of its runs.
type page struct {
	Cursor

	runs []Run
}

// Ledger returns the ledger of a commit at that offset which says m.
func (m *Metadata) Ledger(commit Offset) *Ledger {
	l := &Ledger{commit: commit, start: commit, lanes: make(map[Tag][]*page)}
	for _, c := range m.Cursors {
		l.lanes[c.Tag] = append(l.lanes[c.Tag], &page{Cursor: c, runs: slices.Clone(c.Runs)})
	}
	for _, pages := range l.lanes {
		for _, p := range pages {
			if len(pages) > 1 || len(p.Runs) > 0 || p.Key != (Tag{}) {
				l.start = min(l.start, p.From)
			}
		}
	}
	return l
}

// Start is where Waits has to begin: the first place behind which a tenant may have
// events that wait before others that are done.
func (l *Ledger) Start() Offset { return l.start }

// Waits reports whether an event is still to be sent, all of it or a part. It has to
// be asked once of every event from Start on, or from before it, in their order.
func (l *Ledger) Waits(name string, key []byte, at Offset) bool {
	p := l.page(name, key, at)
	switch {
	case p == nil:
		return at >= l.commit
	case at < p.From:
		return false
	case len(p.runs) == 0:
		return at >= p.Until || len(p.Runs) == 0
	}
	r := &p.runs[0]
	state := r.State
	if r.Events--; r.Events == 0 {
		p.runs = p.runs[1:]
	}
	return state != Done
}

// page is the cursor of the lane that an event belongs to; nil if it has none.
func (l *Ledger) page(name string, key []byte, at Offset) (whole *page) {
	if len(l.lanes) == 0 {
		return nil
	}
	pages := l.lanes[TagOf(name)]
	for _, p := range pages {
		switch {
		case p.Key == (Tag{}):
			whole = p
		case at >= p.Split && p.Key == tagOf(key):
			return p
		}
	}
	return whole
}
