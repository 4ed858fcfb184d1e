package attribution

import (
	"slices"
	"time"

	"refinersource/internal/survey"
)

// Superseded is why an event that is delivered late makes no call: newer completions
// have set all that it could.
const Superseded survey.Ignored = "superseded"

// Said is whom a completion is about by a tenant's rules, and which traits it sets.
type Said struct {
	User    string // what the user is kept in order by
	Account string // "" if there is none

	UserTraits, AccountTraits []TraitName
}

// Say returns what a completion says, whatever its size; false if it makes no call. One
// of somebody who is to be forgotten says what it said before: older values are not to
// come back for it.
func Say(c *survey.Completion, r *Rules) (Said, bool) {
	if why := r.ignored(c); why != survey.NotIgnored && why != survey.Forgotten {
		return Said{}, false
	}
	user, account := r.settled(c)
	s := Said{
		User: (&Rules{}).OrderKey(c.UserID, c.AnonymousID, ""), Account: c.AccountID,
		UserTraits: namesOf(user),
	}
	if c.AccountID != "" {
		s.AccountTraits = namesOf(account)
	}
	return s, true
}

func namesOf(claims []claim) []TraitName {
	all := make([]TraitName, len(claims))
	for i := range claims {
		all[i] = claims[i].name
	}
	return all
}

// Since is what newer completions have said of those whom an older one is about,
// which is delivered after them. The zero value is nothing.
type Since struct {
	// User and Account are the traits of the older completion that newer ones have
	// set for its user and for its account, sorted.
	User    []TraitName `json:"user,omitempty"`
	Account []TraitName `json:"account,omitempty"`
	// Known: there are newer completions of the user. Member: the latest of them that
	// names an account names the same one; Moved: it names another.
	Known  bool `json:"known,omitzero"`
	Member bool `json:"member,omitzero"`
	Moved  bool `json:"moved,omitzero"`
}

// Add takes in what a newer completion says. Newer ones are added in the order in
// which they are delivered.
func (s *Since) Add(older, newer *Said) {
	if newer.User == older.User {
		s.Known = true
		s.User = add(s.User, older.UserTraits, newer.UserTraits)
		if older.Account != "" && newer.Account != "" {
			s.Member = newer.Account == older.Account
			s.Moved = !s.Member
		}
	}
	if older.Account != "" && newer.Account == older.Account {
		s.Account = add(s.Account, older.AccountTraits, newer.AccountTraits)
	}
}

// add adds the names that are in both lists to a sorted one.
func add(to, older, newer []TraitName) []TraitName {
	for _, name := range newer {
		if i, known := slices.BinarySearch(to, name); !known && slices.Contains(older, name) {
			to = slices.Insert(to, i, name)
		}
	}
	return to
}

// AttributeSince is Attribute for a completion that is delivered after newer ones. It
// makes the calls of what these have not said: their traits are left out, and so is
// the group call where nothing of it is left. Where the user has had another account
// since, the account is left out with all its traits, which are noted as withheld: a
// group call would make him a member again. Digests are made.
func AttributeSince(c survey.Completion, r *Rules, tenantID string, received time.Time, s *Since) (Result, error) {
	return attribute(&c, r, tenantID, received, true, s)
}

// left are the claims whose names newer completions have not set.
func left(claims []claim, set []TraitName) []claim {
	if len(set) == 0 {
		return claims
	}
	kept := make([]claim, 0, len(claims))
	for _, c := range claims {
		if _, known := slices.BinarySearch(set, c.name); !known {
			kept = append(kept, c)
		}
	}
	return kept
}
