package queuetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/queue"
)

// offsetsAt has times that go back for a moment, as those of several senders do.
func (s suite) offsetsAt(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 2, nil)
	p := publisher(t, l, topic, queue.PublisherOptions{})
	start := time.Now().Add(-time.Hour).Truncate(time.Second)
	key := []byte("key")
	with := queue.PartitionOf(key, 2)
	for _, seconds := range []int{0, 10, 20, 15, 30} {
		pos, err := p.Publish(deadline(t), queue.Record{Key: key, Time: start.Add(time.Duration(seconds) * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		if pos.Partition != with {
			t.Errorf("partition of the key: got %d, said was %d", pos.Partition, with)
		}
	}
	for at, want := range map[time.Time]queue.Offset{
		{}:                                 0,
		start.Add(-time.Hour):              0,
		start:                              0,
		start.Add(time.Millisecond):        1,
		start.Add(10 * time.Second):        1,
		start.Add(15 * time.Second):        2,
		start.Add(20*time.Second + 500000): 2, // below a millisecond nothing is told apart
		start.Add(21 * time.Second):        4,
		start.Add(31 * time.Second):        5,
		start.Add(1000 * time.Hour):        5,
	} {
		got, err := l.OffsetsAt(deadline(t), topic, at)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[int]queue.Offset{with: want, 1 - with: 0}, got); diff != "" {
			t.Errorf("offsets at %v (-want +got):\n%s", at.Sub(start), diff)
		}
	}
	_, err := l.OffsetsAt(deadline(t), unique(t), start)
	wantClass(t, err, queue.ErrUnavailable)
}
