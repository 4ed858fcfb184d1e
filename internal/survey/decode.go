package survey

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unsafe"
)

// MaxDepth is how deep an event may nest objects and arrays; itself is the first.
const MaxDepth = 64

// MaxAccountID bounds the account's id, in characters: Segment drops a group
// with a longer one without a word.
const MaxAccountID = 500

// Decode reads one event. The error is always a *Fault; the Completion then
// holds what is known nevertheless, at least the ID. An event that is seen,
// dismissed or without a response is never at fault for its identity.
//
// Field names are case-sensitive and unknown fields are skipped. Where a field
// stands twice the last one counts, but for identity (AmbiguousIdentity).
//
// The Completion's strings and values are parts of raw, which must not be changed as
// long as they are used.
func Decode(source Source, raw []byte) (Completion, error) {
	d := newDecoder(raw)
	defer d.close()
	d.text = unsafe.String(unsafe.SliceData(raw), len(raw)) // raw is not changed
	return d.decode(source, raw)
}

func (d *decoder) decode(source Source, raw []byte) (Completion, error) {
	var c Completion
	var who respondent
	for d.pass(source, &c, &who); d.fast && (!d.scan.ok || d.fault != nil); d.pass(source, &c, &who) {
		c, who = Completion{}, respondent{}
		d.restart()
	}
	if d.fault != nil {
		return Completion{ID: derivedID(raw)}, d.fault
	}
	if c.ID == "" {
		c.ID = derivedID(raw)
	} else {
		c.ID = strings.Clone(c.ID) // an id is remembered for longer than its event
	}
	if fault := who.identify(&c); fault != nil && c.Ignored != NoResponse && c.Ignored != NotCompleted {
		return c, fault
	}
	return c, nil
}

// pass reads the event once.
func (d *decoder) pass(source Source, c *Completion, who *respondent) {
	switch {
	case !d.fast && tooDeep(d.raw):
		d.undecodable("", "nested deeper than 64 levels")
	case source == RefinerWebhook:
		d.refiner(c, who)
	case source == SurveyEvent:
		d.event(c, who)
	default:
		d.undecodable("", "of an unknown source; it must be refiner-webhook or survey-event")
	}
	d.end()
}

// derivedID is the id of an event that has none: the same bytes get the same.
func derivedID(raw []byte) string {
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}
