// Package redrive puts dead letters back through the normal loop. A redriven event is
// a record of its own in the log of events: the same bytes under the same key, with a
// header, its mark, that says where the event first stood and what newer completions
// have said since. It owns the mark (schemas/redrive.schema.json), what an event with
// one makes, and the plan of which letters are put back (docs/decisions/0017).
//
// It guarantees: what a redriven event makes follows from the log and the rules
// alone; nothing that a newer completion has set is set again; of several redrives
// of one letter at most one makes calls, as long as the rules stay.
package redrive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"fmt"
	"strconv"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// Why a redriven event makes no call, beside what any event is ignored for.
const (
	// Outdated: its mark does not hold. The letter waits for another redrive.
	Outdated = deadletter.Outdated
	// InPlace: a replay sends the event where it first stood.
	InPlace survey.Ignored = "sent_in_place"
)

// MaxBehind is how many records may have come between what a mark has seen and the
// record that has it: so many are read again for it.
const MaxBehind = 4096

// Mark is what the header of a redriven event says. All offsets are of the partition
// in which it stands.
type Mark struct {
	// Of is where the event stood that became the letter.
	Of queue.Offset `json:"of"`
	// First is where it stood before any redrive: its place in the order of its user.
	First queue.Offset `json:"first"`
	// Seen: before this offset the log was looked at.
	Seen queue.Offset `json:"seen"`
	// Rules name those of the tenant by which that was done.
	Rules string            `json:"rules"`
	Since attribution.Since `json:"since,omitzero"`
}

// RulesOf names the tenant's rules, with the version of the mapping.
func RulesOf(t *tenant.Tenant) string {
	return strconv.Itoa(attribution.RulesVersion) + "/" + t.RulesOf
}

// MarkOf returns the mark of a record; nil if the event was not redriven.
func MarkOf(r *queue.Record) (*Mark, error) {
	text := r.Header(queue.HeaderRedrive)
	if text == "" {
		return nil, nil //nolint:nilnil // most records have none
	}
	m := new(Mark)
	if err := json.Unmarshal([]byte(text), m, json.RejectUnknownMembers(true)); err != nil {
		return nil, errors.New("parse redrive: it is not a mark's JSON")
	}
	if m.First < 0 || m.Of < m.First || m.Seen <= m.Of || r.Offset < m.Seen {
		return nil, errors.New("parse redrive: its offsets are not in order")
	}
	return m, nil
}

// text is the mark as the header has it: one text for one mark.
func (m *Mark) text() []byte {
	b, err := json.Marshal(m, json.Deterministic(true))
	if err != nil {
		panic("redrive: a mark that is no JSON: " + err.Error()) // it is numbers and names
	}
	return b
}

// Redriven is what a reader of the log knows of a record that has a mark.
type Redriven struct {
	// Mark is nil if it cannot be understood: then it does not hold.
	Mark *Mark
	// Holds says that nothing stands between what the mark has seen and the record that
	// the mark should have known of.
	Holds bool
}

// Read returns what is known of the last of these records, which stand one after
// another; nil if it was not redriven. What stands before the first is read from the
// log where it is needed.
func Read(ctx context.Context, log *queue.Log, records []queue.Record) (*Redriven, error) {
	r := &records[len(records)-1]
	m, err := MarkOf(r)
	if err != nil {
		return &Redriven{}, nil //nolint:nilerr // it does not hold then
	}
	if m == nil {
		return nil, nil //nolint:nilnil // most records have none
	}
	x := &Redriven{Mark: m}
	if r.Offset-m.Seen > MaxBehind {
		return x, nil
	}
	before := records[:len(records)-1]
	start := records[0].Offset
	for i := range before {
		if before[i].Offset >= m.Seen && m.missed(r, &before[i]) {
			return x, nil
		}
	}
	if m.Seen >= start {
		x.Holds = true
		return x, nil
	}
	reader := log.Reader(r.Topic, r.Partition, m.Seen, queue.ReaderOptions{})
	for reader.Offset() < start {
		b, err := reader.Next(ctx)
		if errors.Is(err, queue.ErrGap) {
			return x, nil // what stood there is not known
		}
		if err != nil {
			return nil, fmt.Errorf("read what came before a redriven event: %w", err)
		}
		for i := range b.Records {
			if b.Records[i].Offset < start && m.missed(r, &b.Records[i]) {
				return x, nil
			}
		}
	}
	x.Holds = true
	return x, nil
}

// missed reports whether a record that stands behind what the mark has seen is one
// that it should have known of.
func (m *Mark) missed(r, between *queue.Record) bool {
	if string(between.Key) != string(r.Key) {
		return false
	}
	other, err := MarkOf(between)
	return err != nil || other == nil || other.First >= m.First
}

// Attribute makes the calls of a redriven event, in the place of
// attribution.Attribute. Their message ids are new: what the first delivery had
// accepted has the old ones, and a receiver would drop under these what is to be said
// now. They follow from the mark, so that the same record has always the same ones.
//
// inPlace says that the event is also sent where it first stood, as by a replay: then
// it makes no call here, unless it makes none there.
func (x *Redriven) Attribute(c survey.Completion, t *tenant.Tenant, accepted time.Time, inPlace bool) (attribution.Result, error) {
	if !x.Holds || x.Mark.Rules != RulesOf(t) {
		return attribution.Result{Ignored: Outdated}, nil
	}
	if inPlace {
		if res, err := attribution.Attribute(c, &t.Rules, string(t.ID), accepted); err == nil && res.Ignored == survey.NotIgnored {
			return attribution.Result{Ignored: InPlace, OrderKey: res.OrderKey}, nil
		}
	}
	rules := t.Rules
	rules.IDLabel += x.Mark.label()
	return attribution.AttributeSince(c, &rules, string(t.ID), accepted, &x.Mark.Since)
}

// label tells the message ids of one redrive from those of others. What the mark has
// seen does not matter: two redrives that say the same say it once.
func (m *Mark) label() string {
	same := *m
	same.Seen = 0
	sum := sha256.Sum256(same.text())
	return "redrive:" + hex.EncodeToString(sum[:16])
}
