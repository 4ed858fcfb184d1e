package lane

import (
	"crypto/sha256"
	"iter"
	"time"
)

// apart is what a lane of a key that was set apart has besides a queue. It stays
// held, and known by its key, until nothing is left of it and of the lane that it
// was taken from: as long as that one counts its events in runs, every owner has to
// count the same ones.
type apart struct {
	of    string // the lane that the key was taken from; "" if this is no such lane
	key   Tag
	split Offset // the key's events from here on are its own
	// first is an order key that has events left in the lane that the key was taken
	// from: these go first; "" if none is known.
	first string
}

// SetApart gives the events of a key a lane of their own: those that the lane has
// not been given yet, in memory or behind. Its others no longer wait for room with
// them. key is the one that the caller asks LaneOf about; order is the key that
// its events are kept in order by: what is left of them in the lane goes first. It
// reports whether that could be done: not if as many are apart as may be, while
// the lane is suspended, or while it is known what became of unread events, and not
// up to where.
func (p *Partition[T]) SetApart(name string, key []byte, order string, since time.Time) bool {
	q, tag := p.lanes[name], tagOf(key)
	if q == nil || q.of != "" || q.suspended || len(q.known) > 0 && q.upTo == 0 || q.behind && q.until > q.unread ||
		p.aparts >= MaxApart || len(p.held) >= MaxCursors || p.lanes[nameApart(name, tag)] != nil {
		return false
	}
	k := p.lane(nameApart(name, tag))
	k.apart = apart{of: name, key: tag, split: p.next, first: order}
	if q.behind {
		k.split = q.unread
		if len(q.known) > 0 {
			k.split = max(q.unread, q.upTo)
		}
	}
	k.behind, k.unread, k.since, k.cause = true, k.split, since, CauseSlow
	p.admit(k)
	return true
}

// admit makes the lane of a key known.
func (p *Partition[T]) admit(k *queue[T]) {
	p.held[k.name] = k
	p.apart[k.of] = append(p.apart[k.of], k)
	p.aparts++
}

func nameApart(name string, key Tag) string { return name + "\x00" + key.String() }

func tagOf(key []byte) Tag {
	sum := sha256.Sum256(key)
	return Tag(sum[:])
}

// LaneOf returns the lane that an event of a lane belongs to: that of its key, if
// it was set apart by its offset, or the lane itself.
func (p *Partition[T]) LaneOf(name string, key []byte, at Offset) string {
	all := p.apart[name]
	if len(all) == 0 {
		return name
	}
	tag := tagOf(key)
	for _, k := range all {
		if k.key == tag && at >= k.split {
			return k.name
		}
	}
	return name
}

// Heaviest returns the order key that has most of the unfinished events of a lane
// in memory, how many these are, and they.
func (p *Partition[T]) Heaviest(name string) (order string, n int, items iter.Seq[*Item[T]]) {
	q := p.lanes[name]
	if q == nil {
		return "", 0, func(func(*Item[T]) bool) {}
	}
	for key, all := range q.keys {
		if all.len() > n {
			order, n = key, all.len()
		}
	}
	return order, n, func(yield func(*Item[T]) bool) {
		if n == 0 {
			return
		}
		for _, it := range q.keys[order].all() {
			if !yield(it) {
				return
			}
		}
	}
}

// Blocked reports whether events with the order key that come before those of a
// lane of its own are left in the lane that it was taken from. AddBehind must not
// be called with such an event; Room says when it may be tried again.
func (p *Partition[T]) Blocked(name, order string) bool {
	k := p.lanes[name]
	if k == nil || k.of == "" {
		return false
	}
	q := p.lanes[k.of]
	switch {
	case q == nil:
		return false
	case q.behind && q.unread < k.split:
		return true
	case q.keys[order] != nil:
		k.first = order
		return true
	default:
		return false
	}
}

// ahead is how many of a lane's events that a cursor holds go before those of keys
// that were set apart, and take no room from the others: of each key no more than a lane
// may have. There can be more to come, where events have left memory since.
func (p *Partition[T]) ahead(q *queue[T]) (n int) {
	for _, k := range p.apart[q.name] {
		if items := q.keys[k.first]; items != nil && items.first().passed {
			n += min(items.len(), p.limits.BehindEvents)
		}
	}
	return n
}

// blocked reports the same of whatever its next event is, as far as that is known;
// with all, also if it is not.
func (p *Partition[T]) blocked(k *queue[T], all bool) bool {
	if k.of == "" {
		return false
	}
	q := p.lanes[k.of]
	switch {
	case q == nil:
		return false
	case q.behind && q.unread < k.split:
		return true
	case k.first != "":
		if q.keys[k.first] != nil {
			return true
		}
		k.first = ""
	}
	if all {
		for _, items := range q.keys {
			if items.first().Offset < k.split {
				return true
			}
		}
	}
	return false
}

// join gives a key that was set apart back to its lane when nothing is left of
// both: nobody counts the events of either any more.
func (p *Partition[T]) join(k *queue[T]) {
	if k.behind || k.items > 0 || k.waiting > 0 || k.busy || k.suspended || p.lanes[k.of] != nil {
		return
	}
	delete(p.held, k.name)
	delete(p.lanes, k.name)
	p.aparts--
	all := p.apart[k.of]
	for i := range all {
		if all[i] == k {
			all = append(all[:i:i], all[i+1:]...)
			break
		}
	}
	if p.apart[k.of] = all; len(all) == 0 {
		delete(p.apart, k.of)
	}
}

// cursorApart is what a commit of that point needs for a lane of a key; false if
// nothing. whole says that the lane it was taken from has a cursor there, and torn
// that this one has lost what it knew: then the key's events have to come again
// with the others, all of them.
func (k *queue[T]) cursorApart(to Offset, whole, torn bool) (Cursor, bool) {
	c, ok := k.cursor(to)
	switch {
	case ok && !torn:
	case ok || torn:
		c = Cursor{From: k.split, Since: k.since, Cause: k.cause}
	case whole:
		c = Cursor{From: max(to, k.split), Since: k.since, Cause: k.cause}
	default:
		return c, false
	}
	c.Tag, c.Key, c.Split = TagOf(k.of), k.key, k.split
	return c, true
}
