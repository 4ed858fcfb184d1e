// Package simulation runs the whole system in virtual time: the ingress, the
// publisher, several workers with the real delivery, a broker that speaks
// Kafka's protocol, and receivers, while faults happen to all of them. It owns
// the faults, the schedule that a seed makes of them, and the recording of what
// everybody saw; whether that keeps the promise is decided by a check that
// shares no state with the system.
//
// A run stands in a testing/synctest bubble, where an hour of waiting takes no
// time: the caller makes the bubble.
//
// # What a seed reproduces
//
// All that this package draws comes from the seed: the tenants and their rules,
// what is sent when, the faults with their times, targets and lengths, the
// latency and the answer of the n-th request of a tenant, and delivery's jitter.
// Not from the seed come the interleaving of goroutines and Go's choice among
// several ready cases of a select, the jitter of the log client's retries, the
// ids of group members, and the leader that the broker first gives a partition.
// So a failing seed fails again as a rule, but not as a law: run it several
// times, with one processor, before it is called unreproducible.
//
// # What it cannot show
//
// A frozen worker is one whose network stands still both ways; its process goes
// on. A process that is stopped between its last look at the clock and its write
// is not simulated, nor is a network that delivers a request to a receiver long
// after its sender gave it up.
package simulation

import (
	"context"
	"fmt"
	"time"

	"refinersource/internal/delivery"
	"refinersource/internal/worker"
)

// Mode says what a run is to show.
type Mode string

// The modes.
const (
	// Safety lets faults happen at random, then heals all and waits for the end:
	// every event is delivered, dead or ignored, and nothing is left behind.
	Safety Mode = "safety"
	// Liveness breaks the receivers of some tenants for ever; the others, and one
	// worker, are well: their events must be delivered in bounded time.
	Liveness Mode = "liveness"
)

// Modes returns all modes.
func Modes() []Mode { return []Mode{Safety, Liveness} }

// Options of a run. What is zero is chosen by the seed.
type Options struct {
	Seed uint64
	Mode Mode // "" is Safety

	Workers    int
	Tenants    int
	Users      int // of each tenant
	Events     int // of all users
	Partitions int
	// Window is how many events a partition holds in memory.
	Window int

	// Faults is how many there are; less than 0 is none. Liveness has none but
	// its broken tenants.
	Faults int
	// Kinds are those that faults are drawn from; nil is all.
	Kinds []Kind
	// Only leaves these of the schedule's faults, by their numbers, and no others;
	// nil leaves all.
	Only []int

	// Sender and Worker change what each worker is made with. They are for
	// deliberate mistakes and for logs.
	Sender func(delivery.Sender) delivery.Sender
	Worker func(*worker.Options)
}

// T is what a run needs of a test.
type T interface {
	// Logf is told what happens.
	Logf(format string, args ...any)
}

// Report is what came out of a run.
type Report struct {
	Seed       uint64        `json:"seed"`
	Mode       Mode          `json:"mode"`
	Events     int           `json:"events"`   // in the log
	Calls      int           `json:"calls"`    // that receivers took
	Requests   int           `json:"requests"` // that reached a receiver
	Repeats    int           `json:"repeats"`  // of calls that had been taken before
	Faults     int           `json:"faults"`
	Letters    int           `json:"letters"`
	Virtual    time.Duration `json:"virtual"` // in nanoseconds
	Violations []string      `json:"violations,omitempty"`
	// Broken are the rules of package checker that were broken, and how often.
	Broken map[string]int `json:"broken,omitempty"`
	// Schedule says what the seed made: the system, then each fault by its number.
	Schedule []string `json:"schedule,omitempty"`
}

// Run makes one run and returns when all that it started has ended. It must run
// inside a bubble. It fails no test: what is wrong stands in Violations.
func Run(t T, o Options) Report {
	p := newPlan(o)
	began := time.Now()
	r := Report{Seed: o.Seed, Mode: p.mode, Schedule: p.describe()}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := newWorld(t, p, o)
	if err := w.open(ctx); err != nil {
		w.violate("set up: %v", err)
	} else {
		w.live(ctx)
		w.settle(ctx)
	}
	w.close()
	r.Virtual = time.Since(began)
	r.Faults = w.happened
	w.record.conclude(&r)
	r.Violations = append(w.violations, r.Violations...)
	return r
}

// violate notes something that must not be.
func (w *world) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.mu.Lock()
	w.violations = append(w.violations, text)
	w.mu.Unlock()
	w.t.Logf("%v VIOLATION %s", w.elapsed(), text)
}

// pause lets virtual time pass; it reports false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
