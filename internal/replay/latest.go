package replay

import (
	"context"
	"maps"
	"slices"
	"sync"

	"refinersource/internal/attribution"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

// Folder folds what a range holds, one partition at a time: what a destination needs
// that is not to have the history. What events of several partitions speak of it
// reads once, before the first. Safe for concurrent use.
type Folder struct {
	scan  Scan
	spans []Span

	turn   chan struct{} // held by the one who reads
	spread map[tenant.ID]*attribution.Spread
}

// NewFolder returns a Folder of these spans, by the scan's range and rules.
func NewFolder(scan Scan, spans []Span) *Folder {
	return &Folder{scan: scan, spans: spans, turn: make(chan struct{}, 1)}
}

// Partition folds one partition's part of the range. Its memory is that of the users
// in it, and of all accounts of the range.
func (f *Folder) Partition(ctx context.Context, partition int) (*Folded, error) {
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-f.turn }()
	if f.spread == nil {
		s := &spread{of: make(map[tenant.ID]*attribution.Spread)}
		for t := range f.scan.Tenants.All() {
			s.of[t.ID] = attribution.NewSpread(string(t.ID), &t.Rules)
		}
		if err := f.scan.Run(ctx, f.spans, func(int) Visitor { return s }); err != nil {
			return nil, err
		}
		f.spread = s.of
	}
	folded := &Folded{spread: f.spread, keys: make(map[string]*place), at: make(map[queue.Offset]*place)}
	own := slices.DeleteFunc(slices.Clone(f.spans), func(s Span) bool { return s.Partition != partition })
	scan := f.scan
	scan.OnGap = nil // it has been told
	if err := scan.Run(ctx, own, func(int) Visitor { return folded }); err != nil {
		return nil, err
	}
	folded.keys = nil
	return folded, nil
}

// spread visits all events for what is spread over them.
type spread struct {
	mu sync.Mutex // never held across a wait
	of map[tenant.ID]*attribution.Spread
}

// Visit takes in the calls of an event.
func (s *spread) Visit(e *Event) error {
	if len(e.Result.Calls) > 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.of[e.Tenant].Add(e.Result.Calls, accepted(e.Record))
	}
	return nil
}

// Flush does nothing.
func (s *spread) Flush() error { return nil }

// Folded is what remains of a partition's part of a range: the events with one key
// are one place, that of the last of them. Which events are places follows from the
// log alone, not from any rules. Its methods are safe for concurrent use.
type Folded struct {
	spread map[tenant.ID]*attribution.Spread
	keys   map[string]*place
	at     map[queue.Offset]*place
}

type place struct {
	tenant tenant.ID
	fold   *attribution.Fold // nil if no event of the place makes a call
	last   queue.Offset
}

// Visit takes in the next event.
func (f *Folded) Visit(e *Event) error {
	key := string(e.Tenant) + "\x00" + string(e.Record.Key)
	p := f.keys[key]
	if p == nil {
		p = &place{tenant: e.Tenant}
		f.keys[key] = p
	} else {
		delete(f.at, p.last)
	}
	p.last = e.Record.Offset
	f.at[p.last] = p
	if len(e.Result.Calls) == 0 {
		return nil
	}
	if p.fold == nil {
		p.fold = f.spread[e.Tenant].Fold()
	}
	p.fold.Add(e.Result.Calls)
	return nil
}

// Flush does nothing.
func (f *Folded) Flush() error { return nil }

// Has reports whether the event at that offset is a place.
func (f *Folded) Has(at queue.Offset) bool { return f.at[at] != nil }

// Calls are those of the place at that offset: identifies, then groups. None if
// no event of it makes a call.
func (f *Folded) Calls(at queue.Offset) ([]attribution.Call, error) {
	if p := f.at[at]; p != nil && p.fold != nil {
		return p.fold.Calls()
	}
	return nil, nil
}

// Each gives the tenant and calls of each place, in the order of the log, until the
// first error.
func (f *Folded) Each(do func(tenant.ID, []attribution.Call) error) error {
	for _, at := range slices.Sorted(maps.Keys(f.at)) {
		calls, err := f.Calls(at)
		if err == nil {
			err = do(f.at[at].tenant, calls)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
