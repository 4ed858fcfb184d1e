package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// Defaults of a Publisher.
const (
	// DefaultMaxRecordBytes leaves room for a batch's own bytes below the 1,048,588
	// that a topic takes by default.
	DefaultMaxRecordBytes = 1_000_000
	// DefaultLinger is the least time between two requests to one broker.
	DefaultLinger = 3 * time.Millisecond
)

const (
	writeTimeout = 5 * time.Second  // of one produce request
	ackTimeout   = writeTimeout / 2 // the brokers' part of it, for replication
)

// PublisherOptions are what a Publisher can be told. The zero value is good.
type PublisherOptions struct {
	// MaxRecordBytes bounds a record with its key, headers and framing;
	// 0 is DefaultMaxRecordBytes.
	MaxRecordBytes int
	// Linger is the least time between two requests to one broker, in which records
	// gather for the second one; 0 is DefaultLinger. A record that comes later than
	// that after the last request does not wait.
	Linger time.Duration
	// OnRetry is told each error after which a record is tried again. It may be
	// called by many goroutines at once, and must not block. nil drops it.
	OnRetry func(error)
}

// Publisher appends records to one topic. It is safe for concurrent use; records
// that are published at the same time share requests. Memory is bounded by what
// the callers have under way, so they must bound it.
//
// It makes the requests itself (outbox.go); kafka-go's Writer would send one for
// each partition (decision 20).
type Publisher struct {
	log   *Log
	topic string
	opts  PublisherOptions

	mu         sync.Mutex
	closed     bool
	leaders    []int32  // by partition; none before the first look
	partitions []int    // as the balancer wants them
	outboxes   []outbox // by partition
	brokers    map[int32]*departures

	letters sync.Pool

	departing sync.WaitGroup // what was scheduled and is not done
}

// Publisher makes a publisher to the topic. Its owner must close it.
func (l *Log) Publisher(topic string, o PublisherOptions) *Publisher {
	if o.MaxRecordBytes <= 0 {
		o.MaxRecordBytes = DefaultMaxRecordBytes
	}
	if o.Linger <= 0 {
		o.Linger = DefaultLinger
	}
	l.transport.know(topic)
	return &Publisher{log: l, topic: topic, opts: o, brokers: make(map[int32]*departures)}
}

// Publish appends the record to the partition of its key and returns its position
// when all in-sync replicas have it (invariant 1, honest 202). Position is ignored
// in rec; a zero Time is the time of the call. What may pass by waiting is tried
// again until ctx ends, then the error matches ErrUnavailable and ctx.Err(); if it has
// ended before, nothing is sent. Others are ErrTooLarge, ErrRefused and ErrClosed.
//
// An error promises nothing: the record may be in the log, or come into it after
// Publish returned, and to publish it again may put it there twice. So its bytes
// must never be changed or reused. Of two records the second surely comes after
// the first in their partition only if the first was acknowledged before.
func (p *Publisher) Publish(ctx context.Context, rec Record) (Position, error) {
	if p.sizeOf(&rec) > p.opts.MaxRecordBytes {
		return Position{}, fmt.Errorf("publish record: %w", ErrTooLarge)
	}
	pos, err := p.append(ctx, &rec)
	if err != nil && errors.Is(err, ErrUnavailable) {
		first := err
		err = retry(ctx, p.opts.OnRetry, func() error {
			if first != nil { // the attempt that was made
				err := first
				first = nil
				return err
			}
			var err error
			pos, err = p.append(ctx, &rec)
			return err
		})
	}
	if err != nil {
		return Position{}, fmt.Errorf("publish record: %w", err)
	}
	return pos, nil
}

// append makes one attempt.
func (p *Publisher) append(ctx context.Context, rec *Record) (Position, error) {
	if err := ctx.Err(); err != nil {
		return Position{}, classify(err) // nobody waits for it
	}
	l, err := p.enqueue(ctx, rec)
	if err != nil {
		return Position{}, err
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		p.withdraw(l)
		return Position{}, classify(ctx.Err())
	}
	switch {
	case l.err == nil:
		pos := l.position
		p.recycle(l)
		return pos, nil
	case errors.Is(l.err, ErrTooLarge) && l.shared && ctx.Err() == nil:
		return p.appendAlone(ctx, l.position.Partition, rec)
	default:
		return Position{}, l.err
	}
}

// appendAlone sends a record by itself after a batch with others was too large
// for the topic, so that only the guilty one fails.
func (p *Publisher) appendAlone(ctx context.Context, partition int, rec *Record) (Position, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	res, err := p.log.client.Produce(ctx, &kafka.ProduceRequest{
		Topic:        p.topic,
		Partition:    partition,
		RequiredAcks: kafka.RequireAll,
		Records: kafka.NewRecordReader(kafka.Record{
			Key: kafka.NewBytes(rec.Key), Value: kafka.NewBytes(rec.Value), Headers: rec.Headers, Time: rec.Time,
		}),
	})
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return Position{}, classify(err)
	}
	return Position{Topic: p.topic, Partition: partition, Offset: Offset(res.BaseOffset)}, nil
}

// Bounds of the framing, in bytes: of a record, its length, times, counts and
// offset; of a header, the lengths of its key and value.
const (
	recordFraming = 64
	headerFraming = 10
)

func (p *Publisher) sizeOf(rec *Record) int {
	size := recordFraming + len(rec.Key) + len(rec.Value)
	for _, h := range rec.Headers {
		size += headerFraming + len(h.Key) + len(h.Value)
	}
	return size
}

// Close waits for the requests under way, one attempt each, and ends. Publish
// fails with ErrClosed from then on.
func (p *Publisher) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.departing.Wait()
	return nil
}
