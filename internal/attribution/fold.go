package attribution

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"maps"
	"slices"
	"time"
)

// Fold keeps of the calls of many events the latest value of each trait: what a
// destination needs that is not to have the history. Its memory is that of the
// users and accounts of the events, and their traits. Track calls are left out: they
// are history. Not safe for concurrent use.
type Fold struct {
	tenant string
	rules  *Rules
	users  map[string]*foldedUser // by OrderKey, without an account
	groups map[string]*folded
}

// folded are the latest values of what identify or group calls of one id say.
type folded struct {
	traits map[TraitName]foldedTrait
	last   time.Time // timestamp of the latest call
	at     time.Time
}

type foldedTrait struct {
	value []byte
	at    time.Time
}

type foldedUser struct {
	folded

	userID, anonymousID string
	groupID             string               // the latest one
	accounts            map[string]time.Time // those that group calls name, and the timestamp of the latest
}

// NewFold returns an empty one for a tenant.
func NewFold(tenantID string, r *Rules) *Fold {
	return &Fold{tenant: tenantID, rules: r, users: make(map[string]*foldedUser), groups: make(map[string]*folded)}
}

// Add takes in the calls of an event that was accepted at that time. Of two values
// of a trait the one of the later event is the latest; of the same time, that which
// is added later. The events of a user must be added in their order.
func (f *Fold) Add(calls []Call, accepted time.Time) {
	for i := range calls {
		c := &calls[i]
		if c.Kind == Track {
			continue
		}
		key := f.rules.OrderKey(c.UserID, c.AnonymousID, "")
		u := f.users[key]
		if u == nil {
			u = &foldedUser{folded: newFolded(), userID: c.UserID, anonymousID: c.AnonymousID, accounts: make(map[string]time.Time)}
			f.users[key] = u
		}
		if c.Kind == Identify {
			if c.GroupID != "" {
				u.groupID = c.GroupID
			}
			u.add(c, accepted)
			continue
		}
		g := f.groups[c.GroupID]
		if g == nil {
			g = new(newFolded())
			f.groups[c.GroupID] = g
		}
		g.add(c, accepted)
		u.accounts[c.GroupID] = c.Timestamp
	}
}

func newFolded() folded { return folded{traits: make(map[TraitName]foldedTrait)} }

func (f *folded) add(c *Call, at time.Time) {
	for _, t := range c.Traits {
		if old, ok := f.traits[t.Name]; !ok || !at.Before(old.at) {
			f.traits[t.Name] = foldedTrait{value: slices.Clone(t.Value), at: at}
		}
	}
	if !at.Before(f.at) {
		f.at, f.last = at, c.Timestamp
	}
}

// Users is how many users there are.
func (f *Fold) Users() int { return len(f.users) }

// Calls yields the calls of one user after another, ordered by their ids: his
// identify, then a group for each of his accounts, with all that is known of it.
// Where limits ask for it there are several of one kind. The message ids follow from
// what the calls say: the same fold gives the same ones.
func (f *Fold) Calls() iter.Seq2[[]Call, error] {
	return func(yield func([]Call, error) bool) {
		for _, key := range slices.Sorted(maps.Keys(f.users)) {
			if !yield(f.callsOf(f.users[key])) {
				return
			}
		}
	}
}

func (f *Fold) callsOf(u *foldedUser) ([]Call, error) {
	m := f.maker(u, u.groupID, &u.folded)
	m.add(Identify, nil, u.list())
	calls := m.calls
	for _, id := range slices.Sorted(maps.Keys(u.accounts)) {
		if m.fault != nil {
			break
		}
		g := f.groups[id]
		m = f.maker(u, id, g)
		m.shared.Timestamp = u.accounts[id]
		m.add(Group, nil, g.list())
		calls = append(calls, m.calls...)
	}
	if m.fault != nil {
		return nil, m.fault
	}
	return calls, nil
}

// maker makes the calls of a user. In place of an event's id and revision stand the
// user and what is said.
func (f *Fold) maker(u *foldedUser, groupID string, what *folded) *maker {
	sum := sha256.New()
	for _, t := range what.list() {
		sum.Write(appendTrait(nil, &t))
		sum.Write([]byte{0})
	}
	m := &maker{
		tenant:   f.tenant,
		id:       "latest\x01" + u.userID + "\x01" + u.anonymousID + "\x01" + groupID,
		revision: hex.EncodeToString(sum.Sum(nil)),
	}
	m.shared = Call{
		UserID: u.userID, AnonymousID: u.anonymousID, GroupID: groupID, Timestamp: what.last,
		Integrations: f.rules.Integrations, Library: f.rules.LibraryVersion,
	}
	return m
}

// list are the traits, sorted by name.
func (f *folded) list() []Trait {
	traits := make([]Trait, 0, len(f.traits))
	for _, name := range slices.Sorted(maps.Keys(f.traits)) {
		traits = append(traits, Trait{Name: name, Value: f.traits[name].value})
	}
	return traits
}
