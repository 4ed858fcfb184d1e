package attribution

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"
	"unique"
)

// Fold keeps of the calls of many events the latest value of each trait: what a
// destination needs that is not to have the history. The events are those of one
// record key, so all of a user's, or of an account's with ByAccount; what they speak
// of besides is in a Spread. Its memory is that of the users and their traits. Track
// calls are left out: they are history. Not safe for concurrent use.
type Fold struct {
	spread   *Spread
	users    map[string]*foldedUser
	accounts map[string][]Trait // with ByAccount; otherwise they are spread
}

// foldedUser is what identify and group calls of a user say.
type foldedUser struct {
	userID, anonymousID string
	groupID             string       // the latest one
	last                time.Time    // timestamp of the latest identify
	traits              []Trait      // not with ByAccount: they are spread
	memberships         []membership // ordered by account
}

// membership is an account that group calls of a user name.
type membership struct {
	groupID string
	last    time.Time // timestamp of the latest
}

// Add takes in the calls of the next event: its values are the latest.
func (f *Fold) Add(calls []Call) {
	for i := range calls {
		c := &calls[i]
		if c.Kind == Track {
			continue
		}
		u := f.users[userKey(c)]
		if u == nil {
			u = &foldedUser{userID: c.UserID, anonymousID: c.AnonymousID}
			f.users[userKey(c)] = u
		}
		if c.Kind == Group {
			u.joins(c)
			if f.spread.kind() != Group {
				said := f.accounts[c.GroupID]
				set(&said, c.Traits)
				f.accounts[c.GroupID] = said
			}
			continue
		}
		if u.last = c.Timestamp; c.GroupID != "" {
			u.groupID = c.GroupID
		}
		if f.spread.kind() != Identify {
			set(&u.traits, c.Traits)
		}
	}
}

func (u *foldedUser) joins(c *Call) {
	i, known := slices.BinarySearchFunc(u.memberships, c.GroupID, func(m membership, id string) int { return strings.Compare(m.groupID, id) })
	if !known {
		u.memberships = slices.Insert(u.memberships, i, membership{groupID: c.GroupID})
	}
	u.memberships[i].last = c.Timestamp
}

// Calls are the identifies of all users, ordered by their ids, and then a group for
// each user and account, with all that is known of it. Where limits ask for it there
// are several in place of one. The message ids follow from what the calls say: the
// same fold gives the same ones.
func (f *Fold) Calls() ([]Call, error) {
	var calls []Call
	keys := slices.Sorted(maps.Keys(f.users))
	for _, key := range keys {
		u := f.users[key]
		said := u.traits
		if f.spread.kind() == Identify {
			said = f.spread.said[key].list()
		}
		made, err := f.spread.calls(Identify, u, u.groupID, u.last, said)
		if err != nil {
			return nil, err
		}
		calls = append(calls, made...)
	}
	for _, key := range keys {
		u := f.users[key]
		for _, in := range u.memberships {
			said := f.accounts[in.groupID]
			if f.spread.kind() == Group {
				said = f.spread.said[in.groupID].list()
			}
			made, err := f.spread.calls(Group, u, in.groupID, in.last, said)
			if err != nil {
				return nil, err
			}
			calls = append(calls, made...)
		}
	}
	return calls, nil
}

// Spread keeps the latest values of what a tenant's events with different record keys
// speak of: accounts, or users with ByAccount. They are known when all events have
// been added. Its memory is that of the accounts, or users, and their traits. Not safe
// for concurrent use while events are added.
type Spread struct {
	tenant string
	rules  *Rules
	said   map[string]*dated // by group id, or by user
}

// NewSpread returns an empty one for a tenant.
func NewSpread(tenantID string, r *Rules) *Spread {
	return &Spread{tenant: tenantID, rules: r, said: make(map[string]*dated)}
}

// Fold returns an empty fold of the events with one record key.
func (s *Spread) Fold() *Fold {
	f := &Fold{spread: s, users: make(map[string]*foldedUser)}
	if s.kind() == Identify {
		f.accounts = make(map[string][]Trait)
	}
	return f
}

// Add takes in the calls of an event that was accepted at that time. Of two values
// of a trait that of the event which was accepted later is the latest; of those that
// came together, that which was said later. In which order they are added makes no
// difference.
func (s *Spread) Add(calls []Call, accepted time.Time) {
	for i := range calls {
		c := &calls[i]
		if c.Kind != s.kind() {
			continue
		}
		key := c.GroupID
		if c.Kind == Identify {
			key = userKey(c)
		}
		d := s.said[key]
		if d == nil {
			d = new(dated)
			s.said[key] = d
		}
		d.set(c.Traits, moment{accepted: accepted.UnixNano(), said: c.Timestamp.UnixNano()})
	}
}

// kind is that of the calls which speak of what is spread.
func (s *Spread) kind() Kind {
	if s.rules.OrderBy == ByAccount {
		return Identify
	}
	return Group
}

// calls makes the calls of one kind. In place of an event's id and revision stand the
// user and what is said.
func (s *Spread) calls(kind Kind, u *foldedUser, groupID string, at time.Time, said []Trait) ([]Call, error) {
	sum := sha256.New()
	for i := range said {
		sum.Write(append(appendTrait(nil, &said[i]), 0))
	}
	m := &maker{
		tenant:   s.tenant,
		id:       "latest\x01" + u.userID + "\x01" + u.anonymousID + "\x01" + groupID,
		revision: hex.EncodeToString(sum.Sum(nil)),
		label:    s.rules.IDLabel,
	}
	m.shared = Call{
		UserID: u.userID, AnonymousID: u.anonymousID, GroupID: groupID, Timestamp: at,
		Integrations: s.rules.Integrations, Library: s.rules.LibraryVersion,
	}
	if m.add(kind, nil, slices.Clone(said)); m.fault != nil {
		return nil, m.fault
	}
	return m.calls, nil
}

// userKey names the user of a call.
func userKey(c *Call) string {
	if c.UserID != "" {
		return "u:" + c.UserID
	}
	return "a:" + c.AnonymousID
}

// set takes in later values; the traits stay sorted by name.
func set(to *[]Trait, later []Trait) {
	for _, t := range later {
		if i, known := find(*to, t.Name); known {
			(*to)[i].Value = slices.Clone(t.Value)
		} else {
			*to = slices.Insert(*to, i, keep(t))
		}
	}
}

// dated are traits, and when each was said last.
type dated struct {
	traits []Trait
	at     []moment
}

// moment is when an event was accepted, and when it says that it happened.
type moment struct{ accepted, said int64 }

func (d *dated) set(traits []Trait, at moment) {
	for _, t := range traits {
		i, known := find(d.traits, t.Name)
		if !known {
			d.traits, d.at = slices.Insert(d.traits, i, keep(t)), slices.Insert(d.at, i, at)
			continue
		}
		// Of what cannot be told apart by time one is as good as the other, as long as
		// it is always the same.
		if cmp.Or(cmp.Compare(at.accepted, d.at[i].accepted), cmp.Compare(at.said, d.at[i].said), bytes.Compare(t.Value, d.traits[i].Value)) > 0 {
			d.traits[i].Value, d.at[i] = slices.Clone(t.Value), at
		}
	}
}

// list is the traits; none of nil.
func (d *dated) list() []Trait {
	if d == nil {
		return nil
	}
	return d.traits
}

func find(traits []Trait, name TraitName) (int, bool) {
	return slices.BinarySearchFunc(traits, name, func(t Trait, name TraitName) int { return strings.Compare(string(t.Name), string(name)) })
}

// keep is a trait to be kept: its name is one of few.
func keep(t Trait) Trait {
	return Trait{TraitName(unique.Make(string(t.Name)).Value()), slices.Clone(t.Value)}
}
