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
		l := &c.lanes[i]
		l.skip = make([]int32, len(l.events)+1)
		for j := range l.skip {
			l.skip[j] = int32(j)
		}
	}
	c.generations()
	for _, p := range partitions {
		if part := c.parts[p]; part != nil {
			w := walk{checking: c, partition: p, part: part, open: make(map[int32]open)}
			for _, k := range c.commitOf[p].commits {
				w.commit(k)
			}
		}
	}
	c.report.Commits = len(c.h.Commits)
}

// generations verifies that no generation commits when a later one has, and that
// in each one member has a partition.
func (c *checking) generations() {
	type owner struct{ generation, partition int }
	latest := 0
	members := make(map[owner]string)
	for i := range c.h.Commits {
		k := &c.h.Commits[i]
		if k.Generation <= 0 {
			continue
		}
		v := Violation{Rule: Commits, Partition: k.Partition, Offset: -1, At: k.At}
		if k.Generation < latest {
			c.note(v, "generation %d committed %d/%d when generation %d had committed", k.Generation, k.Partition, k.Offset, latest)
			continue
		}
		latest = k.Generation
		o := owner{k.Generation, k.Partition}
		if other, ok := members[o]; ok && other != k.Member && k.Member != "" {
			c.note(v, "two members committed partition %d in generation %d", k.Partition, k.Generation)
		}
		members[o] = k.Member
	}
}

// open is a lane with events that a commit has passed and that have not ended.
type open struct {
	reported int32 // the event that was reported last, in its lane; -1 if none was
}

// walk goes over the commits of a partition.
type walk struct {
	*checking
	partition int
	part      *partition
	now       Time
	offset    int64
	passed    int // events of the partition before the last commit
	open      map[int32]open
}

// ended reports whether the outcome of an event was known at a time.
func (c *checking) ended(id int32, by Time) bool {
	e := &c.events[id]
	switch {
	case e.letter && e.letterAt <= by:
		return true
	case e.fate == isIgnored, e.fate == isCopy:
		return true
	case e.fate == makesCalls && e.left == 0 && e.delivered <= by:
		return true
	default:
		return c.trimmedBy(e, by)
	}
}

// unfinished is the first event of a lane from the one with that index on that had
// not ended by a time. Times must not go back.
func (c *checking) unfinished(l *lane, from int32, by Time) int32 {
	i := from
	for {
		for l.skip[i] != i {
			l.skip[i] = l.skip[l.skip[i]]
			i = l.skip[i]
		}
		if int(i) == len(l.events) || !c.ended(l.events[i], by) {
			break
		}
		l.skip[i] = i + 1
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
	w.offset = k.Offset
}

// pass opens the lanes of the events that a commit passes before their end.
func (w *walk) pass(k *Commit, by Time) {
	to, _ := w.search(w.part.events, k.Offset)
	for ; w.passed < to; w.passed++ {
		id := w.part.events[w.passed]
		if w.ended(id, by) {
			continue
		}
		e := &w.events[id]
		if _, ok := w.open[e.lane]; !ok {
			w.open[e.lane] = open{reported: -1}
		}
	}
}

// covers verifies that what a commit has passed without its end is held by cursors.
func (w *walk) covers(k *Commit, meta *metadata, by Time) {
	for at, o := range w.open {
		l := &w.lanes[at]
		first := w.unfinished(l, 0, by)
		if int(first) == len(l.events) || w.events[l.events[first]].offset >= k.Offset {
			delete(w.open, at)
			continue
		}
		id := l.events[first]
		offset := w.events[id].offset
		cur, ok := meta.cursors[l.tag]
		switch {
		case ok && cur.from <= offset:
		case o.reported == first:
		case offset < w.offset:
			o.reported = first
			where := "dropped"
			if ok {
				where = "moved on to " + strconv.FormatInt(cur.from, 10)
			}
			w.breachOf(Cursors, id, k.At, "an earlier commit passed it, and in the commit of %d the cursor that held it is %s", k.Offset, where)
		default:
			o.reported = first
			w.breachOf(Commits, id, k.At, "the commit of %d passes it before it had ended, and no cursor holds it", k.Offset)
		}
		w.open[at] = o
	}
}

// claims verifies what the cursors of a commit say is done.
func (w *walk) claims(k *Commit, meta *metadata, by Time) {
	for tag, cur := range meta.cursors {
		t, ok := w.tagged[tag]
		if !ok {
			continue // of nobody who has events
		}
		at, ok := w.laneOf[laneID{w.partition, t}]
		if !ok {
			continue
		}
		l := &w.lanes[at]
		first, _ := w.search(l.events, cur.from)
		i := int64(first)
		for _, r := range cur.runs {
			end := i + r.events
			if end > int64(len(l.events)) {
				w.note(Violation{Rule: Cursors, Tenant: l.name, Partition: w.partition, Offset: -1, At: k.At},
					"a cursor of tenant %s counts %d events that are not there", l.name, end-int64(len(l.events)))
				break
			}
			w.claim(k, l, int32(i), int32(end), r.state, by)
			i = end
		}
		if cur.until > 0 {
			end, _ := w.search(l.events, cur.until)
			w.claim(k, l, int32(i), int32(end), done, by)
		}
	}
}

// claim verifies that the events of a run are as far as it says.
func (w *walk) claim(k *Commit, l *lane, from, to int32, state uint8, by Time) {
	switch state {
	case pending:
	case done:
		if from >= to {
			return
		}
		if i := w.unfinished(l, from, by); i < to {
			w.breachOf(Commits, l.events[i], k.At, "the cursor in the commit of %d says that it is done, and it had not ended", k.Offset)
		}
	default:
		for i := from; i < to; i++ {
			e := &w.events[l.events[i]]
			if w.ended(l.events[i], by) {
				continue
			}
			for at := e.first; at < e.first+int32(e.calls); at++ {
				if cl := &w.calls[at]; (cl.kind == identify || state == afterSecond && cl.kind == group) && (cl.accepted == 0 || cl.accepted > by) {
					w.breachOf(Commits, l.events[i], k.At, "the cursor in the commit of %d says that its %s was accepted, and it was not", k.Offset, kindNames[cl.kind])
					break
				}
			}
		}
	}
}
