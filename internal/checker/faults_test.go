package checker_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"refinersource/internal/checker"
)

// Faults are found by time as by looking at all of them.
func TestFaultsAreFoundByTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.Int64Range(0, 50)
		faults := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) checker.Fault {
			return checker.Fault{
				At: at.Draw(t, "at"), Until: rapid.OneOf(at, rapid.Just(int64(0))).Draw(t, "until"),
				Fault: rapid.SampledFrom([]string{"F1", "F5", "F26", "F51", "of no number"}).Draw(t, "name"),
			}
		}), 0, 12).Draw(t, "faults")
		from, to := at.Draw(t, "from"), at.Draw(t, "to")
		effect := rapid.SampledFrom([]checker.Effect{checker.Unclean, checker.Frozen, checker.AnswersLost, checker.Harmless}).Draw(t, "effect")
		want := slices.IndexFunc(faults, func(f checker.Fault) bool {
			has := checker.FaultEffects(f.Fault)
			return f.At <= to && max(f.At, f.Until) >= from &&
				(slices.Contains(has, effect) || effect == checker.Unclean && slices.Contains(has, checker.Frozen))
		})
		if got := checker.FindFault(faults, from, to, effect); got != want {
			t.Errorf("got fault %d, want %d", got, want)
		}
	})
}
