package delivery

import (
	"context"
	"maps"
	"slices"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

// attempt makes one attempt at a request when all its waits are over, and
// returns what Notify is to be told of it; or it ends the call, and returns none.
func (c *call) attempt(ctx context.Context, r *request) Attempt {
	t, began, took := c.send(ctx, r)
	if t == nil {
		return Attempt{}
	}
	if r.attempts == 0 {
		r.began = began
	}
	if c.began.IsZero() {
		c.began = began
	}

	r.attempts++
	r.tries++
	for _, i := range r.parts {
		report := &c.reports[i]
		report.Attempts++
		report.Last = r.last
		report.Unknown = report.Unknown || r.last.Unknown
	}
	if c.isSuspicious(r.last) {
		r.suspicious++
	}
	switch {
	case r.last.Class == segment.Canceled:
		c.cancel()
	case r.last.Class == segment.Misconfigured:
		r.misconfigured++
	}
	if waits(r.last.Class) {
		r.spent += took
	}
	return Attempt{Tenant: t.ID, Calls: r.calls, Number: r.attempts, Took: took, Result: r.last}
}

// send makes one attempt, by itself or together with others of the tenant, and
// returns the tenant, and when it began and how long it took; or it ends the call and
// returns nil. A refusal of what travelled together says nothing of its parts: then
// this one travels alone.
func (c *call) send(ctx context.Context, r *request) (t *tenant.Tenant, began time.Time, took time.Duration) {
	for {
		t, p := c.admit(ctx, r)
		if t == nil {
			return nil, began, took
		}
		trip := p.trip
		if !p.joined {
			trip.send(ctx, c.d.o.Sender, segment.Target{Endpoint: t.Endpoint, WriteKey: t.WriteKey, StrictBody: t.StrictBody, Written: p.end})
			c.d.state.record(c.tenant, p) // before others go on: what the receiver asked for is asked of all
			trip.end()
		}
		r.last = trip.result
		if trip.requests == 1 || r.last.Class == segment.Accepted || r.last.Class == segment.Canceled || waits(r.last.Class) {
			return t, trip.began, trip.took
		}
		r.alone = true
		for _, i := range r.parts {
			c.reports[i].Attempts++
		}
	}
}

// pass lets an attempt start; it is given back with the attempt's result, or
// without.
type pass struct {
	slot    *slot
	probe   *probe
	turn    *turn  // nil where none is asked
	written func() // tells that the request is; nil where that is not asked
	trip    *trip  // on which it travels
	joined  bool   // another sends for it
}

// admit waits until an attempt may start, and returns the tenant as it is then;
// or it ends the call and returns nil. In this order: what the receiver asked
// for, the host, the pace, a slot, a turn if it catches up, a processor to write it, the
// gate. What may have changed during a wait is looked at again after it. Who joins a trip
// waits until it is over instead. A probe is neither live traffic nor held back for that.
func (c *call) admit(ctx context.Context, r *request) (*tenant.Tenant, pass) {
	late := c.o.CatchUp && !c.o.Probe
	if ride := c.ride; ride != nil {
		if c.ride = nil; ride.made {
			return c.to(), pass{trip: ride, joined: true}
		}
	}
	for {
		var p pass
		t := c.to()
		switch {
		case ctx.Err() != nil:
			c.cancel()
			return nil, p
		case t.Paused:
			c.end(Paused, 0)
			return nil, p
		case forgets(t, c.parts):
			c.cancel() // who made them leaves out what is to be forgotten
			return nil, p
		}
		before := c.d.state.standing(c.tenant, t.Endpoint)
		if before.wait > 0 {
			if !c.rest(ctx, r, before) {
				return nil, p
			}
			continue
		}
		changed := func() bool {
			now := c.to()
			return now != t && (now.Paused || now.Endpoint != t.Endpoint || !maps.Equal(now.Rules.Forgotten, t.Rules.Forgotten))
		}
		var err error
		if before.held {
			if p.probe, before.held, err = c.d.state.hold(ctx, c.tenant, changed); before.held {
				r.tries, r.suspicious, r.misconfigured, r.spent = 0, 0, 0, 0 // the time before was the host's fault
			}
		}
		if err == nil && !changed() {
			if err = c.d.o.Pace(ctx, t, r.calls, c.o.CatchUp); !c.o.CatchUp && !c.o.Probe {
				c.d.turns.sawLive()
			}
			if err == nil && p.probe == nil && !c.o.Probe && !r.alone && r.attempts == 0 && !changed() {
				if p.trip, p.joined = c.d.together.join(ctx, c.tenant, late, c.selected(r.parts)); p.joined && p.trip.made {
					p.end()
					return c.to(), p
				}
			}
			if err == nil && !p.joined {
				p.slot, err = c.d.state.acquire(ctx, c.tenant, late)
			}
			if err == nil && !p.joined && late {
				p.turn, err = c.d.turns.take(ctx, r.calls)
			}
			if err == nil && !p.joined {
				p.written, err = c.d.together.write(ctx, c.tenant)
			}
			if err == nil && !p.joined && !changed() && !c.d.state.hasChanged(c.tenant, p) {
				if err = c.d.o.Gate(ctx); err == nil && !changed() {
					p.trip = c.d.together.begin(ctx, p.trip, c.selected(r.parts))
					return c.to(), p
				}
			}
		}
		c.d.together.cancel(p)
		c.d.state.giveBack(p)
		if err != nil {
			c.cancel()
			return nil, p
		}
	}
}

// forgets reports whether a tenant is to forget who made one of the parts.
func forgets(t *tenant.Tenant, parts [][]attribution.Call) bool {
	return len(t.Rules.Forgotten) > 0 && slices.ContainsFunc(parts, func(calls []attribution.Call) bool {
		return len(calls) > 0 && t.Rules.Forgets(calls[0].UserID, calls[0].AnonymousID)
	})
}

// rest waits until the receiver may be asked again, or ends the call if that is
// over its budget. A tenant whose host is down rests for as long as it takes, and
// looks up now and then.
func (c *call) rest(ctx context.Context, r *request, before standing) bool {
	budget := c.d.o.LaneBudget
	held := !c.o.Probe && before.held
	if !held && (c.o.Probe || r.spent+before.wait > budget) {
		c.end(before.why, before.wait)
		return false
	}
	wait := min(before.wait, budget)
	if !held && r.tries > 0 {
		r.spent += wait
	}
	return c.pause(ctx, wait)
}

// pause waits, or ends the call with ctx.
func (c *call) pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		c.cancel()
		return false
	case <-timer.C:
		return true
	}
}
