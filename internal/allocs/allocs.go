// Package allocs holds tests to what an operation may allocate. It is for tests
// alone. Allocations are exact where times are not, so they can be a promise.
package allocs

import "testing"

// runs is how often an operation is measured; the mean is rounded down, so that a
// pool that is emptied once does not count.
const runs = 200

// Hold fails the test if f allocates more than budget times a call. f must have no
// memory of its calls but buffers that are used again. The test must not run in
// parallel: testing.AllocsPerRun counts for the whole process. It is skipped under
// the race detector, which allocates for itself and drops what a sync.Pool keeps.
func Hold(t *testing.T, budget int, f func()) {
	t.Helper()
	if race {
		t.Skip("the race detector allocates for itself")
	}
	switch got := int(testing.AllocsPerRun(runs, f)); {
	case got > budget:
		t.Errorf("%d allocations, and the budget is %d; save some, or raise the budget and say why", got, budget)
	case got < budget:
		t.Logf("%d allocations, of a budget of %d: lower it", got, budget)
	}
}
