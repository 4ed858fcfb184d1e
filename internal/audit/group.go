package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"refinersource/internal/lane"
	"refinersource/internal/queue"
)

// Group is what a consumer group has committed, at one moment: which events it
// has passed, and which of those its cursors hold.
type Group struct {
	Name   string
	shares map[int]*share
}

// share is a partition of it.
type share struct {
	commit    queue.Offset // 0 without a commit: nothing is passed
	committed bool
	cursors   []lane.Cursor
	fault     error // the commit cannot be understood; no cursor is known
	split     int   // how many partitions the topic had; 0 if not known
}

const (
	commitsPause   = 250 * time.Millisecond
	commitsTimeout = 10 * time.Second
)

// LoadGroup asks for the group's commits, for a while: its coordinator may be on
// its way, as in a new cluster. A group that does not exist has passed nothing.
func LoadGroup(ctx context.Context, log *queue.Log, name, topic string) (*Group, error) {
	ctx, cancel := context.WithTimeout(ctx, commitsTimeout)
	defer cancel()
	again := time.NewTicker(commitsPause)
	defer again.Stop()
	for {
		commits, err := log.Committed(ctx, name, topic)
		if err == nil {
			return newGroup(name, commits), nil
		}
		if !errors.Is(err, queue.ErrUnavailable) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-again.C:
		}
	}
}

func newGroup(name string, commits map[int]queue.Committed) *Group {
	g := &Group{Name: name, shares: make(map[int]*share, len(commits))}
	for p, c := range commits {
		s := &share{commit: c.Offset, committed: true}
		m, err := lane.Decode(c.Metadata)
		if err != nil {
			s.fault = fmt.Errorf("read the commit: %w", err)
		}
		s.cursors, s.split = m.Cursors, m.Partitions
		g.shares[p] = s
	}
	return g
}

// Why says why an event waits.
type Why string

// The reasons.
const (
	// Ahead says: at or beyond the commit point. It is in flight, or was not read yet.
	Ahead Why = "ahead"
	// Behind says: a cursor of its tenant, or of its user, holds it.
	Behind Why = "cursor"
)

// Wait is how an event stands to the group's commit, if it may be unfinished.
type Wait struct {
	Why    Why          `json:"why"`
	Commit queue.Offset `json:"commit"`          // the commit point of its partition; 0 without one
	Cursor queue.Offset `json:"cursor,omitzero"` // the first event that waits with it, if a cursor holds it
	Since  time.Time    `json:"since,omitzero"`  // absent if not known
	Cause  string       `json:"cause,omitzero"`  // why its lane waits; absent if not known
}

// Waits tells whether an event may be unfinished by the group's commit, and how.
// tenant is the header of its record.
func (g *Group) Waits(partition int, tenant, key []byte, at queue.Offset) (Wait, bool) {
	s := g.shares[partition]
	if s == nil {
		return Wait{Why: Ahead}, true
	}
	if at >= s.commit {
		return Wait{Why: Ahead, Commit: s.commit}, true
	}
	if c := s.holds(tenant, key, at); c != nil {
		return Wait{Why: Behind, Commit: s.commit, Cursor: queue.Offset(c.From), Since: c.Since, Cause: c.Cause.String()}, true
	}
	return Wait{}, false
}

// holds returns the cursor that holds an event before the commit point.
func (s *share) holds(tenant, key []byte, at queue.Offset) *lane.Cursor {
	if len(s.cursors) == 0 {
		return nil
	}
	of := lane.TagOf(strings.ReplaceAll(string(tenant), "\x00", "\ufffd")) // as the worker names its lane
	var tag lane.Tag                                                       // of the key, once it is needed
	var whole *lane.Cursor
	for i := range s.cursors {
		c := &s.cursors[i]
		if c.Tag != of {
			continue
		}
		if c.Key == (lane.Tag{}) {
			whole = c
			continue
		}
		if tag == (lane.Tag{}) {
			tag = lane.TagOf(string(key))
		}
		if c.Key == tag && at >= queue.Offset(c.Split) { // the key's own lane, whatever the tenant's other events do
			if at < queue.Offset(c.From) {
				return nil
			}
			return c
		}
	}
	if whole == nil || at < queue.Offset(whole.From) {
		return nil
	}
	return whole
}

// unfinished is the first offset of a partition from which something may be
// unfinished: that of the earliest cursor, or the commit point.
func (g *Group) unfinished(partition int) queue.Offset {
	s := g.shares[partition]
	if s == nil {
		return 0
	}
	first := s.commit
	for i := range s.cursors {
		first = min(first, queue.Offset(s.cursors[i].From))
	}
	return first
}
