package checker

import (
	"bytes"
	"crypto/sha256"
	"slices"
)

// sent verifies that what was promised is in the log (Durable).
func (c *checking) sent() {
	err := c.h.eachSent(func(s *Sent) {
		c.report.Sent++
		switch s.Status {
		case 202:
			c.report.Promised++
			c.promised(s)
		case 0:
			c.report.Unanswered++
		}
	})
	if err != nil {
		c.breach(Recorded, 0, "%v", err)
	}
}

func (c *checking) promised(s *Sent) {
	sum := s.SHA256
	if sum == nil {
		full := sha256.Sum256(s.Body)
		sum = full[:]
	}
	v := Violation{Rule: Durable, Tenant: s.Tenant, Event: s.EventID, Partition: s.Partition, Offset: s.Offset, At: s.Done}
	id, ok := c.at(s.Partition, s.Offset)
	if !ok {
		if p := c.parts[s.Partition]; p != nil && s.Offset < p.start && c.any(Trimmed) {
			c.report.Trimmed++
			return
		}
		c.note(v, "event %q of tenant %s was answered 202, and nothing stands at %d/%d", s.EventID, s.Tenant, s.Partition, s.Offset)
		return
	}
	e := &c.events[id]
	switch {
	case !bytes.Equal(e.body[:], sum[:len(e.body)]):
		c.note(v, "event %q of tenant %s was answered 202, and other bytes stand at %d/%d", s.EventID, s.Tenant, s.Partition, s.Offset)
	case c.lanes[e.lane].name != s.Tenant:
		c.note(v, "event %q of tenant %s was answered 202, and the record at %d/%d has another tenant", s.EventID, s.Tenant, s.Partition, s.Offset)
	case e.source != code(sources, s.Source):
		c.note(v, "event %q of tenant %s was answered 202, and the record at %d/%d has another source than %s", s.EventID, s.Tenant, s.Partition, s.Offset, s.Source)
	default:
		e.accepted = s.Done
	}
}

// at finds the event at a position.
func (c *checking) at(partition int, offset int64) (int32, bool) {
	p := c.parts[partition]
	if p == nil {
		return 0, false
	}
	i, ok := c.search(p.events, offset)
	if !ok {
		return 0, false
	}
	return p.events[i], true
}

// search finds the first of a list of events at or behind an offset, and tells
// whether it is at it.
func (c *checking) search(events []int32, offset int64) (int, bool) {
	return slices.BinarySearchFunc(events, offset, func(e int32, to int64) int {
		switch at := c.events[e].offset; {
		case at < to:
			return -1
		case at > to:
			return 1
		default:
			return 0
		}
	})
}
