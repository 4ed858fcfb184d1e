// Package delivery turns attempts into an outcome: it retries within a budget,
// honours Retry-After, bisects a request down to the event that is at fault and
// says when not an event but its tenant fails. What an answer means is decided
// in package segment; what follows from it, here. It knows nothing of offsets
// and partitions, and does not log.
//
// It guarantees: a part is reported Accepted only if the receiver accepted all
// its calls in one request; Rejected, TooLarge or Invalid only if it was refused
// when it travelled alone; one request at a time per call of
// Deliver; none before the time that the receiver named to the
// tenant; none to a tenant that is paused; none after the context's end.
//
// What is kept in memory of tenants and hosts (state.go) is bounded by those
// that were sent something within the last minute and those that refuse.
package delivery

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

// Defaults of Options.
const (
	DefaultMinBackoff      = 500 * time.Millisecond
	DefaultMaxBackoff      = time.Minute
	DefaultLaneAttempts    = 3
	DefaultLaneBudget      = 5 * time.Second
	DefaultSlots           = 256
	DefaultMinHostFailures = 20
)

// Sender makes one attempt. It keeps nothing of calls after it.
type Sender interface {
	Send(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result
}

// Options of a Deliverer. The zero value of each field but Sender is useful.
type Options struct {
	Sender Sender
	// MinBackoff and MaxBackoff bound the ceiling of the pause before a retry:
	// min(MaxBackoff, MinBackoff·2ⁿ). The pause is a random part of it.
	MinBackoff, MaxBackoff time.Duration
	// LaneAttempts and LaneBudget are what one request may take: so many attempts,
	// and so long from the start of the first attempt that failed to the start of
	// the last one. Waiting for a slot, the pace or the host does not count.
	LaneAttempts int
	LaneBudget   time.Duration
	// Slots bounds the attempts under way in this process, and SlowSlots those
	// beside them that have been under way for long or go to a tenant whose answers
	// take long (invariant 8). One tenant has at most a quarter of either
	// (invariant 5), and what catches up three quarters. A pause takes none, and of the
	// waits only those for a turn and for a processor. SlowSlots is Slots by default.
	Slots, SlowSlots int
	// TurnCalls bounds the calls of what catches up that are being written, and of those
	// that have just been while there is live traffic, so that this goes first; a request
	// counts as 16 more. By default 64 for each processor.
	TurnCalls int
	// Writers bounds the requests that are being encoded and written, so that under
	// load those of one tenant travel together; 0 does not bound them.
	Writers int
	// MinHostFailures is how many tenants of one host must fail, and be more than
	// half of its active ones, for the host's breaker to open.
	MinHostFailures int
	// Rand returns a number in [0, 1); it must be safe for concurrent use.
	// Default: math/rand/v2.
	Rand func() float64
	// Pace waits until the tenant may be sent so many calls more, or returns an
	// error when ctx ends first. catchUp is that of DeliverOptions. Default: no
	// wait.
	Pace func(ctx context.Context, t *tenant.Tenant, calls int, catchUp bool) error
	// TryPace is Pace for who cannot wait: it reports false, and takes nothing, where Pace
	// would wait. It must not block. What was taken for a request that is not sent after all
	// is not given back. Default: true, or false where Pace is not the default.
	TryPace func(t *tenant.Tenant, calls int, catchUp bool) bool
	// Gate is asked right before each attempt, when all its waits are over. After
	// an error the attempt is not made, and what was to travel in it is Abandoned.
	// Default: open.
	Gate func(ctx context.Context) error
	// Notify is told of every attempt, before anything follows from it.
	Notify func(Attempt)
	// NotifyHost is told when a host's breaker opens and when it closes.
	NotifyHost func(HostChange)
}

// Validate reports all that is wrong.
func (o Options) Validate() error {
	var errs []error
	if o.Sender == nil {
		errs = append(errs, errors.New("delivery: Sender is missing"))
	}
	if o.MinBackoff < 0 || o.MaxBackoff < 0 || o.LaneBudget < 0 {
		errs = append(errs, errors.New("delivery: MinBackoff, MaxBackoff and LaneBudget must not be negative"))
	}
	if o.Slots < 0 || o.SlowSlots < 0 || o.Writers < 0 || o.TurnCalls < 0 || o.LaneAttempts < 0 || o.MinHostFailures < 0 {
		errs = append(errs, errors.New("delivery: Slots, SlowSlots, Writers, TurnCalls, LaneAttempts and MinHostFailures must not be negative"))
	}
	return errors.Join(errs...)
}

// withDefaults returns o with its zero values replaced.
func (o Options) withDefaults() Options {
	o.MinBackoff = orDefault(o.MinBackoff, DefaultMinBackoff)
	o.MaxBackoff = orDefault(o.MaxBackoff, DefaultMaxBackoff)
	o.LaneAttempts = orDefault(o.LaneAttempts, DefaultLaneAttempts)
	o.LaneBudget = orDefault(o.LaneBudget, DefaultLaneBudget)
	o.Slots = orDefault(o.Slots, DefaultSlots)
	o.SlowSlots = orDefault(o.SlowSlots, o.Slots)
	o.TurnCalls = orDefault(o.TurnCalls, turnsPerCPU*runtime.GOMAXPROCS(0))
	o.MinHostFailures = orDefault(o.MinHostFailures, DefaultMinHostFailures)
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.TryPace == nil {
		free := o.Pace == nil
		o.TryPace = func(*tenant.Tenant, int, bool) bool { return free }
	}
	if o.Pace == nil {
		o.Pace = func(context.Context, *tenant.Tenant, int, bool) error { return nil }
	}
	if o.Gate == nil {
		o.Gate = func(context.Context) error { return nil }
	}
	if o.Notify == nil {
		o.Notify = func(Attempt) {}
	}
	if o.NotifyHost == nil {
		o.NotifyHost = func(HostChange) {}
	}
	return o
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
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

// HostChange is a host's breaker that opened or closed, as NotifyHost sees it.
type HostChange struct {
	Host string // of the endpoints, with the port if they name one
	Open bool
	// Active are the host's tenants that were sent something lately, and Failing
	// those among them whose last request the host failed. 0 on closing.
	Active, Failing int
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
	// Abandoned says: the context ended first, or the gate was shut.
	Abandoned
	// Failing says: it was not taken within the budget; the receiver may take it
	// later. With the zero Verdict it failed alone, while the receiver took other
	// parts: the event itself may be what the receiver cannot bear.
	Failing
)

// Report is the end of a part.
type Report struct {
	Outcome  Outcome
	Attempts int            // requests in which it travelled
	Last     segment.Result // the answer to the last of them
	// Unknown is set if the receiver may have the part although it is not said to
	// have accepted it.
	Unknown bool
}

// Cause is why a tenant is to be suspended. The set is closed: its values are
// metric labels.
type Cause string

// The causes.
const (
	// Unavailable: 5xx or no answer, whatever is sent.
	Unavailable Cause = "unavailable"
	// Throttled: the receiver asks for fewer requests.
	Throttled Cause = "throttled"
	// Misconfigured: the endpoint, its certificate or the write key is wrong.
	Misconfigured Cause = "misconfigured"
	// Refusing: it refuses so much of what is sent that not the events are at
	// fault but the receiver.
	Refusing Cause = "refusing"
	// Paused: the tenant is paused in the tenants file.
	Paused Cause = "paused"
)

// Causes returns all causes.
func Causes() []Cause {
	return []Cause{Unavailable, Throttled, Misconfigured, Refusing, Paused}
}

// Verdict says how the tenant fares. Its zero value: the receiver takes or
// judges what it is sent, or the context ended before this was known.
type Verdict struct {
	// Cause is why the tenant is to be suspended; "" if it is not.
	Cause Cause
	// RetryAfter is how long the receiver asked to be left alone; no request to
	// the tenant starts before.
	RetryAfter time.Duration
}

// DeliverOptions say what kind of delivery it is.
type DeliverOptions struct {
	// Probe makes one attempt at most, of one part (half-open): no retry, no
	// bisecting.
	Probe bool
	// CatchUp says that live traffic goes first: it is told to the pace, and an attempt
	// waits for its turn.
	CatchUp bool
}

// Source gives the tenant as it is now: a rotated write key or a mended
// endpoint is used from the next attempt on.
type Source func() *tenant.Tenant

// Deliverer delivers. It is safe for concurrent use.
type Deliverer struct {
	o        Options
	state    *state
	turns    *turns
	together *together
}

// IsLive reports whether something that does not catch up was sent a moment ago: then
// what else takes processors is to leave some to that.
func (d *Deliverer) IsLive() bool { return d.turns.isLive() }

// New returns a Deliverer.
func New(o Options) (*Deliverer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	return &Deliverer{o: o, state: newState(o), turns: newTurns(o.TurnCalls), together: newTogether(o.Writers)}, nil
}
