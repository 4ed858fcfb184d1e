package delivery

import (
	"context"

	"refinersource/internal/segment"
)

// refused looks for the guilty part of a refused request: first half first, each
// to its end before the next, so that a receiver that refuses all is found out
// after a few requests.
func (c *call) refused(ctx context.Context, r *request) {
	if len(r.parts) > 1 {
		if c.o.Probe {
			c.end(Refusing, 0)
			return
		}
		half := len(r.parts) / 2
		c.deliver(ctx, r.parts[:half])
		c.deliver(ctx, r.parts[half:])
		return
	}
	c.settle(r.parts, refusal(r.last.Class))
	if r.last.Class == segment.Invalid {
		return // it was not the receiver who refused it
	}
	c.refusedAlone++
	row := c.d.state.refusedAlone(c.tenant)
	if row >= MaxRefusedInRow || len(c.parts) > 1 && 2*c.refusedAlone > len(c.parts) {
		c.d.state.setRefusing(c.tenant)
		c.end(Refusing, 0)
	}
}

// refusal is the outcome of a part that was refused when it travelled alone.
func refusal(c segment.Class) Outcome {
	switch c {
	case segment.TooLarge:
		return TooLarge
	case segment.Invalid:
		return Invalid
	default:
		return Rejected
	}
}

// isSuspicious reports whether one event may be the cause of a failure: the
// receiver had the request and did not bear it. One that asks for a longer pause
// than a lane makes speaks of itself.
func (c *call) isSuspicious(r segment.Result) bool {
	return r.Class == segment.Transient && (r.Status != 0 || r.Unknown) && r.RetryAfter <= c.d.o.LaneBudget
}

// mayBeOneEvent reports whether a request that failed is to be bisected. After
// an attempt that hung for longer than the budget it is not known whether the
// next would have failed too. Then it is bisected only if the tenant is known to
// take other requests: it has accepted one since, or since a request hung before.
func (c *call) mayBeOneEvent(r *request) bool {
	if len(r.parts) == 1 || c.o.Probe || !c.isSuspicious(r.last) {
		return false
	}
	return r.suspicious >= suspicionsToSplit ||
		r.spent > c.d.o.LaneBudget && c.d.state.hung(c.tenant, r.began)
}

// Failures in a row after which a bisection is given up: nothing passes. If the
// tenant has accepted something since the call began there may be more than one
// guilty part.
const (
	maxFailedInRow      = 2
	maxFailedInRowAlive = 6
)

// split sends the halves of parts that failed together, then the halves of the
// half that failed, down to single parts, each once. Both halves come before
// either is split further: one that passes shows that the tenant is alive.
func (c *call) split(ctx context.Context, parts []int) {
	half := len(parts) / 2
	var failed [][]int
	for _, h := range [][]int{parts[:half], parts[half:]} {
		if c.ended {
			return
		}
		if !c.d.state.takeToken(c.tenant) {
			c.end(Unavailable, 0)
			return
		}
		r := c.once(ctx, h)
		switch {
		case c.ended:
			return
		case r.last.Class == segment.Accepted:
			c.failedInRow = 0
			c.settle(h, Accepted)
		case !waits(r.last.Class):
			c.failedInRow = 0
			c.refused(ctx, r)
		case r.last.Class == segment.Transient:
			c.failedInRow++
			if c.failedInRow >= c.patience() || r.last.RetryAfter > c.d.o.LaneBudget {
				c.end(Unavailable, r.last.RetryAfter)
				return
			}
			failed = append(failed, h)
		default:
			c.failed(r)
		}
	}
	for _, h := range failed {
		if len(h) > 1 && !c.ended {
			c.split(ctx, h)
		}
	}
}

// patience is how many failures in a row end a bisection.
func (c *call) patience() int {
	if c.d.state.acceptedSince(c.tenant, c.began) {
		return maxFailedInRowAlive
	}
	return maxFailedInRow
}
