package attribution

import (
	"bytes"
	"encoding/json/jsontext"
	"iter"
	"slices"
	"strconv"
	"strings"

	"refinersource/internal/survey"
)

// claim is a value that is to become a trait, with all that decides its name.
type claim struct {
	name   TraitName
	naming naming
	asked  asked
	value  jsontext.Value
	kind   claimKind
	index  int32 // among those of its kind in the completion; the email has -1
}

// claimKind says where a value is from.
type claimKind uint8

const (
	known    claimKind = iota // an attribute, the email: an answer wins over it
	answered                  // an answer
	fixed                     // a property of the survey in a track call
)

// asked tells questions apart.
type asked struct {
	property, question string
	member             string // of the object that was answered
	account            bool   // asked of the account, where both levels come together
}

// claims appends what the completion has for the user and for the account, in
// the order of the event. Attributes go nowhere without an account's id.
func (r *Rules) claims(c *survey.Completion, names *names, user, account []claim, notes *Notes) (_, _ []claim) {
	if c.Email != "" {
		email, _ := jsontext.AppendQuote(nil, c.Email) // its UTF-8 is valid
		user = append(user, claim{name: TraitName(r.Prefix + "email"), value: email, index: -1})
	}
	if c.AccountID != "" {
		for i := range c.AccountAttributes {
			a := &c.AccountAttributes[i]
			if a.Value.Kind() == 'n' {
				continue
			}
			if n, ok := r.naming(a.Name, ""); ok {
				account = flatten(account, claim{name: names.of(r, n), naming: n, asked: asked{property: a.Name}, value: a.Value, index: int32(i)}, notes)
			} else {
				notes.Unnamed++
			}
		}
	}
	owners := newOwners(r, c)
	for i := range c.Answers {
		a := &c.Answers[i]
		n, ok := r.naming(a.Property, a.Question)
		if !ok {
			notes.Unnamed++
			continue
		}
		given := claim{name: names.of(r, n), naming: n, asked: asked{property: a.Property, question: a.Question}, value: a.Value, kind: answered, index: int32(i)}
		if owners.of(a, given.name) == survey.LevelAccount {
			account = flatten(account, given, notes)
		} else {
			user = flatten(user, given, notes)
		}
	}
	return user, account
}

// flatten appends a claim; of an object, one for each member that is an answer,
// with deeper objects as JSON text.
func flatten(claims []claim, c claim, notes *Notes) []claim {
	if c.value.Kind() != '{' {
		return append(claims, c)
	}
	for key, value := range members(c.value) {
		switch {
		case survey.IsNone(value):
			continue
		case strings.TrimSpace(key) == "":
			notes.Unnamed++
			continue
		case value.Kind() == '{':
			value, _ = jsontext.AppendQuote(nil, value) // its UTF-8 is valid
		}
		member := c
		member.name = memberName(c.name, c.naming.source, key)
		member.naming.source += "_" + key
		member.asked.member = key
		member.value = value
		claims = append(claims, member)
	}
	return claims
}

// members are the members of a JSON object. The values are the caller's to keep.
func members(object jsontext.Value) iter.Seq2[string, jsontext.Value] {
	return func(yield func(string, jsontext.Value) bool) {
		d := jsontext.NewDecoder(bytes.NewReader(object), jsontext.AllowDuplicateNames(true))
		if _, err := d.ReadToken(); err != nil {
			return
		}
		for d.PeekKind() == '"' {
			key, err := d.ReadToken()
			if err != nil {
				return
			}
			name := key.String()
			value, err := d.ReadValue()
			if err != nil || !yield(name, value.Clone()) {
				return
			}
		}
	}
}

// settle sorts claims by name and gives each name to one of them. An answer wins
// over what was known before. Of the answers to one question the last counts; of
// different questions the first keeps the name and the later ones get _2, _3, …,
// but no name that another has by itself. claims is used up.
func settle(claims []claim, notes *Notes) []claim {
	sortByName(claims)
	if !repeats(claims) {
		return claims
	}
	var taken map[TraitName]struct{} // names that somebody has, if that is asked
	settled := claims[:0]            // never longer than what it is made of
	renamed := false
	for same := range chunks(claims) {
		same = contenders(same)
		for n, i := 2, 1; i < len(same); n++ {
			if taken == nil {
				taken = make(map[TraitName]struct{}, len(claims))
				for i := range claims {
					taken[claims[i].name] = struct{}{}
				}
			}
			name := suffixed(&same[i], n)
			if _, ok := taken[name]; ok {
				continue
			}
			taken[name] = struct{}{}
			same[i].name, renamed = name, true
			notes.NameCollisions++
			i++
		}
		settled = append(settled, same...)
	}
	if renamed {
		sortByName(settled)
	}
	return settled
}

func sortByName(claims []claim) {
	slices.SortStableFunc(claims, func(a, b claim) int { return strings.Compare(string(a.name), string(b.name)) })
}

// repeats reports whether two of the sorted claims have one name.
func repeats(claims []claim) bool {
	for i := 1; i < len(claims); i++ {
		if claims[i].name == claims[i-1].name {
			return true
		}
	}
	return false
}

// chunks are the runs of claims with one name, of sorted claims.
func chunks(claims []claim) iter.Seq[[]claim] {
	return func(yield func([]claim) bool) {
		for start := 0; start < len(claims); {
			end := start + 1
			for ; end < len(claims) && claims[end].name == claims[start].name; end++ {
			}
			if !yield(claims[start:end]) {
				return
			}
			start = end
		}
	}
}

// contenders returns the claims of one name that have a right to it: all but
// what was known before if there are others, one for each question, with its last
// value in its first place. same is used up.
func contenders(same []claim) []claim {
	if len(same) < 2 {
		return same
	}
	isOther := func(c claim) bool { return c.kind != known }
	if !slices.ContainsFunc(same, isOther) {
		return lastOfEach(same)
	}
	kept := same[:0]
	for _, c := range same {
		if isOther(c) {
			kept = append(kept, c)
		}
	}
	return lastOfEach(kept)
}

// lastOfEach returns one claim for each question, with its last value in its first
// place. same is used up.
func lastOfEach(same []claim) []claim {
	if len(same) < 2 {
		return same
	}
	first := make(map[asked]int, len(same))
	kept := same[:0]
	for _, c := range same {
		if i, ok := first[c.asked]; ok {
			kept[i].value = c.value
			continue
		}
		first[c.asked] = len(kept)
		kept = append(kept, c)
	}
	return kept
}

// suffixed is the name of the nth claim of a name.
func suffixed(c *claim, n int) TraitName {
	suffix := "_" + strconv.Itoa(n)
	return shorten(string(c.name), MaxNameBytes-len(suffix), c.naming.source) + TraitName(suffix)
}

// traits are the traits of settled claims.
func traits(claims []claim) []Trait {
	if len(claims) == 0 {
		return nil
	}
	t := make([]Trait, len(claims))
	for i := range claims {
		t[i] = Trait{claims[i].name, claims[i].value}
	}
	return t
}
