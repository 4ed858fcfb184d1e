package attribution

import (
	"crypto/sha1" // of UUIDs
	"encoding/json/jsontext"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"refinersource/internal/survey"
)

// Segment's limits of a call (docs/mapping.md, Calls).
const (
	MaxCallBytes  = 32_000 // as Call.Size measures it
	MaxCallTraits = 300
)

// The properties that a track call has besides the answers.
const (
	PropertySurveyID   TraitName = "survey_id"
	PropertySurveyName TraitName = "survey_name"
	PropertyResponseID TraitName = "response_id"
)

// SurveyCompleted is the event of a track call.
const SurveyCompleted = "Survey Completed"

// Kind is the kind of a call.
type Kind uint8

// The kinds in the order in which they are sent.
const (
	Identify Kind = iota
	Group
	Track
)

// String returns the kind as it stands in the call's type.
func (k Kind) String() string {
	switch k {
	case Identify:
		return "identify"
	case Group:
		return "group"
	case Track:
		return "track"
	default:
		return "kind " + strconv.Itoa(int(k))
	}
}

// Trait is one named value; the value is compact JSON text.
type Trait struct {
	Name  TraitName
	Value jsontext.Value
}

// Call is one call of Segment's spec. Immutable once made.
type Call struct {
	Kind         Kind
	MessageID    string
	UserID       string
	AnonymousID  string
	GroupID      string // of a group call; in an identify or track it goes into context.groupId
	Event        string // of a track call
	Timestamp    time.Time
	Traits       []Trait // of a track call: its properties; sorted by name
	Integrations jsontext.Value
	Library      string // version in context.library

	size   int               // 0 is unknown
	digest [DigestBytes]byte // zero is unknown
}

// namespace is that of all message ids. It never changes: with it would the ids
// of everything that was ever sent.
var namespace = uuid.UUID{0x32, 0xb1, 0x57, 0x13, 0x5a, 0xc1, 0x42, 0x93, 0xbd, 0x49, 0xf0, 0xa6, 0x56, 0xb1, 0x27, 0x89}

// maker makes the calls of one completion.
type maker struct {
	tenant, id, revision string
	label                string // makes other ids; "" does not
	shared               Call   // what all calls have in common
	calls                []Call
	fault                *survey.Fault
	digests              bool   // are wanted
	scratch              []byte // after fill, the call's encoding
	user, account        []claim
	names                names
}

// makers keeps the memory of makers that are not in use.
var makers = sync.Pool{New: func() any { return new(maker) }}

// newMaker returns a maker; close gives it back.
func newMaker(c *survey.Completion, r *Rules, tenantID string) *maker {
	m := makers.Get().(*maker)
	m.tenant, m.id, m.revision, m.label = tenantID, c.ID, c.Revision, r.IDLabel
	m.shared = Call{
		UserID:       c.UserID,
		GroupID:      c.AccountID,
		Integrations: r.Integrations,
		Library:      r.LibraryVersion,
	}
	if c.UserID == "" {
		m.shared.AnonymousID = c.AnonymousID
	}
	return m
}

func (m *maker) close() {
	clear(m.user[:cap(m.user)])
	clear(m.account[:cap(m.account)])
	if cap(m.user)+cap(m.account) > maxKeptClaims || cap(m.scratch) > MaxCallBytes {
		return // an event out of the common run
	}
	*m = maker{scratch: m.scratch[:0], user: m.user[:0], account: m.account[:0], names: m.names}
	makers.Put(m)
}

// maxKeptClaims bounds the memory of a maker that is not in use.
const maxKeptClaims = 256

// add makes the call of one kind, or as many as Segment's limits ask for: each
// has the traits in each and its share of the rest, in order.
func (m *maker) add(kind Kind, each, rest []Trait) {
	for part := 1; m.fault == nil && (part == 1 || len(rest) > 0); part++ {
		call := m.shared
		call.Kind = kind
		if kind == Track {
			call.Event = SurveyCompleted
		}
		call.MessageID = m.messageID(kind, part)
		rest = rest[m.fill(&call, each, rest):]
		if m.digests {
			call.digest = digestOf(m.scratch)
		}
		m.calls = append(m.calls, call)
	}
}

// fill gives a call the traits in each and as many of the rest as fit, and
// returns how many these are.
func (m *maker) fill(call *Call, each, rest []Trait) int {
	if len(each)+len(rest) <= MaxCallTraits {
		call.Traits = joined(each, rest)
		if call.size = m.measure(call); call.size <= MaxCallBytes {
			return len(rest)
		}
	}
	call.Traits = each
	size := m.measure(call)
	if size > MaxCallBytes {
		m.tooLarge("%s: the ids alone make it %d bytes, over Segment's %d a call; send shorter ones", call.Kind, size, MaxCallBytes)
		return 0
	}
	if len(each) == 0 {
		size += len(`,"traits":{}`) - len(`,`)
	}
	n := 0
	for n < len(rest) && len(each)+n < MaxCallTraits {
		m.scratch = appendTrait(m.scratch[:0], &rest[n])
		if size += len(`,`) + len(m.scratch); size > MaxCallBytes {
			break
		}
		n++
	}
	if n == 0 {
		m.tooLarge("%s: the trait %s by itself makes it over Segment's %d bytes a call; send a shorter answer", call.Kind, rest[0].Name, MaxCallBytes)
		return 0
	}
	call.Traits = joined(each, rest[:n:n])
	call.size = m.measure(call)
	return n
}

func (m *maker) tooLarge(format string, args ...any) {
	m.fault = &survey.Fault{Reason: survey.TooLarge, Detail: fmt.Sprintf(format, args...)}
}

func (m *maker) measure(call *Call) int {
	m.scratch = call.AppendJSON(m.scratch[:0])
	return len(m.scratch)
}

// joined is both lists as one, sorted by name.
func joined(each, share []Trait) []Trait {
	if len(each) == 0 {
		return share
	}
	all := slices.Concat(each, share)
	slices.SortFunc(all, func(a, b Trait) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return all
}

// messageID is the id of a part of a call: the same for the same revision of the
// same event of the same tenant, in all time. Nothing of what it is made of holds
// a NUL, so that no two lists of them make one name.
func (m *maker) messageID(kind Kind, part int) string {
	name := append(m.scratch[:0], namespace[:]...)
	for _, s := range [...]string{m.tenant, m.id, m.revision, kind.String()} {
		name = append(append(name, s...), 0)
	}
	name = strconv.AppendInt(name, int64(part), 10)
	if m.label != "" {
		name = append(append(name, 0), m.label...)
	}
	m.scratch = name
	sum := sha1.Sum(name)
	id := uuid.UUID(sum[:16])
	id[6], id[8] = id[6]&0x0f|0x50, id[8]&0x3f|0x80 // version 5 of RFC 9562
	return id.String()
}

// trackClaims returns what a completion's track calls have, sorted by name: the
// survey's properties, and the answers of the user and of the account under their
// traits' names. Of one name the first of these keeps it: the survey's property, the
// user's answer, the account's.
func trackClaims(c *survey.Completion, user, account []claim) []claim {
	var all []claim
	for i, p := range [...]struct {
		name TraitName
		text string
	}{
		{PropertyResponseID, c.ID},
		{PropertySurveyID, c.SurveyID},
		{PropertySurveyName, c.SurveyName},
	} {
		if p.text != "" {
			value, _ := jsontext.AppendQuote(nil, p.text) // its UTF-8 is valid
			all = append(all, claim{name: p.name, value: value, kind: fixed, index: int32(i)})
		}
	}
	for _, cl := range user {
		if cl.kind == answered {
			all = append(all, cl)
		}
	}
	for _, cl := range account {
		if cl.kind == answered {
			cl.asked.account = true
			all = append(all, cl)
		}
	}
	return settle(all, new(Notes))
}

// trackProperties returns what each track call of a completion has, and what its
// calls share out.
func trackProperties(claims []claim) (each, answers []Trait) {
	for _, cl := range claims {
		if cl.kind == fixed {
			each = append(each, Trait{cl.name, cl.value})
		} else {
			answers = append(answers, Trait{cl.name, cl.value})
		}
	}
	return each, answers
}
