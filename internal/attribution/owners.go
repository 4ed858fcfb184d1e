package attribution

import (
	"strings"

	"refinersource/internal/survey"
)

// owners decides to whom an answer belongs.
type owners struct {
	rules     *Rules
	ofAccount nameSet[survey.Attribute] // what the account has as an attribute
	ofUser    nameSet[string]           // what the user has as an attribute
}

func newOwners(r *Rules, c *survey.Completion) owners {
	return owners{
		rules:     r,
		ofAccount: newNameSet(c.AccountAttributes, func(a *survey.Attribute) string { return a.Name }),
		ofUser:    newNameSet(c.UserAttributes, func(name *string) string { return *name }),
	}
}

// of is docs/mapping.md, Which call gets an answer: the first that applies. An
// attribute that is null stands where it stands.
func (o *owners) of(a *survey.Answer, name TraitName) survey.Level {
	body := strings.TrimPrefix(string(name), o.rules.Prefix)
	switch {
	case a.BelongsTo != survey.LevelUnknown:
		return a.BelongsTo
	case listed(o.rules.AccountProperties, a, body):
		return survey.LevelAccount
	case listed(o.rules.UserProperties, a, body):
		return survey.LevelUser
	case a.Property != "" && o.ofAccount.has(a.Property) && !o.ofUser.has(a.Property):
		return survey.LevelAccount
	default:
		return survey.LevelUser
	}
}

// listed reports whether an answer stands in a list of properties: by its
// property's name, its question's text or its trait's name without the prefix.
func listed(properties map[string]struct{}, a *survey.Answer, body string) bool {
	if len(properties) == 0 {
		return false
	}
	for _, key := range [...]string{a.Property, a.Question, body} {
		if _, ok := properties[key]; ok && key != "" {
			return true
		}
	}
	return false
}

// nameSet is the names of some things: a few are compared one by one, many are
// hashed.
type nameSet[T any] struct {
	all  []T
	name func(*T) string
	many map[string]struct{}
}

const fewNames = 32

func newNameSet[T any](all []T, name func(*T) string) nameSet[T] {
	s := nameSet[T]{all: all, name: name}
	if len(all) > fewNames {
		s.many = make(map[string]struct{}, len(all))
		for i := range all {
			s.many[name(&all[i])] = struct{}{}
		}
	}
	return s
}

func (s *nameSet[T]) has(name string) bool {
	if s.many != nil {
		_, ok := s.many[name]
		return ok
	}
	for i := range s.all {
		if s.name(&s.all[i]) == name {
			return true
		}
	}
	return false
}
