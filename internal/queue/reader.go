package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// Defaults of a Reader.
const (
	DefaultMaxBytes = 1 << 20
	DefaultMaxWait  = 250 * time.Millisecond
)

// ReaderOptions are what a Reader can be told. The zero value is good.
type ReaderOptions struct {
	// MaxBytes bounds what one batch takes on the wire; 0 is DefaultMaxBytes. A
	// single larger record, or a larger batch of a producer, still comes whole.
	MaxBytes int
	// MaxWait is how long Next waits at the end of the log; 0 is DefaultMaxWait.
	MaxWait time.Duration
	// Keep tells whether a record is wanted, by all but its value, which is not read of
	// those that are not. They are left out, and are no holes. It must not keep the
	// record. nil keeps all.
	Keep func(*Record) bool
	// OnRetry is told each error after which the log is asked again. It must not
	// block. nil drops it.
	OnRetry func(error)
}

// Reader reads one partition upwards from an offset. It has no goroutine and
// nothing to close; it must not be used by two goroutines at once. Offsets have
// no holes: where the log has one, Next says so instead of passing over it.
type Reader struct {
	log       *Log
	topic     string
	partition int
	next      Offset
	gap       *GapError
	opts      ReaderOptions
	expected  int // records in the next batch: as many as in the one before
}

// Batch is a run of records without holes.
type Batch struct {
	// Records are in order, and may be none. They and their bytes are the caller's;
	// each has its own memory, so that keeping one keeps no other.
	Records []Record
	Start   Offset // of the oldest record of the partition
	End     Offset // of the next record that the partition will have: its high watermark
}

// Reader makes a reader of the partition whose first record will be that at from.
func (l *Log) Reader(topic string, partition int, from Offset, o ReaderOptions) *Reader {
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxWait <= 0 {
		o.MaxWait = DefaultMaxWait
	}
	l.transport.know(topic)
	return &Reader{log: l, topic: topic, partition: partition, next: from, opts: o}
}

// Offset is that of the next record to be read.
func (r *Reader) Offset() Offset { return r.next }

// Next returns the records that follow, or none after MaxWait. What may pass by
// waiting (no leader, a lost connection) is tried again until ctx ends; then the
// error matches ErrUnavailable and ctx.Err(). It fails with a *GapError when the
// next record is gone from the log while later ones are there; SkipGap goes on
// after it, and until then Next fails the same way. It fails with
// ErrOffsetOutOfRange when the log ends before the offset, and with ErrRefused.
func (r *Reader) Next(ctx context.Context) (Batch, error) {
	if r.gap != nil {
		return Batch{}, r.gap
	}
	var b Batch
	err := retry(ctx, r.opts.OnRetry, func() error {
		var err error
		b, err = r.fetch(ctx)
		return err
	})
	if gap, ok := errors.AsType[*GapError](err); ok {
		r.gap = gap
		return Batch{}, gap
	}
	if err != nil {
		return Batch{}, fmt.Errorf("read %s/%d at %d: %w", r.topic, r.partition, r.next, err)
	}
	return b, nil
}

// SkipGap makes the reader go on behind the gap that Next reported. It does
// nothing where there is none.
func (r *Reader) SkipGap() {
	if r.gap != nil {
		r.next, r.gap = r.gap.To, nil
	}
}

// errNothing is a fetch that brings nothing from before the end of the log.
var errNothing = errors.New("no records from before the end of the log")

func (r *Reader) fetch(ctx context.Context) (Batch, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.MaxWait+requestTimeout)
	defer cancel()
	res, err := r.log.client.Fetch(ctx, &kafka.FetchRequest{
		Topic:     r.topic,
		Partition: r.partition,
		Offset:    int64(r.next),
		MinBytes:  1,
		MaxBytes:  int64(r.opts.MaxBytes),
		MaxWait:   r.opts.MaxWait,
	})
	if err == nil {
		err = res.Error
	}
	if errors.Is(err, kafka.OffsetOutOfRange) {
		return Batch{}, r.outOfRange(ctx)
	}
	if err != nil {
		return Batch{}, err
	}
	b := Batch{Start: Offset(res.LogStartOffset), End: Offset(res.HighWatermark)}
	before := r.next
	found, err := r.collect(res.Records, &b)
	switch {
	case len(b.Records) > 0:
		return b, nil // an error or a gap behind these comes with the next fetch
	case err != nil:
		return Batch{}, err
	case r.next == before && r.next < b.End && found:
		// A batch whose records a compaction took, or which was cut short.
		return Batch{}, r.gapTo(r.next + 1)
	case r.next == before && r.next < b.End:
		return Batch{}, errNothing
	}
	return b, nil
}

// collect appends the records from r.next on to b and moves r.next behind them.
// It tells whether there was any batch at all.
func (r *Reader) collect(records kafka.RecordReader, b *Batch) (found bool, err error) {
	stream, ok := records.(*protocol.RecordStream)
	if !ok {
		return false, nil
	}
	b.Records = make([]Record, 0, r.expected)
	defer func() { r.expected = len(b.Records) }()
	for _, batch := range stream.Records {
		_, control := batch.(*protocol.ControlBatch)
		for {
			rec, err := batch.ReadRecord()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return true, fmt.Errorf("decode batch: %w", err)
			}
			out, kept, err := r.record(rec)
			if err != nil {
				return true, err
			}
			switch {
			case out.Offset < r.next: // the batch began before the offset that was asked for
				continue
			case out.Offset > r.next:
				return true, r.gapTo(out.Offset)
			case kept && !control: // a transaction's marker takes an offset, and is no record
				b.Records = append(b.Records, out)
			}
			r.next++
		}
	}
	return len(stream.Records) > 0, nil
}

// record copies a record out of the response's buffers and gives these back; without
// its value if it is not to be kept.
func (r *Reader) record(rec *kafka.Record) (out Record, kept bool, err error) {
	key, err := readBytes(rec.Key)
	if err != nil {
		return Record{}, false, fmt.Errorf("decode key: %w", err)
	}
	out = Record{
		Position: Position{Topic: r.topic, Partition: r.partition, Offset: Offset(rec.Offset)},
		Key:      key,
		Headers:  rec.Headers,
		Time:     rec.Time,
	}
	if r.opts.Keep != nil && !r.opts.Keep(&out) {
		if rec.Value != nil {
			err = rec.Value.Close()
		}
		return out, false, err
	}
	if out.Value, err = readBytes(rec.Value); err != nil {
		return Record{}, false, fmt.Errorf("decode value: %w", err)
	}
	return out, true, nil
}

func readBytes(b kafka.Bytes) ([]byte, error) {
	if b == nil {
		return nil, nil
	}
	out, err := kafka.ReadAll(b)
	return out, errors.Join(err, b.Close())
}

func (r *Reader) gapTo(to Offset) *GapError {
	return &GapError{Topic: r.topic, Partition: r.partition, From: r.next, To: to}
}

// outOfRange finds out on which side. A broker that said so for no reason, as one
// may that just became leader, is asked again.
func (r *Reader) outOfRange(ctx context.Context) error {
	all, err := r.log.bounds(ctx, r.topic, []int{r.partition})
	if err != nil {
		return err
	}
	switch b := all[r.partition]; {
	case r.next < b.Start:
		return r.gapTo(b.Start)
	case r.next > b.End:
		return fmt.Errorf("%w: the log ends at %d", ErrOffsetOutOfRange, b.End)
	default:
		return fmt.Errorf("offset %d refused within %d to %d: %w", r.next, b.Start, b.End, ErrUnavailable)
	}
}
