package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"

	"refinersource/internal/simulation"
)

// shrinkRuns bounds the runs that look for fewer faults that fail as well.
const shrinkRuns = 30

// runBubbles runs the seeds, one after another, and writes a line for each.
//
// Virtual time is had in a bubble of package testing/synctest, which wants a
// *testing.T, and such a one only a test has. So this process becomes a run of one
// test, by the function that go test generates a call of. This is the only file
// that knows of it. The flags of package testing are made and read in here alone,
// of a command line that has none; what that package prints is no JSON, and is
// passed over by whoever reads the lines. It ends the process: it does not return
// but for an error of the writer, with which the test fails.
func runBubbles(f *simulateFlags, out io.Writer) error {
	os.Args = os.Args[:1]
	lines := func(l simulateLine) error {
		text, err := json.Marshal(l)
		if err == nil {
			_, err = out.Write(append(text, '\n'))
		}
		return err
	}
	all := func(t *testing.T) {
		for seed := f.seed; seed < f.seed+uint64(f.runs); seed++ {
			if err := runSeed(t, f, seed, lines); err != nil {
				t.Fatal(err)
			}
		}
	}
	testing.Main(func(string, string) (bool, error) { return true, nil },
		[]testing.InternalTest{{Name: "simulate", F: all}}, nil, nil)
	return errors.New("the run of the bubbles returned")
}

// runSeed runs one seed and says what came of it; if it failed, also what is left
// of its faults when those are gone that it fails without.
func runSeed(t *testing.T, f *simulateFlags, seed uint64, say func(simulateLine) error) error {
	o := simulation.Options{Seed: seed, Mode: simulation.Mode(f.mode), Window: f.window, Only: f.only}
	bubble := func(o simulation.Options) (r simulation.Report) {
		synctest.Test(t, func(*testing.T) { r = simulation.Run(quiet{}, o) })
		return r
	}
	r := bubble(o)
	if err := say(simulateLine{Report: &r}); err != nil || len(r.Violations) == 0 {
		return err
	}
	small, left := simulation.Shrink(o, r, shrinkRuns, bubble)
	return say(simulateLine{Shrunk: &left, Only: small.Only})
}

// quiet says nothing.
type quiet struct{}

// Logf implements simulation.T.
func (quiet) Logf(string, ...any) {}
