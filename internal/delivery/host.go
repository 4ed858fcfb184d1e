package delivery

import (
	"container/list"
	"context"
	"strings"
	"time"

	"refinersource/internal/tenant"
)

// host is what the tenants of one endpoint's host have in common: a budget for
// retries, and a breaker.
//
// The breaker is for failures that are not one tenant's: it opens when at least
// Options.MinHostFailures tenants, and more than half of those that were sent
// something in the last activeFor, had their last request failed for a reason
// that a host can have (5xx or no answer). While it is open, tenants whose own
// last request failed wait; one of them at a time is let through, on a backoff
// of its own. It closes when one of them is accepted, or refused for what was
// sent, and all go on. Tenants whose last request did not fail are not held.
type host struct {
	name    string
	tenants int // that have their endpoint here

	active  list.List // of *tenantState, by their last request, the oldest first
	failing int       // among them

	open    bool
	era     int  // how often it has opened or closed
	probing bool // one is let through
	due     bool // one may be, but none waits
	pauses  fullJitter
	timer   *time.Timer
	waiting list.List // of *waitingCall, the first come first

	tokens   float64
	filledAt time.Time
}

const (
	activeFor  = 10 * time.Second
	minBreaker = time.Second
	maxBreaker = 30 * time.Second

	// Retries are allowed up to retryShare of the accepted requests and
	// retriesPerSecond beside it; maxRetries at once.
	retryShare       = 0.2
	retriesPerSecond = 3
	maxRetries       = 50
)

// waitingCall is a call that waits for its host.
type waitingCall struct {
	ready chan struct{} // closed when it may go on
	probe *probe        // it goes alone
}

// probe is leave to send one request to a host whose breaker is open.
type probe struct {
	host *host
	era  int // of the host
}

// recheck is how often a call that waits for its host looks whether its tenant
// was changed.
const recheck = 10 * time.Second

// hostOf is the host of an endpoint, with the port if it names one.
func hostOf(endpoint string) string {
	_, rest, ok := strings.Cut(endpoint, "://")
	if !ok {
		rest = endpoint
	}
	name, _, _ := strings.Cut(rest, "/")
	return strings.ToLower(name)
}

// moveTo makes endpoint that of the tenant.
func (s *state) moveTo(t *tenantState, endpoint string) {
	if t.host != nil && t.endpoint == endpoint {
		return
	}
	name := hostOf(endpoint)
	t.endpoint = endpoint
	if t.host != nil && t.host.name == name {
		return
	}
	s.leaveHost(t)
	h := s.hosts[name]
	if h == nil {
		h = &host{
			name: name, tokens: maxRetries, filledAt: time.Now(),
			pauses: fullJitter{min: minBreaker, max: maxBreaker, rand: s.o.Rand},
		}
		s.hosts[name] = h
	}
	h.tenants++
	t.host = h
}

// leaveHost makes the tenant one of no host.
func (s *state) leaveHost(t *tenantState) {
	h := t.host
	if h == nil {
		return
	}
	h.remove(t)
	t.host, t.failed = nil, false
	if h.tenants--; h.tenants == 0 {
		s.closeBreaker(h)
		delete(s.hosts, h.name)
	}
}

// observe notes how a tenant's request ended, and opens the breaker when it is
// time.
func (s *state) observe(t *tenantState, failed bool, now time.Time) {
	h := t.host
	if t.active == nil {
		t.active = h.active.PushBack(t)
	} else {
		h.active.MoveToBack(t.active)
		if t.failed {
			h.failing--
		}
	}
	t.failed, t.era, t.lastAt = failed, h.era, now
	if failed {
		h.failing++
	}
	for e := h.active.Front(); e != nil; e = h.active.Front() {
		old := e.Value.(*tenantState)
		if now.Sub(old.lastAt) <= activeFor {
			break
		}
		h.remove(old)
	}
	if failed && !h.open && h.failing >= s.o.MinHostFailures && 2*h.failing > h.active.Len() {
		h.open = true
		h.era++
		h.pauses.Reset()
		s.changes = append(s.changes, HostChange{Host: h.name, Open: true, Active: h.active.Len(), Failing: h.failing})
		s.scheduleProbe(h, 0)
	}
}

// remove takes a tenant out of the active ones.
func (h *host) remove(t *tenantState) {
	if t.active == nil {
		return
	}
	h.active.Remove(t.active)
	t.active = nil
	if t.failed {
		h.failing--
	}
}

// scheduleProbe lets a waiting call through after the next pause.
func (s *state) scheduleProbe(h *host, retryAfter time.Duration) {
	h.pauses.floor = max(minBreaker, retryAfter)
	h.timer = time.AfterFunc(h.pauses.NextBackOff(), func() {
		s.mu.Lock()
		defer s.unlock()
		s.probeNext(h)
	})
}

// probeNext lets a waiting call through, or the next to come.
func (s *state) probeNext(h *host) {
	if !h.open || h.probing {
		return
	}
	e := h.waiting.Front()
	if h.due = e == nil; h.due {
		return
	}
	h.probing = true
	w := h.waiting.Remove(e).(*waitingCall)
	w.probe = &probe{h, h.era}
	close(w.ready)
}

// endProbe ends a probe; nil is none. The next comes after a pause, or at once if
// this one was not made.
func (s *state) endProbe(p *probe, made bool, retryAfter time.Duration) {
	if p == nil || !p.host.open || p.host.era != p.era {
		return
	}
	h := p.host
	h.probing = false
	if made {
		s.scheduleProbe(h, retryAfter)
		return
	}
	s.probeNext(h)
}

// closeBreaker closes the breaker if it is open. What was known of the tenants
// says nothing of the host any more.
func (s *state) closeBreaker(h *host) {
	if !h.open {
		return
	}
	h.open, h.probing, h.due = false, false, false
	h.era++
	h.timer.Stop()
	for e := h.active.Front(); e != nil; e = h.active.Front() {
		h.remove(e.Value.(*tenantState))
	}
	for e := h.waiting.Front(); e != nil; e = h.waiting.Front() {
		close(h.waiting.Remove(e).(*waitingCall).ready)
	}
	s.changes = append(s.changes, HostChange{Host: h.name})
}

// isHeld reports whether the tenant's requests wait for its host.
func (s *state) isHeld(t *tenantState) bool {
	s.mu.Lock()
	defer s.unlock()
	return t.isHeld()
}

// isHeld reports whether its host's breaker is open, and its own last request
// failed since that was last closed. One that is sent nothing has no host.
func (t *tenantState) isHeld() bool {
	return t.host != nil && t.host.open && t.failed && t.era >= t.host.era-1
}

// HostIsDown reports whether the tenant's requests wait for its host.
func (d *Deliverer) HostIsDown(id tenant.ID) bool {
	s := d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tenants[id]
	return t != nil && t.isHeld()
}

// hold waits while the tenant's requests wait for its host, or until changed says
// that the tenant is to be looked at again, and reports whether they had to. A
// probe is returned if the next request is to show how the host is.
func (s *state) hold(ctx context.Context, t *tenantState, changed func() bool) (p *probe, held bool, err error) {
	s.mu.Lock()
	h := t.host
	if !t.isHeld() {
		s.unlock()
		return nil, false, nil
	}
	if h.due {
		h.due, h.probing = false, true
		s.unlock()
		return &probe{h, h.era}, true, nil
	}
	w := &waitingCall{ready: make(chan struct{})}
	e := h.waiting.PushBack(w)
	s.unlock()
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for ctx.Err() == nil && !changed() {
		select {
		case <-w.ready:
			return w.probe, true, nil
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.unlock()
	h.waiting.Remove(e)
	s.endProbe(w.probe, false, 0)
	return nil, true, context.Cause(ctx)
}

// earn adds what accepted requests allow; spend holds it to its bound.
func (h *host) earn(requests int) { h.tokens += retryShare * float64(requests) }

// spend takes leave for one retry, if there is any.
func (h *host) spend(now time.Time) bool {
	h.tokens = min(maxRetries, h.tokens+now.Sub(h.filledAt).Seconds()*retriesPerSecond)
	h.filledAt = now
	if h.tokens < 1 {
		return false
	}
	h.tokens--
	return true
}
