package replay

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"refinersource/internal/attribution"
	"refinersource/internal/tenant"
)

// Latest keeps of a range the latest value of each trait; see attribution.Fold.
type Latest struct {
	tenants *tenant.Registry

	mu    sync.Mutex
	folds map[tenant.ID]*attribution.Fold
}

// NewLatest returns an empty one, by the rules of these tenants.
func NewLatest(tenants *tenant.Registry) *Latest {
	return &Latest{tenants: tenants, folds: make(map[tenant.ID]*attribution.Fold)}
}

// Partition is a visitor that takes in the events of one partition.
func (l *Latest) Partition() Visitor { return latest{l} }

type latest struct{ to *Latest }

// Visit takes in the calls of an event.
func (l latest) Visit(e *Event) error {
	if len(e.Result.Calls) == 0 {
		return nil
	}
	l.to.mu.Lock()
	defer l.to.mu.Unlock()
	f := l.to.folds[e.Tenant]
	if f == nil {
		t, ok := l.to.tenants.Get(e.Tenant)
		if !ok {
			return fmt.Errorf("tenant %s: %w", e.Tenant, ErrUnknownTenant)
		}
		f = attribution.NewFold(string(t.ID), &t.Rules)
		l.to.folds[e.Tenant] = f
	}
	f.Add(e.Result.Calls, accepted(e.Record))
	return nil
}

// Flush does nothing.
func (latest) Flush() error { return nil }

// Folds yields the tenants' folds, ordered by tenant. It is for when the scan has
// ended.
func (l *Latest) Folds() iter.Seq2[tenant.ID, *attribution.Fold] {
	return func(yield func(tenant.ID, *attribution.Fold) bool) {
		for _, id := range slices.Sorted(maps.Keys(l.folds)) {
			if !yield(id, l.folds[id]) {
				return
			}
		}
	}
}
