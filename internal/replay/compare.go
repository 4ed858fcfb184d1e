package replay

import (
	"bytes"
	"encoding/json/jsontext"

	"refinersource/internal/attribution"
	"refinersource/internal/survey"
)

// ChangeKind is what becomes of a trait or a call under other rules. The set is
// closed.
type ChangeKind string

// The changes, in the order in which they are told.
const (
	CallGone     ChangeKind = "call_gone"    // a call that was sent, and would not be
	CallAdded    ChangeKind = "call_added"   // a call that was not sent, and would be
	Gone         ChangeKind = "gone"         // a trait that was sent, and would not be
	Added        ChangeKind = "added"        // a trait that was not sent, and would be
	Renamed      ChangeKind = "renamed"      // an answer with its value, under another name
	Owner        ChangeKind = "owner"        // an answer with its value, in a group instead of an identify, or the reverse
	Type         ChangeKind = "type"         // a trait would have a value of another JSON type
	Value        ChangeKind = "value"        // a trait would have another value of its type: that of another answer
	Integrations ChangeKind = "integrations" // a call would have other integrations
)

// ChangeKinds returns all changes.
func ChangeKinds() []ChangeKind {
	return []ChangeKind{CallGone, CallAdded, Gone, Added, Renamed, Owner, Type, Value, Integrations}
}

// Change is one difference between the calls that two sets of rules make of an
// event. It is comparable: the same change of two events is equal, since it holds no
// value.
type Change struct {
	Kind ChangeKind `json:"change"`
	// Call is the kind of the call, and Trait the name of its trait as it was sent,
	// or would be where it was not; "" if the change is the call's own.
	Call  string                `json:"call"`
	Trait attribution.TraitName `json:"trait,omitzero"`
	// ToCall and ToTrait are where it would be: of Renamed and Owner.
	ToCall  string                `json:"to_call,omitzero"`
	ToTrait attribution.TraitName `json:"to_trait,omitzero"`
	// Type and ToType are the JSON types of the values: of Type.
	Type   string `json:"type,omitzero"`
	ToType string `json:"to_type,omitzero"`
	// Why is the reason for which an event made no calls, or would make none: of
	// CallAdded and CallGone. Of Added and Gone it is NoAccount, or "".
	Why string `json:"why,omitzero"`
}

// NoAccount is why a trait was not sent, or would not be: it is the account's, and the
// event names none.
const NoAccount = "no_account"

// made is what rules make of an event: its calls, or why there are none.
type made struct {
	calls      []attribution.Call
	completion *survey.Completion // where there are calls
	rules      *attribution.Rules // likewise
	why        string
}

// traits are those of the kinds of calls that are named.
func (m *made) traits(of [len(kinds)]bool) places {
	p := places{
		byPlace: make(map[spot]*attribution.Derived), byOrigin: make(map[part]*attribution.Derived), withheld: make(map[attribution.Origin]bool),
	}
	if len(m.calls) == 0 {
		return p
	}
	for _, d := range attribution.Derive(m.completion, m.rules) {
		switch {
		case d.Withheld:
			p.withheld[d.Origin] = true
		case of[d.Kind]:
			p.list = append(p.list, &d)
			p.byPlace[spot{d.Kind, d.Name}] = &d
			p.byOrigin[partOf(&d)] = &d
		}
	}
	return p
}

// kinds are those of calls, in their order.
var kinds = [...]attribution.Kind{attribution.Identify, attribution.Group, attribution.Track}

// compare returns how the calls differ, each change once. The traits of a kind of
// calls are compared where both have calls of that kind: those of a call that comes
// or goes come and go with it.
func compare(then, now *made) []Change {
	var changes []Change
	var common [len(kinds)]bool
	for _, kind := range kinds {
		was, is := callsOf(then.calls, kind), callsOf(now.calls, kind)
		switch {
		case len(was) > len(is):
			changes = append(changes, Change{Kind: CallGone, Call: kind.String(), Why: now.why})
		case len(was) < len(is):
			changes = append(changes, Change{Kind: CallAdded, Call: kind.String(), Why: then.why})
		}
		if common[kind] = len(was) > 0 && len(is) > 0; common[kind] && !sameBesidesTraits(was[0], is[0]) {
			changes = append(changes, Change{Kind: Integrations, Call: kind.String()})
		}
	}
	return append(changes, compareTraits(then.traits(common), now.traits(common))...)
}

// callsOf are the calls of a kind; all of a kind stand together.
func callsOf(calls []attribution.Call, kind attribution.Kind) []attribution.Call {
	from := 0
	for from < len(calls) && calls[from].Kind != kind {
		from++
	}
	to := from
	for to < len(calls) && calls[to].Kind == kind {
		to++
	}
	return calls[from:to]
}

// sameBesidesTraits tells whether two calls of a kind are equal but for their traits.
// Rules decide nothing else of a call but its integrations.
func sameBesidesTraits(a, b attribution.Call) bool {
	a.Traits, b.Traits = nil, nil
	return bytes.Equal(a.AppendJSON(nil), b.AppendJSON(nil))
}

// spot is where a trait stands.
type spot struct {
	kind attribution.Kind
	name attribution.TraitName
}

// part is what a trait was taken from. Tracks repeat what identifies and groups say.
type part struct {
	origin attribution.Origin
	track  bool
}

// places are the traits of an event's calls.
type places struct {
	list     []*attribution.Derived
	byPlace  map[spot]*attribution.Derived
	byOrigin map[part]*attribution.Derived
	withheld map[attribution.Origin]bool
}

// why is the reason for which something of an origin is not among them.
func (p *places) why(d *attribution.Derived) string {
	if p.withheld[d.Origin] {
		return NoAccount
	}
	return ""
}

func partOf(d *attribution.Derived) part { return part{d.Origin, d.Kind == attribution.Track} }

// holds tells whether a trait of that value stands at a place.
func (p *places) holds(at spot, value jsontext.Value) bool {
	d := p.byPlace[at]
	return d != nil && bytes.Equal(d.Value, value)
}

// compareTraits finds first what has moved: what was taken from the same part of the
// event, has the same value, and stands elsewhere. What comes to a place that way, or
// leaves it, has neither been added nor is it gone; and where one comes and another
// leaves, the value's change is told by the two. Nobody sees a move between places that
// have the same value before and after.
func compareTraits(then, now places) []Change {
	var changes []Change
	came, left := make(map[spot]bool), make(map[spot]bool)
	for _, is := range now.list {
		was := then.byOrigin[partOf(is)]
		if was == nil || was.Kind == is.Kind && was.Name == is.Name || !bytes.Equal(was.Value, is.Value) {
			continue
		}
		from, to := spot{was.Kind, was.Name}, spot{is.Kind, is.Name}
		if now.holds(from, is.Value) && then.holds(to, is.Value) {
			continue
		}
		kind := Renamed
		if was.Kind != is.Kind {
			kind = Owner
		}
		changes = append(changes, Change{Kind: kind, Call: was.Kind.String(), Trait: was.Name, ToCall: is.Kind.String(), ToTrait: is.Name})
		left[from], came[to] = true, true
	}
	for _, was := range then.list {
		at := spot{was.Kind, was.Name}
		is := now.byPlace[at]
		switch {
		case is == nil && !left[at]:
			changes = append(changes, Change{Kind: Gone, Call: was.Kind.String(), Trait: was.Name, Why: now.why(was)})
		case is == nil, bytes.Equal(was.Value, is.Value), left[at] && came[at]:
		case typeOf(was.Value) != typeOf(is.Value):
			changes = append(changes, Change{Kind: Type, Call: was.Kind.String(), Trait: was.Name, Type: typeOf(was.Value), ToType: typeOf(is.Value)})
		default:
			changes = append(changes, Change{Kind: Value, Call: was.Kind.String(), Trait: was.Name})
		}
	}
	for _, is := range now.list {
		if at := (spot{is.Kind, is.Name}); then.byPlace[at] == nil && !came[at] {
			changes = append(changes, Change{Kind: Added, Call: is.Kind.String(), Trait: is.Name, Why: then.why(is)})
		}
	}
	return changes
}

// typeOf is the JSON type of a value.
func typeOf(v jsontext.Value) string {
	switch v.Kind() {
	case '"':
		return "string"
	case '0':
		return "number"
	case 't', 'f':
		return "boolean"
	case '[':
		return "array"
	case '{':
		return "object"
	default:
		return "null"
	}
}
