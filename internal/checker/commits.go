package checker

import (
	"slices"
	"strconv"
)

// commits verifies every commit against what had ended by then (Commits, Cursors).
func (c *checking) commits() {
	partitions := make([]int, 0, len(c.commitOf))
	for p := range c.commitOf {
		partitions = append(partitions, p)
	}
	slices.Sort(partitions)
	for i := range c.lanes {
		for j := range c.lanes[i].strands {
			s := &c.lanes[i].strands[j]
			s.skip = make([]int32, len(s.events)+1)
			for n := range s.skip {
				s.skip[n] = int32(n)
			}
		}
	}
	for _, p := range partitions {
		if part := c.parts[p]; part != nil {
			w := walk{checking: c, partition: p, part: part, open: make(map[strandID]open)}
			for _, k := range c.commitOf[p].commits {
				w.commit(k)
			}
		}
	}
	c.report.Commits = len(c.h.Commits)
}

// strandID tells the strands of all lanes apart.
type strandID struct {
	lane   int32
	strand int
}

// open is a strand with events that a commit has passed and that have not ended.
// Those of a key may be of two lanes, by the last commit.
type open struct {
	reported [2]int32 // the event of each that was reported last, in its strand; -1 if none was
}

// walk goes over the commits of a partition.
type walk struct {
	*checking
	partition int
	part      *partition
	now       Time
	offset    int64
	passed    int // events of the partition before the last commit
	open      map[strandID]open
	keys      []keyCursor // of the last commit
}

// ended reports whether the outcome of an event was known at a time.
func (c *checking) ended(id int32, by Time) bool {
	e := &c.events[id]
	switch {
	case e.letter && e.letterAt <= by:
		return true
	case e.fate == isIgnored, e.fate == isCopy, c.isForgotten(e, by):
		return true
	case e.fate == makesCalls && e.left == 0 && e.delivered <= by:
		return true
	default:
		return c.trimmedBy(e, by)
	}
}

// unfinished is the first event of a strand from the one with that index on that
// had not ended by a time. Times must not go back.
func (c *checking) unfinished(s *strand, from int32, by Time) int32 {
	i := from
	for {
		for s.skip[i] != i {
			s.skip[i] = s.skip[s.skip[i]]
			i = s.skip[i]
		}
		if int(i) == len(s.events) || !c.ended(s.events[i], by) {
			break
		}
		s.skip[i] = i + 1
	}
	return i
}

func (w *walk) commit(k *Commit) {
	w.now = max(w.now, k.At)
	by := w.now + int64(w.o.ClockSlack)
	v := Violation{Partition: w.partition, Offset: -1, At: k.At}
	meta, err := decodeMetadata(k.Metadata)
	if err != nil {
		v.Rule = Cursors
		w.note(v, "the metadata of the commit of %d/%d: %v", k.Partition, k.Offset, err)
		return
	}
	w.report.MaxCursors = max(w.report.MaxCursors, len(meta.cursors))
	if n := int64(len(w.parts)); meta.partitions != 0 && meta.partitions != n {
		v.Rule = Cursors
		w.note(v, "the commit of %d/%d says that the topic has %d partitions, and it has %d", k.Partition, k.Offset, meta.partitions, n)
	}
	if k.Offset < w.offset {
		if !w.during(0, k.At, "", Rewind) {
			v.Rule = Commits
			w.note(v, "the commit of partition %d went back from %d to %d", k.Partition, w.offset, k.Offset)
		}
	}
	if k.Offset > w.part.end {
		v.Rule = Commits
		w.note(v, "the commit of partition %d is %d, behind the end at %d", k.Partition, k.Offset, w.part.end)
	}
	w.pass(k, by)
	w.covers(k, &meta, by)
	w.claims(k, &meta, by)
	w.keeps(k, &meta)
	w.offset, w.keys = k.Offset, meta.keys
}

// pass opens the strands of the events that a commit passes before their end.
func (w *walk) pass(k *Commit, by Time) {
	to, _ := w.search(w.part.events, k.Offset)
	for ; w.passed < to; w.passed++ {
		id := w.part.events[w.passed]
		if w.ended(id, by) {
			continue
		}
		e := &w.events[id]
		at := strandID{e.lane, w.strandOf(e)}
		if _, ok := w.open[at]; !ok {
			w.open[at] = open{reported: [2]int32{-1, -1}}
		}
	}
}

// covers verifies that what a commit has passed without its end is held by cursors:
// each event by that of the lane which it is in now.
func (w *walk) covers(k *Commit, meta *metadata, by Time) {
	for at, o := range w.open {
		l := &w.lanes[at.lane]
		s := &l.strands[at.strand]
		first := w.unfinished(s, 0, by)
		if int(first) == len(s.events) || w.events[s.events[first]].offset >= k.Offset {
			delete(w.open, at)
			continue
		}
		id := cursorID{l.tag, s.key}
		split, apart := meta.splitOf(id)
		if !apart || w.events[s.events[first]].offset < split {
			w.holds(k, meta, cursorID{tenant: l.tag}, s, first, &o, 0)
		}
		if apart {
			own, _ := w.search(s.events, split)
			if first = w.unfinished(s, int32(own), by); int(first) < len(s.events) && w.events[s.events[first]].offset < k.Offset {
				w.holds(k, meta, id, s, first, &o, 1)
			}
		}
		w.open[at] = o
	}
}

// holds verifies that a cursor holds an event.
func (w *walk) holds(k *Commit, meta *metadata, by cursorID, s *strand, first int32, o *open, own int) {
	id := s.events[first]
	offset := w.events[id].offset
	cur, ok := meta.cursors[by]
	if ok && cur.from <= offset || o.reported[0] == first || o.reported[1] == first {
		return
	}
	o.reported[own] = first
	if offset >= w.offset {
		w.breachOf(Commits, id, k.At, "the commit of %d passes it before it had ended, and no cursor holds it", k.Offset)
		return
	}
	where := "dropped"
	if ok {
		where = "moved on to " + strconv.FormatInt(cur.from, 10)
	}
	w.breachOf(Cursors, id, k.At, "an earlier commit passed it, and in the commit of %d the cursor that held it is %s", k.Offset, where)
}

// keeps verifies that a key which was set apart still is, from the same event on,
// as long as the cursor of its lane counts from before the last commit: what it
// counts must not change from owner to owner.
func (w *walk) keeps(k *Commit, meta *metadata) {
	for _, was := range w.keys {
		cur, ok := meta.cursors[cursorID{tenant: was.tenant}]
		if !ok || cur.from >= w.offset {
			continue // nothing was left of the lane, and the key may have come back to it
		}
		split, apart := meta.splitOf(was.cursorID)
		if apart && split == was.split || w.during(0, k.At, "", Rewind) {
			continue
		}
		v := Violation{Rule: Cursors, Partition: w.partition, Offset: -1, At: k.At}
		if t, ok := w.tagged[was.tenant]; ok {
			if at, ok := w.laneOf[laneID{w.partition, t}]; ok {
				v.Tenant = w.lanes[at].name
			}
		}
		if apart {
			w.note(v, "the key %x is set apart from %d on by the commit of %d, and was from %d on, while the lane still goes on from %d",
				was.key, split, k.Offset, was.split, cur.from)
		} else {
			w.note(v, "the key %x is not set apart any more by the commit of %d, while the lane still goes on from %d", was.key, k.Offset, cur.from)
		}
	}
}

// claims verifies what the cursors of a commit say is done.
func (w *walk) claims(k *Commit, meta *metadata, by Time) {
	for id, cur := range meta.cursors {
		t, ok := w.tagged[id.tenant]
		if !ok {
			continue // of nobody who has events
		}
		at, ok := w.laneOf[laneID{w.partition, t}]
		if !ok {
			continue
		}
		l := &w.lanes[at]
		cl := claim{walk: w, k: k, meta: meta, l: l, id: id, by: by, n: w.counts(meta, l, id)}
		if id.key != (tag{}) && cur.from > k.Offset {
			cl.before(k.Offset, cur.from) // what was passed before that is covers'
		}
		i, total := int64(cl.n.rank(cur.from)), int64(cl.n.total())
		for _, r := range cur.runs {
			end := i + r.events
			if end > total {
				w.note(Violation{Rule: Cursors, Tenant: l.name, Partition: w.partition, Offset: -1, At: k.At},
					"a cursor of tenant %s counts %d events that are not there", l.name, end-total)
				break
			}
			cl.run(int(i), int(end), r.state)
			i = end
		}
		if cur.until > 0 {
			cl.run(int(i), cl.n.rank(cur.until), done)
		}
	}
}

// claim is what a cursor says of the events that it counts.
type claim struct {
	*walk
	k    *Commit
	meta *metadata
	l    *lane
	id   cursorID
	n    counted
	by   Time
}

// run verifies that the events of a run are as far as it says.
func (cl *claim) run(from, to int, state uint8) {
	if state == pending || from >= to {
		return
	}
	first, last := cl.n.at(from), cl.n.at(to-1)
	if state == done {
		cl.before(cl.events[cl.n.events[first]].offset, cl.events[cl.n.events[last]].offset+1)
		return
	}
	for _, id := range cl.n.events[first : last+1] {
		if !cl.n.has(id) || cl.ended(id, cl.by) {
			continue
		}
		e := &cl.events[id]
		for at := e.first; at < e.first+int32(e.calls); at++ {
			if c := &cl.calls[at]; (c.kind == identify || state == afterSecond && c.kind == group) && (c.accepted == 0 || c.accepted > cl.by) {
				cl.breachOf(Commits, id, cl.k.At, "the cursor in the commit of %d says that its %s was accepted, and it was not", cl.k.Offset, kindNames[c.kind])
				break
			}
		}
	}
}

// before verifies that the events between two offsets have ended.
func (cl *claim) before(from, to int64) {
	first := int32(-1)
	for i := range cl.l.strands {
		s := &cl.l.strands[i]
		low, high := from, to
		switch split, apart := cl.meta.splitOf(cursorID{cl.l.tag, s.key}); {
		case cl.id.key != s.key && cl.id.key != (tag{}):
			continue // of another lane
		case cl.id.key != (tag{}):
			low = max(from, split)
		case apart:
			high = min(to, split)
		}
		at, _ := cl.search(s.events, low)
		n := cl.unfinished(s, int32(at), cl.by)
		if int(n) == len(s.events) {
			continue
		}
		id := s.events[n]
		if offset := cl.events[id].offset; offset < high && (first < 0 || offset < cl.events[first].offset) {
			first = id
		}
	}
	if first >= 0 {
		cl.breachOf(Commits, first, cl.k.At, "the cursor in the commit of %d says that it is done, and it had not ended", cl.k.Offset)
	}
}
