package delivery

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"

	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

// state is what is known of tenants and hosts between calls. Every question
// costs the same however many there are. A tenant is forgotten when it was sent
// nothing for forgetAfter, but for one whose last answers were refusals: its row
// has to hold however seldom it gets an event.
type state struct {
	o Options

	mu         sync.Mutex // never held across a wait
	tenants    map[tenant.ID]*tenantState
	idle       list.List // of *tenantState: no call under way, idle for longest first
	hosts      map[string]*host
	fast, slow *pool
	changes    []HostChange // not yet told
}

const forgetAfter = time.Minute

// tenantState is what is known of a tenant.
type tenantState struct {
	readsSlowly atomic.Bool // its receiver took long to read the request before

	id       tenant.ID
	calls    int           // under way
	idle     *list.Element // if there are none
	idleFrom time.Time

	endpoint string
	host     *host
	active   *list.Element // in the host's list
	lastAt   time.Time     // its last request ended
	failed   bool          // its last request, for a reason that a host can have
	era      int           // of the host then

	acceptedAt   time.Time     // its last request that was
	refusedInRow int           // parts refused alone since
	hungAt       time.Time     // a request hung for longer than the budget, and no batch passed since
	notBefore    time.Time     // the receiver asked for it
	why          Cause         // it did
	latency      time.Duration // smoothed

	fast, slow share
}

func newState(o Options) *state {
	return &state{
		o:       o,
		tenants: make(map[tenant.ID]*tenantState),
		hosts:   make(map[string]*host),
		fast:    newPool(o.Slots, func(t *tenantState) *share { return &t.fast }),
		slow:    newPool(o.SlowSlots, func(t *tenantState) *share { return &t.slow }),
	}
}

// unlock unlocks, and tells of hosts whose breaker changed.
func (s *state) unlock() {
	changes := s.changes
	s.changes = nil
	s.mu.Unlock()
	for _, c := range changes {
		s.o.NotifyHost(c)
	}
}

// enter begins a call for a tenant.
func (s *state) enter(t *tenant.Tenant) *tenantState {
	s.mu.Lock()
	defer s.unlock()
	return s.begin(t)
}

// enterKnown is enter for a tenant that is sent something at the same endpoint, and nil for
// any other.
func (s *state) enterKnown(t *tenant.Tenant) *tenantState {
	s.mu.Lock()
	defer s.unlock()
	if ts := s.tenants[t.ID]; ts == nil || ts.endpoint != t.Endpoint {
		return nil
	}
	return s.begin(t)
}

func (s *state) begin(t *tenant.Tenant) *tenantState {
	s.forget(time.Now())
	ts := s.tenants[t.ID]
	if ts == nil {
		ts = &tenantState{id: t.ID}
		s.tenants[t.ID] = ts
	}
	if ts.idle != nil {
		s.idle.Remove(ts.idle)
		ts.idle = nil
	}
	ts.calls++
	s.moveTo(ts, t.Endpoint)
	return ts
}

// leave ends it.
func (s *state) leave(t *tenantState) {
	s.mu.Lock()
	defer s.unlock()
	if t.calls--; t.calls == 0 {
		t.idleFrom = time.Now()
		t.idle = s.idle.PushBack(t)
	}
}

// forget drops tenants that were idle for long.
func (s *state) forget(now time.Time) {
	for e := s.idle.Front(); e != nil; e = s.idle.Front() {
		t := e.Value.(*tenantState)
		if now.Sub(t.idleFrom) < forgetAfter {
			return
		}
		switch {
		case now.Before(t.notBefore):
			t.idleFrom = now
			s.idle.MoveToBack(e)
			continue
		case t.refusedInRow > 0:
			t.idle = nil // it stays until it is used again
		default:
			delete(s.tenants, t.id)
		}
		s.idle.Remove(e)
		s.leaveHost(t)
	}
}

// record takes in the result of a trip and takes back its pass, once for all that
// travelled.
func (s *state) record(t *tenantState, p pass) {
	p.end()
	r := p.trip.result
	s.mu.Lock()
	defer s.unlock()
	now := time.Now()
	s.release(p.slot)
	if r.Class == segment.Canceled || r.Class == segment.Invalid {
		s.endProbe(p.probe, false, 0)
		return
	}
	t.latency += (p.trip.took - t.latency) / latencyWeight
	if waits(r.Class) && r.RetryAfter > 0 {
		if until := now.Add(r.RetryAfter); until.After(t.notBefore) {
			t.notBefore, t.why = until, causeOf(r.Class)
		}
	}
	wasHeld := t.isHeld()
	s.observe(t, r.Class == segment.Transient, now)
	takes := r.Class == segment.Accepted || !waits(r.Class)
	if r.Class == segment.Accepted {
		t.acceptedAt, t.refusedInRow = now, 0
		if len(p.trip.parts) > 1 {
			t.hungAt = time.Time{}
		}
		t.host.earn(p.trip.requests) // each retries by itself
	}
	s.endProbe(p.probe, true, r.RetryAfter)
	if takes && wasHeld {
		s.closeBreaker(t.host)
	}
}

func causeOf(c segment.Class) Cause {
	switch c {
	case segment.Throttled:
		return Throttled
	case segment.Misconfigured:
		return Misconfigured
	default:
		return Unavailable
	}
}

// end ends what an attempt takes of others' processors: its request is written, or will
// not be.
func (p *pass) end() {
	calls := 0
	if p.trip != nil {
		calls = p.trip.calls
	}
	p.turn.written(calls)
	if p.written != nil {
		p.written()
	}
}

// giveBack takes back a pass whose attempt was not made.
func (s *state) giveBack(p pass) {
	p.end()
	s.mu.Lock()
	defer s.unlock()
	s.release(p.slot)
	s.endProbe(p.probe, false, 0)
}

// standing is how a tenant stands with its receiver.
type standing struct {
	wait time.Duration // the receiver asked for it
	why  Cause         // it did
	held bool          // it waits for its host
}

// standing says how a tenant stands with its receiver, and notes that its requests go
// to that endpoint.
func (s *state) standing(t *tenantState, endpoint string) standing {
	s.mu.Lock()
	defer s.unlock()
	s.moveTo(t, endpoint)
	now := standing{held: t.isHeld()}
	if !t.notBefore.IsZero() {
		now.wait, now.why = time.Until(t.notBefore), t.why
	}
	return now
}

// hasChanged reports whether an attempt that was let pass has to wait after all.
func (s *state) hasChanged(t *tenantState, p pass) bool {
	s.mu.Lock()
	defer s.unlock()
	return p.probe == nil && t.isHeld() || !t.notBefore.IsZero() && time.Now().Before(t.notBefore)
}

// refusedAlone counts a part, and returns how many there were in a row.
func (s *state) refusedAlone(t *tenantState) int {
	s.mu.Lock()
	defer s.unlock()
	t.refusedInRow++
	return t.refusedInRow
}

// setRefusing makes the tenant one whose receiver refuses all, until it accepts
// something.
func (s *state) setRefusing(t *tenantState) {
	s.mu.Lock()
	defer s.unlock()
	t.refusedInRow = max(t.refusedInRow, MaxRefusedInRow)
}

func (s *state) isRefusing(t *tenantState) bool {
	s.mu.Lock()
	defer s.unlock()
	return t.refusedInRow >= MaxRefusedInRow
}

// isAlive reports whether the receiver has accepted something of the tenant
// lately, and not long before began.
func (s *state) isAlive(t *tenantState, began time.Time) bool {
	s.mu.Lock()
	defer s.unlock()
	return time.Since(t.acceptedAt) <= AliveFor && !t.acceptedAt.Before(began.Add(-AliveBefore))
}

func (s *state) acceptedSince(t *tenantState, began time.Time) bool {
	s.mu.Lock()
	defer s.unlock()
	return !t.acceptedAt.Before(began)
}

// hung notes a request that hung for longer than the budget, and reports whether
// the tenant has accepted anything since it began, or since one hung before.
func (s *state) hung(t *tenantState, began time.Time) bool {
	s.mu.Lock()
	defer s.unlock()
	alive := !t.acceptedAt.Before(began) || !t.hungAt.IsZero() && t.acceptedAt.After(t.hungAt)
	t.hungAt = time.Now()
	return alive
}

// takeToken takes leave for a retry.
func (s *state) takeToken(t *tenantState) bool {
	s.mu.Lock()
	defer s.unlock()
	return t.host.spend(time.Now())
}
