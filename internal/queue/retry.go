package queue

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// requestTimeout bounds one request to a broker, over its own waiting time.
const requestTimeout = 10 * time.Second

// newBackOff waits 0 to 50 ms, then 0 to 100 ms and so on, up to 0 to 1 s, for
// ever: exponential with full jitter.
func newBackOff() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(25*time.Millisecond),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(1),
		backoff.WithMaxInterval(500*time.Millisecond),
		backoff.WithMaxElapsedTime(0),
	)
}

// retry runs op until it succeeds, fails with an error that is not
// ErrUnavailable, or ctx ends; then the error matches ctx.Err() too. Each error
// that is tried again goes to notify, which may be nil.
func retry(ctx context.Context, notify func(error), op func() error) error {
	var last error
	err := backoff.RetryNotify(func() error {
		err := classify(op())
		if err != nil && ctx.Err() == nil {
			last = err
		}
		if err != nil && !errors.Is(err, ErrUnavailable) {
			return backoff.Permanent(err)
		}
		return err
	}, backoff.WithContext(newBackOff(), ctx), func(err error, _ time.Duration) {
		if notify != nil {
			notify(err)
		}
	})
	if err != nil && ctx.Err() != nil && (last == nil || errors.Is(last, ErrUnavailable)) {
		return ended(ctx, last)
	}
	return err
}
