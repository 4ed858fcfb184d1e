package simulation_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"

	"refinersource/internal/simulation"
	"refinersource/internal/worker"
)

// TestOneSeed runs the seed of REFINER_SIMULATION_SEED, with all that its workers
// say; with REFINER_SIMULATION_MODE, in that mode; with REFINER_SIMULATION_ONLY, the
// faults of these numbers alone; with REFINER_SIMULATION_KIND, four faults of that
// kind.
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
	var only []int
	for number := range strings.SplitSeq(os.Getenv("REFINER_SIMULATION_ONLY"), ",") {
		if n, err := strconv.Atoi(number); err == nil {
			only = append(only, n)
		}
	}
	report(t, run(t, simulation.Options{
		Only:  only,
		Kinds: kinds, Faults: faults,
		Seed: seed, Mode: simulation.Mode(os.Getenv("REFINER_SIMULATION_MODE")),
		Worker: func(o *worker.Options) { o.Logger = zaptest.NewLogger(t) },
	}))
}
