package simulation_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"refinersource/internal/attribution"
	"refinersource/internal/checker"
	"refinersource/internal/deadletter"
	"refinersource/internal/delivery"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/simulation"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// sendFunc is a sender with a mistake in it.
type sendFunc func(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result

// Send implements delivery.Sender.
func (f sendFunc) Send(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
	return f(ctx, to, calls)
}

// nth reports true at the n-th call.
type nth struct {
	mu   sync.Mutex
	n, i int
}

func (c *nth) now() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.i++
	return c.i == c.n
}

// TestMistakesAreFound has a mistake in a system without faults. A simulation
// that finds nothing wrong with it could not find anything.
func TestMistakesAreFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rule  checker.Rule
		wrong func(next delivery.Sender) delivery.Sender
	}{
		"a request that is not sent and said to be accepted": {checker.Complete, func(next delivery.Sender) delivery.Sender {
			turn := nth{n: 7}
			return sendFunc(func(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
				if turn.now() {
					return segment.Result{Class: segment.Accepted, Status: 200}
				}
				return next.Send(ctx, to, calls)
			})
		}},
		"a call left out of a request": {checker.Complete, func(next delivery.Sender) delivery.Sender {
			var once sync.Once
			return sendFunc(func(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
				if len(calls) > 1 {
					once.Do(func() { calls = calls[:len(calls)-1] })
				}
				return next.Send(ctx, to, calls)
			})
		}},
		"a group before its identify": {checker.Pair, func(next delivery.Sender) delivery.Sender {
			held := make(map[string][]attribution.Call)
			var mu sync.Mutex
			return sendFunc(func(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
				mu.Lock()
				before := held[to.Endpoint]
				delete(held, to.Endpoint)
				if before == nil && calls[0].Kind == attribution.Identify {
					held[to.Endpoint] = slices.Clone(calls)
					calls = nil
				}
				mu.Unlock()
				if calls == nil {
					return segment.Result{Class: segment.Accepted, Status: 200}
				}
				result := next.Send(ctx, to, calls)
				if before != nil {
					_ = next.Send(ctx, to, before)
				}
				return result
			})
		}},
		"a request that is sent twice": {checker.Duplicates, func(next delivery.Sender) delivery.Sender {
			turn := nth{n: 5}
			return sendFunc(func(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
				if turn.now() {
					_ = next.Send(ctx, to, calls)
				}
				return next.Send(ctx, to, calls)
			})
		}},
		"another message id": {checker.Phantom, func(next delivery.Sender) delivery.Sender {
			turn := nth{n: 5}
			return sendFunc(func(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
				if turn.now() {
					calls = slices.Clone(calls)
					calls[0].MessageID = strings.Repeat("0", len(calls[0].MessageID))
				}
				return next.Send(ctx, to, calls)
			})
		}},
		"another tenant's key": {checker.Keys, func(next delivery.Sender) delivery.Sender {
			turn := nth{n: 5}
			return sendFunc(func(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
				if turn.now() {
					to.WriteKey = tenant.NewSecret("key-0-of-somebody-else")
				}
				return next.Send(ctx, to, calls)
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t, simulation.Options{Seed: 3, Workers: 2, Tenants: 2, Users: 4, Events: 60, Partitions: 2, Faults: -1, Sender: c.wrong})
			if r.Broken[c.rule.String()] == 0 {
				t.Errorf("rules broken in %d calls of %d events: %v, want %v among them", r.Calls, r.Events, r.Broken, c.rule)
			}
		})
	}
}

// noLetters says that it has written a letter.
type noLetters struct{}

// Write implements worker.Letters.
func (noLetters) Write(context.Context, deadletter.Letter) (queue.Position, error) {
	return queue.Position{}, nil
}

func TestLetterThatWasNotWrittenIsFound(t *testing.T) {
	t.Parallel()
	r := run(t, simulation.Options{
		Seed: 1, Events: 60, Kinds: []simulation.Kind{simulation.Garbage}, Faults: 6,
		Worker: func(o *worker.Options) { o.Letters = noLetters{} },
	})
	if r.Broken[checker.Complete.String()] == 0 {
		t.Errorf("rules broken: %v, want %v among them", r.Broken, checker.Complete)
	}
}
