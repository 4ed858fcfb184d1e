// Package deadletter holds the dead letters: records given up on, with the
// reason, where they stood in the log and their raw bytes, so that they can be
// put back. It owns the letter's form in the log (schemas/dead-letter.schema.json)
// and writes letters; whether an event is given up is decided elsewhere, and
// counting letters is the caller's.
//
// It guarantees: Decode gives back what Encode was given, the raw bytes and the
// key exactly; a letter never holds a write key or an Authorization header,
// since it has no place for one.
package deadletter

import (
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"refinersource/internal/queue"
	"refinersource/internal/survey"
)

// Reason says why an event was given up. The set is closed: reasons are metric
// labels and filters.
type Reason string

// The reasons. The first five are those of package survey.
const (
	Undecodable       = Reason(survey.Undecodable)
	BadIdentity       = Reason(survey.BadIdentity)
	AmbiguousIdentity = Reason(survey.AmbiguousIdentity)
	NoIdentity        = Reason(survey.NoIdentity)
	// TooLarge: a trait is over Segment's limit by itself, or the receiver
	// refused the event's calls for their size.
	TooLarge = Reason(survey.TooLarge)
	// UnknownTenant: the tenants file has no such tenant.
	UnknownTenant Reason = "unknown_tenant"
	// Rejected: the receiver refused the event's calls when they travelled alone.
	Rejected Reason = "rejected"
	// WouldBeDropped: the event's calls were not sent, since Segment would have
	// answered 200 and dropped them.
	WouldBeDropped Reason = "would_be_dropped"
	// Poison: the receiver failed with the event again and again, while it accepted
	// others of the tenant.
	Poison Reason = "poison"
	// Outlived: the log was about to drop the event before its tenant's receiver
	// took it.
	Outlived Reason = "outlived"
)

// Reasons returns all reasons.
func Reasons() []Reason {
	return []Reason{
		Undecodable, BadIdentity, AmbiguousIdentity, NoIdentity, TooLarge, UnknownTenant, Rejected, WouldBeDropped, Poison, Outlived,
	}
}

// Stage says how far the event came. The set is closed.
type Stage string

// The stages, in the order in which an event goes through them.
const (
	StageDecode    Stage = "decode"
	StageAttribute Stage = "attribute"
	StageIdentify  Stage = "identify"
	StageGroup     Stage = "group"
	StageTrack     Stage = "track"
)

// Stages returns all stages.
func Stages() []Stage {
	return []Stage{StageDecode, StageAttribute, StageIdentify, StageGroup, StageTrack}
}

// Letter is a dead letter. What comes from the record's headers is as it was
// there, in whatever state.
type Letter struct {
	Tenant      string
	Source      string
	EventID     string
	Traceparent string
	ReceivedAt  time.Time // when the event was accepted

	Reason       Reason
	Stage        Stage
	Detail       string // for people; never an answer, an e-mail or a secret
	Attempts     int    // requests in which it travelled, 0 if it never did
	Status       int    // of the last answer, 0 if there was none
	RulesVersion int    // of the mapping rules that were applied

	FirstAttemptAt time.Time // zero if there was no attempt
	DeadAt         time.Time

	Origin queue.Position
	// First is where the event first stood, in the partition of Origin, if it had been
	// redriven from there; nil if it had not.
	First *queue.Offset
	Key   []byte // of the record; nil and empty are the same
	Raw   []byte // the record's value; nil and empty are the same
}

// FirstOffset is where the event first stood: its place in the order of its user.
func (l *Letter) FirstOffset() queue.Offset {
	if l.First != nil {
		return *l.First
	}
	return l.Origin.Offset
}

// maxTextBytes bounds each text of a letter, so that its size depends on its raw
// bytes alone.
const maxTextBytes = 1 << 10

// letterVersion is the version of the form. A reader refuses all others.
const letterVersion = 1

// form is a letter as JSON. Bytes are in base64, whatever they hold: one form,
// and always exact.
type form struct {
	Version        int           `json:"version"`
	Tenant         string        `json:"tenant"`
	Source         string        `json:"source"`
	EventID        string        `json:"event_id"`
	Traceparent    string        `json:"traceparent,omitzero"`
	ReceivedAt     time.Time     `json:"received_at,omitzero"`
	Reason         Reason        `json:"reason"`
	Stage          Stage         `json:"stage"`
	Detail         string        `json:"detail"`
	Attempts       int           `json:"attempts"`
	Status         int           `json:"status,omitzero"`
	RulesVersion   int           `json:"rules"`
	FirstAttemptAt time.Time     `json:"first_attempt_at,omitzero"`
	DeadAt         time.Time     `json:"dead_at"`
	Origin         position      `json:"origin"`
	First          *queue.Offset `json:"first,omitzero"`
	Key            []byte        `json:"key"`
	Raw            []byte        `json:"raw"`
}

type position struct {
	Topic     string       `json:"topic"`
	Partition int          `json:"partition"`
	Offset    queue.Offset `json:"offset"`
}

// Encode returns the letter's bytes in the log. Texts are made valid UTF-8 and
// cut to 1 KiB each; times lose their zone, and those that RFC 3339 cannot say are
// left out. A reason or stage outside its set, or no time of death, is an error.
func Encode(l Letter) ([]byte, error) {
	f := form{
		Version:        letterVersion,
		Tenant:         text(l.Tenant),
		Source:         text(l.Source),
		EventID:        text(l.EventID),
		Traceparent:    text(l.Traceparent),
		ReceivedAt:     moment(l.ReceivedAt),
		Reason:         l.Reason,
		Stage:          l.Stage,
		Detail:         text(l.Detail),
		Attempts:       l.Attempts,
		Status:         l.Status,
		RulesVersion:   l.RulesVersion,
		FirstAttemptAt: moment(l.FirstAttemptAt),
		DeadAt:         moment(l.DeadAt),
		Origin:         position(l.Origin),
		First:          l.First,
		Key:            l.Key,
		Raw:            l.Raw,
	}
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("encode letter: %w", err)
	}
	value, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode letter: %w", err)
	}
	return value, nil
}

// Decode returns the letter that Encode made value of. Members it does not know
// are ignored; another version and an unknown reason or stage are errors.
func Decode(value []byte) (Letter, error) {
	var f form
	if err := json.Unmarshal(value, &f); err != nil {
		return Letter{}, errors.New("decode letter: it is not a letter's JSON")
	}
	if err := f.check(); err != nil {
		return Letter{}, fmt.Errorf("decode letter: %w", err)
	}
	return Letter{
		Tenant:         f.Tenant,
		Source:         f.Source,
		EventID:        f.EventID,
		Traceparent:    f.Traceparent,
		ReceivedAt:     moment(f.ReceivedAt),
		Reason:         f.Reason,
		Stage:          f.Stage,
		Detail:         f.Detail,
		Attempts:       f.Attempts,
		Status:         f.Status,
		RulesVersion:   f.RulesVersion,
		FirstAttemptAt: moment(f.FirstAttemptAt),
		DeadAt:         moment(f.DeadAt),
		Origin:         queue.Position(f.Origin),
		First:          f.First,
		Key:            f.Key,
		Raw:            f.Raw,
	}, nil
}

func (f *form) check() error {
	switch {
	case f.Version != letterVersion:
		return fmt.Errorf("version %d is not %d", f.Version, letterVersion)
	case !slices.Contains(Reasons(), f.Reason):
		return fmt.Errorf("reason %q is not one of %q", f.Reason, Reasons())
	case !slices.Contains(Stages(), f.Stage):
		return fmt.Errorf("stage %q is not one of %q", f.Stage, Stages())
	case moment(f.DeadAt).IsZero():
		return errors.New("it has no time of death")
	}
	return nil
}

// text is s as valid UTF-8 of at most maxTextBytes.
func text(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxTextBytes {
		return s
	}
	return strings.ToValidUTF8(s[:maxTextBytes], "")
}

// moment is t in UTC, or the zero time if its year has not four digits: a
// record's timestamp may be anything.
func moment(t time.Time) time.Time {
	t = t.UTC()
	if t.Year() < 0 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}
