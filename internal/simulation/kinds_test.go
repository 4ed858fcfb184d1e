package simulation_test

import (
	"fmt"
	"testing"

	"refinersource/internal/simulation"
)

// TestEveryKindOfFault has several of one kind in each run.
func TestEveryKindOfFault(t *testing.T) {
	t.Parallel()
	for _, k := range simulation.Kinds() {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(max(1, runs(t)/15)) {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					report(t, run(t, simulation.Options{Seed: seed, Kinds: []simulation.Kind{k}, Faults: 4}))
				})
			}
		})
	}
}
