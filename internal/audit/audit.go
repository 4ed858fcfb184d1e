// Package audit tells from the log alone what became of events: Run proves that
// every accepted event of a range has exactly one final outcome, or waits behind a
// cursor or the commit point; Trace tells the story of one event, or of a user's.
// It reads the topics and the group's commits, and changes nothing. It shares
// nothing with package checker, which holds recorded histories against the promise.
//
// Run takes 12 bytes of memory an event of the partitions that it works on at the
// same time, at most Options.TableBytes together, besides what is under way from
// Kafka.
package audit

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/semaphore"

	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
)

// Defaults of Options.
const (
	DefaultTableBytes = 256 << 20
	DefaultFindings   = 1000
)

// Options say what Run looks at. Group must be given.
type Options struct {
	Group  string
	Topics queue.Topics
	Range
	Tenant string // "" is all; gaps and unsound commits are found whosever events they are about
	// TableBytes bounds the memory of what is known of events; 0 is DefaultTableBytes.
	TableBytes int64
	Findings   int // how many of each kind are listed; 0 is DefaultFindings
}

// Counts are how many events of a range there are, and what became of them.
type Counts struct {
	Events    int `json:"events"`
	Delivered int `json:"delivered"`
	Dead      int `json:"dead"`
	Ignored   int `json:"ignored"`
	Waiting   int `json:"waiting"`   // behind a cursor, or at or beyond the commit point, without an outcome
	Repeats   int `json:"repeats"`   // receipts of events that had one already
	Replayed  int `json:"replayed"`  // receipts of replays
	Discarded int `json:"discarded"` // marks of discarded letters
	Findings  int `json:"findings"`
}

func (c *Counts) add(o *Counts) {
	c.Events += o.Events
	c.Delivered += o.Delivered
	c.Dead += o.Dead
	c.Ignored += o.Ignored
	c.Waiting += o.Waiting
	c.Repeats += o.Repeats
	c.Replayed += o.Replayed
	c.Discarded += o.Discarded
	c.Findings += o.Findings
}

// TenantCounts are those of a tenant.
type TenantCounts struct {
	Tenant string `json:"tenant"`
	Counts
}

// Report is what Run found.
type Report struct {
	Group string `json:"group"`
	Topic string `json:"topic"`
	Total Counts `json:"total"`
	// Unproven is how many events of the range, the oldest, are left out: the
	// receipts of their time are gone from the log.
	Unproven int            `json:"unproven"`
	Tenants  []TenantCounts `json:"tenants"`
	Kinds    map[Kind]int   `json:"kinds"`    // how many findings of each kind there are
	Findings []Finding      `json:"findings"` // the first of each kind
}

// Sound tells whether nothing was found.
func (r *Report) Sound() bool { return len(r.Kinds) == 0 }

// auditor is one run.
type auditor struct {
	Options
	log      *queue.Log
	group    *Group
	events   map[int]queue.Bounds
	receipts map[int]queue.Bounds
	dead     map[int]queue.Bounds
	letters  *letters
	memory   *semaphore.Weighted
}

// Run audits the events of a range. The order in which it asks for things makes
// what it finds true of one moment: what the commits pass has its receipt in the
// log by the time that their ends are asked for, and each receipt its letter and
// its event by the time of theirs.
func Run(ctx context.Context, log *queue.Log, o Options) (*Report, error) {
	o.TableBytes = cmp.Or(o.TableBytes, DefaultTableBytes)
	o.Findings = cmp.Or(o.Findings, DefaultFindings)
	a := &auditor{Options: o, log: log, memory: semaphore.NewWeighted(o.TableBytes)}
	var err error
	if a.group, err = LoadGroup(ctx, log, o.Group, o.Topics.Events()); err != nil {
		return nil, err
	}
	if err := a.bounds(ctx); err != nil {
		return nil, err
	}
	parts, err := a.parts(ctx)
	if err != nil {
		return nil, err
	}
	if a.letters, err = a.loadLetters(ctx, parts); err != nil {
		return nil, err
	}
	if err := sideBySide(ctx, parts, a.audit); err != nil {
		return nil, err
	}
	return a.report(parts), nil
}

func (a *auditor) bounds(ctx context.Context) (err error) {
	if a.receipts, err = a.log.Bounds(ctx, a.Topics.Receipts()); err != nil {
		return err
	}
	if a.dead, err = a.log.Bounds(ctx, a.Topics.Dead()); err != nil {
		return err
	}
	if a.events, err = a.log.Bounds(ctx, a.Topics.Events()); err != nil {
		return err
	}
	return samePartitions(a.Topics, a.events, a.receipts, a.dead)
}

// parts cuts the range into the partitions' parts.
func (a *auditor) parts(ctx context.Context) ([]*part, error) {
	events, err := a.stretches(ctx, a.log, a.Topics.Events(), a.events)
	if err != nil {
		return nil, err
	}
	receipts, err := a.later().stretches(ctx, a.log, a.Topics.Receipts(), a.receipts)
	if err != nil {
		return nil, err
	}
	parts := make([]*part, len(events))
	for i := range parts {
		parts[i] = &part{
			auditor: a, events: events[i], receipts: receipts[i],
			names: make(map[string]uint16), found: newFindings(a.Options.Findings),
		}
		if size := parts[i].tableBytes(); size > a.TableBytes {
			return nil, fmt.Errorf("partition %d has %d events in the range, whose table would take %d MiB of %d: narrow the range by --from and --to, or allow more by --memory",
				i, size/entryBytes, size>>20, a.TableBytes>>20)
		}
	}
	return parts, nil
}

// audit does one partition.
func (a *auditor) audit(ctx context.Context, p *part) error {
	if err := p.leaveOutOld(ctx); err != nil {
		return err
	}
	size := p.tableBytes()
	if err := a.memory.Acquire(ctx, size); err != nil {
		return err
	}
	defer a.memory.Release(size)
	p.checkCommit()
	if err := p.readEvents(ctx); err != nil {
		return err
	}
	p.markLetters()
	if err := p.readReceipts(ctx); err != nil {
		return err
	}
	p.conclude()
	p.table = nil
	return p.name(ctx)
}

// report adds up the parts.
func (a *auditor) report(parts []*part) *Report {
	r := &Report{Group: a.Group, Topic: a.Topics.Events(), Tenants: []TenantCounts{}, Kinds: make(map[Kind]int), Findings: []Finding{}}
	found := newFindings(a.Options.Findings)
	found.merge(a.letters.found)
	tenants := make(map[string]*Counts)
	for _, p := range parts {
		found.merge(p.found)
		r.Unproven += p.unproven
		for i := range p.counts {
			name := p.tenants[i]
			if tenants[name] == nil {
				tenants[name] = new(Counts)
			}
			tenants[name].add(&p.counts[i])
		}
	}
	maps.Copy(r.Kinds, found.counts)
	for tenant, n := range found.tenants {
		if tenants[tenant] == nil && tenant != "" {
			tenants[tenant] = new(Counts)
		}
		if tenant != "" {
			tenants[tenant].Findings = n
		}
		r.Total.Findings += n
	}
	for name, c := range tenants {
		r.Tenants = append(r.Tenants, TenantCounts{name, *c})
		findings := r.Total.Findings
		r.Total.add(c)
		r.Total.Findings = findings // those of no tenant are among them
	}
	slices.SortFunc(r.Tenants, func(a, b TenantCounts) int { return cmp.Compare(a.Tenant, b.Tenant) })
	r.Findings = found.sorted()
	return r
}

// letters are the dead letters of the range, by what they say of their origin.
type letters struct {
	of    [][]letter  // by the partition of the event
	first []time.Time // of the oldest letter of each partition of the topic, where older ones are gone
	found *findings
}

// letter is what is known of a dead letter: 32 bytes.
type letter struct {
	origin    queue.Offset
	at        queue.Offset // where it stands itself
	partition int32
	id        uint32
}

// loadLetters reads the dead letters: there are few.
func (a *auditor) loadLetters(ctx context.Context, parts []*part) (*letters, error) {
	ranges, err := a.later().stretches(ctx, a.log, a.Topics.Dead(), a.dead)
	if err != nil {
		return nil, err
	}
	type partition struct {
		letters map[int][]letter
		found   *findings
	}
	all := make([]partition, len(ranges))
	l := &letters{of: make([][]letter, len(parts)), first: make([]time.Time, len(parts)), found: newFindings(a.Options.Findings)}
	err = sideBySide(ctx, ranges, func(ctx context.Context, s stretch) error {
		one := partition{make(map[int][]letter), newFindings(a.Options.Findings)}
		if a.dead[s.partition].Start > 0 {
			first, err := a.oldest(ctx, a.Topics.Dead(), a.dead[s.partition], s.partition)
			if err != nil {
				return err
			}
			l.first[s.partition] = first
		}
		err := read(ctx, a.log, a.Topics.Dead(), s, func(r *queue.Record) bool {
			if a.Tenant != "" && string(header(r, queue.HeaderTenant)) != a.Tenant {
				return true
			}
			d, err := deadletter.Decode(r.Value)
			if err != nil {
				one.found.add(Finding{Kind: UnreadableLetter, Tenant: ownerOf(header(r, queue.HeaderTenant)), Position: position(r), Detail: err.Error()})
				return true
			}
			from := d.Origin
			if from.Topic == a.Topics.Events() && from.Partition >= 0 && from.Partition < len(parts) &&
				from.Offset >= parts[from.Partition].events.from && from.Offset < parts[from.Partition].events.to {
				one.letters[from.Partition] = append(one.letters[from.Partition],
					letter{origin: from.Offset, at: r.Offset, partition: int32(s.partition), id: hash(ownerOf([]byte(d.Tenant)), d.EventID)})
			}
			return true
		}, nil)
		all[s.partition] = one
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, one := range all {
		for p, some := range one.letters {
			l.of[p] = append(l.of[p], some...)
		}
		l.found.merge(one.found)
	}
	return l, nil
}

// oldest is the time of the oldest record of a partition of which older ones are
// gone; the present if all are.
func (a *auditor) oldest(ctx context.Context, topic string, b queue.Bounds, partition int) (time.Time, error) {
	at := time.Now()
	err := read(ctx, a.log, topic, stretch{partition, b.Start, b.End}, func(r *queue.Record) bool {
		at = r.Time
		return false
	}, nil)
	return at, err
}
