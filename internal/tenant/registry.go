package tenant

import (
	"cmp"
	"iter"
	"slices"
	"strconv"
	"strings"

	"refinersource/internal/attribution"
)

// Registry is a set of tenants, each in order and each id once. It is immutable
// and safe for concurrent use, and a lookup takes the same time however many
// there are.
type Registry struct {
	byID   map[ID]*entry
	sorted []*entry // by id
	// installation is that of the file; "" if it names none.
	installation string
}

// entry is a tenant and where it stands.
type entry struct {
	Tenant
	index int // among those the registry was made of
	line  int // in the file, 0 without one
	// lines of the keys, and of the elements of lists; nil once they are in order.
	lines map[string]int
}

// NewRegistry returns the registry of these tenants. An empty Endpoint or Pairing
// is the default. The error is of type Faults.
func NewRegistry(tenants ...Tenant) (*Registry, error) {
	entries := make([]entry, len(tenants))
	for i := range tenants {
		entries[i] = entry{Tenant: tenants[i], index: i}
	}
	r, faults := newRegistry(entries, nil, false)
	return r, faults.err()
}

// newRegistry takes over the entries, checks them, and adds what it finds to the
// faults that are known already; of a key that has one, no other is told.
// forSenders makes a tenant for whom nobody could send a fault.
func newRegistry(entries []entry, known Faults, forSenders bool) (*Registry, Faults) {
	told := make(map[string]struct{}, len(known))
	for _, f := range known {
		told[f.Field] = struct{}{}
	}
	faults := known
	r := &Registry{byID: make(map[ID]*entry, len(entries)), sorted: make([]*entry, 0, len(entries))}
	for i := range entries {
		e := &entries[i]
		e.Endpoint = strings.TrimRight(cmp.Or(e.Endpoint, DefaultEndpoint), "/")
		e.Pairing = cmp.Or(e.Pairing, Strict)
		tell := func(key, problem, remedy string) {
			f := e.fault(key, problem, remedy)
			if _, ok := told[f.Field]; !ok {
				faults = append(faults, f)
			}
		}
		e.check(tell)
		if forSenders {
			e.requireCredentials(tell)
		}
		if first, ok := r.byID[e.ID]; !ok {
			r.byID[e.ID] = e
			r.sorted = append(r.sorted, e)
		} else if _, ok := told[e.field("id")]; !ok {
			faults = append(faults, e.fault("id", "is also that of "+first.place(), "give each tenant an id of its own"))
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	for i := range entries {
		entries[i].lines = nil
		entries[i].RulesOf = Fingerprint(&entries[i].Rules)
	}
	slices.SortFunc(r.sorted, func(a, b *entry) int { return cmp.Compare(a.ID, b.ID) })
	return r, nil
}

func (e *entry) field(key string) string {
	return element("tenants", e.index) + "." + key
}

func (e *entry) place() string {
	if e.line > 0 {
		return element("tenants", e.index) + " in line " + strconv.Itoa(e.line)
	}
	return element("tenants", e.index)
}

// fault is one at a key, in the line of the key, of the list it is an element of,
// or of the tenant.
func (e *entry) fault(key, problem, remedy string) Fault {
	list, _, _ := strings.Cut(key, "[")
	line := cmp.Or(e.lines[key], e.lines[list], e.line)
	return Fault{Line: line, Field: e.field(key), Problem: problem, Remedy: remedy}
}

// Get returns a tenant. It is shared: nobody may change it.
func (r *Registry) Get(id ID) (*Tenant, bool) {
	e, ok := r.byID[id]
	if !ok {
		return nil, false
	}
	return &e.Tenant, true
}

// All returns the tenants in the order of their ids. They are shared: nobody may
// change them.
func (r *Registry) All() iter.Seq[*Tenant] {
	return func(yield func(*Tenant) bool) {
		for _, e := range r.sorted {
			if !yield(&e.Tenant) {
				return
			}
		}
	}
}

// Installation is the name of the installation whose tenants these are; "" if it has
// none.
func (r *Registry) Installation() string { return r.installation }

// Len returns the number of tenants.
func (r *Registry) Len() int { return len(r.sorted) }

// RequireCredentials returns Faults that name each tenant for whom nobody could
// send: it has neither tokens nor signing secrets and does not say auth: none. An
// ingress needs that; a worker does not.
func (r *Registry) RequireCredentials() error {
	var faults Faults
	for _, e := range r.sorted {
		e.requireCredentials(func(key, problem, remedy string) { faults = append(faults, e.fault(key, problem, remedy)) })
	}
	return faults.err()
}

func (e *entry) requireCredentials(fault report) {
	if !e.HasCredentials() && !e.NoAuth {
		fault("tokens", "are missing, so that nobody can send for this tenant",
			"give tokens or signing_secrets; auth: none lets everybody send")
	}
}

// defaults is a tenant that says nothing.
func defaults() Tenant {
	return Tenant{
		Endpoint:  DefaultEndpoint,
		Rules:     attribution.DefaultRules(),
		Pairing:   Strict,
		RateLimit: DefaultRateLimit,
	}
}
