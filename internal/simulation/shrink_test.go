package simulation_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/simulation"
)

func TestShrinkLeavesTheFaultsThatMatter(t *testing.T) {
	t.Parallel()
	for _, guilty := range [][]int{{}, {1}, {7}, {2, 5}, {1, 4, 8}} {
		t.Run(fmt.Sprint(guilty), func(t *testing.T) {
			t.Parallel()
			runs := 0
			fails := func(o simulation.Options) simulation.Report {
				runs++
				for _, g := range guilty {
					if o.Only != nil && !slices.Contains(o.Only, g) {
						return simulation.Report{}
					}
				}
				return simulation.Report{Violations: []string{"it fails"}}
			}
			o := simulation.Options{Seed: 1, Faults: 8}
			small, r := simulation.Shrink(o, fails(o), 60, fails)
			if d := cmp.Diff(guilty, small.Only); d != "" {
				t.Errorf("faults that are left (-want +got):\n%s", d)
			}
			if len(r.Violations) == 0 {
				t.Error("the report of what is left has no violation")
			}
			if runs > 61 {
				t.Errorf("%d runs, want at most 60 besides the first", runs)
			}
		})
	}
}

func TestShrinkMakesNoMoreRunsThanItMay(t *testing.T) {
	t.Parallel()
	runs := 0
	failing := simulation.Report{Seed: 1, Violations: []string{"it fails"}}
	simulation.Shrink(simulation.Options{Seed: 1, Faults: 8}, failing, 5, func(simulation.Options) simulation.Report {
		runs++
		return simulation.Report{}
	})
	if runs != 5 {
		t.Errorf("%d runs, want 5", runs)
	}
}
