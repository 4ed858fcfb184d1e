package checker_test

import (
	"fmt"
	"runtime"
	"testing"

	"refinersource/internal/checker"
)

// BenchmarkCheck checks a recorded history of 200,000 events, from its files.
func BenchmarkCheck(b *testing.B) {
	const events, users = 200_000, 5_000
	w := newWorld(b)
	for i := range events {
		user := i % users
		tenant := []string{"acme", "bolt", "corp"}[user%3]
		w.deliver(w.event(tenant, fmt.Sprintf("user-%d", user), fmt.Sprintf("event-%d", i), i))
		if i%1000 == 999 {
			w.commitAll()
		}
	}
	w.commitAll()
	dir := record(b, w.close())
	w.h = nil
	for b.Loop() {
		h, err := checker.Load(dir)
		if err != nil {
			b.Fatal(err)
		}
		if r := checker.Check(h, checker.Options{}); !r.OK() || r.Events != events {
			b.Fatal(report(r))
		}
	}
	b.ReportMetric(float64(events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.Sys)/(1<<20), "MiB-of-process")
}
