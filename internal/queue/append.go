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

// Bundle is records on their way to one partition, in one piece of memory that is
// used again. It is not safe for concurrent use.
type Bundle struct {
	bytes   []byte
	headers []kafka.Header
	records []bundled
}

// bundled is where a record stands in the bundle: the key, then the value.
type bundled struct {
	key, value, end int
	headers, upTo   int
	at              time.Time
}

// Add copies a record into the bundle. Its position is ignored; a nil key is an
// empty one.
func (b *Bundle) Add(r *Record) {
	x := bundled{key: len(b.bytes), headers: len(b.headers), at: r.Time}
	b.bytes = append(b.bytes, r.Key...)
	x.value = len(b.bytes)
	b.bytes = append(b.bytes, r.Value...)
	x.end = len(b.bytes)
	for _, h := range r.Headers {
		from := len(b.bytes)
		b.bytes = append(b.bytes, h.Value...)
		b.headers = append(b.headers, kafka.Header{Key: h.Key, Value: b.bytes[from:len(b.bytes):len(b.bytes)]})
	}
	x.upTo = len(b.headers)
	b.records = append(b.records, x)
}

// Len is how many records are in the bundle.
func (b *Bundle) Len() int { return len(b.records) }

// Bytes is what they take, without framing.
func (b *Bundle) Bytes() int { return len(b.bytes) }

// Reset empties the bundle and keeps its memory, unless that has become larger
// than keep bytes.
func (b *Bundle) Reset(keep int) {
	if cap(b.bytes) > keep {
		*b = Bundle{}
		return
	}
	clear(b.headers)
	b.bytes, b.headers, b.records = b.bytes[:0], b.headers[:0], b.records[:0]
}

// AppendBundle appends the records to a partition, in their order, and returns
// when all in-sync replicas have them. What may pass by waiting is tried again
// until ctx ends, and the topic's bound is met by sending halves; a record that is
// over it alone is tried again too, since the bound may be raised. Each error that
// is tried again goes to onRetry, which may be nil.
//
// An error promises nothing: records may be in the log, and some of them more than
// once. After one, or after onRetry was called, the bundle's memory may still be on
// its way: it must be dropped, not used again.
func (l *Log) AppendBundle(ctx context.Context, topic string, partition int, b *Bundle, onRetry func(error)) error {
	if err := l.appendBundled(ctx, topic, partition, b, b.records, onRetry); err != nil {
		return fmt.Errorf("append to %s/%d: %w", topic, partition, err)
	}
	return nil
}

func (l *Log) appendBundled(ctx context.Context, topic string, partition int, b *Bundle, records []bundled, onRetry func(error)) error {
	if len(records) == 0 {
		return nil
	}
	l.transport.know(topic)
	err := retry(ctx, onRetry, func() error {
		err := l.produce(ctx, topic, partition, b, records)
		if err != nil && len(records) == 1 && !errors.Is(err, ErrClosed) {
			// Whatever it is, others wait for this record, and an operator may mend it. Its
			// class must not show: it would end the tries.
			return fmt.Errorf("%w: %v", ErrUnavailable, err)
		}
		return err
	})
	if err == nil || ctx.Err() != nil || len(records) == 1 {
		return err
	}
	if onRetry != nil {
		onRetry(err)
	}
	half := len(records) / 2
	if err := l.appendBundled(ctx, topic, partition, b, records[:half], onRetry); err != nil {
		return err
	}
	return l.appendBundled(ctx, topic, partition, b, records[half:], onRetry)
}

// produce makes one attempt.
func (l *Log) produce(ctx context.Context, topic string, partition int, b *Bundle, records []bundled) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	res, err := l.client.Produce(ctx, &kafka.ProduceRequest{
		Topic:        topic,
		Partition:    partition,
		RequiredAcks: kafka.RequireAll,
		Records:      &bundleReader{b: b, rest: records},
	})
	if err == nil {
		err = res.Error
	}
	return classify(err)
}

// bundleReader hands out a bundle's records to kafka-go's encoder, which is done
// with one before it asks for the next.
type bundleReader struct {
	b          *Bundle
	rest       []bundled
	record     kafka.Record
	key, value stretch
}

// ReadRecord implements kafka.RecordReader.
func (r *bundleReader) ReadRecord() (*kafka.Record, error) {
	if len(r.rest) == 0 {
		return nil, io.EOF
	}
	x := &r.rest[0]
	r.rest = r.rest[1:]
	r.key.rest, r.value.rest = r.b.bytes[x.key:x.value], r.b.bytes[x.value:x.end]
	r.record = kafka.Record{Key: &r.key, Value: &r.value, Headers: r.b.headers[x.headers:x.upTo], Time: x.at}
	return &r.record, nil
}

// stretch is bytes as kafka-go reads them.
type stretch struct{ rest []byte }

var _ protocol.Bytes = (*stretch)(nil)

// Read implements io.Reader.
func (s *stretch) Read(b []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo: without it io.Copy would take memory of its own.
func (s *stretch) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s.rest)
	s.rest = s.rest[n:]
	return int64(n), err
}

// Len is how many bytes are left.
func (s *stretch) Len() int { return len(s.rest) }

// Close implements io.Closer.
func (s *stretch) Close() error { return nil }
