package checker

import (
	"slices"
	"sort"
)

// tagged is a tenant's lane, as commits name it.
type tagged struct {
	partition int
	tenant    tag
}

// strand is the part of a lane that can be a lane of its own: the events of a key
// that some commit sets apart, or else all others. Most lanes have one.
type strand struct {
	key    tag // zero for the others
	events []int32
	// skip leads from an event that has ended to one behind it; see unfinished.
	skip []int32
}

// setApart finds the keys that are set apart, so that the events of each can be
// followed from lane to lane.
func (c *checking) setApart() {
	c.apart = make(map[tagged][]tag)
	find := func(partition int, text string) {
		if !hasKeys(text) {
			return
		}
		m, _ := decodeMetadata(text) // what cannot be read is reported elsewhere
		for i := range m.keys {
			at := tagged{partition, m.keys[i].tenant}
			if key := m.keys[i].key; !slices.Contains(c.apart[at], key) {
				c.apart[at] = append(c.apart[at], key)
			}
		}
	}
	for i := range c.h.Commits {
		find(c.h.Commits[i].Partition, c.h.Commits[i].Metadata)
	}
	for i := range c.h.Final.Positions {
		find(c.h.Final.Positions[i].Partition, c.h.Final.Positions[i].Metadata)
	}
}

// strand finds that of a key, nil if no commit sets it apart.
func (l *lane) strand(key tag) *strand {
	for i := range l.strands[1:] {
		if s := &l.strands[1+i]; s.key == key {
			return s
		}
	}
	return nil
}

// add puts an event into its strand.
func (l *lane) add(key []byte, id int32) {
	s := l.strand(tagOf(key))
	if s == nil {
		s = &l.strands[0]
	}
	s.events = append(s.events, id)
}

// strandOf is the index of the strand that an event is in.
func (c *checking) strandOf(e *event) int {
	l := &c.lanes[e.lane]
	for i := 1; i < len(l.strands); i++ {
		if _, ok := c.search(l.strands[i].events, e.offset); ok {
			return i
		}
	}
	return 0
}

// cursorOf finds the cursor of the lane that an event is in, by a commit.
func (c *checking) cursorOf(m *metadata, e *event) (id cursorID, cur cursor, ok bool) {
	l := &c.lanes[e.lane]
	id.tenant = l.tag
	for i := range m.keys {
		k := &m.keys[i]
		if k.tenant != l.tag || e.offset < k.split {
			continue
		}
		if s := l.strand(k.key); s != nil {
			if _, is := c.search(s.events, e.offset); is {
				id.key = k.key
				break
			}
		}
	}
	cur, ok = m.cursors[id]
	return id, cur, ok
}

// counted are the events that a cursor counts.
type counted struct {
	*checking
	events []int32   // in the order of their offsets; among them
	apart  [][]int32 // those that are in lanes of their own, key by key
	whole  bool      // they are the tenant's, and none is in another lane
}

// counts finds the events that a cursor counts, by its commit.
func (c *checking) counts(m *metadata, l *lane, id cursorID) counted {
	n := counted{checking: c}
	own := func(k *keyCursor) []int32 {
		s := l.strand(k.key)
		if s == nil {
			return nil
		}
		from, _ := c.search(s.events, k.split)
		return s.events[from:]
	}
	if id.key == (tag{}) {
		n.events = l.events
	}
	for i := range m.keys {
		switch k := &m.keys[i]; {
		case k.cursorID == id:
			n.events = own(k)
		case k.tenant == id.tenant && id.key == (tag{}):
			n.apart = append(n.apart, own(k))
		}
	}
	n.whole = id.key == (tag{}) && len(n.apart) == 0
	return n
}

// total is how many these are.
func (n *counted) total() int {
	total := len(n.events)
	for _, own := range n.apart {
		total -= len(own)
	}
	return total
}

// rank is how many of them come before an offset.
func (n *counted) rank(offset int64) int {
	rank, _ := n.search(n.events, offset)
	for _, own := range n.apart {
		before, _ := n.search(own, offset)
		rank -= before
	}
	return rank
}

// at is where the one of that rank stands among the events.
func (n *counted) at(rank int) int {
	if len(n.apart) == 0 {
		return rank
	}
	return sort.Search(len(n.events), func(i int) bool {
		through := i + 1
		for _, own := range n.apart {
			before, _ := n.search(own, n.checking.events[n.events[i]].offset+1)
			through -= before
		}
		return through > rank
	})
}

// has reports whether one of the events is counted.
func (n *counted) has(id int32) bool {
	for _, own := range n.apart {
		if _, ok := n.search(own, n.checking.events[id].offset); ok {
			return false
		}
	}
	return true
}

// state is what a cursor says of an event that it counts, from its own on.
func (n *counted) state(cur *cursor, e *event) uint8 {
	at := int(e.inLane)
	if !n.whole {
		at = n.rank(e.offset)
	}
	return cur.state(int64(at-n.rank(cur.from)), e.offset)
}

// first is the first event that a cursor counts from an offset on; -1 if none is.
func (n *counted) first(from int64) int32 {
	i := n.at(n.rank(from))
	if i >= len(n.events) {
		return -1
	}
	return n.events[i]
}
