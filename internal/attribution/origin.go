package attribution

import "refinersource/internal/survey"

// Origin says what of a completion a trait's value was taken from: the email, an
// attribute, an answer, a member of either. What two sets of rules call differently,
// or give to different owners, has the same Origin. It is comparable, and means
// nothing for another completion.
type Origin struct {
	kind   claimKind
	index  int32
	member string
}

// Derived is a trait of the calls of a kind, and what it was taken from.
type Derived struct {
	Trait

	Kind   Kind
	Origin Origin
	// Withheld is set in what is the account's, which is not known: it is in no call.
	Withheld bool
}

// Derive returns the traits of the calls that Attribute makes of a completion, in the
// order of the kinds and sorted by name, and what it withholds. They are those of a
// kind's calls together, however many the limits make of them.
func Derive(c *survey.Completion, r *Rules) []Derived {
	if r.ignored(c) != survey.NotIgnored {
		return nil
	}
	user, account := r.settled(c)
	withheld := c.AccountID == ""
	all := derived(make([]Derived, 0, len(user)+len(account)), Identify, user, false)
	all = derived(all, Group, account, withheld)
	if withheld {
		account = nil
	}
	if r.Track && c.Ignored == survey.NotIgnored {
		all = derived(all, Track, trackClaims(c, user, account), false)
	}
	return all
}

func derived(all []Derived, kind Kind, claims []claim, withheld bool) []Derived {
	for i := range claims {
		cl := &claims[i]
		all = append(all, Derived{Trait{cl.name, cl.value}, kind, Origin{cl.kind, cl.index, cl.asked.member}, withheld})
	}
	return all
}
