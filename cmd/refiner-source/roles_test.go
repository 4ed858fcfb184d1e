package main

import (
	"runtime/debug"
	"testing"
)

// TestGarbageIsCollectedAsTheEnvironmentSays is not parallel: the settings are the
// process's.
func TestGarbageIsCollectedAsTheEnvironmentSays(t *testing.T) {
	for name, c := range map[string]struct {
		env     map[string]string
		percent int
		limit   int64
	}{
		"nothing set":    {nil, ingressGCPercent, ingressMemoryLimit},
		"GOGC set":       {map[string]string{"GOGC": "77"}, 77, ingressMemoryLimit},
		"GOMEMLIMIT set": {map[string]string{"GOMEMLIMIT": "1GiB"}, ingressGCPercent, 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			// As the runtime has read them from the environment.
			percent, limit := debug.SetGCPercent(77), debug.SetMemoryLimit(1<<30)
			defer debug.SetGCPercent(percent)
			defer debug.SetMemoryLimit(limit)
			collect(func(name string) (string, bool) { v, ok := c.env[name]; return v, ok }, ingressGCPercent, ingressMemoryLimit)
			if got := debug.SetMemoryLimit(-1); got != c.limit {
				t.Errorf("memory limit: got %d, want %d", got, c.limit)
			}
			if got := debug.SetGCPercent(100); got != c.percent {
				t.Errorf("percent: got %d, want %d", got, c.percent)
			}
		})
	}
}
