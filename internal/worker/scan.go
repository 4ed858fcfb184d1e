package worker

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"refinersource/internal/copies"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/redrive"
	"refinersource/internal/tenant"
)

// scanBytes is how much is read at a time, and probeBytes when all that is wanted is an
// event to probe with.
const (
	scanBytes  = 256 << 10
	probeBytes = 64 << 10
)

// scanWindow is how many events before its own a lane that catches up looks back at
// to know copies.
const scanWindow = 1024

// scan reads the partition again for the lanes that are behind, in passes: from the
// first that is unread, taking along all others that it comes by, up to the live
// position. It is every lane's for a turn: none waits until another has caught up.
// The partition's goroutine owns it; rescan does the reading.
type scan struct {
	commands chan scanCommand
	answers  chan scanned
	reading  bool // a command is under way

	members map[string]*member // the lanes that take part
	next    lane.Offset        // of the first record that has not been looked at
	asked   time.Time          // when the last command was given
	spent   time.Duration      // on reading, in this pass
	rest    time.Time          // no pass begins before
	hand    []*event           // that were read, and not given to their lanes yet
}

// member is a lane that takes part in a pass.
type member struct {
	// next is the first event that it is to be given. If the lane has another one in
	// mind, it has left memory since, and takes part in a later pass.
	next lane.Offset
	from lane.Offset // where its turn began
}

// turn is how many records a lane takes part for while another waits for a pass
// that begins before: enough to make little of what it costs to go back.
const turn = 1 << 15

// farAhead is how many records are rather read than jumped over: to go elsewhere
// costs what came before that place, so that copies are known.
const farAhead = 4 * scanWindow

// Between two passes the log is left alone for a part of the time that the first one
// read: lanes that go on one after another, as after an outage, go together.
const (
	minRest  = 250 * time.Millisecond
	maxRest  = 2 * time.Second
	restPart = 4 // so many times as long
)

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
	s.spent += max(1, time.Since(s.asked))
	s.hand, s.next = a.events, a.next
	if a.gap != nil {
		s.hand = []*event{{gap: a.gap}}
	}
}

// rescan answers the scan's commands until ctx ends.
func (p *partition) rescan(ctx context.Context) {
	if !p.replay.prepared(ctx) {
		return
	}
	var r *queue.Reader
	var known *copies.Window
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
			o := queue.ReaderOptions{MaxBytes: scanBytes}
			if small = c.small; small {
				o.MaxBytes = probeBytes
			}
			if r == nil || r.Offset() != queue.Offset(c.from) {
				known = copies.New(scanWindow)
				if err := known.Warm(ctx, p.w.o.Log, topic, p.id, queue.Offset(c.from), p.start.Start); err != nil && ctx.Err() == nil {
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
		if a.events, err = p.wanted(ctx, known, b.Records, c.wanted); err != nil {
			if ctx.Err() == nil {
				p.log.Error("stop catching up; see `topics check`", zap.Error(err))
				<-ctx.Done()
			}
			return
		}
		select {
		case p.scan.answers <- a:
		case <-ctx.Done():
			return
		}
	}
}

// wanted returns the events of those tenants, decided.
func (p *partition) wanted(ctx context.Context, known *copies.Window, records []queue.Record, of map[tenant.ID]struct{}) ([]*event, error) {
	var events []*event
	for i := range records {
		e := newEvent(records[i])
		e.copied = known.Add(&e.record)
		if _, ok := of[tenant.ID(e.owner)]; !ok || !p.replay.includes(&e.record, false) {
			continue
		}
		var err error
		if e.redriven, err = redrive.Read(ctx, p.w.o.Log, records[:i+1]); err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, p.decideInTurn(ctx, events)
}

// maxScanRest bounds how long a partition rests for its part of the processor.
const maxScanRest = 20 * time.Millisecond

// decideInTurn decides events that were read again, in so many of a worker's partitions at
// once. While there is live traffic it keeps its place for as long again, so that this
// has the processor.
func (p *partition) decideInTurn(ctx context.Context, events []*event) error {
	if len(events) == 0 {
		return nil
	}
	if err := p.w.scans.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer p.w.scans.Release(1)
	began, tenants := time.Now(), p.w.o.Tenants()
	for _, e := range events {
		p.decide(e, tenants)
	}
	if p.w.deliverer.IsLive() {
		select {
		case <-time.After(min(maxScanRest, time.Since(began))):
		case <-ctx.Done():
		}
	}
	return nil
}

// catchUp gives the lanes that are behind what was read for them, and asks for
// more. It is called whenever something may have changed. It returns when to come
// again, zero if there is nothing to come for.
func (p *partition) catchUp(now time.Time) (wake time.Time) {
	if p.draining || p.receipts.full() {
		return wake
	}
	s := &p.scan
	for !s.reading {
		if !p.deal() {
			return wake // a lane has to send first
		}
		p.review()
		p.enlist()
		if len(s.members) == 0 {
			if s.spent > 0 {
				s.rest, s.spent = now.Add(min(maxRest, max(minRest, restPart*s.spent))), 0
			}
			from, found := p.firstWanted()
			if !found {
				return wake
			}
			if now.Before(s.rest) {
				return s.rest
			}
			s.next = from
			p.enlist()
		}
		nearest := p.lanes.Position()
		for _, m := range s.members {
			nearest = min(nearest, m.next)
		}
		if nearest >= s.next+farAhead || nearest == p.lanes.Position() {
			s.next = nearest
		}
		if s.next >= p.lanes.Position() {
			continue // they have had all there is
		}
		c := scanCommand{from: s.next, wanted: make(map[tenant.ID]struct{}, len(s.members)), small: nearest == s.next}
		for name := range s.members {
			c.wanted[tenantOf(name)] = struct{}{}
			c.small = c.small && p.suspended[name] != nil
		}
		s.reading, s.asked = true, now
		s.commands <- c
	}
	return wake
}

// review lets go of the lanes that have left memory, have had all there is or what
// they wanted, and of those whose turn is over while another waits.
func (p *partition) review() {
	s := &p.scan
	for name, m := range s.members {
		unread, behind := p.lanes.Unread(name)
		switch {
		case !behind || unread != m.next:
			delete(s.members, name)
		case s.next >= p.lanes.Position():
			p.caughtUp(name)
			delete(s.members, name)
		case m.next < s.next:
			p.lanes.ReachBehind(name, s.next)
			m.next = s.next
			if p.suspended[name] != nil && !p.wantsMore(name) || m.next-m.from > turn && p.oneWaits(s.next) {
				delete(s.members, name)
			}
		}
	}
}

// enlist adds the lanes that want more from here on.
func (p *partition) enlist() {
	for name, unread := range p.lanes.Behind() {
		if p.scan.members[name] == nil && unread >= p.scan.next && p.wantsMore(name) {
			p.scan.members[name] = &member{next: unread, from: unread}
		}
	}
}

// oneWaits reports whether a lane that does not take part wants an event before an
// offset.
func (p *partition) oneWaits(before lane.Offset) bool {
	for name, unread := range p.lanes.Behind() {
		if unread < before && p.scan.members[name] == nil && p.wantsMore(name) {
			return true
		}
	}
	return false
}

// firstWanted is the first event that a lane wants; false if none wants any.
func (p *partition) firstWanted() (at lane.Offset, found bool) {
	for name, unread := range p.lanes.Behind() {
		if p.wantsMore(name) && (!found || unread < at) {
			found, at = true, unread
		}
	}
	return at, found
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
		if m := s.members[e.lane]; m != nil && at >= m.next {
			if unread, behind := p.lanes.Unread(e.lane); !behind || unread != m.next {
				delete(s.members, e.lane)
			} else if blocked := p.lanes.Blocked(e.lane, e.key); blocked || !p.lanes.Room(e.lane) {
				if p.setApart(e.lane, time.Now()) {
					continue // it may be another lane's now
				}
				if len(s.members) == 1 && p.suspended[e.lane] == nil && !blocked && !p.oneWaits(p.lanes.Position()) {
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
				m.next = at + 1
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
		p.finished(e)
	}
}

// loseBehind takes in that events are gone from the log that lanes were to be
// given: said of each with its exact range, which begins where the lane stands. One
// that stands before the gap comes upon what is gone of its own events by itself.
func (p *partition) loseBehind(gap *queue.GapError) {
	for name, unread := range p.lanes.Behind() {
		if unread >= lane.Offset(gap.From) && unread < lane.Offset(gap.To) {
			own := *gap
			own.From = queue.Offset(unread)
			p.w.lost(p.log.With(tenantField(name)), &own)
			p.lanes.Lost(name, lane.Offset(gap.To))
			if m := p.scan.members[name]; m != nil {
				m.next = lane.Offset(gap.To)
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
