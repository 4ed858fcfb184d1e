package simulation_test

import (
	"fmt"
	"time"

	"refinersource/internal/simulation"
)

// What docs/scaling.md says of receivers that take their time, of 10,000 users in as
// many tenants as stand there. A worker's 24 MiB hold some 6,700 events of 1 kB. The
// processor is left out.
func ExampleModel() {
	say := func(workers, partitions, tenants, users int, latency time.Duration) {
		m := simulation.Model{
			Tenants: tenants, Users: users / tenants, Latency: latency, RateLimit: 1000,
			Partitions: partitions, Window: 6_700 * workers / partitions, RequestCalls: 2_000, Workers: workers, Slots: 256,
		}
		fmt.Printf("%d workers, %d partitions, %d tenants, %d users, %v: %.0f events/s\n",
			workers, partitions, tenants, users, latency, m.Capacity())
	}
	for _, latency := range []time.Duration{20 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond} {
		say(1, 12, 100, 10_000, latency)
	}
	say(4, 12, 100, 10_000, 100*time.Millisecond)
	say(4, 96, 100, 10_000, 100*time.Millisecond)
	say(4, 96, 100, 100_000, 100*time.Millisecond)
	say(10, 96, 250, 100_000, 100*time.Millisecond)
	say(10, 96, 2000, 100_000, 100*time.Millisecond)
	say(90, 192, 2000, 1_000_000, 100*time.Millisecond)
	// What is measured there.
	say(1, 12, 100, 100_000, 500*time.Millisecond)
	say(2, 12, 100, 100_000, 500*time.Millisecond)
	say(4, 12, 100, 100_000, 500*time.Millisecond)
	// Output:
	// 1 workers, 12 partitions, 100 tenants, 10000 users, 20ms: 50000 events/s
	// 1 workers, 12 partitions, 100 tenants, 10000 users, 100ms: 19605 events/s
	// 1 workers, 12 partitions, 100 tenants, 10000 users, 500ms: 5908 events/s
	// 4 workers, 12 partitions, 100 tenants, 10000 users, 100ms: 37264 events/s
	// 4 workers, 96 partitions, 100 tenants, 10000 users, 100ms: 40379 events/s
	// 4 workers, 96 partitions, 100 tenants, 100000 users, 100ms: 50000 events/s
	// 10 workers, 96 partitions, 250 tenants, 100000 users, 100ms: 125000 events/s
	// 10 workers, 96 partitions, 2000 tenants, 100000 users, 100ms: 43807 events/s
	// 90 workers, 192 partitions, 2000 tenants, 1000000 users, 100ms: 370715 events/s
	// 1 workers, 12 partitions, 100 tenants, 100000 users, 500ms: 10028 events/s
	// 2 workers, 12 partitions, 100 tenants, 100000 users, 500ms: 18799 events/s
	// 4 workers, 12 partitions, 100 tenants, 100000 users, 500ms: 33191 events/s
}
