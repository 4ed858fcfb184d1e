// Package receipt holds the receipts: one record for every finished event, which
// says what became of it and what of it was sent, so that it can be traced,
// audited and compared with what other rules would send. It owns the receipt's
// form in the log (schemas/receipt.schema.json), and the rules that receipts name.
//
// It guarantees: Parse gives back what Append was given, texts made valid and cut;
// a receipt never holds an answer or a secret, since it has no place for one.
package receipt

import (
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"refinersource/internal/queue"
)

// Outcome is how an event ended. The set is closed.
type Outcome string

// The outcomes.
const (
	Delivered Outcome = "delivered"
	Dead      Outcome = "dead"
	Ignored   Outcome = "ignored"
)

// Forgotten is the reason of an ignored event whose respondent was to be forgotten when it
// would have been sent: it may have had another outcome before, which was not committed.
const Forgotten = "forgotten"

// Outcomes returns all outcomes.
func Outcomes() []Outcome { return []Outcome{Delivered, Dead, Ignored} }

// Bounds of a receipt, so that it always fits into a record.
const (
	// MaxTextBytes bounds each text.
	MaxTextBytes = 1 << 10
	// MaxWithheld bounds the traits that are named as withheld; more are left out.
	MaxWithheld = 300
	// MaxCalls bounds the calls; more than a record's answers can make.
	MaxCalls = 2000
)

// Digest tells whether two calls are the same: the first 16 bytes of the SHA-256
// of the call as attribution.Call.AppendJSON writes it.
type Digest [16]byte

// String returns it as 32 hex digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// UnmarshalText takes 32 hex digits.
func (d *Digest) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(d) {
		return errors.New("a digest has 32 hex digits")
	}
	_, err := hex.Decode(d[:], text)
	return err
}

// Call is one call that the receiver has accepted.
type Call struct {
	Type   string // identify, group or track
	ID     string // its message id
	Digest Digest
}

// Receipt is what became of one event. An event may have several: it comes again
// after a crash, with the same message ids. The first counts.
type Receipt struct {
	Tenant    string // as the event's header names it
	Source    string
	EventID   string
	Partition int          // where the event stands in the log
	Offset    queue.Offset // likewise
	Outcome   Outcome
	Reason    string // why it was not delivered; "" if it was
	// Calls are those that were accepted, in their order: all of a delivered event,
	// and of a dead one those that had been before.
	Calls    []Call
	Attempts int // requests in which it travelled since it was last read

	ReceivedAt     time.Time // when the event was accepted; zero if that is not known
	FirstAttemptAt time.Time // since it was last read; zero if it was never sent
	FinishedAt     time.Time

	Rules    int    // version of the mapping rules
	RulesOf  string // fingerprint of the tenant's rules; "" if there is no such tenant
	Library  string // version in context.library
	Withheld []string
	Replay   string // id of the replay; "" if it was live
	// RedriveOf is where the event stood that became the dead letter which this one
	// puts back, in the same partition; nil if it puts back none.
	RedriveOf *queue.Offset
}

const version = 1

// Append appends the receipt's bytes in the log. Texts are made valid UTF-8 and
// cut to MaxTextBytes; times lose their zone, and those that RFC 3339 cannot say are
// left out.
func Append(dst []byte, r *Receipt) []byte {
	dst = append(dst, `{"version":1,"tenant":`...)
	dst = appendText(dst, r.Tenant)
	dst = append(dst, `,"source":`...)
	dst = appendText(dst, r.Source)
	dst = append(dst, `,"event_id":`...)
	dst = appendText(dst, r.EventID)
	dst = append(dst, `,"origin":{"partition":`...)
	dst = strconv.AppendInt(dst, int64(r.Partition), 10)
	dst = append(dst, `,"offset":`...)
	dst = strconv.AppendInt(dst, int64(r.Offset), 10)
	dst = append(dst, `},"outcome":`...)
	dst = appendText(dst, string(r.Outcome))
	dst = appendMember(dst, "reason", r.Reason)
	dst = append(dst, `,"calls":[`...)
	for i := range r.Calls[:min(len(r.Calls), MaxCalls)] {
		c := &r.Calls[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"type":`...)
		dst = appendText(dst, c.Type)
		dst = append(dst, `,"id":`...)
		dst = appendText(dst, c.ID)
		dst = append(dst, `,"digest":"`...)
		dst = hex.AppendEncode(dst, c.Digest[:])
		dst = append(dst, '"', '}')
	}
	dst = append(dst, `],"attempts":`...)
	dst = strconv.AppendInt(dst, int64(r.Attempts), 10)
	dst = appendTime(dst, "received_at", r.ReceivedAt)
	dst = appendTime(dst, "first_attempt_at", r.FirstAttemptAt)
	dst = appendTime(dst, "finished_at", r.FinishedAt)
	dst = append(dst, `,"rules":`...)
	dst = strconv.AppendInt(dst, int64(r.Rules), 10)
	dst = appendMember(dst, "rules_of", r.RulesOf)
	dst = append(dst, `,"library":`...)
	dst = appendText(dst, r.Library)
	if len(r.Withheld) > 0 {
		dst = append(dst, `,"withheld":[`...)
		for i, name := range r.Withheld[:min(len(r.Withheld), MaxWithheld)] {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendText(dst, name)
		}
		dst = append(dst, ']')
	}
	dst = appendMember(dst, "replay", r.Replay)
	if r.RedriveOf != nil {
		dst = append(dst, `,"redrive_of":`...)
		dst = strconv.AppendInt(dst, int64(*r.RedriveOf), 10)
	}
	return append(dst, '}')
}

// appendMember appends a member that is left out if it is empty.
func appendMember(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	dst = append(dst, ',', '"')
	dst = append(dst, name...)
	dst = append(dst, '"', ':')
	return appendText(dst, value)
}

func appendTime(dst []byte, name string, t time.Time) []byte {
	if t = moment(t); t.IsZero() {
		return dst
	}
	dst = append(dst, ',', '"')
	dst = append(dst, name...)
	dst = append(dst, '"', ':', '"')
	dst = t.AppendFormat(dst, time.RFC3339Nano)
	return append(dst, '"')
}

// appendText appends a text as JSON, made valid and cut.
func appendText(dst []byte, s string) []byte {
	if len(s) <= MaxTextBytes && plain(s) {
		dst = append(dst, '"')
		dst = append(dst, s...)
		return append(dst, '"')
	}
	dst, _ = jsontext.AppendQuote(dst, text(s)) // it is valid
	return dst
}

// plain reports whether a text stands in JSON as it is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// text is s as valid UTF-8 of at most MaxTextBytes.
func text(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= MaxTextBytes {
		return s
	}
	return strings.ToValidUTF8(s[:MaxTextBytes], "")
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

// form is a receipt as JSON.
type form struct {
	Version        int           `json:"version"`
	Tenant         string        `json:"tenant"`
	Source         string        `json:"source"`
	EventID        string        `json:"event_id"`
	Origin         origin        `json:"origin"`
	Outcome        Outcome       `json:"outcome"`
	Reason         string        `json:"reason"`
	Calls          []call        `json:"calls"`
	Attempts       int           `json:"attempts"`
	ReceivedAt     time.Time     `json:"received_at"`
	FirstAttemptAt time.Time     `json:"first_attempt_at"`
	FinishedAt     time.Time     `json:"finished_at"`
	Rules          int           `json:"rules"`
	RulesOf        string        `json:"rules_of"`
	Library        string        `json:"library"`
	Withheld       []string      `json:"withheld"`
	Replay         string        `json:"replay"`
	RedriveOf      *queue.Offset `json:"redrive_of"`
}

type origin struct {
	Partition int          `json:"partition"`
	Offset    queue.Offset `json:"offset"`
}

type call struct {
	Type   string `json:"type"`
	ID     string `json:"id"`
	Digest Digest `json:"digest"`
}

// Parse returns the receipt that Append made value of. Members it does not know
// are ignored; another version, an unknown outcome, a reason where none can be or
// none where one must be, and no time of the end are errors.
func Parse(value []byte) (Receipt, error) {
	var f form
	if err := json.Unmarshal(value, &f); err != nil {
		return Receipt{}, errors.New("parse receipt: it is not a receipt's JSON")
	}
	if err := f.check(); err != nil {
		return Receipt{}, fmt.Errorf("parse receipt: %w", err)
	}
	r := Receipt{
		Tenant:         f.Tenant,
		Source:         f.Source,
		EventID:        f.EventID,
		Partition:      f.Origin.Partition,
		Offset:         f.Origin.Offset,
		Outcome:        f.Outcome,
		Reason:         f.Reason,
		Attempts:       f.Attempts,
		ReceivedAt:     moment(f.ReceivedAt),
		FirstAttemptAt: moment(f.FirstAttemptAt),
		FinishedAt:     moment(f.FinishedAt),
		Rules:          f.Rules,
		RulesOf:        f.RulesOf,
		Library:        f.Library,
		Withheld:       f.Withheld,
		Replay:         f.Replay,
		RedriveOf:      f.RedriveOf,
	}
	if len(f.Calls) > 0 {
		r.Calls = make([]Call, len(f.Calls))
		for i, c := range f.Calls {
			r.Calls[i] = Call(c)
		}
	}
	return r, nil
}

func (f *form) check() error {
	switch {
	case f.Version != version:
		return fmt.Errorf("version %d is not %d", f.Version, version)
	case !slices.Contains(Outcomes(), f.Outcome):
		return fmt.Errorf("outcome %q is not one of %q", f.Outcome, Outcomes())
	case (f.Outcome == Delivered) != (f.Reason == ""):
		return fmt.Errorf("outcome %s has reason %q", f.Outcome, f.Reason)
	case f.Origin.Partition < 0 || f.Origin.Offset < 0:
		return fmt.Errorf("origin %d/%d is not in the log", f.Origin.Partition, f.Origin.Offset)
	case moment(f.FinishedAt).IsZero():
		return errors.New("it has no time of the end")
	}
	return nil
}
