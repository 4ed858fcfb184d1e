package worker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"refinersource/internal/lane"
	"refinersource/internal/queue"
)

const (
	// slowAfter is how long a request of a lane may take before the lane is passed, when
	// it holds up a full window or the commit.
	slowAfter = time.Second
	// lateAfter is how long the first event of the window may be in it while others are
	// done behind it, and crowdAfter, while these are crowd or more: then what would come
	// again outweighs a cursor.
	lateAfter  = time.Second
	crowdAfter = 300 * time.Millisecond
	crowd      = 32
	// cursorsToSpare are for lanes that cannot do without one: what merely holds the
	// commit gets none of these.
	cursorsToSpare = lane.MaxCursors / 2
)

// partition drives one partition's lanes. One goroutine owns the state machine;
// one fetches and decides, one reads again for lanes that are behind, each request in
// flight has one of its own unless it travels with another's, and all have ended when run
// returns.
type partition struct {
	w          *Worker
	id         int
	partitions int // of the topic
	// installation is that of the tenants file when the generation began.
	installation lane.Tag
	start        queue.Assignment
	limits       lane.Limits
	log          *zap.Logger
	status       *status
	lanes        *lane.Partition[*event]

	asks  chan chan<- commitState
	ended chan struct{}
	last  *commitState // what is left to commit, after ended
	// first is what was committed when the work began, in this member's name; nil
	// before.
	first atomic.Pointer[commitState]
	// receipts are those of the events that are finished; nil if none are wanted.
	receipts *receipts
	lease    lease // renewed when what it has finished is committed
	// soon is told when fresh, the events that were finished since it last said what to
	// commit, are many.
	soon  chan<- struct{}
	fresh int
	// idle says that the partition is not worked on, and has nothing to commit.
	idle atomic.Bool
	// skips are the lanes that are behind, for those who read: a new map each time.
	skips atomic.Pointer[map[string]struct{}]

	work   chan *done   // to senders that have nothing to send
	idling atomic.Int32 // so many

	flights   map[string]time.Time // lanes with a request in flight, and since when
	notBefore time.Time            // nothing is sent before
	suspended map[string]*suspension
	failing   map[string]*failing
	// ages are when the first unfinished events of lanes that are behind were
	// written to the log, as far as that is known.
	ages     map[string]time.Time
	releases []release
	scan     scan
	shown    time.Time  // when the suspended tenants were last told of
	replay   *replaying // nil where live traffic is delivered
	draining bool
	cut      bool // a request was left without a known outcome
	alarm    time.Time
}

// release is when an event that waits may be handed out again.
type release struct {
	at   time.Time
	item *lane.Item[*event]
}

func newPartition(w *Worker, a queue.Assignment, limits lane.Limits, partitions int) *partition {
	replay := w.replayOf(a.Partition)
	if replay != nil && !a.Committed {
		a.Offset = max(a.Start, replay.span.From)
	}
	p := &partition{
		w:          w,
		replay:     replay,
		id:         a.Partition,
		partitions: partitions, installation: w.installation(),
		start:     a,
		limits:    limits,
		log:       w.log.With(zap.Int("partition", a.Partition)),
		status:    newStatus(),
		lanes:     lane.New[*event](limits, lane.Offset(a.Offset)),
		asks:      make(chan chan<- commitState),
		ended:     make(chan struct{}),
		work:      make(chan *done),
		flights:   make(map[string]time.Time),
		suspended: make(map[string]*suspension),
		failing:   make(map[string]*failing),
		ages:      make(map[string]time.Time),
	}
	if w.o.Receipts {
		p.receipts = newReceipts(w, a.Partition, limits.WindowBytes, p.log, p.status)
	}
	p.skips.Store(new(map[string]struct{}))
	p.status.committed.Store(int64(a.Offset))
	p.status.end.Store(int64(a.End))
	return p
}

// run works until fetching ends, then drains; attempts that are still under way
// when their context ends are abandoned.
func (p *partition) run(fetching, attempts context.Context) {
	defer close(p.ended)
	if err := p.restore(fetching); err != nil {
		p.idle.Store(true)
		if fetching.Err() == nil {
			p.log.Error("leave the partition alone: its commit cannot be understood; see `offsets show`", zap.Error(err))
			<-fetching.Done()
		}
		return
	}
	p.first.Store(new(p.state(lane.Working)))
	p.lease.renew(time.Now())
	live, returned := make(chan fetched), make(chan *done, maxReturned)
	var running sync.WaitGroup
	defer running.Wait()
	defer close(p.work)
	p.scan.members = make(map[string]*member)
	p.scan.commands, p.scan.answers = make(chan scanCommand, 1), make(chan scanned)
	var ends chan queue.Offset
	if p.replay != nil {
		ends = p.replay.ends
	}
	if p.replay == nil || !p.replay.over {
		running.Go(func() {
			if p.prepare(fetching) {
				p.fetch(fetching, live)
			}
		})
		running.Go(func() { p.rescan(fetching) })
	}

	draining := fetching.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wake := p.tend(time.Now())
		p.sendAll(attempts, &running, returned)
		if at := p.unblock(time.Now()); !at.IsZero() {
			wake = earlier(wake, at)
		}
		if at := p.letCommit(time.Now()); !at.IsZero() {
			wake = earlier(wake, at)
		}
		if at := p.settleReplay(fetching, &running, time.Now()); !at.IsZero() {
			wake = earlier(wake, at)
		}
		if p.replay.held() {
			wake = earlier(wake, time.Now().Add(heldPause))
		}
		p.report()
		if p.lanes.InFlight() == 0 && (attempts.Err() != nil || p.lanes.Drained()) {
			p.finish()
			return
		}
		more := live
		if p.draining || p.lanes.Full() || p.receipts.full() {
			more = nil
		}
		if wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(0, time.Until(wake)))
		}
		select {
		case f := <-more:
			now := time.Now()
			for _, e := range f.events {
				e.added = now
				p.add(e)
			}
			p.lanes.Reach(f.next)
		case d := <-returned:
			p.returned(d)
			for range len(returned) {
				p.returned(<-returned)
			}
		case s := <-p.scan.answers:
			p.scan.take(s)
		case end := <-ends:
			p.replayEnd(end)
		case reply := <-p.asks:
			reply <- p.state(lane.Working)
		case <-p.receipts.hasRoom():
		case <-timer.C:
		case <-draining:
			draining = nil
			p.draining = true
			p.lanes.Drain()
		}
	}
}

// rests reports whether nothing is to be begun: what the owner before has begun is not
// over, or what is finished here cannot be committed and would come again.
func (p *partition) rests(now time.Time) bool {
	return now.Before(p.notBefore) || p.receipts.full() || !p.lease.valid()
}

// sendAll starts every request that may be sent now. What was begun is finished in a
// drain all the same.
func (p *partition) sendAll(attempts context.Context, running *sync.WaitGroup, returned chan *done) {
	if now := time.Now(); now.Before(p.notBefore) || p.replay.held() || p.rests(now) && !p.draining {
		return
	}
	tenants := p.w.o.Tenants()
	for attempts.Err() == nil {
		r, ok := p.lanes.Next()
		if !ok {
			return
		}
		p.flights[r.Lane] = time.Now()
		d := prepare(r, tenants)
		if p.join(attempts, d, running, returned) {
			continue
		}
		select {
		case p.work <- d:
		default:
			running.Go(func() { p.sender(attempts, d, returned) })
		}
	}
}

const (
	// idleSenders bounds the senders of a partition that have nothing to send. They are
	// kept for their stacks, which a new one has to grow.
	idleSenders = 8
	// maxReturned is how many requests may have come back before they wait for the
	// partition to take them in.
	maxReturned = 64
)

// sender sends a request, and then what it is given, until there is no more.
func (p *partition) sender(attempts context.Context, d *done, returned chan<- *done) {
	for given := true; given; {
		p.send(attempts, d)
		returned <- d
		if p.idling.Add(1) > idleSenders {
			p.idling.Add(-1)
			return
		}
		d, given = <-p.work
		p.idling.Add(-1)
	}
}

// finish ends the work: what was begun and is not over stays with cursors, so that
// the next member repeats nothing that the receiver has.
func (p *partition) finish() {
	owner := lane.Clean
	if !p.lanes.PassBegun(time.Now()) || p.cut {
		owner = lane.Cut
	}
	p.report()
	s := p.state(owner)
	p.last = &s
}

// ask returns what is to be committed; false if the partition does not say so in
// time, or has nothing to commit.
func (p *partition) ask(patience time.Duration) (commitState, bool) {
	reply := make(chan commitState, 1)
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case p.asks <- reply:
		return <-reply, true
	case <-p.ended:
		if p.last == nil {
			return commitState{}, false
		}
		return *p.last, true
	case <-late.C:
		return commitState{}, false
	}
}

// state is what a commit at this moment has to say, and up to which receipt the log
// must have acknowledged them before. It has them written.
func (p *partition) state(owner lane.Owner) commitState {
	if p.replay != nil && p.replay.over {
		owner = lane.Finished
	}
	m := lane.Metadata{Partitions: p.partitions, Owner: owner, Installation: p.installation, Cursors: p.lanes.Cursors()}
	text, _, err := m.Encode()
	if err != nil {
		// The lanes allow no more cursors than fit, so this is a fault of ours. Commit
		// nothing that could lose one.
		panic("worker: encode the commit's metadata: " + err.Error())
	}
	p.fresh = 0
	return commitState{at: time.Now(), to: p.lanes.CommitPoint(), metadata: text, receipts: p.receipts.flush()}
}

// progress takes in that so many events have come to their end by a request.
func (p *partition) progress(events int) {
	if p.fresh += events; p.fresh < commitEvents {
		return
	}
	select {
	case p.soon <- struct{}{}:
	default:
	}
}

// add takes in a live event.
func (p *partition) add(e *event) {
	e.lane = p.laneOf(e)
	if p.lanes.Skips(e.lane) {
		e.costs = nil
		p.lanes.Add(e.asLane())
		return
	}
	if !e.decided {
		p.decide(e, p.w.o.Tenants())
	}
	p.judge(e)
	if it := p.lanes.Add(e.asLane()); it != nil && len(e.costs) == 0 {
		p.finished(e)
	}
}

// asLane is the event as package lane sees it.
func (e *event) asLane() lane.Event[*event] {
	return lane.Event[*event]{
		Offset: lane.Offset(e.record.Offset), Lane: e.lane, Key: e.key, Steps: e.costs, Bytes: e.bytes, Payload: e,
	}
}

// unblock passes the lanes that hold up a full window: those that are slow, wait,
// or have much of it. It returns when to look again, zero if there is no need.
func (p *partition) unblock(now time.Time) time.Time {
	for p.lanes.Full() && !p.rests(now) {
		it, ok := p.lanes.Oldest()
		if !ok {
			break
		}
		since, busy := p.flights[it.Lane]
		much := p.setApart(it.Lane, now) || 4*p.lanes.Unfinished(it.Lane) > p.lanes.Len()
		if busy && !much && now.Sub(since) < slowAfter {
			return since.Add(slowAfter)
		}
		if !p.lanes.Pass(it.Lane, now, lane.CauseSlow) {
			if now.Sub(p.alarm) > time.Minute {
				p.alarm = now
				p.log.Error("the partition waits: there is no room for another cursor", zap.Int("cursors", len(p.lanes.Held())), tenantField(it.Lane))
			}
			return now.Add(slowAfter)
		}
	}
	return time.Time{}
}

// letCommit passes the lanes that hold the commit for long, because their requests take
// long or because an event waits for many before it of its user: what was delivered
// behind them would come again if this worker were killed. Those that wait for their
// host stay where they are. It returns when to look again, zero if there is no need.
func (p *partition) letCommit(now time.Time) time.Time {
	for !p.draining && p.lanes.Holding() < lane.MaxCursors-cursorsToSpare {
		it, ok := p.lanes.Oldest()
		if !ok {
			break
		}
		// Its request takes long, or others have long been done behind it.
		var slow, late time.Time
		if since, busy := p.flights[it.Lane]; busy {
			slow = since.Add(slowAfter)
		}
		switch n := p.lanes.Uncommitted(); {
		case n >= crowd:
			late = it.Payload.added.Add(crowdAfter)
		case n > 0:
			late = it.Payload.added.Add(lateAfter)
		}
		if at := earlier(slow, late); at.IsZero() || now.Before(at) {
			return at
		}
		if p.w.deliverer.HostIsDown(tenantOf(it.Lane)) {
			return now.Add(slowAfter)
		}
		if !slow.IsZero() && !now.Before(slow) {
			if !p.lanes.Pass(it.Lane, now, lane.CauseSlow) {
				break
			}
		} else if !p.lanes.PassWhole(it.Lane, now, lane.CauseSlow) {
			return slow
		}
	}
	return time.Time{}
}

// report tells the status, and those who read what to skip.
func (p *partition) report() {
	p.status.committed.Store(int64(p.lanes.CommitPoint()))
	p.status.window.Store(int64(p.lanes.InMemory()))
	oldest := int64(0)
	if it, ok := p.lanes.Oldest(); ok {
		oldest = it.Payload.record.Time.UnixNano()
	}
	p.status.oldest.Store(oldest)
	p.publishSkips()
	p.showSuspended()
}

// showSuspended tells the status which tenants are suspended, now and then.
func (p *partition) showSuspended() {
	now, shown := time.Now(), p.status.suspended.Load()
	if len(p.suspended) == len(*shown) && (len(*shown) == 0 || now.Sub(p.shown) < watchTenants) {
		return
	}
	p.shown = now
	list := make([]Suspended, 0, len(p.suspended))
	for name, s := range p.suspended {
		if id := tenantOf(name); string(id) == name || p.suspended[string(id)] == nil { // a tenant is there once
			list = append(list, Suspended{Tenant: id, Partition: p.id, Cause: s.cause.String(), Since: s.since, Oldest: p.ages[name]})
		}
	}
	p.status.suspended.Store(&list)
}

// publishSkips makes known which lanes are behind, if that has changed.
func (p *partition) publishSkips() {
	now, behind := *p.skips.Load(), 0
	same := true
	for name := range p.lanes.Behind() {
		behind++
		if _, ok := now[name]; !ok {
			same = false
		}
	}
	if same && behind == len(now) {
		return
	}
	skips := make(map[string]struct{}, behind)
	for name := range p.lanes.Behind() {
		skips[name] = struct{}{}
	}
	p.skips.Store(&skips)
}

// earlier is the earlier of two times; zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
