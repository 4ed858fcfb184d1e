package queue_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/queue"
)

func bundled(i int) queue.Record {
	return queue.Record{
		Key: fmt.Appendf(nil, "key-%d", i), Value: bytes.Repeat([]byte{byte('a' + i%26)}, i),
		Headers: []queue.Header{{Key: "tenant", Value: fmt.Appendf(nil, "t%d", i)}, {Key: "empty", Value: []byte{}}},
		Time:    time.UnixMilli(1_700_000_000_000 + int64(i)).UTC(),
	}
}

func TestBundleArrivesAsItWasAddedAndInOrder(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *cluster) {
		var b queue.Bundle
		var want []queue.Record
		for round := range 3 {
			for i := range 100 {
				r := bundled(100*round + i)
				b.Add(&r)
				r.Position = queue.Position{Topic: c.topic, Partition: 2, Offset: queue.Offset(len(want))}
				want = append(want, r)
			}
			if b.Len() != 100 {
				t.Errorf("%d records in the bundle, want 100", b.Len())
			}
			if err := c.log.AppendBundle(virtual(t), c.topic, 2, &b, func(err error) { t.Error(err) }); err != nil {
				t.Fatal(err)
			}
			if b.Reset(1 << 20); b.Len() != 0 || b.Bytes() != 0 {
				t.Errorf("%d records of %d bytes after Reset", b.Len(), b.Bytes())
			}
		}
		var got []queue.Record
		r := c.log.Reader(c.topic, 2, 0, queue.ReaderOptions{})
		for len(got) < len(want) {
			batch, err := r.Next(virtual(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range batch.Records {
				rec.Time = rec.Time.UTC()
				got = append(got, rec)
			}
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("records (-want +got):\n%s", d)
		}
		if err := c.log.AppendBundle(virtual(t), c.topic, 2, &b, nil); err != nil {
			t.Errorf("an empty bundle: %v", err)
		}
	})
}

// A topic that takes less than a bundle gets it in parts; nothing overtakes.
func TestBundleThatIsTooLargeIsSentInParts(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		var requests, tooLarge atomic.Int32
		c.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			requests.Add(1)
			r := request.(*kmsg.ProduceRequest)
			if len(r.Topics[0].Partitions[0].Records) < 3000 {
				return nil, nil, false
			}
			tooLarge.Add(1)
			return refusal(r, kerr.MessageTooLarge), nil, true
		})
		var b queue.Bundle
		var want []string
		for i := range 10 {
			v := strings.Repeat(string(rune('a'+i)), 1000)
			want = append(want, v)
			b.Add(&queue.Record{Value: []byte(v)})
		}
		if err := c.log.AppendBundle(virtual(t), c.topic, 0, &b, nil); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, c.read(t, 10, queue.ReaderOptions{})); d != "" {
			t.Errorf("values (-want +got):\n%s", d)
		}
		if tooLarge.Load() == 0 || requests.Load() > 20 {
			t.Errorf("%d requests, %d of them too large", requests.Load(), tooLarge.Load())
		}
	})
}

// What an operator may mend is tried again, whatever it is.
func TestBundleIsTriedAgainUntilItIsTaken(t *testing.T) {
	for name, code := range map[string]*kerr.Error{"too few replicas": kerr.NotEnoughReplicas, "not allowed": kerr.TopicAuthorizationFailed} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 1, func(t *testing.T, c *cluster) {
				mended := time.Now().Add(time.Minute)
				c.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
					c.KeepControl()
					if time.Now().After(mended) {
						return nil, nil, false
					}
					return refusal(request.(*kmsg.ProduceRequest), code), nil, true
				})
				var b queue.Bundle
				b.Add(&queue.Record{Value: []byte("a")})
				told := 0
				if err := c.log.AppendBundle(virtual(t), c.topic, 0, &b, func(error) { told++ }); err != nil {
					t.Fatal(err)
				}
				if time.Now().Before(mended) || told == 0 {
					t.Errorf("it was taken too early, or nothing was told: %d errors", told)
				}
				if d := cmp.Diff([]string{"a"}, c.read(t, 1, queue.ReaderOptions{})); d != "" {
					t.Errorf("values (-want +got):\n%s", d)
				}
			})
		})
	}
}

func refusal(r *kmsg.ProduceRequest, code *kerr.Error) kmsg.Response {
	response := r.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range r.Topics {
		topic := kmsg.NewProduceResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			partition := kmsg.NewProduceResponseTopicPartition()
			partition.Partition, partition.ErrorCode = p.Partition, code.Code
			topic.Partitions = append(topic.Partitions, partition)
		}
		response.Topics = append(response.Topics, topic)
	}
	return response
}

func TestAddAllocatesNothingInMemoryThatIsUsedAgain(t *testing.T) {
	var b queue.Bundle
	r := bundled(500)
	fill := func() {
		for range 100 {
			b.Add(&r)
		}
		b.Reset(1 << 20)
	}
	fill()
	if n := testing.AllocsPerRun(50, fill); n != 0 {
		t.Errorf("%v allocations for 100 records, want none", n)
	}
}
