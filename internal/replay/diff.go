package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"refinersource/internal/attribution"
	"refinersource/internal/copies"
	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// Bounds of a Diff.
const (
	// DefaultTableBytes is Diff.TableBytes where it is 0.
	DefaultTableBytes = 256 << 20
	// MaxChanges bounds the changes that are kept of a tenant. More are only counted.
	MaxChanges = 1000
	// diffReaders is how many partitions are read side by side.
	diffReaders = 4
)

// Diff compares what the rules of a Scan make of the events of a range with what was
// sent of these, event by event, from the log alone. What was sent is what the first
// receipt of live traffic says. Where the calls of now have the digests in that
// receipt, nothing differs, whatever the rules were. Where they have not, the event is
// attributed by the rules of then; only if that gives the digests is it said how the
// two differ. The version of the program in the calls is no rule, and not compared.
//
// It takes 28 bytes of memory an event of the partitions that it works on at the same
// time, at most TableBytes together, besides what is under way from Kafka.
type Diff struct {
	Scan       *Scan
	Topics     queue.Topics
	TableBytes int64
}

// DiffCounts are how many events there are, and how they compare. Same, Different and
// NotComparable together are Events.
type DiffCounts struct {
	Events        int                  `json:"events"`
	Same          int                  `json:"same"`
	Different     int                  `json:"different"`
	NotComparable int                  `json:"not_comparable"`
	Reasons       map[Incomparable]int `json:"reasons"`  // of NotComparable
	Replayed      int                  `json:"replayed"` // events that a replay has gone over too
	First         time.Time            `json:"first,omitzero"`
	Last          time.Time            `json:"last,omitzero"`
}

// Differs tells whether something differs for certain.
func (c *DiffCounts) Differs() bool {
	for why, n := range c.Reasons {
		if n > 0 && why.Differs() {
			return true
		}
	}
	return c.Different > 0
}

func (c *DiffCounts) at(t time.Time) {
	if c.First.IsZero() || t.Before(c.First) {
		c.First = t
	}
	if t.After(c.Last) {
		c.Last = t
	}
}

func (c *DiffCounts) add(o *DiffCounts) {
	c.Events += o.Events
	c.Same += o.Same
	c.Different += o.Different
	c.NotComparable += o.NotComparable
	c.Replayed += o.Replayed
	for why, n := range o.Reasons {
		c.Reasons[why] += n
	}
	if o.Events > 0 {
		c.at(o.First)
		c.at(o.Last)
	}
}

// ChangeCount is a change, and of how many events it is.
type ChangeCount struct {
	Change

	Events  int    `json:"events"`
	Example string `json:"example"` // the id of the first of them, by partition and offset

	at queue.Position
}

// TenantDiff is how a tenant's events compare.
type TenantDiff struct {
	Tenant tenant.ID `json:"tenant"`
	DiffCounts

	Changes []ChangeCount `json:"changes"`
	// LeftOut is how often a change was met that is not among them, since these are
	// MaxChanges.
	LeftOut int `json:"changes_left_out,omitzero"`

	rows map[Change]*ChangeCount
}

// DiffReport is what a Diff found.
type DiffReport struct {
	Differs bool         `json:"differs"`
	Total   DiffCounts   `json:"total"`
	Tenants []TenantDiff `json:"tenants"`
	// Unreadable is how many receipts cannot be read; their events have none.
	Unreadable int `json:"unreadable_receipts"`
}

// Run compares the spans, several partitions at a time.
func (d *Diff) Run(ctx context.Context, spans []Span) (*DiffReport, error) {
	limit := cmp.Or(d.TableBytes, DefaultTableBytes)
	for _, span := range spans {
		if n := int64(span.To - span.From); n*sentEventBytes > limit {
			return nil, fmt.Errorf("partition %d has %d events in the range, whose table would take %d MiB of %d: narrow the range, or allow more by --memory",
				span.Partition, n, n*sentEventBytes>>20, limit>>20)
		}
	}
	texts, err := receipt.RulesOf(ctx, d.Scan.Log, d.Topics)
	if err != nil {
		return nil, err
	}
	then := &rulesOfThen{texts: texts, parsed: make(map[parsedKey]*attribution.Rules)}
	memory := semaphore.NewWeighted(limit)
	var mu sync.Mutex // never held but to add a partition's part
	all := newDiffing(d.Scan.Tenants, then)
	unreadable := 0
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(diffReaders)
	for _, span := range spans {
		g.Go(func() error {
			bytes := int64(span.To-span.From) * sentEventBytes
			if err := memory.Acquire(ctx, bytes); err != nil {
				return err
			}
			defer memory.Release(bytes)
			one := newDiffing(d.Scan.Tenants, then)
			var err error
			if one.sent, err = readSent(ctx, d.Scan.Log, d.Topics, span, d.Scan.Range.Tenants); err != nil {
				return fmt.Errorf("read what was sent: %w", err)
			}
			if err := d.Scan.Run(ctx, []Span{span}, func(int) Visitor { return one }); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			all.merge(one)
			unreadable += one.sent.unreadable
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	r := all.report()
	r.Unreadable = unreadable
	return r, nil
}

// diffing is the comparison of one partition's events: a Visitor.
type diffing struct {
	registry *tenant.Registry
	then     *rulesOfThen
	sent     *sent
	tenants  map[tenant.ID]*TenantDiff
	scratch  []byte
}

func newDiffing(registry *tenant.Registry, then *rulesOfThen) *diffing {
	return &diffing{registry: registry, then: then, tenants: make(map[tenant.ID]*TenantDiff)}
}

func (d *diffing) tenant(id tenant.ID) *TenantDiff {
	t := d.tenants[id]
	if t == nil {
		t = &TenantDiff{Tenant: id, DiffCounts: DiffCounts{Reasons: make(map[Incomparable]int)}, rows: make(map[Change]*ChangeCount)}
		d.tenants[id] = t
	}
	return t
}

// Flush does nothing.
func (d *diffing) Flush() error { return nil }

// Visit compares an event.
func (d *diffing) Visit(e *Event) error {
	t := d.tenant(e.Tenant)
	t.Events++
	t.at(e.Record.Time.UTC())
	known, what := d.sent.of(e)
	if known.replayed {
		t.Replayed++
	}
	changes, why := d.compare(e, known, what)
	switch {
	case why != "":
		t.NotComparable++
		t.Reasons[why]++
	case len(changes) == 0:
		t.Same++
	default:
		t.Different++
		for _, c := range changes {
			t.count(&ChangeCount{Change: c, Events: 1, Example: idOf(e), at: e.Record.Position})
		}
	}
	return nil
}

// compare says how an event's calls of now differ from those that were sent, or why
// that cannot be said.
func (d *diffing) compare(e *Event, known *sentEvent, what *story) ([]Change, Incomparable) {
	switch {
	case what == nil:
		return nil, NoReceipt
	case what.outcome == receipt.Dead && !what.unsent:
		return nil, NotDelivered
	case what.outcome == receipt.Ignored && what.reason == string(copies.Reason):
		return nil, "" // a copy is one by whatever rules
	}
	now := d.now(e, what)
	if d.digest(now) == known.digests {
		return nil, ""
	}
	if what.outcome != receipt.Delivered {
		return compare(&made{why: string(what.outcome) + ": " + what.reason}, now), ""
	}
	then, why := d.before(e, known, what)
	if why != "" {
		return nil, why
	}
	return compare(then, now), ""
}

func (d *diffing) digest(m *made) (all digest) {
	all, d.scratch = digestOf(m.calls, d.scratch)
	return all
}

// now is what the rules of now make of an event.
func (d *diffing) now(e *Event, what *story) *made {
	t, ok := d.registry.Get(e.Tenant)
	if !ok {
		// The scan has not come to decode it. What cannot be is not reproduced either.
		e.Decoded, _ = survey.Decode(survey.Source(e.Record.Header(queue.HeaderSource)), e.Record.Value)
		return &made{why: died(e.Fault)}
	}
	if e.Ignored == copies.Reason || e.Fault == nil && t.Rules.LibraryVersion != what.library {
		// The receipt knows better what is a copy, and which program made the calls.
		rules := t.Rules
		rules.LibraryVersion = what.library
		e.Result, e.Fault = attribution.Attribute(e.Decoded, &rules, string(t.ID), accepted(e.Record))
		e.Ignored = e.Result.Ignored
	}
	switch {
	case e.Fault != nil:
		return &made{why: died(e.Fault)}
	case e.Ignored != survey.NotIgnored:
		return &made{why: string(receipt.Ignored) + ": " + string(e.Ignored)}
	default:
		return &made{calls: e.Result.Calls, completion: &e.Decoded, rules: &t.Rules}
	}
}

// died says why an event would be a dead letter.
func died(err error) string {
	reason := string(deadletter.UnknownTenant)
	if f, ok := errors.AsType[*survey.Fault](err); ok {
		reason = string(f.Reason)
	}
	return string(receipt.Dead) + ": " + reason
}

// before is what the rules of then make of an event, if that is what was sent.
func (d *diffing) before(e *Event, known *sentEvent, what *story) (*made, Incomparable) {
	if what.rules != attribution.RulesVersion {
		return nil, OtherVersion
	}
	rules := d.then.get(e.Tenant, what)
	if rules == nil {
		return nil, NoRules
	}
	result, err := attribution.Attribute(e.Decoded, rules, string(e.Tenant), accepted(e.Record))
	then := &made{calls: result.Calls, completion: &e.Decoded, rules: rules}
	if err != nil || d.digest(then) != known.digests {
		return nil, NotReproduced
	}
	return then, ""
}

// idOf is the id of an event, as its receipt has it.
func idOf(e *Event) string {
	id := strings.ToValidUTF8(cmp.Or(e.Record.Header(queue.HeaderEventID), e.Decoded.ID), "\ufffd")
	if len(id) > receipt.MaxTextBytes {
		id = strings.ToValidUTF8(id[:receipt.MaxTextBytes], "")
	}
	return id
}

// count adds to a change.
func (t *TenantDiff) count(c *ChangeCount) {
	row := t.rows[c.Change]
	switch {
	case row == nil && len(t.rows) == MaxChanges:
		t.LeftOut += c.Events
		return
	case row == nil:
		t.rows[c.Change] = c
		return
	}
	row.Events += c.Events
	if c.at.Partition < row.at.Partition {
		row.Example, row.at = c.Example, c.at
	}
}

// merge adds what another partition gave.
func (d *diffing) merge(o *diffing) {
	for id, from := range o.tenants {
		t := d.tenant(id)
		t.add(&from.DiffCounts)
		t.LeftOut += from.LeftOut
		for _, c := range from.rows {
			t.count(c)
		}
	}
}

// report puts the tenants and their changes in order.
func (d *diffing) report() *DiffReport {
	r := &DiffReport{Tenants: make([]TenantDiff, 0, len(d.tenants)), Total: DiffCounts{Reasons: make(map[Incomparable]int)}}
	for _, id := range slices.Sorted(maps.Keys(d.tenants)) {
		t := d.tenants[id]
		t.Changes = make([]ChangeCount, 0, len(t.rows))
		for _, c := range t.rows {
			t.Changes = append(t.Changes, *c)
		}
		slices.SortFunc(t.Changes, func(a, b ChangeCount) int {
			return cmp.Or(
				cmp.Compare(slices.Index(ChangeKinds(), a.Kind), slices.Index(ChangeKinds(), b.Kind)),
				cmp.Compare(a.Call, b.Call), cmp.Compare(a.Trait, b.Trait), cmp.Compare(a.ToCall, b.ToCall), cmp.Compare(a.ToTrait, b.ToTrait),
				cmp.Compare(a.Type, b.Type), cmp.Compare(a.ToType, b.ToType), cmp.Compare(a.Why, b.Why),
			)
		})
		r.Total.add(&t.DiffCounts)
		r.Tenants = append(r.Tenants, *t)
	}
	r.Differs = r.Total.Differs()
	return r
}
