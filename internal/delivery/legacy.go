package delivery

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v4"

	"refinersource/internal/attribution"
	"refinersource/internal/segment"
)

// Deliver is DeliverWithinBudget without a budget; it goes when its last caller
// has gone over to that.
//
// It sends the parts, each the calls of one event that are accepted
// together, and returns a report for each. All belong to the tenant of to. The
// caller keeps their sum within Segment's limits of a request. It returns when
// every part is accepted or refused, or, with the rest abandoned, when ctx
// ends: a receiver that is down is waited for, and so is a tenant that is paused.
//
// A refused request is sent again in halves, down to single parts: with one
// guilty part among n it takes at most 1 + 2·⌈log₂ n⌉ requests.
func (d *Deliverer) Deliver(ctx context.Context, to Source, parts [][]attribution.Call) []Report {
	reports := make([]Report, len(parts))
	d.deliver(ctx, to, parts, reports)
	return reports
}

func (d *Deliverer) deliver(ctx context.Context, to Source, parts [][]attribution.Call, reports []Report) {
	last, attempts := d.send(ctx, to, flatten(parts))
	for i := range reports {
		reports[i].Attempts += attempts
		reports[i].Last = last
	}
	switch {
	case last.Class == segment.Accepted:
		setOutcome(reports, Accepted)
	case last.Class == segment.Canceled:
		setOutcome(reports, Abandoned)
	case len(parts) == 1:
		setOutcome(reports, refusal(last.Class))
	default:
		half := len(parts) / 2
		d.deliver(ctx, to, parts[:half], reports[:half])
		d.deliver(ctx, to, parts[half:], reports[half:])
	}
}

// send makes attempts until the answer is one that a retry does not change, and
// returns it: accepted, a refusal of what was sent, or canceled.
func (d *Deliverer) send(ctx context.Context, to Source, calls []attribution.Call) (last segment.Result, attempts int) {
	pauses := &fullJitter{min: d.o.MinBackoff, max: d.o.MaxBackoff, rand: d.o.Rand}
	var told Attempt // the last attempt, until Notify knows of it
	tell := func(pause time.Duration) {
		if told.Number > 0 {
			told.Pause = pause
			d.o.Notify(told)
			told = Attempt{}
		}
	}
	err := backoff.RetryNotify(func() error {
		last = segment.Result{Class: segment.Canceled}
		t := to()
		if t.Paused {
			return errRetry
		}
		if err := d.o.Pace(ctx, t, len(calls)); err != nil {
			return backoff.Permanent(err)
		}
		select {
		case <-ctx.Done():
			return backoff.Permanent(context.Cause(ctx))
		case d.unbounded <- struct{}{}:
		}
		started := time.Now()
		last = d.o.Sender.Send(ctx, segment.Target{Endpoint: t.Endpoint, WriteKey: t.WriteKey}, calls)
		<-d.unbounded
		attempts++
		told = Attempt{Tenant: t.ID, Calls: len(calls), Number: attempts, Took: time.Since(started), Result: last}
		if waits(last.Class) {
			pauses.floor = last.RetryAfter
			return errRetry
		}
		return nil
	}, backoff.WithContext(pauses, ctx), func(_ error, pause time.Duration) { tell(pause) })
	tell(0)
	if err != nil {
		last.Class = segment.Canceled
	}
	return last, attempts
}

func setOutcome(reports []Report, o Outcome) {
	for i := range reports {
		reports[i].Outcome = o
	}
}

// flatten returns the calls of the parts in one slice, without copying where
// there is one part.
func flatten(parts [][]attribution.Call) []attribution.Call {
	if len(parts) == 1 {
		return parts[0]
	}
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	calls := make([]attribution.Call, 0, n)
	for _, p := range parts {
		calls = append(calls, p...)
	}
	return calls
}
