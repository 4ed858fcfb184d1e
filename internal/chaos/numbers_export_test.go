package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// What tests see of the numbers' inside.
var (
	QuantilesOf = quantiles
	WaitersIn   = waitersIn
	SpreadOut   = spreadOut
	PeakIn      = peakIn
)

// LatencyBound is what a p99 may be after one of before.
func LatencyBound(before time.Duration) time.Duration {
	return bound(Quantiles{N: 1, P99: before}, 1.5)
}

// TenantParts are the tenants by their part.
func TenantParts(o NumbersOptions) (healthy, failing, others []int) {
	return o.healthy(), o.failing(), slices.Concat(o.recovering(), o.suspended(), o.bad())
}

// ValidateNumbers validates options, with the defaults where they have none.
func ValidateNumbers(o NumbersOptions) error { return o.withDefaults().validate() }

// AVariant is what matters of a variant.
type AVariant struct {
	Class, Request, Body string
	Slow, Chunked        bool
}

// Variants makes the first n variants.
func Variants(seed uint64, n int) []AVariant {
	all := make([]AVariant, n)
	for i := range all {
		v := oneVariant(seed, i)
		all[i] = AVariant{v.class, fmt.Sprint(v.method, v.route, v.path, v.header), string(v.body), v.slow, v.chunked}
	}
	return all
}

// SuspensionsIn reads a log's text; the keys are tenant/partition.
func SuspensionsIn(text, dir string) (map[string][]int64, error) {
	file := filepath.Join(dir, "worker.log")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	all := make(map[place][]int64)
	err := suspensionsIn(file, all)
	got := make(map[string][]int64)
	for at, times := range all {
		got[fmt.Sprintf("%d/%d", at.tenant, at.partition)] = times
	}
	return got, err
}

// Waiter is which of the tenants waits, 1 for the first, and why.
func Waiter(w waiter, tenants ...string) (which, cause int) {
	return 1 + slices.IndexFunc(tenants, func(t string) bool { return cursorTagOf(t) == w.tag }), w.cause
}
