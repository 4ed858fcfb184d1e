package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
)

// Defaults of a Publisher.
const (
	// DefaultMaxRecordBytes leaves room for a batch's own bytes below the 1,048,588
	// that a topic takes by default.
	DefaultMaxRecordBytes = 1_000_000
	// DefaultLinger is how long a record waits for others to share its request.
	DefaultLinger = 3 * time.Millisecond
)

const (
	batchRecords = 100
	writeTimeout = 5 * time.Second // of one produce request; half of it is the brokers' for replication
)

// PublisherOptions are what a Publisher can be told. The zero value is good.
type PublisherOptions struct {
	// MaxRecordBytes bounds a record with its key, headers and framing;
	// 0 is DefaultMaxRecordBytes.
	MaxRecordBytes int
	Linger         time.Duration // 0 is DefaultLinger
	// OnRetry is told each error after which a record is tried again. It may be
	// called by many goroutines at once, and must not block. nil drops it.
	OnRetry func(error)
}

// Publisher appends records to one topic. It is safe for concurrent use; records
// that are published at the same time share requests. Memory is bounded by what
// the callers have under way, so they must bound it.
type Publisher struct {
	log    *Log
	topic  string
	opts   PublisherOptions
	writer *kafka.Writer
	closed atomic.Bool
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
	return &Publisher{log: l, topic: topic, opts: o, writer: &kafka.Writer{
		Addr:         l.client.Addr,
		Topic:        topic,
		Balancer:     balancer,
		RequiredAcks: kafka.RequireAll,
		// One attempt: Publish tries again itself, since kafka-go gives up at once
		// where a partition has no leader, and goes on for records nobody waits for.
		MaxAttempts:  1,
		BatchSize:    batchRecords,
		BatchBytes:   int64(o.MaxRecordBytes),
		BatchTimeout: o.Linger,
		WriteTimeout: writeTimeout,
		Completion:   complete,
		ErrorLogger:  l.errorLog,
		Transport:    l.transport,
	}}
}

// appended is what became of a record's batch; kafka-go carries it with the
// message. It is written before WriteMessages returns for the batch, and must not
// be read when that returned because its context ended.
type appended struct {
	partition int
	offset    int64
	shared    bool // the batch held other records too
}

func complete(messages []kafka.Message, _ error) {
	for i := range messages {
		a := messages[i].WriterData.(*appended)
		*a = appended{partition: messages[i].Partition, offset: messages[i].Offset, shared: len(messages) > 1}
	}
}

// Publish appends the record to the partition of its key and returns its position
// when all in-sync replicas have it (invariant 1, honest 202). Position is ignored
// in rec; a zero Time is the time of the call. What may pass by waiting is tried
// again until ctx ends, then the error matches ErrUnavailable and ctx.Err(). Others
// are ErrTooLarge, ErrRefused and ErrClosed.
//
// An error promises nothing: the record may be in the log, or come into it after
// Publish returned, and to publish it again may put it there twice. So its bytes
// must never be changed or reused. Of two records the second surely comes after
// the first in their partition only if the first was acknowledged before.
func (p *Publisher) Publish(ctx context.Context, rec Record) (Position, error) {
	var pos Position
	err := retry(ctx, p.opts.OnRetry, func() error {
		var err error
		pos, err = p.append(ctx, rec)
		return err
	})
	if err != nil {
		return Position{}, fmt.Errorf("publish record: %w", err)
	}
	return pos, nil
}

func (p *Publisher) append(ctx context.Context, rec Record) (Position, error) {
	a := new(appended)
	msg := kafka.Message{Key: rec.Key, Value: rec.Value, Time: rec.Time, Headers: kafkaHeaders(rec.Headers), WriterData: a}
	err := p.writer.WriteMessages(ctx, msg)
	if _, ok := errors.AsType[kafka.MessageTooLargeError](err); ok {
		return Position{}, ErrTooLarge // that error holds the record
	}
	if errors.Is(err, io.ErrClosedPipe) && p.closed.Load() {
		return Position{}, ErrClosed
	}
	if err = classify(err); err != nil {
		if ctx.Err() == nil && errors.Is(err, ErrTooLarge) && a.shared {
			return p.appendAlone(ctx, a.partition, msg)
		}
		return Position{}, err
	}
	return Position{Topic: p.topic, Partition: a.partition, Offset: Offset(a.offset)}, nil
}

// appendAlone sends a record by itself after a batch with others was too large
// for the topic, so that only the guilty one fails.
func (p *Publisher) appendAlone(ctx context.Context, partition int, msg kafka.Message) (Position, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	res, err := p.log.client.Produce(ctx, &kafka.ProduceRequest{
		Topic:        p.topic,
		Partition:    partition,
		RequiredAcks: kafka.RequireAll,
		Records: kafka.NewRecordReader(kafka.Record{
			Key: kafka.NewBytes(msg.Key), Value: kafka.NewBytes(msg.Value), Headers: msg.Headers, Time: msg.Time,
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

func kafkaHeaders(headers []Header) []kafka.Header {
	if len(headers) == 0 {
		return nil
	}
	out := make([]kafka.Header, len(headers))
	for i, h := range headers {
		out[i] = kafka.Header(h)
	}
	return out
}

// Close waits for the requests under way, one attempt each, and ends. Publish
// fails with ErrClosed from then on.
func (p *Publisher) Close() error {
	p.closed.Store(true)
	if err := p.writer.Close(); err != nil {
		return fmt.Errorf("close publisher: %w", err)
	}
	return nil
}
