package deadletter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"refinersource/internal/queue"
	"refinersource/internal/receipt"
	"refinersource/internal/survey"
)

// Filter says which letters are meant: those of which all that is given is true.
type Filter struct {
	Tenant  string
	Reason  Reason
	EventID string
	// From and To bound when the event was given up: From or later, and before To.
	From, To time.Time
}

// Found is a letter in its topic.
type Found struct {
	Letter
	Position  queue.Position // of the letter; where the event stood is Origin
	Discarded bool
	// Redriven is what became of it when it was put back; nil if it was not, or is not
	// finished yet. If that died again, it has a letter of its own.
	Redriven *Redriven
	// Fault is set where the record cannot be read as a letter; of the Letter, only
	// what the record's headers and its time say is there then.
	Fault error
}

// Redriven is the end of a redrive.
type Redriven struct {
	At      queue.Position // of the event that puts the letter back
	Outcome receipt.Outcome
	Reason  string // why it was not delivered; "" if it was
}

// Resolved reports whether nothing is left to do about the letter.
func (f *Found) Resolved() bool { return f.Discarded || f.Redriven != nil }

// Outdated is why an event that puts a letter back is ignored if it came too late:
// the letter is as it was before.
const Outdated survey.Ignored = "redrive_outdated"

const (
	// shelfReaders partitions are read side by side; with shelfBytes, what each asks
	// for at once, this bounds the memory of reading.
	shelfReaders = 4
	shelfBytes   = 1 << 20
	// patience is how long a partition may give nothing, with records before its end.
	patience = 30 * time.Second
	// clockSkew is by how much the clocks of those who write letters may differ.
	clockSkew = 10 * time.Minute
)

// ErrNoLetter is of a position where no letter stands.
var ErrNoLetter = errors.New("there is no dead letter")

// Shelf is the letters that a filter meant when it was opened: those that come later
// are not on it, so that what is counted is what is then worked on. Its memory is
// bounded by the number of discards and redrives, not by that of the letters.
type Shelf struct {
	log       *queue.Log
	topic     string
	filter    Filter
	parts     []part
	events    string // the topic
	discarded map[origin]struct{}
	redriven  map[origin]*Redriven
	outdated  map[origin]struct{} // redrives
}

// part is a part of a partition: from one offset up to another.
type part struct {
	partition int
	from, to  queue.Offset
}

// origin is where an event stands.
type origin struct {
	partition int
	offset    queue.Offset
}

// OpenShelf finds out where the letters are, by Kafka's index of times, and which
// have been discarded or redriven.
func OpenShelf(ctx context.Context, log *queue.Log, topics queue.Topics, f Filter) (*Shelf, error) {
	s := &Shelf{
		log: log, topic: topics.Dead(), filter: f, events: topics.Events(),
		discarded: map[origin]struct{}{}, redriven: map[origin]*Redriven{}, outdated: map[origin]struct{}{},
	}
	var err error
	if s.parts, err = parts(ctx, log, s.topic, f.From, f.To); err != nil {
		return nil, fmt.Errorf("find dead letters: %w", err)
	}
	first, err := s.first(ctx)
	if err != nil {
		return nil, fmt.Errorf("find dead letters: %w", err)
	}
	if first.IsZero() {
		return s, nil // no letter, and so no discard of one
	}
	if err := s.readMarks(ctx, topics.Receipts(), first); err != nil {
		return nil, fmt.Errorf("find discards and redrives: %w", err)
	}
	return s, nil
}

// parts are the parts of the topic's partitions that may hold what was written from
// one time up to another.
func parts(ctx context.Context, log *queue.Log, topic string, from, to time.Time) ([]part, error) {
	bounds, err := log.Bounds(ctx, topic)
	if err != nil {
		return nil, err
	}
	starts, ends := map[int]queue.Offset{}, map[int]queue.Offset{}
	if !from.IsZero() {
		if starts, err = log.OffsetsAt(ctx, topic, from.Add(-clockSkew)); err != nil {
			return nil, err
		}
	}
	if !to.IsZero() {
		if ends, err = log.OffsetsAt(ctx, topic, to.Add(clockSkew)); err != nil {
			return nil, err
		}
	}
	var all []part
	for p := range len(bounds) {
		b := bounds[p]
		one := part{partition: p, from: b.Start, to: b.End}
		if at, ok := starts[p]; ok {
			one.from = max(one.from, at)
		}
		if at, ok := ends[p]; ok {
			one.to = min(one.to, at)
		}
		if one.from < one.to {
			all = append(all, one)
		}
	}
	return all, nil
}

// first is the time of the first letter; the zero time if there is none.
func (s *Shelf) first(ctx context.Context) (time.Time, error) {
	var mu sync.Mutex
	var first time.Time
	err := sideBySide(ctx, s.parts, func(ctx context.Context, p part) error {
		return readPart(ctx, s.log, s.topic, p, 1, func(r *queue.Record) (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			if first.IsZero() || r.Time.Before(first) {
				first = r.Time
			}
			return false, nil
		})
	})
	return first, err
}

// redriveMember stands in the receipt of every event that puts a letter back.
const redriveMember = `"redrive_of":`

// readMarks reads the receipts since the first letter. It looks at all partitions:
// their number may have changed since.
func (s *Shelf) readMarks(ctx context.Context, topic string, since time.Time) error {
	all, err := parts(ctx, s.log, topic, since, time.Time{})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	return sideBySide(ctx, all, func(ctx context.Context, p part) error {
		return readPart(ctx, s.log, topic, p, shelfBytes, func(r *queue.Record) (bool, error) {
			if !bytes.Contains(r.Value, []byte(discardedMember)) && !bytes.Contains(r.Value, []byte(redriveMember)) { // nearly all
				return true, nil
			}
			// One that cannot be read marks nothing: the letter is shown once more.
			if got, err := receipt.Parse(r.Value); err == nil {
				mu.Lock()
				defer mu.Unlock()
				s.mark(&got)
			}
			return true, nil
		})
	})
}

// mark notes what a receipt says of letters.
func (s *Shelf) mark(r *receipt.Receipt) {
	switch {
	case isDiscard(r):
		s.discarded[origin{r.Partition, r.Offset}] = struct{}{}
	case r.RedriveOf == nil || r.Replay != "":
	case r.Reason == string(Outdated):
		s.outdated[origin{r.Partition, r.Offset}] = struct{}{}
	default:
		s.redriven[origin{r.Partition, *r.RedriveOf}] = &Redriven{
			At:      queue.Position{Topic: s.events, Partition: r.Partition, Offset: r.Offset},
			Outcome: r.Outcome, Reason: r.Reason,
		}
	}
}

// WasOutdated reports whether the event at a position put no letter back, since it
// came too late.
func (s *Shelf) WasOutdated(partition int, offset queue.Offset) bool {
	_, ok := s.outdated[origin{partition, offset}]
	return ok
}

// resolve says of a letter what the receipts do.
func (s *Shelf) resolve(f *Found) {
	if f.Fault != nil {
		return
	}
	at := origin{f.Origin.Partition, f.Origin.Offset}
	_, f.Discarded = s.discarded[at]
	f.Redriven = s.redriven[at]
}

// Each gives every letter of the shelf to each, those of a partition in order, and
// never two at once. It ends with the first error of each.
func (s *Shelf) Each(ctx context.Context, each func(Found) error) error {
	var mu sync.Mutex
	err := sideBySide(ctx, s.parts, func(ctx context.Context, p part) error {
		return readPart(ctx, s.log, s.topic, p, shelfBytes, func(r *queue.Record) (bool, error) {
			if !s.means(r) {
				return true, nil
			}
			found := read(r)
			if found.Fault == nil && !s.filter.died(found.DeadAt) {
				return true, nil
			}
			s.resolve(&found)
			mu.Lock()
			defer mu.Unlock()
			return true, each(found)
		})
	})
	if err != nil {
		return fmt.Errorf("read dead letters: %w", err)
	}
	return nil
}

// At returns the letter at a position, whatever the filter.
func (s *Shelf) At(ctx context.Context, partition int, offset queue.Offset) (Found, error) {
	at := slices.IndexFunc(s.parts, func(p part) bool { return p.partition == partition && p.from <= offset && offset < p.to })
	if at < 0 {
		return Found{}, fmt.Errorf("%w at %d:%d", ErrNoLetter, partition, offset)
	}
	found := Found{Position: queue.Position{Offset: -1}}
	one := part{partition: partition, from: offset, to: offset + 1}
	err := readPart(ctx, s.log, s.topic, one, 1, func(r *queue.Record) (bool, error) {
		found = read(r)
		return false, nil
	})
	switch {
	case err != nil:
		return Found{}, fmt.Errorf("read dead letter: %w", err)
	case found.Position.Offset != offset:
		return Found{}, fmt.Errorf("%w at %d:%d", ErrNoLetter, partition, offset)
	}
	s.resolve(&found)
	return found, nil
}

// means tells by the headers whether a letter is meant: most need not be decoded.
func (s *Shelf) means(r *queue.Record) bool {
	f := &s.filter
	return (f.Tenant == "" || r.Header(queue.HeaderTenant) == f.Tenant) &&
		(f.Reason == "" || r.Header(HeaderReason) == string(f.Reason)) &&
		(f.EventID == "" || r.Header(queue.HeaderEventID) == f.EventID)
}

func (f *Filter) died(at time.Time) bool {
	return !at.Before(f.From) && (f.To.IsZero() || at.Before(f.To))
}

// read is the record as a letter.
func read(r *queue.Record) Found {
	l, err := Decode(r.Value)
	if err != nil {
		l = Letter{
			Tenant: text(r.Header(queue.HeaderTenant)), Source: text(r.Header(queue.HeaderSource)),
			EventID: text(r.Header(queue.HeaderEventID)), DeadAt: moment(r.Time), Key: r.Key,
		}
	}
	return Found{Letter: l, Position: r.Position, Fault: err}
}

// readPart gives the records of the part to each, in order, until it returns false or
// an error. What the log has dropped in between is passed over.
func readPart(ctx context.Context, log *queue.Log, topic string, p part, maxBytes int, each func(*queue.Record) (bool, error)) error {
	r := log.Reader(topic, p.partition, p.from, queue.ReaderOptions{MaxBytes: maxBytes})
	for r.Offset() < p.to {
		b, err := next(ctx, r)
		if errors.Is(err, queue.ErrGap) {
			r.SkipGap()
			continue
		}
		if err != nil {
			return err
		}
		for i := range b.Records {
			if b.Records[i].Offset >= p.to {
				return nil
			}
			if more, err := each(&b.Records[i]); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

func next(ctx context.Context, r *queue.Reader) (queue.Batch, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return r.Next(ctx)
}

func sideBySide(ctx context.Context, all []part, f func(context.Context, part) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(shelfReaders)
	for _, p := range all {
		g.Go(func() error { return f(ctx, p) })
	}
	return g.Wait()
}

// Ends says of events with a key that is wanted, and that became letters since a time,
// where they stood, and whether they were delivered all the same: after a crash a
// worker takes an event again, and what was wrong may be mended by then.
func Ends(ctx context.Context, log *queue.Log, topics queue.Topics, since time.Time, wanted func(key []byte) bool) (delivered map[queue.Position]bool, err error) {
	delivered = make(map[queue.Position]bool)
	var mu sync.Mutex
	each := func(topic string, take func(*queue.Record)) error {
		all, err := parts(ctx, log, topic, since, time.Time{})
		if err != nil {
			return err
		}
		return sideBySide(ctx, all, func(ctx context.Context, p part) error {
			return readPart(ctx, log, topic, p, shelfBytes, func(r *queue.Record) (bool, error) {
				if wanted(r.Key) {
					mu.Lock()
					defer mu.Unlock()
					take(r)
				}
				return true, nil
			})
		})
	}
	err = each(topics.Dead(), func(r *queue.Record) {
		if l, err := Decode(r.Value); err == nil { // what is no letter is of no event
			delivered[l.Origin] = false
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	err = each(topics.Receipts(), func(r *queue.Record) {
		got, err := receipt.Parse(r.Value)
		if err != nil || got.Outcome != receipt.Delivered || got.Replay != "" {
			return
		}
		at := queue.Position{Topic: topics.Events(), Partition: got.Partition, Offset: got.Offset}
		if _, dead := delivered[at]; dead {
			delivered[at] = true
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read receipts: %w", err)
	}
	return delivered, nil
}
