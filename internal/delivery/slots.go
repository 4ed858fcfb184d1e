package delivery

import (
	"container/list"
	"context"
	"time"
)

// pool is a number of slots. Who waits for one is served in the order of
// arrival, but for tenants that have their share: they wait for their own.
type pool struct {
	size  int
	share int // of one tenant
	of    func(*tenantState) *share

	busy  int
	queue list.List // of *waiter: their tenants have room, the pool has not

	lateSize  int       // of what catches up
	late      int       // slots, and waiters in queue, of what catches up
	lateQueue list.List // of *waiter: their tenants have room, what catches up has not
}

// share is what a tenant takes of a pool.
type share struct {
	taken int       // slots, and waiters in the pool's queue
	queue list.List // of *waiter: the tenant has no room
}

type waiter struct {
	tenant  *tenantState
	ready   chan struct{} // closed when it has its slot
	slot    *slot
	element *list.Element // in
	queue   *list.List
	late    bool // it catches up
}

// slot is one attempt under way.
type slot struct {
	tenant *tenantState
	pool   *pool
	timer  *time.Timer // moves it to the slow pool
	late   bool        // it catches up
}

const (
	// slowAfter is how long an attempt has a slot among the quick ones.
	slowAfter = 2 * time.Second
	// latencyWeight is 1/x, the weight of the last attempt in the smoothed latency.
	latencyWeight = 4
	// tenantsShare is 1/x, the part of a pool that one tenant may take.
	tenantsShare = 4
	// liveShare is 1/x, the part of a pool that what catches up leaves to live traffic.
	liveShare = 4
)

func newPool(size int, of func(*tenantState) *share) *pool {
	return &pool{size: size, share: max(1, size/tenantsShare), of: of, lateSize: size - size/liveShare}
}

// acquire waits for a slot; late is what catches up.
func (s *state) acquire(ctx context.Context, t *tenantState, late bool) (*slot, error) {
	s.mu.Lock()
	p := s.fast
	if t.latency > slowAfter {
		p = s.slow
	}
	of := p.of(t)
	if of.taken < p.share && p.busy < p.size && !(late && p.late >= p.lateSize) {
		of.taken++
		if late {
			p.late++
		}
		slot := s.take(p, t, late)
		s.unlock()
		return slot, nil
	}
	w := &waiter{tenant: t, ready: make(chan struct{}), late: late}
	if of.taken < p.share {
		of.taken++
		s.line(p, w)
	} else {
		w.wait(&of.queue)
	}
	s.unlock()
	select {
	case <-w.ready:
		return w.slot, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.unlock()
	switch {
	case w.slot != nil:
		s.release(w.slot)
	case w.queue == &p.queue:
		p.queue.Remove(w.element)
		if late {
			s.leaveLate(p)
		}
		s.leaveShare(p, t)
	case w.queue == &p.lateQueue:
		p.lateQueue.Remove(w.element)
		s.leaveShare(p, t)
	default:
		of.queue.Remove(w.element)
	}
	return nil, context.Cause(ctx)
}

func (w *waiter) wait(in *list.List) { w.queue, w.element = in, in.PushBack(w) }

// line lets a waiter whose tenant has room wait for the pool.
func (s *state) line(p *pool, w *waiter) {
	if w.late {
		if p.late >= p.lateSize {
			w.wait(&p.lateQueue)
			return
		}
		p.late++
	}
	w.wait(&p.queue)
}

// leaveLate makes room for the next one that catches up.
func (s *state) leaveLate(p *pool) {
	p.late--
	if p.lateQueue.Len() > 0 {
		s.line(p, p.lateQueue.Remove(p.lateQueue.Front()).(*waiter))
	}
}

// take makes a slot of a pool that has room.
func (s *state) take(p *pool, t *tenantState, late bool) *slot {
	p.busy++
	sl := &slot{tenant: t, pool: p, late: late}
	if p == s.fast {
		sl.timer = time.AfterFunc(slowAfter, func() {
			s.mu.Lock()
			defer s.unlock()
			s.demote(sl)
		})
	}
	return sl
}

// demote moves an attempt that takes long to the slow pool, if that has room.
func (s *state) demote(sl *slot) {
	of := &sl.tenant.slow
	if sl.pool != s.fast || s.slow.busy >= s.slow.size || of.taken >= s.slow.share || sl.late && s.slow.late >= s.slow.lateSize {
		return
	}
	s.slow.busy++
	of.taken++
	sl.pool = s.slow
	if sl.late {
		s.slow.late++
	}
	s.free(s.fast, sl.tenant, sl.late)
}

// release ends the use of a slot; nil is none.
func (s *state) release(sl *slot) {
	if sl == nil {
		return
	}
	if sl.timer != nil {
		sl.timer.Stop()
	}
	p := sl.pool
	sl.pool = nil
	s.free(p, sl.tenant, sl.late)
}

// free gives a slot of the pool to who waits for it.
func (s *state) free(p *pool, t *tenantState, late bool) {
	p.busy--
	if late {
		s.leaveLate(p)
	}
	s.leaveShare(p, t)
	for p.busy < p.size && p.queue.Len() > 0 {
		w := p.queue.Remove(p.queue.Front()).(*waiter)
		w.slot = s.take(p, w.tenant, w.late)
		close(w.ready)
	}
}

// leaveShare makes room for a tenant's next waiter.
func (s *state) leaveShare(p *pool, t *tenantState) {
	of := p.of(t)
	of.taken--
	if of.queue.Len() == 0 {
		return
	}
	w := of.queue.Remove(of.queue.Front()).(*waiter)
	of.taken++
	s.line(p, w)
}
