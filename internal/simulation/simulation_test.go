package simulation_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"refinersource/internal/simulation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// runs is how many seeds each mode is run with: more where REFINER_SIMULATION_RUNS
// says so.
func runs(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("REFINER_SIMULATION_RUNS"))
	if err != nil {
		return 8
	}
	return n
}

// run makes a run in a bubble of its own.
func run(t *testing.T, o simulation.Options) (r simulation.Report) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { r = simulation.Run(t, o) })
	return r
}

func TestNothingIsLostOrOvertakenWithoutFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := run(t, simulation.Options{Seed: seed, Faults: -1})
			report(t, r)
			if r.Repeats != 0 {
				t.Errorf("%d calls came again, want none without faults", r.Repeats)
			}
		})
	}
}

func report(t *testing.T, r simulation.Report) {
	t.Helper()
	for _, v := range r.Violations {
		t.Error(v)
	}
	if t.Failed() {
		for _, line := range r.Schedule {
			t.Log(line)
		}
	}
	t.Logf("%d events, %d calls, %d requests, %d faults, %v", r.Events, r.Calls, r.Requests, r.Faults, r.Virtual)
}

func TestNothingIsLostOrOvertakenWhateverHappens(t *testing.T) {
	t.Parallel()
	for seed := range uint64(runs(t)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { report(t, run(t, simulation.Options{Seed: seed})) })
	}
}

func TestWellTenantsAreDoneWhileOthersStayBroken(t *testing.T) {
	t.Parallel()
	for seed := range uint64(runs(t)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			report(t, run(t, simulation.Options{Seed: seed, Mode: simulation.Liveness, Window: 1000}))
		})
	}
}

// The broken tenants' events are more than a partition holds in memory, so that
// they must be passed.
func TestWellTenantsAreDoneThoughTheOthersFillTheWindow(t *testing.T) {
	t.Parallel()
	for seed := range uint64(runs(t)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			report(t, run(t, simulation.Options{Seed: seed, Mode: simulation.Liveness, Events: 60, Window: 4}))
		})
	}
}
