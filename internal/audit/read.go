package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"refinersource/internal/queue"
	"refinersource/internal/receipt"
)

const (
	// readers is how many partitions are read side by side, and fetchBytes what each
	// asks for at once. Together they bound the memory of what is under way.
	readers    = 4
	fetchBytes = 4 << 20
	// patience is how long a partition may give nothing, with records before its end.
	patience = 30 * time.Second
)

// stretch is a part of a partition: from one offset up to another.
type stretch struct {
	partition int
	from, to  queue.Offset
}

// read gives the records of a stretch to each, in order, and where some are gone
// from the log that to gone, if it is not nil. It ends early, without an error,
// when each returns false. Records are each's to look at, not to keep.
func read(ctx context.Context, log *queue.Log, topic string, s stretch, each func(*queue.Record) bool, gone func(*queue.GapError)) error {
	return readKept(ctx, log, topic, s, nil, each, gone)
}

// readKept is read for those records alone that keep wants, by all but their values.
func readKept(ctx context.Context, log *queue.Log, topic string, s stretch, keep, each func(*queue.Record) bool, gone func(*queue.GapError)) error {
	r := log.Reader(topic, s.partition, s.from, queue.ReaderOptions{MaxBytes: fetchBytes, Keep: keep})
	for r.Offset() < s.to {
		b, err := next(ctx, r)
		if gap, ok := errors.AsType[*queue.GapError](err); ok {
			if gone != nil {
				gone(gap)
			}
			r.SkipGap()
			continue
		}
		if err != nil {
			return err
		}
		for i := range b.Records {
			if b.Records[i].Offset >= s.to || !each(&b.Records[i]) {
				return nil
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

// recordAt returns the record at an offset; nil if it is gone from the log, or was
// never there.
func recordAt(ctx context.Context, log *queue.Log, topic string, partition int, at queue.Offset) (*queue.Record, error) {
	r := log.Reader(topic, partition, at, queue.ReaderOptions{MaxBytes: 1}) // one batch comes all the same
	b, err := next(ctx, r)
	switch {
	case errors.Is(err, queue.ErrGap), errors.Is(err, queue.ErrOffsetOutOfRange):
		return nil, nil //nolint:nilnil // none is an answer here
	case err != nil:
		return nil, err
	case len(b.Records) == 0 || b.Records[0].Offset != at:
		return nil, nil //nolint:nilnil // none is an answer here
	}
	return &b.Records[0], nil
}

// sideBySide runs f for each of the items, a few at a time, and returns the first
// error; the others are cut short by it.
func sideBySide[T any](ctx context.Context, items []T, f func(context.Context, T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, item := range items {
		g.Go(func() error { return f(ctx, item) })
	}
	return g.Wait()
}

// Range says which events are looked at: those accepted at From or later, and
// before To, by Kafka's time index. Zero times do not bound it.
type Range struct{ From, To time.Time }

// has tells whether a time lies in the range, to the millisecond, as Kafka counts.
func (r Range) has(at time.Time) bool {
	return (r.From.IsZero() || at.UnixMilli() >= r.From.UnixMilli()) && (r.To.IsZero() || at.UnixMilli() < r.To.UnixMilli())
}

// stretches are the parts of all partitions of a topic that hold what was written
// in the range, but for what comes after the ends that are given.
func (r Range) stretches(ctx context.Context, log *queue.Log, topic string, bounds map[int]queue.Bounds) ([]stretch, error) {
	from, err := offsetsAt(ctx, log, topic, r.From)
	if err != nil {
		return nil, err
	}
	to, err := offsetsAt(ctx, log, topic, r.To)
	if err != nil {
		return nil, err
	}
	all := make([]stretch, len(bounds))
	for p := range all {
		b := bounds[p]
		s := stretch{partition: p, from: b.Start, to: b.End}
		if at, ok := from[p]; ok {
			s.from = max(s.from, at)
		}
		if at, ok := to[p]; ok {
			s.to = min(s.to, at)
		}
		s.to = max(s.from, s.to)
		all[p] = s
	}
	return all, nil
}

func offsetsAt(ctx context.Context, log *queue.Log, topic string, at time.Time) (map[int]queue.Offset, error) {
	if at.IsZero() {
		return nil, nil //nolint:nilnil // no bound
	}
	return log.OffsetsAt(ctx, topic, at)
}

// clockSkew is by how much the clocks of those who accept events and of those who
// finish them may differ.
const clockSkew = 10 * time.Minute

// later is the range of what is written about the events of a range: receipts and
// letters come after them, be it days later.
func (r Range) later() Range {
	if r.From.IsZero() {
		return Range{}
	}
	return Range{From: r.From.Add(-clockSkew)}
}

// samePartitions refuses topics that are not cut the same way.
func samePartitions(topics queue.Topics, events, receipts, dead map[int]queue.Bounds) error {
	if len(events) != len(receipts) || len(events) != len(dead) {
		return fmt.Errorf("%s has %d partitions, %s %d and %s %d, and should have as many: see refiner-source topics check",
			topics.Events(), len(events), topics.Receipts(), len(receipts), topics.Dead(), len(dead))
	}
	return nil
}

// header returns the value of the record's last header of that name, without a copy.
func header(r *queue.Record, name string) []byte {
	for _, h := range slices.Backward(r.Headers) {
		if h.Key == name {
			return h.Value
		}
	}
	return nil
}

// text is what a record says of itself, as letters and receipts have it.
func text(b []byte) string {
	s := strings.ToValidUTF8(string(b), "\ufffd")
	if len(s) <= receipt.MaxTextBytes {
		return s
	}
	return strings.ToValidUTF8(s[:receipt.MaxTextBytes], "")
}
