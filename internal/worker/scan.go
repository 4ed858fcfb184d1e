package worker

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

// probeBytes is how much is read at a time when all that is wanted is an event to
// probe with.
const probeBytes = 64 << 10

// scan reads the partition again for the lanes that are behind, all of them in one
// pass: from the first that is unread, up to the live position. The partition's
// goroutine owns it; rescan does the reading.
type scan struct {
	commands chan scanCommand
	answers  chan scanned
	reading  bool // a command is under way

	// members are the lanes that take part, each with the first event that it is to
	// be given: one for which that has changed meanwhile has left memory, and takes
	// part in a later pass.
	members map[string]lane.Offset
	next    lane.Offset // of the first record that has not been looked at
	hand    []*event    // that were read, and not given to their lanes yet
}

// scanCommand asks for the records from an offset on.
type scanCommand struct {
	from   lane.Offset
	wanted map[tenant.ID]struct{}
	small  bool
}

// scanned is the answer: the events of the tenants that were wanted.
type scanned struct {
	events []*event
	next   lane.Offset
	gap    *queue.GapError
}

func (s *scan) take(a scanned) {
	s.reading = false
	s.hand, s.next = a.events, a.next
	if a.gap != nil {
		s.hand = []*event{{gap: a.gap}}
	}
}

// rescan answers the scan's commands until ctx ends.
func (p *partition) rescan(ctx context.Context) {
	var r *queue.Reader
	var known *duplicates
	small := false
	topic := p.w.o.Topics.Events()
	for {
		var c scanCommand
		select {
		case c = <-p.scan.commands:
		case <-ctx.Done():
			return
		}
		if r == nil || r.Offset() != queue.Offset(c.from) || small != c.small {
			o := queue.ReaderOptions{}
			if small = c.small; small {
				o.MaxBytes = probeBytes
			}
			if r == nil || r.Offset() != queue.Offset(c.from) {
				known = newDuplicates(scanWindow)
				if err := known.warm(ctx, p.w.o.Log, topic, p.id, queue.Offset(c.from), p.start.Start); err != nil && ctx.Err() == nil {
					p.log.Warn("read what came before: copies of it would not be known", zap.Error(err))
				}
			}
			r = p.w.o.Log.Reader(topic, p.id, queue.Offset(c.from), o)
		}
		b, err := r.Next(ctx)
		a := scanned{next: lane.Offset(r.Offset())}
		if gap, ok := errors.AsType[*queue.GapError](err); ok {
			r.SkipGap()
			a.gap, a.next = gap, lane.Offset(gap.To)
		} else if err != nil {
			if ctx.Err() == nil {
				p.log.Error("stop catching up; see `topics check` and the group's offsets", zap.Error(err))
				<-ctx.Done()
			}
			return
		}
		tenants := p.w.o.Tenants()
		for i := range b.Records {
			e := newEvent(b.Records[i])
			e.copied = known.add(&e.record)
			if _, ok := c.wanted[tenant.ID(e.owner)]; ok {
				p.w.decide(e, tenants)
				a.events = append(a.events, e)
			}
		}
		select {
		case p.scan.answers <- a:
		case <-ctx.Done():
			return
		}
	}
}

// catchUp gives the lanes that are behind what was read for them, and asks for
// more. It is called whenever something may have changed.
func (p *partition) catchUp() {
	if p.draining {
		return
	}
	s := &p.scan
	for !s.reading {
		if !p.deal() {
			return // a lane has to send first
		}
		for name := range s.members {
			if unread, behind := p.lanes.Unread(name); !behind || unread != s.members[name] {
				delete(s.members, name)
			} else if s.next >= p.lanes.Position() {
				p.caughtUp(name)
				delete(s.members, name)
			}
		}
		if len(s.members) == 0 && !p.begin() {
			return
		}
		for name, unread := range p.lanes.Behind() {
			if _, member := s.members[name]; !member && unread >= s.next && p.wantsMore(name) {
				s.members[name] = unread
			}
		}
		if s.next >= p.lanes.Position() {
			continue // they have had all there is
		}
		c := scanCommand{from: s.next, wanted: make(map[tenant.ID]struct{}, len(s.members)), small: true}
		for name := range s.members {
			c.wanted[tenantOf(name)] = struct{}{}
			c.small = c.small && p.suspended[name] != nil
		}
		s.reading = true
		s.commands <- c
	}
}

// begin starts a pass at the first unread event; false if no lane wants one.
func (p *partition) begin() bool {
	found := false
	for name, unread := range p.lanes.Behind() {
		if p.wantsMore(name) && (!found || unread < p.scan.next) {
			found, p.scan.next = true, unread
		}
	}
	if p.scan.members == nil {
		p.scan.members = make(map[string]lane.Offset)
	}
	return found
}

// wantsMore reports whether a lane that is behind is to be given events: there is
// room, and it is not waiting for its next probe.
func (p *partition) wantsMore(name string) bool {
	if s := p.suspended[name]; s != nil {
		if s.expiring && !s.expired {
			return p.lanes.Room(name)
		}
		if !s.probing || p.lanes.Waiting(name) > 0 {
			return false
		}
	}
	return p.lanes.Room(name)
}

// deal gives what was read to its lanes; false if it has to wait for room.
func (p *partition) deal() bool {
	s := &p.scan
	for len(s.hand) > 0 {
		e := s.hand[0]
		if e.gap != nil {
			p.loseBehind(e.gap)
			s.hand = s.hand[1:]
			continue
		}
		at := lane.Offset(e.record.Offset)
		if at >= p.lanes.Position() {
			// From here on the events are live ones.
			s.next, s.hand = at, nil
			return true
		}
		e.lane = p.laneOf(e)
		if from, member := s.members[e.lane]; member && at >= from {
			if unread, behind := p.lanes.Unread(e.lane); !behind || unread != from {
				delete(s.members, e.lane)
			} else if blocked := p.lanes.Blocked(e.lane, e.key); blocked || !p.lanes.Room(e.lane) {
				if p.setApart(e.lane, time.Now()) {
					continue // it may be another lane's now
				}
				if len(s.members) == 1 && p.suspended[e.lane] == nil && !blocked {
					return false
				}
				// The others do not wait for it: it comes again in a later pass.
				delete(s.members, e.lane)
			} else if x := p.suspended[e.lane]; x != nil && x.expiring && p.outlives(e) {
				x.expired = true
				p.ages[e.lane] = e.record.Time
				delete(s.members, e.lane)
			} else {
				p.addBehind(e)
				s.members[e.lane] = at + 1
			}
		}
		s.hand = s.hand[1:]
	}
	s.hand = nil
	return true
}

// addBehind gives a lane that is behind its next event.
func (p *partition) addBehind(e *event) {
	p.judge(e)
	if p.lanes.Waiting(e.lane) == 0 {
		p.ages[e.lane] = e.record.Time
	}
	if it := p.lanes.AddBehind(e.asLane()); it != nil && len(e.costs) == 0 {
		p.w.finished(e)
	}
}

// loseBehind takes in that events are gone from the log that lanes were to be
// given: said with their exact range.
func (p *partition) loseBehind(gap *queue.GapError) {
	for name, unread := range p.lanes.Behind() {
		if unread < lane.Offset(gap.To) {
			p.w.lost(p.log.With(tenantField(name)), gap)
			p.lanes.Lost(name, lane.Offset(gap.To))
			if _, member := p.scan.members[name]; member {
				p.scan.members[name] = lane.Offset(gap.To)
			}
		}
	}
}

// caughtUp makes a lane that has had all its events live again.
func (p *partition) caughtUp(name string) {
	if s := p.suspended[name]; s != nil {
		if s.expired = true; p.lanes.Waiting(name) > 0 {
			return
		}
		p.open(name) // nothing is left of what it failed with
	}
	delete(p.ages, name)
	p.lanes.Live(name)
}
