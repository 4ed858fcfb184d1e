package delivery

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v4"

	"refinersource/internal/attribution"
	"refinersource/internal/segment"
)

// Deliver sends the parts, each the calls of one event that are
// accepted together, and returns a report for each and a verdict on the tenant.
// All belong to the tenant of to, and no two to one user: requests may go in any
// order, but go one after another. The caller keeps their sum within Segment's
// limits of a request.
//
// It returns when every part has its outcome, the budget is spent or ctx ends.
//
//   - A request that fails for a reason that may pass is sent again within
//     Options.LaneAttempts and LaneBudget, never before a Retry-After. Then its
//     parts are Failing, and the verdict has the cause.
//   - A refused request is sent again in halves, down to single parts: with one
//     guilty part among n that takes at most 1 + 2·⌈log₂ n⌉ requests. A receiver
//     that refuses most of what it gets, or MaxRefusedInRow parts of the tenant in
//     a row, over all calls, is broken: the verdict is Refusing, and what this call
//     found refused is Failing instead. So no more than MaxRefusedInRow events are
//     given up without the receiver accepting any.
//   - A request of several parts that failed twice with a 5xx answer or none is
//     sent in halves too, down to single parts: with one guilty part among n
//     2 + 2·⌈log₂ n⌉ requests. The guilty part is Failing. If nothing passes, all
//     are, after two such requests in a row, and the verdict is Unavailable.
//   - A part that fails alone so is no verdict on the tenant if another request of
//     it was accepted within the last AliveFor and since AliveBefore before the
//     part's first attempt.
//   - While the breaker of the tenant's host is open, a tenant whose own last
//     request failed waits instead of being Unavailable (host.go).
//   - Where the tenant is to forget who made one of the parts, what has no outcome yet is
//     Abandoned, however long it has waited: the caller is to leave that part out.
//   - Retries, and bisecting what fails, are allowed a share of what the host
//     accepts; beyond it the budget is spent at once.
func (d *Deliverer) Deliver(ctx context.Context, to Source, parts [][]attribution.Call, o DeliverOptions) ([]Report, Verdict) {
	if len(parts) == 0 {
		return nil, Verdict{}
	}
	c := newCall(d, to, parts, o)
	c.tenant = d.state.enter(to())
	c.run(ctx)
	return c.reports, c.verdict
}

// Join has the parts travel with a request of their tenant that waits to be written, if
// there is one, and reports whether they do. Then it has done what Deliver does, and done
// is called once with what Deliver returns, from another goroutine: soon after the answer
// if that accepts them. It must not wait for long, since others that travel wait for it.
//
// What is to wait for something else does not join: a probe, and what is of a tenant that
// is paused, at its rate limit, or to forget who made one of the parts. What the one that waits has to wait for yet, its gate and
// its receiver, holds for all.
func (d *Deliverer) Join(ctx context.Context, to Source, parts [][]attribution.Call, o DeliverOptions, done func([]Report, Verdict)) bool {
	if len(parts) == 0 || o.Probe || ctx.Err() != nil {
		return false
	}
	t := to()
	if t.Paused || forgets(t, parts) {
		return false
	}
	tenant := d.state.enterKnown(t)
	if tenant == nil {
		return false
	}
	if !d.together.ride(ctx, tripKey{tenant, o.CatchUp}, parts, func(calls int) (rider, bool) {
		if !d.o.TryPace(t, calls, o.CatchUp) {
			return rider{}, false
		}
		c := newCall(d, to, parts, o)
		c.tenant = tenant
		return rider{c, done}, true
	}) {
		d.state.leave(tenant)
		return false
	}
	return true
}

func newCall(d *Deliverer, to Source, parts [][]attribution.Call, o DeliverOptions) *call {
	return &call{d: d, to: to, o: o, parts: parts, reports: make([]Report, len(parts))}
}

// run brings all parts to their outcome.
func (c *call) run(ctx context.Context) {
	defer c.d.state.leave(c.tenant)
	all := make([]int, len(c.parts))
	for i := range all {
		all[i] = i
		c.reports[i].Outcome = Failing
	}
	for {
		c.deliver(ctx, all)
		if c.verdict.Cause != Unavailable || c.o.Probe || !c.d.state.isHeld(c.tenant) {
			break
		}
		// The host is down, not the tenant: what is left waits for it.
		all = c.unfinished()
		c.ended, c.verdict, c.failedInRow = false, Verdict{}, 0
	}
	c.conclude()
}

// Bounds of what is held against a part, and against the tenant.
const (
	MaxRefusedInRow = 3
	AliveFor        = 10 * time.Second
	AliveBefore     = 2 * time.Second
)

// call is one call of Deliver.
type call struct {
	d       *Deliverer
	to      Source
	o       DeliverOptions
	tenant  *tenantState
	parts   [][]attribution.Call
	reports []Report // Failing until the outcome is known
	ride    *trip    // that the parts travelled on, which is over; the first attempt

	ended    bool // no request is made any more
	canceled bool // by the context or the gate
	verdict  Verdict
	began    time.Time // the first attempt

	requests     int
	refusedAlone int // parts
	failedInRow  int // requests of a bisection
}

// request is the attempts at sending some parts together.
type request struct {
	parts         []int // indexes
	calls         int
	alone         bool // not together with others of the tenant
	attempts      int
	tries         int // the attempts that count for the budget
	suspicious    int // failures for which one event may be the cause
	misconfigured int
	began         time.Time     // the first attempt
	spent         time.Duration // from the first failure's start, without waits
	last          segment.Result
}

// newRequest makes a request; only the first one of a call travels with others.
func (c *call) newRequest(parts []int) *request {
	r := &request{parts: parts, alone: c.requests > 0}
	for _, i := range parts {
		r.calls += len(c.parts[i])
	}
	c.requests++
	return r
}

// deliver brings parts to their outcome, or ends the call.
func (c *call) deliver(ctx context.Context, parts []int) {
	if c.ended {
		return
	}
	r := c.newRequest(parts)
	c.retry(ctx, r)
	switch {
	case c.ended:
	case r.last.Class == segment.Accepted:
		c.settle(parts, Accepted)
	case !waits(r.last.Class):
		c.refused(ctx, r)
	case c.mayBeOneEvent(r):
		pauses := fullJitter{min: c.d.o.MinBackoff, max: c.d.o.MaxBackoff, rand: c.d.o.Rand, retries: r.tries - 1}
		if c.pause(ctx, pauses.NextBackOff()) {
			c.split(ctx, r.parts)
		}
	default:
		c.failed(r)
	}
}

// retry makes attempts at a request within its budget.
func (c *call) retry(ctx context.Context, r *request) {
	if told := c.attempt(ctx, r); c.ended || !waits(r.last.Class) {
		c.tell(told, 0)
	} else {
		c.again(ctx, r, told)
	}
	if ctx.Err() != nil && waits(r.last.Class) && !c.ended {
		c.cancel()
	}
}

// again makes the attempts after the first, of which told is.
func (c *call) again(ctx context.Context, r *request, told Attempt) {
	made := true
	pauses := &laneBackOff{c: c, r: r, fullJitter: fullJitter{min: c.d.o.MinBackoff, max: c.d.o.MaxBackoff, rand: c.d.o.Rand}}
	_ = backoff.RetryNotify(func() error {
		if !made {
			told = c.attempt(ctx, r)
		}
		if made = false; c.ended || !waits(r.last.Class) {
			return nil
		}
		return errRetry
	}, backoff.WithContext(pauses, ctx), func(_ error, pause time.Duration) {
		c.tell(told, pause)
		told = Attempt{}
	})
	c.tell(told, 0)
}

// tell tells Notify of an attempt, if there was one.
func (c *call) tell(told Attempt, pause time.Duration) {
	if told.Number > 0 {
		told.Pause = pause
		c.d.o.Notify(told)
	}
}

// once makes one attempt.
func (c *call) once(ctx context.Context, parts []int) *request {
	r := c.newRequest(parts)
	c.tell(c.attempt(ctx, r), 0)
	return r
}

// failed ends the call for what a request was last answered, unless the receiver
// takes other requests and this one had a single part.
func (c *call) failed(r *request) {
	switch r.last.Class {
	case segment.Throttled:
		c.end(Throttled, r.last.RetryAfter)
	case segment.Misconfigured:
		c.end(Misconfigured, r.last.RetryAfter)
	case segment.Transient, segment.Accepted, segment.Refused, segment.TooLarge, segment.Invalid, segment.Canceled:
		alone := len(r.parts) == 1 && c.isSuspicious(r.last)
		if !alone || !c.d.state.isAlive(c.tenant, r.began) {
			c.end(Unavailable, r.last.RetryAfter)
		}
	}
}

// end ends the call: what has no outcome is Failing.
func (c *call) end(cause Cause, retryAfter time.Duration) {
	c.ended, c.verdict = true, Verdict{Cause: cause, RetryAfter: retryAfter}
}

// cancel ends the call: what has no outcome is Abandoned.
func (c *call) cancel() { c.ended, c.canceled = true, true }

// conclude turns what this call knows into what it reports: refusals stand only
// if the receiver does not refuse all.
func (c *call) conclude() {
	refusing := c.verdict.Cause == Refusing || c.refusedAlone > 0 && c.d.state.isRefusing(c.tenant)
	for i := range c.reports {
		r := &c.reports[i]
		if refusing && (r.Outcome == Rejected || r.Outcome == TooLarge) {
			r.Outcome = Failing
			if c.verdict.Cause == "" && !c.canceled {
				c.verdict.Cause = Refusing
			}
		}
		if c.canceled && r.Outcome == Failing {
			r.Outcome = Abandoned
		}
	}
}

func (c *call) settle(parts []int, o Outcome) {
	for _, i := range parts {
		c.reports[i].Outcome = o
		c.reports[i].Unknown = c.reports[i].Unknown && o != Accepted
	}
}

// unfinished are the parts that are to be sent again.
func (c *call) unfinished() []int {
	var parts []int
	for i := range c.reports {
		if c.reports[i].Outcome == Failing {
			parts = append(parts, i)
		}
	}
	return parts
}

// selected returns the calls of parts, by part. They are not to be changed.
func (c *call) selected(parts []int) [][]attribution.Call {
	if len(parts) == len(c.parts) {
		return c.parts // in their order, as the parts of every request
	}
	some := make([][]attribution.Call, len(parts))
	for n, i := range parts {
		some[n] = c.parts[i]
	}
	return some
}
