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
}

// Derive returns the traits of the calls that Attribute makes of a completion, in the
// order of the kinds and sorted by name. They are those of a kind's calls together,
// however many the limits make of them.
func Derive(c *survey.Completion, r *Rules) []Derived {
	if r.ignored(c) != survey.NotIgnored {
		return nil
	}
	user, account := r.settled(c, new(Notes))
	all := derived(make([]Derived, 0, len(user)+len(account)), Identify, user)
	all = derived(all, Group, account)
	if r.Track && c.Ignored == survey.NotIgnored {
		all = derived(all, Track, trackClaims(c, user, account))
	}
	return all
}

func derived(all []Derived, kind Kind, claims []claim) []Derived {
	for i := range claims {
		cl := &claims[i]
		all = append(all, Derived{Trait{cl.name, cl.value}, kind, Origin{cl.kind, cl.index, cl.asked.member}})
	}
	return all
}
