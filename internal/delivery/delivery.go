// Package delivery turns attempts into an outcome: it retries with exponential
// backoff, honours Retry-After and bisects a refused batch down to the guilty
// event. What an answer means is decided in package segment; what follows from
// it, here. It knows nothing of offsets and partitions, and does not log.
//
// It guarantees: a part is reported Accepted only if the receiver accepted all
// its calls in one request; Rejected, TooLarge or Invalid only if it was refused
// when it travelled alone; one request at a time per call of Deliver.
package delivery

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"

	"refinersource/internal/attribution"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

// Defaults of Options.
const (
	DefaultMinBackoff = 500 * time.Millisecond
	DefaultMaxBackoff = time.Minute
	DefaultSlots      = 256
)

// Sender makes one attempt.
type Sender interface {
	Send(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result
}

// Options of a Deliverer. The zero value of each field but Sender is useful.
type Options struct {
	Sender Sender
	// MinBackoff and MaxBackoff bound the ceiling of the pause before a retry:
	// min(MaxBackoff, MinBackoff·2ⁿ). The pause is a random part of it.
	MinBackoff, MaxBackoff time.Duration
	// Slots bounds the attempts under way in this process (invariant 8). A
	// pause takes no slot.
	Slots int
	// Rand returns a number in [0, 1); it must be safe for concurrent use.
	// Default: math/rand/v2.
	Rand func() float64
	// Pace waits until the tenant may be sent so many calls more, or returns an
	// error when ctx ends first. Default: no wait.
	Pace func(ctx context.Context, t *tenant.Tenant, calls int) error
	// Notify is told of every attempt, before anything follows from it.
	Notify func(Attempt)
}

// Validate reports all that is wrong.
func (o Options) Validate() error {
	var errs []error
	if o.Sender == nil {
		errs = append(errs, errors.New("delivery: Sender is missing"))
	}
	if o.MinBackoff < 0 || o.MaxBackoff < 0 || o.Slots < 0 {
		errs = append(errs, errors.New("delivery: MinBackoff, MaxBackoff and Slots must not be negative"))
	}
	return errors.Join(errs...)
}

// Attempt is one attempt as Notify sees it.
type Attempt struct {
	Tenant tenant.ID
	Calls  int
	Number int // of this request, from 1
	Took   time.Duration
	// Result is the receiver's answer, classified.
	Result segment.Result
	// Pause is how long the next attempt waits; 0 if there is none.
	Pause time.Duration
}

// Outcome says what became of a part.
type Outcome uint8

const (
	// Accepted says: the receiver accepted it.
	Accepted Outcome = iota
	// Rejected says: the receiver refused it, and would refuse it again.
	Rejected
	// TooLarge says: the receiver refused it for its size.
	TooLarge
	// Invalid says: it was not sent, since Segment would accept it and drop it.
	Invalid
	// Abandoned says: the context ended first. The receiver may have it.
	Abandoned
)

// Report is the end of a part.
type Report struct {
	Outcome  Outcome
	Attempts int            // requests in which it travelled
	Last     segment.Result // the answer to the last of them
}

// Source gives the tenant as it is now: a rotated write key or a mended
// endpoint is used from the next attempt on.
type Source func() *tenant.Tenant

// Deliverer delivers. It is safe for concurrent use.
type Deliverer struct {
	sender   Sender
	min, max time.Duration
	slots    chan struct{}
	rand     func() float64
	pace     func(context.Context, *tenant.Tenant, int) error
	notify   func(Attempt)
}

// New returns a Deliverer.
func New(o Options) (*Deliverer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	d := &Deliverer{sender: o.Sender, min: o.MinBackoff, max: o.MaxBackoff, rand: o.Rand, pace: o.Pace, notify: o.Notify}
	if d.min == 0 {
		d.min = DefaultMinBackoff
	}
	if d.max == 0 {
		d.max = DefaultMaxBackoff
	}
	if o.Slots == 0 {
		o.Slots = DefaultSlots
	}
	d.slots = make(chan struct{}, o.Slots)
	if d.rand == nil {
		d.rand = rand.Float64
	}
	if d.pace == nil {
		d.pace = func(context.Context, *tenant.Tenant, int) error { return nil }
	}
	if d.notify == nil {
		d.notify = func(Attempt) {}
	}
	return d, nil
}

// Deliver sends the parts, each the calls of one event that are accepted
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
	pauses := &fullJitter{min: d.min, max: d.max, rand: d.rand}
	var told Attempt // the last attempt, until Notify knows of it
	tell := func(pause time.Duration) {
		if told.Number > 0 {
			told.Pause = pause
			d.notify(told)
			told = Attempt{}
		}
	}
	err := backoff.RetryNotify(func() error {
		last = segment.Result{Class: segment.Canceled}
		t := to()
		if t.Paused {
			return errRetry
		}
		if err := d.pace(ctx, t, len(calls)); err != nil {
			return backoff.Permanent(err)
		}
		select {
		case <-ctx.Done():
			return backoff.Permanent(context.Cause(ctx))
		case d.slots <- struct{}{}:
		}
		started := time.Now()
		last = d.sender.Send(ctx, segment.Target{Endpoint: t.Endpoint, WriteKey: t.WriteKey}, calls)
		<-d.slots
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

// errRetry asks for another attempt.
var errRetry = errors.New("retry")

// waits reports whether the same request may fare better later: the receiver,
// or the tenant's configuration, is what is wrong. What was sent is at fault
// otherwise, and is never retried as it is.
func waits(c segment.Class) bool {
	switch c {
	case segment.Transient, segment.Throttled, segment.Misconfigured:
		return true
	case segment.Accepted, segment.Refused, segment.TooLarge, segment.Invalid, segment.Canceled:
		return false
	default:
		return false
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

// fullJitter is an exponential backoff without memory of the pauses drawn: a
// random part of min(max, min·2ⁿ), but never less than floor, which is what the
// receiver asked for. It never stops.
type fullJitter struct {
	min, max time.Duration
	floor    time.Duration
	rand     func() float64
	retries  int
}

// NextBackOff returns the pause before the next attempt.
func (b *fullJitter) NextBackOff() time.Duration {
	ceiling := b.max
	if b.retries < 62 && b.min<<b.retries>>b.retries == b.min {
		ceiling = min(b.max, b.min<<b.retries)
	}
	b.retries++
	return max(b.floor, time.Duration(b.rand()*float64(ceiling)))
}

// Reset starts again at the shortest pause.
func (b *fullJitter) Reset() { b.retries, b.floor = 0, 0 }
