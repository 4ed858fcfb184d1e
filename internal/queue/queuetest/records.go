package queuetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"refinersource/internal/queue"
)

func (s suite) recordsComeBack(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	p := publisher(t, l, topic, queue.PublisherOptions{})
	at := time.Date(2026, 2, 3, 4, 5, 6, 789_000_000, time.UTC)
	want := []queue.Record{
		{Key: []byte("acme/u1"), Value: []byte(`{"a":1}`), Time: at, Headers: []queue.Header{
			{Key: queue.HeaderTenant, Value: []byte("acme")},
			{Key: queue.HeaderEventID, Value: []byte("e1")},
			{Key: queue.HeaderEventID, Value: []byte("e2")},
			{Key: "empty", Value: []byte{}},
		}},
		{Key: []byte{}, Value: []byte{}, Time: at.Add(time.Millisecond)},
		{Value: []byte("no key \x00\xff"), Time: at},
		{Key: []byte("no value"), Time: at},
	}
	for i := range want {
		pos, err := p.Publish(deadline(t), want[i])
		if err != nil {
			t.Fatal(err)
		}
		want[i].Position = queue.Position{Topic: topic, Offset: queue.Offset(i)}
		if diff := cmp.Diff(want[i].Position, pos); diff != "" {
			t.Errorf("position of record %d (-want +got):\n%s", i, diff)
		}
	}
	got := read(t, l.Reader(topic, 0, 0, queue.ReaderOptions{}), len(want))
	for i := range got {
		got[i].Time = got[i].Time.UTC()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	keep := func(r *queue.Record) bool { return r.Value == nil && (len(r.Key) == 0 || string(r.Key) == "acme/u1") }
	kept := read(t, l.Reader(topic, 0, 0, queue.ReaderOptions{Keep: keep}), 3)
	for i := range kept {
		kept[i].Time = kept[i].Time.UTC()
	}
	if diff := cmp.Diff(want[:3], kept); diff != "" {
		t.Errorf("records that are kept, but the last (-want +got):\n%s", diff)
	}
	if got := want[0].Header(queue.HeaderEventID); got != "e2" {
		t.Errorf("header that stands twice: got %q, want the last, e2", got)
	}
}

func (s suite) positions(t *testing.T) {
	const partitions, callers, each = 3, 40, 5
	l := s.open(t)
	topic := s.topic(t, l, partitions, nil)
	p := publisher(t, l, topic, queue.PublisherOptions{})
	var mu sync.Mutex
	want := make(map[queue.Position]string)
	last := make(map[int]queue.Offset) // of each caller
	var callersDone sync.WaitGroup
	for c := range callers {
		callersDone.Go(func() {
			for i := range each {
				value := fmt.Sprintf("%d.%d", c, i)
				pos, err := p.Publish(deadline(t), queue.Record{Key: fmt.Append(nil, c), Value: []byte(value)})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want[pos] = value
				if before, ok := last[c]; ok && pos.Offset <= before {
					t.Errorf("record %s has offset %d, the one before it %d", value, pos.Offset, before)
				}
				last[c] = pos.Offset
				mu.Unlock()
			}
		})
	}
	callersDone.Wait()
	bounds, err := l.Bounds(deadline(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[queue.Position]string)
	for partition, b := range bounds {
		for _, r := range read(t, l.Reader(topic, partition, 0, queue.ReaderOptions{}), int(b.End)) {
			got[r.Position] = string(r.Value)
		}
	}
	if len(want) != callers*each {
		t.Errorf("got %d different positions, want %d", len(want), callers*each)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values by position (-published +read):\n%s", diff)
	}
}

// partitioner holds the keys to the hashes that Kafka's own tests give
// (org.apache.kafka.common.utils.UtilsTest, testMurmur2).
func (s suite) partitioner(t *testing.T) {
	const partitions = 12
	l := s.open(t)
	topic := s.topic(t, l, partitions, nil)
	p := publisher(t, l, topic, queue.PublisherOptions{})
	for key, hash := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		pos, err := p.Publish(deadline(t), queue.Record{Key: []byte(key)})
		if err != nil {
			t.Fatal(err)
		}
		if want := int(hash&0x7fffffff) % partitions; pos.Partition != want {
			t.Errorf("key %q: got partition %d, want %d", key, pos.Partition, want)
		}
	}
}

func (s suite) tooLargeFailsAlone(t *testing.T) {
	const others = 20
	l := s.open(t)
	topic := s.topic(t, l, 1, map[string]string{"max.message.bytes": "3000"})
	// A long linger makes them share a batch, which is over the topic's bound.
	p := publisher(t, l, topic, queue.PublisherOptions{Linger: 200 * time.Millisecond})
	var callers sync.WaitGroup
	callers.Go(func() {
		_, err := p.Publish(deadline(t), queue.Record{Value: []byte(strings.Repeat("x", 10_000))})
		if !errors.Is(err, queue.ErrTooLarge) {
			t.Errorf("record over the topic's bound: got error %v, want ErrTooLarge", err)
		}
	})
	want := numbered("small", others)
	for _, v := range want {
		callers.Go(func() {
			if _, err := p.Publish(deadline(t), queue.Record{Value: []byte(v)}); err != nil {
				t.Errorf("record %s: %v", v, err)
			}
		})
	}
	callers.Wait()
	got := values(read(t, l.Reader(topic, 0, 0, queue.ReaderOptions{}), others))
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func (s suite) overPublishersBound(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	p := publisher(t, l, topic, queue.PublisherOptions{MaxRecordBytes: 1000})
	const secret = "answer of a respondent"
	_, err := p.Publish(deadline(t), queue.Record{Value: []byte(strings.Repeat(secret, 100))})
	wantClass(t, err, queue.ErrTooLarge)
	if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), secret) {
		t.Errorf("the error holds the record's value: %v", err)
	}
	publish(t, p, "fits")
	if got := values(read(t, l.Reader(topic, 0, 0, queue.ReaderOptions{}), 1)); got[0] != "fits" {
		t.Errorf("first record: got %q, want the one that fits", got[0])
	}
}

func (s suite) closedPublisher(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	p := l.Publisher(topic, queue.PublisherOptions{})
	publish(t, p, "before")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := p.Publish(deadline(t), queue.Record{Value: []byte("after")})
	wantClass(t, err, queue.ErrClosed)
}

func (s suite) endedContext(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := publisher(t, l, topic, queue.PublisherOptions{})
	publish(t, p, "first")
	for range 100 {
		_, err := p.Publish(ctx, queue.Record{Value: []byte("nobody waits for it")})
		wantClass(t, err, queue.ErrUnavailable)
		wantClass(t, err, context.Canceled)
	}
	publish(t, p, "second")
	if got := values(read(t, l.Reader(topic, 0, 0, queue.ReaderOptions{}), 2)); got[1] != "second" {
		t.Errorf("second record: got %q, want what somebody waited for", got[1])
	}
	_, err := l.Reader(topic, 0, 0, queue.ReaderOptions{}).Next(ctx)
	wantClass(t, err, queue.ErrUnavailable)
	wantClass(t, err, context.Canceled)
}

func (s suite) readerStartsAtOffset(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	// One batch of ten: Kafka gives all of it for an offset in its midst.
	client := s.kafka(t, kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(100*time.Millisecond))
	batch := make([]*kgo.Record, 10)
	for i := range batch {
		batch[i] = kgo.StringRecord(fmt.Sprint("v", i))
	}
	if err := client.ProduceSync(deadline(t), batch...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for _, from := range []queue.Offset{0, 4, 9} {
		r := l.Reader(topic, 0, from, queue.ReaderOptions{})
		got := read(t, r, 10-int(from))
		if diff := cmp.Diff(numbered("v", 10)[from:], values(got)); diff != "" {
			t.Errorf("from %d (-want +got):\n%s", from, diff)
		}
		if r.Offset() != 10 {
			t.Errorf("from %d: next offset is %d, want 10", from, r.Offset())
		}
	}
}

func (s suite) readerWaits(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	p := publisher(t, l, topic, queue.PublisherOptions{})
	publish(t, p, "a", "b")
	r := l.Reader(topic, 0, 2, queue.ReaderOptions{MaxWait: 20 * time.Millisecond})
	got, err := r.Next(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(queue.Batch{Start: 0, End: 2}, got); diff != "" {
		t.Errorf("batch at the end (-want +got):\n%s", diff)
	}
	publish(t, p, "c")
	if got := values(read(t, r, 1)); got[0] != "c" {
		t.Errorf("next record: got %q, want c", got[0])
	}
}

func (s suite) largeRecordComesWhole(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	want := []string{strings.Repeat("x", 100_000), "small"}
	publish(t, publisher(t, l, topic, queue.PublisherOptions{}), want...)
	got := read(t, l.Reader(topic, 0, 0, queue.ReaderOptions{MaxBytes: 1000}), 2)
	if diff := cmp.Diff(want, values(got)); diff != "" {
		t.Errorf("records differ (-want +got):\n%s", diff)
	}
}

func (s suite) gap(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	publish(t, publisher(t, l, topic, queue.PublisherOptions{}), numbered("v", 10)...)
	s.deleteBefore(t, topic, 0, 6)

	r := l.Reader(topic, 0, 2, queue.ReaderOptions{})
	for range 2 { // it stays until it is skipped
		_, err := r.Next(deadline(t))
		wantClass(t, err, queue.ErrGap)
		gap, _ := errors.AsType[*queue.GapError](err)
		if diff := cmp.Diff(&queue.GapError{Topic: topic, Partition: 0, From: 2, To: 6}, gap); diff != "" {
			t.Fatalf("gap (-want +got):\n%s", diff)
		}
	}
	r.SkipGap()
	r.SkipGap() // there is none any more
	if diff := cmp.Diff(numbered("v", 10)[6:], values(read(t, r, 4))); diff != "" {
		t.Errorf("records behind the gap (-want +got):\n%s", diff)
	}
}

func (s suite) pastTheEnd(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	publish(t, publisher(t, l, topic, queue.PublisherOptions{}), "only")
	_, err := l.Reader(topic, 0, 2, queue.ReaderOptions{}).Next(deadline(t))
	wantClass(t, err, queue.ErrOffsetOutOfRange)
}

// transactionMarkers: nobody should write transactions here, but one who does must
// not stop the reader. A marker takes an offset.
func (s suite) transactionMarkers(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	client := s.kafka(t, kgo.DefaultProduceTopic(topic), kgo.TransactionalID(topic))
	for _, v := range []string{"first", "second"} {
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := client.ProduceSync(deadline(t), kgo.StringRecord(v)).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := client.EndTransaction(deadline(t), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
	r := l.Reader(topic, 0, 0, queue.ReaderOptions{})
	got := read(t, r, 2)
	offsets := []queue.Offset{got[0].Offset, got[1].Offset}
	if diff := cmp.Diff([]queue.Offset{0, 2}, offsets); diff != "" {
		t.Errorf("offsets of the records (-want +got):\n%s", diff)
	}
	ctx := deadline(t)
	for r.Offset() < 4 { // the last marker
		if b, err := r.Next(ctx); err != nil || len(b.Records) > 0 {
			t.Fatalf("at the last marker: got %d records and error %v, want neither", len(b.Records), err)
		}
	}
}

func (s suite) missingTopic(t *testing.T) {
	l := s.open(t)
	topic := unique(t)
	_, err := l.Partitions(deadline(t), topic)
	wantClass(t, err, queue.ErrUnavailable)
	_, err = l.Bounds(deadline(t), topic)
	wantClass(t, err, queue.ErrUnavailable)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = publisher(t, l, topic, queue.PublisherOptions{}).Publish(ctx, queue.Record{})
	wantClass(t, err, queue.ErrUnavailable)
	wantClass(t, err, context.DeadlineExceeded)
}

func (s suite) refusedTopic(t *testing.T) {
	l := s.open(t)
	spec := queue.TopicSpec{Name: unique(t), Partitions: 1, Replication: 1000}
	wantClass(t, l.EnsureTopics(deadline(t), []queue.TopicSpec{spec}), queue.ErrRefused)
}
