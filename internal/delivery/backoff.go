package delivery

import (
	"time"

	"github.com/cenkalti/backoff/v4"

	"refinersource/internal/segment"
)

// errRetry asks for another attempt.
var errRetry = retryError{}

type retryError struct{}

// Error says what is asked for.
func (retryError) Error() string { return "retry" }

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

// fullJitter is an exponential backoff without memory of the pauses drawn: a
// random part of min(max, min·2ⁿ), but never less than floor. It never stops.
type fullJitter struct {
	min, max time.Duration
	floor    time.Duration
	rand     func() float64
	retries  int
}

var _ backoff.BackOff = (*fullJitter)(nil)

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

// laneBackOff is the backoff of one request: it stops when another attempt is
// not worth its wait, or may not be made.
type laneBackOff struct {
	c *call
	r *request
	fullJitter
}

// NextBackOff returns the pause before the next attempt, or backoff.Stop.
func (b *laneBackOff) NextBackOff() time.Duration {
	r, o := b.r, b.c.d.o
	switch {
	case b.c.ended, b.c.o.Probe, r.tries >= o.LaneAttempts,
		r.misconfigured >= maxMisconfigured,
		len(r.parts) > 1 && r.suspicious >= suspicionsToSplit:
		return backoff.Stop
	}
	b.floor = r.last.RetryAfter
	pause := b.fullJitter.NextBackOff()
	if r.spent+pause > o.LaneBudget || !b.c.d.state.takeToken(b.c.tenant) {
		return backoff.Stop
	}
	r.spent += pause
	return pause
}

const (
	// maxMisconfigured is how many answers that say so a request is worth: the
	// write key may have been rotated just now.
	maxMisconfigured = 2
	// suspicionsToSplit is after how many failures for which one event may be the
	// cause a request is bisected.
	suspicionsToSplit = 2
)
