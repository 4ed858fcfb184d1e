package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"refinersource/internal/deadletter"
	"refinersource/internal/delivery"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// Times of suspension. A probe comes a random time after the failure, up to a
// ceiling that doubles from the least to the most, and never before the receiver's
// Retry-After.
const (
	minProbe = time.Second
	maxProbe = 5 * time.Minute
	// watchTenants is how often is looked whether a suspended tenant has changed in
	// the tenants file: it is probed at once then.
	watchTenants = time.Second
)

// Times of an event that fails while others of its tenant are accepted.
const (
	maxRelease = 30 * time.Second
	// poisonFailures is how often the event must have failed, each time with others
	// of its tenant accepted since the time before, to be given up after its budget.
	poisonFailures = 3
)

// suspension is a tenant whose deliveries in this partition wait.
type suspension struct {
	since    time.Time
	cause    lane.Cause
	failures int       // in a row
	failed   time.Time // the last time
	floor    time.Time // the receiver wants nothing before
	due      time.Time
	probing  bool
	tenant   *tenant.Tenant // as it was when it failed; nil if not known
	warned   bool           // that retention runs out
	// expiring says that the events which the log is about to drop become dead
	// letters; it ends at the first that has more time.
	expiring, expired bool
}

// failing are the events of a lane that fail while others are accepted.
type failing struct {
	accepted time.Time // when the lane last had something accepted
	events   map[queue.Offset]*failure
}

type failure struct {
	first, last time.Time
	proven      int // failures with others accepted since the one before
}

// causeOf is a verdict's cause as a commit keeps it.
func causeOf(c delivery.Cause) lane.Cause {
	switch c {
	case delivery.Unavailable:
		return lane.CauseUnavailable
	case delivery.Throttled:
		return lane.CauseThrottled
	case delivery.Misconfigured:
		return lane.CauseMisconfigured
	case delivery.Refusing:
		return lane.CauseRefusing
	case delivery.Paused:
		return lane.CausePaused
	case causeLetters:
		return lane.CauseLetters
	default:
		return lane.CauseUnknown
	}
}

// suspend makes a lane wait that failed, for the first time or again.
func (p *partition) suspend(name string, t *tenant.Tenant, v delivery.Verdict) {
	now := time.Now()
	s := p.suspended[name]
	if s == nil {
		s = &suspension{since: now}
		p.suspended[name] = s
		p.log.Warn("suspend a tenant", tenantField(name), zap.String("cause", string(v.Cause)))
	}
	s.cause, s.tenant, s.probing = causeOf(v.Cause), t, false
	s.failures++
	s.failed, s.floor = now, now.Add(v.RetryAfter)
	s.due = now.Add(max(p.w.deliverer.Jitter(minProbe, maxProbe, s.failures), v.RetryAfter))
	s.expiring = false
	delete(p.scan.members, name)
	if !p.lanes.Suspend(name, s.since, s.cause) && now.Sub(p.alarm) > time.Minute {
		p.alarm = now
		p.log.Error("the partition waits: there is no room for another cursor", zap.Int("cursors", len(p.lanes.Held())), tenantField(name))
	}
}

// open lets a suspended lane send again.
func (p *partition) open(name string) {
	if s := p.suspended[name]; s != nil {
		p.w.taken.note(tenantOf(name))
		delete(p.suspended, name)
		delete(p.ages, name)
		p.log.Info("a suspended tenant goes on", tenantField(name), zap.Duration("after", time.Since(s.since)))
	}
	p.lanes.Open(name)
}

// tend does what is due: probes, events that waited, lanes that catch up. It
// returns when to come again, zero if there is nothing to come for.
func (p *partition) tend(now time.Time) (wake time.Time) {
	if now.Before(p.notBefore) {
		wake = p.notBefore
	}
	if p.draining {
		return wake
	}
	kept := p.releases[:0]
	for _, r := range p.releases {
		if now.Before(r.at) {
			kept = append(kept, r)
			wake = earlier(wake, r.at)
			continue
		}
		p.lanes.Release(r.item)
	}
	clear(p.releases[len(kept):])
	p.releases = kept
	for name, s := range p.suspended {
		if s.probing {
			continue
		}
		wake = earlier(wake, now.Add(watchTenants))
		if p.expire(name, s, now) {
			continue
		}
		current, ok := p.w.o.Tenants().Get(tenantOf(name))
		if !ok {
			current = nil
		}
		if s.tenant != current {
			s.tenant, s.due = current, now
		}
		if p.w.taken.since(tenantOf(name), s.failed) && s.floor.Before(s.due) {
			s.due = s.floor // what another partition probed with was taken
		}
		if !now.Before(s.due) {
			if current != nil && current.Paused {
				s.due = now.Add(minProbe)
			} else {
				s.probing = true
				p.lanes.Probe(name)
				continue
			}
		}
		wake = earlier(wake, s.due)
	}
	return earlier(wake, p.catchUp(now))
}

// expire guards a suspended lane against the log's retention: before the log drops
// what its cursor still needs, these events become dead letters. It reports whether
// that is under way.
func (p *partition) expire(name string, s *suspension, now time.Time) bool {
	retention, oldest := p.w.retention(), p.ages[name]
	if retention <= 0 || oldest.IsZero() {
		return false
	}
	margin := oldest.Add(retention).Sub(now)
	if margin < retention/2 && !s.warned {
		s.warned = true
		p.log.Error("a suspended tenant has used up half of the log's retention", tenantField(name), zap.Duration("margin", margin))
	}
	_, busy := p.flights[name]
	switch {
	case s.expiring && s.expired && !busy && p.lanes.Waiting(name) == 0:
		s.expiring = false
		p.lanes.Suspend(name, s.since, s.cause)
	case !s.expiring && !busy && margin < retention/guardedPart:
		p.log.Error("the log is about to drop events of a suspended tenant: they become dead letters", tenantField(name), zap.Duration("margin", margin))
		s.expiring, s.expired = true, false
		p.lanes.Open(name)
	}
	return s.expiring
}

// guardedPart is the part of the retention, one in so many, within which the events
// of a suspended tenant become dead letters.
const guardedPart = 10

// outlives reports whether a suspended lane's event has more time in the log; one
// that has not becomes a dead letter.
func (p *partition) outlives(e *event) bool {
	if time.Until(e.record.Time.Add(p.w.retention())) > p.w.retention()/guardedPart {
		return true
	}
	if e.letter == nil && e.ignored == survey.NotIgnored {
		e.die(deadletter.Outlived, deadletter.StageAttribute, "the log was about to drop the event before its tenant's receiver took it; mend the tenant, then redrive")
	}
	return false
}

// judge applies to an event what is known of it from before: one that failed alone
// for its budget, while others of its tenant were accepted, is given up.
func (p *partition) judge(e *event) {
	f := p.failing[e.lane]
	if f == nil || e.letter != nil {
		return
	}
	if retention := p.w.retention(); retention > 0 && !p.outlives(e) {
		return
	}
	if x := f.events[e.record.Offset]; x != nil && x.proven >= poisonFailures && x.last.Sub(x.first) >= p.w.o.EventBudget {
		e.poison(x)
	}
}

// failed takes in that an event was not accepted, alone.
func (p *partition) failed(e *event) {
	now := time.Now()
	f := p.failing[e.lane]
	if f == nil {
		f = &failing{events: make(map[queue.Offset]*failure)}
		p.failing[e.lane] = f
	}
	x := f.events[e.record.Offset]
	if x == nil {
		if len(f.events) >= p.w.o.Limits.BehindEvents {
			return
		}
		x = &failure{first: now, last: now}
		f.events[e.record.Offset] = x
	}
	if f.accepted.After(x.last) {
		x.proven++
	}
	x.last = now
	p.judge(e)
}

// forget drops what is known of an event that is over.
func (p *partition) forget(e *event) {
	if f := p.failing[e.lane]; f != nil {
		delete(f.events, e.record.Offset)
		if len(f.events) == 0 {
			delete(p.failing, e.lane)
		}
	}
}

// returned takes in a request that has come back.
func (p *partition) returned(d *done) {
	name := d.request.Lane
	delete(p.flights, name)
	now := time.Now()
	if f := p.failing[name]; f != nil && d.accepted {
		f.accepted = now
	}
	for i, part := range d.request.Parts {
		e := part.Item.Payload
		if d.verdict.Cause != "" && d.outcomes[i] == lane.Abandoned {
			if at := p.ages[name]; at.IsZero() || e.record.Time.Before(at) {
				p.ages[name] = e.record.Time
			}
		}
		if !d.failed[i] {
			continue
		}
		if d.blamed[i] {
			p.failed(e)
		}
		switch {
		case e.letter != nil: // it is given up; its letter is what is left to do
			d.outcomes[i] = lane.Abandoned
		case d.verdict.Cause == "":
			d.outcomes[i] = lane.Deferred
			e.failures++
			p.releases = append(p.releases, release{at: now.Add(p.w.deliverer.Jitter(minProbe, maxRelease, e.failures)), item: part.Item})
		}
	}
	over := p.lanes.Done(d.request, d.outcomes)
	for _, e := range over {
		p.forget(e)
		p.finished(e)
	}
	p.progress(len(over))
	if slices.Contains(d.outcomes, lane.Deferred) {
		// What is put aside does not hold the commit.
		p.lanes.Pass(name, now, lane.CauseSlow)
	}
	p.cut = p.cut || d.cut
	s := p.suspended[name]
	switch {
	case d.verdict.Cause != "":
		p.suspend(name, d.tenant, d.verdict)
	case s != nil && s.expiring:
	case s != nil && (d.accepted || slices.Contains(d.outcomes, lane.Ended)):
		p.open(name)
	case s != nil:
		s.probing = false // it was abandoned, or the event is put off
	}
}

// restore takes over what the last commit says: where the lanes that it passed go
// on, and how its owner left. It fails if that cannot be understood (invariant 10).
func (p *partition) restore(ctx context.Context) error {
	m, err := lane.Decode(p.start.Metadata)
	if err != nil {
		return err
	}
	if p.start.Committed && p.start.Metadata != "" {
		switch m.Owner {
		case lane.Clean:
		case lane.Working:
			p.notBefore = time.Now().Add(waitAfterCrash)
		case lane.Cut:
			p.notBefore = time.Now().Add(p.w.o.RequestTimeout)
		case lane.Finished:
			if p.replay == nil {
				return errors.New("the group is that of a replay that is over; give another --group")
			}
			p.replay.over = true
			return nil
		}
	}
	if len(m.Cursors) == 0 {
		return nil
	}
	names := make(map[lane.Tag]string)
	for t := range p.w.o.Tenants().All() {
		tag := lane.TagOf(string(t.ID))
		if other, taken := names[tag]; taken {
			return fmt.Errorf("tenants %s and %s have the same tag %v: rename one", other, t.ID, tag)
		}
		names[tag] = string(t.ID)
	}
	// Keys that are set apart come after the lanes that they were taken from.
	slices.SortStableFunc(m.Cursors, func(a, b lane.Cursor) int { return slices.Compare(a.Key[:], b.Key[:]) })
	from := make(map[lane.Tag]lane.Offset)
	for _, c := range m.Cursors {
		name, ok := names[c.Tag]
		if !ok {
			if name, ok, err = p.nameOf(ctx, c); err != nil {
				return err
			}
		}
		if !ok {
			p.log.Error("a cursor has no events left in the log", zap.Stringer("tag", c.Tag), zap.Int64("from", int64(c.From)))
			continue
		}
		names[c.Tag] = name
		if first, held := from[c.Tag]; c.Key == (lane.Tag{}) {
			from[c.Tag] = c.From
		} else if held && m.RunsLeftOut && first < c.Split {
			// What is sent again of the key's events before the split must not be the
			// last that the receiver gets of them.
			c.From, c.Runs, c.Until = c.Split, nil, 0
		}
		name = p.lanes.Restore(name, c)
		if c.Cause != lane.CauseSlow {
			since := c.Since
			if since.IsZero() {
				since = time.Now()
			}
			due := time.Now().Add(p.w.deliverer.Jitter(minProbe, minProbe, 1))
			p.suspended[name] = &suspension{since: since, cause: c.Cause, due: due, failures: 1}
			if t, ok := p.w.o.Tenants().Get(tenantOf(name)); ok {
				p.suspended[name].tenant = t
			}
		}
	}
	return nil
}

// waitAfterCrash is how long is waited before the first request after an owner
// that left without a word: its session is over by then, and so are its requests,
// but the receiver may still be busy with the last of them.
const waitAfterCrash = 2 * time.Second

// nameOf finds the name of a lane that no tenant has now in the log itself: the
// event at its cursor names it.
func (p *partition) nameOf(ctx context.Context, c lane.Cursor) (string, bool, error) {
	r := p.w.o.Log.Reader(p.w.o.Topics.Events(), p.id, queue.Offset(c.From), queue.ReaderOptions{MaxBytes: probeBytes})
	for r.Offset() < p.start.Offset {
		b, err := r.Next(ctx)
		if errors.Is(err, queue.ErrGap) {
			r.SkipGap()
			continue
		}
		if err != nil {
			return "", false, fmt.Errorf("find the tenant of cursor %v: %w", c.Tag, err)
		}
		for i := range b.Records {
			if name := b.Records[i].Header(queue.HeaderTenant); lane.TagOf(name) == c.Tag {
				return name, true, nil
			}
		}
	}
	return "", false, nil
}
