package simulation_test

import (
	"os"
	"strconv"
	"testing"

	"go.uber.org/zap/zaptest"

	"refinersource/internal/simulation"
	"refinersource/internal/worker"
)

// TestOneSeed runs the seed of REFINER_SIMULATION_SEED, with all that its workers
// say.
func TestOneSeed(t *testing.T) {
	t.Parallel()
	seed, err := strconv.ParseUint(os.Getenv("REFINER_SIMULATION_SEED"), 10, 64)
	if err != nil {
		t.Skip("REFINER_SIMULATION_SEED names no seed")
	}
	var kinds []simulation.Kind
	faults := 0
	if k := os.Getenv("REFINER_SIMULATION_KIND"); k != "" {
		kinds, faults = []simulation.Kind{simulation.Kind(k)}, 4
	}
	report(t, run(t, simulation.Options{
		Kinds: kinds, Faults: faults,
		Seed: seed, Mode: simulation.Mode(os.Getenv("REFINER_SIMULATION_MODE")),
		Worker: func(o *worker.Options) { o.Logger = zaptest.NewLogger(t) },
	}))
}
