package attribution_test

import (
	"testing"

	"refinersource/internal/allocs"
	"refinersource/internal/attribution"
)

// Budgets: how often it may allocate to make the pair of a completion of five answers,
// also with its digests, and to encode it.
const (
	attributeAllocs       = 8
	attributeDigestAllocs = 8
	encodePairAllocs      = 0
)

func TestAllocationBudgetOfAPair(t *testing.T) {
	rules := attribution.DefaultRules()
	c := fiveAnswers()
	calls, dst := benchCalls(t), []byte(nil)
	for name, of := range map[string]struct {
		budget int
		f      func()
	}{
		"attribute": {attributeAllocs, func() {
			if _, err := attribution.Attribute(c, &rules, "acme", received); err != nil {
				t.Error(err)
			}
		}},
		"attribute and digest": {attributeDigestAllocs, func() {
			if _, err := attribution.AttributeAndDigest(c, &rules, "acme", received); err != nil {
				t.Error(err)
			}
		}},
		"encode": {encodePairAllocs, func() {
			dst = dst[:0]
			for i := range calls {
				dst = calls[i].AppendJSON(dst)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) { allocs.Hold(t, of.budget, of.f) })
	}
}
