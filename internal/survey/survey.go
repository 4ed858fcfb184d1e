// Package survey decodes events into completions. It is the only package that
// knows how Refiner's webhook, Refiner's REST form and the canonical survey
// event look. It is pure: no I/O, no clock, no knowledge of tenants, trait
// names or Kafka. The rules are those of docs/mapping.md.
package survey

import (
	"encoding/json/jsontext"
	"time"
)

// Source names the format of an event; it travels in the record's "source"
// header.
type Source string

// The sources there are. RefinerWebhook covers Refiner's REST form too: the
// event itself shows which of the two it is.
const (
	RefinerWebhook Source = "refiner-webhook"
	SurveyEvent    Source = "survey-event"
)

// Level says to whom an answer belongs.
type Level string

// The levels. LevelUnknown leaves the decision to the attribution rules.
const (
	LevelUnknown Level = ""
	LevelUser    Level = "user"
	LevelAccount Level = "account"
)

// Reason says why an event cannot be a completion, for ever: it is the reason
// of its dead letter. The set is closed.
type Reason string

// The reasons for which decoding or attribution give up on an event.
const (
	Undecodable       Reason = "undecodable"        // not one JSON object of the source's shape
	BadIdentity       Reason = "bad_identity"       // an id is neither text nor an integer, or a group id is too long
	AmbiguousIdentity Reason = "ambiguous_identity" // one identity field twice with different values
	NoIdentity        Reason = "no_identity"        // neither a user id nor an anonymous id
	TooLarge          Reason = "too_large"          // one trait is over Segment's limit by itself
)

// Fault is the error of Decode, Peek and attribution.Attribute: the event can
// never make a call. Pointer is a JSON Pointer (RFC 6901) to the field at
// fault, "" for the whole event. Detail names the field and the remedy; it
// never holds an answer or an e-mail.
type Fault struct {
	Reason  Reason
	Pointer string
	Detail  string
}

// Error returns reason, pointer and detail.
func (f *Fault) Error() string {
	s := string(f.Reason)
	if f.Pointer != "" {
		s += " at " + f.Pointer
	}
	return s + ": " + f.Detail
}

// Ignored says why an event that is in order makes no call. The set is closed.
type Ignored string

// The reasons to ignore an event. The empty value means that it is not ignored.
const (
	NotIgnored   Ignored = ""
	NoResponse   Ignored = "no_response"   // nothing was answered: segment entered, a test
	NotCompleted Ignored = "not_completed" // seen or dismissed
	Partial      Ignored = "partial"       // data, but not completed (tenant: partials)
	Anonymous    Ignored = "anonymous"     // no user id (tenant: anonymous)
	Forgotten    Ignored = "forgotten"     // who answered is to be forgotten (tenant: forgotten)
)

// Answer is one answered question. A question without an answer (null, "", []
// or {}) has none.
type Answer struct {
	// Property is the custom name or Refiner's property name, "" if only the
	// question's text is known.
	Property string
	// Question is the question's text, "" if only the property is known.
	Question string
	// BelongsTo is what the event itself says of the answer's owner.
	BelongsTo Level
	// Value is the answer as compact JSON text.
	Value jsontext.Value
}

// Attribute is one attribute of the account, as compact JSON text.
type Attribute struct {
	Name  string
	Value jsontext.Value
}

// Completion is a decoded event: our unit of work. Strings are trimmed, and
// they and the values are free of NUL and of invalid UTF-8. They are parts of the
// raw bytes, but for the ID.
type Completion struct {
	// ID is the response's uuid or the canonical event's id; where that is
	// missing, "sha256:" and the SHA-256 of the raw bytes in hex.
	ID string
	// Revision tells resubmissions of one ID apart. It is the same in the webhook
	// form and the REST form of one response.
	Revision   string
	SurveyID   string
	SurveyName string

	UserID      string // "" if unknown
	AnonymousID string // the id to use where the tenant emits anonymous respondents
	Email       string
	AccountID   string // "" if unknown, at most MaxAccountID characters

	// UserAttributes has the names of the user's attributes: what stands here
	// belongs to the user although the account has it too. A null counts, in both:
	// Refiner lists the attributes of a level whether they are set or not.
	UserAttributes []string
	// AccountAttributes in the order of the event, null ones among them.
	AccountAttributes []Attribute
	// Answers in the order of the event.
	Answers []Answer

	// Timestamp is when the answer was given, UTC; zero if the event does not say.
	Timestamp time.Time
	// UnreadableTime tells that a time of the event could not be read, and that
	// Timestamp is the next best one, or zero.
	UnreadableTime bool

	// Ignored is why the event makes no call whatever the tenant's rules are;
	// Partial stands here too, and rules may overrule it.
	Ignored Ignored
}

// Head is what the ingress needs of an event: enough for the record's key and
// headers, at less cost than Decode. Its fields are those of the Completion.
type Head struct {
	EventID     string
	UserID      string
	AnonymousID string
	AccountID   string
	Ignored     Ignored
}
