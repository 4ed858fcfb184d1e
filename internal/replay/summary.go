package replay

import (
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// Summary counts what a range holds, by tenant.
type Summary struct {
	seed maphash.Seed

	mu      sync.Mutex // never held but to add a partition's counts
	tenants map[tenant.ID]*Counts
	users   map[uint64]struct{}
}

// Counts are those of one tenant.
type Counts struct {
	Tenant      tenant.ID
	Events      int // of the range
	Calls       int // that they make
	Users       int // who they are of; those without an id not counted
	Ignored     map[survey.Ignored]int
	Faults      int // events that would be dead letters
	First, Last time.Time
}

// NewSummary returns an empty one.
func NewSummary() *Summary {
	return &Summary{seed: maphash.MakeSeed(), tenants: make(map[tenant.ID]*Counts), users: make(map[uint64]struct{})}
}

// Partition is a visitor that counts one partition's events.
func (s *Summary) Partition() Visitor {
	return &summary{to: s, tenants: make(map[tenant.ID]*Counts), users: make(map[uint64]tenant.ID)}
}

// Tenants are the counts, ordered by tenant.
func (s *Summary) Tenants() []Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Counts, 0, len(s.tenants))
	for _, c := range s.tenants {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b Counts) int { return strings.Compare(string(a.Tenant), string(b.Tenant)) })
	return all
}

// SetCalls makes other calls of the events than they make by themselves: so many for
// each tenant. It is for when the scan has ended.
func (s *Summary) SetCalls(calls map[tenant.ID]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.tenants {
		c.Calls = calls[id]
	}
}

type summary struct {
	to      *Summary
	tenants map[tenant.ID]*Counts // since the last Flush
	users   map[uint64]tenant.ID
}

// Visit counts an event.
func (s *summary) Visit(e *Event) error {
	c := s.tenants[e.Tenant]
	if c == nil {
		c = &Counts{Tenant: e.Tenant, Ignored: make(map[survey.Ignored]int)}
		s.tenants[e.Tenant] = c
	}
	c.Events++
	c.Calls += len(e.Result.Calls)
	switch {
	case e.Fault != nil:
		c.Faults++
	case e.Ignored != survey.NotIgnored:
		c.Ignored[e.Ignored]++
	}
	c.at(e.Record.Time)
	if e.Decoded.UserID != "" {
		s.users[maphash.String(s.to.seed, string(e.Tenant)+"\x00"+e.Decoded.UserID)] = e.Tenant
	}
	return nil
}

func (c *Counts) at(t time.Time) {
	if c.First.IsZero() || t.Before(c.First) {
		c.First = t
	}
	if t.After(c.Last) {
		c.Last = t
	}
}

// Flush adds the counts to the summary.
func (s *summary) Flush() error {
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	for id, c := range s.tenants {
		to := s.to.tenants[id]
		if to == nil {
			to = &Counts{Tenant: id, Ignored: make(map[survey.Ignored]int)}
			s.to.tenants[id] = to
		}
		to.Events += c.Events
		to.Calls += c.Calls
		to.Faults += c.Faults
		for why, n := range c.Ignored {
			to.Ignored[why] += n
		}
		to.at(c.First)
		to.at(c.Last)
	}
	for user, id := range s.users {
		if _, known := s.to.users[user]; !known {
			s.to.users[user] = struct{}{}
			s.to.tenants[id].Users++
		}
	}
	clear(s.tenants)
	clear(s.users)
	return nil
}

// Duration is how long it takes at least to send the calls within the tenants'
// limits: that of the slowest tenant. 0 is for no limit.
func (s *Summary) Duration(limit func(tenant.ID) int) (longest time.Duration) {
	for _, c := range s.Tenants() {
		if perSecond := limit(c.Tenant); perSecond > 0 {
			longest = max(longest, time.Duration(c.Calls)*time.Second/time.Duration(perSecond))
		}
	}
	return longest
}

// Total is the sum over all tenants.
func Total(all []Counts) Counts {
	sum := Counts{Ignored: make(map[survey.Ignored]int)}
	for i := range all {
		c := &all[i]
		sum.Events += c.Events
		sum.Calls += c.Calls
		sum.Users += c.Users
		sum.Faults += c.Faults
		for why, n := range maps.All(c.Ignored) {
			sum.Ignored[why] += n
		}
		sum.at(c.First)
		sum.at(c.Last)
	}
	return sum
}
