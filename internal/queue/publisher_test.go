package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/queue"
)

// produced is the produce requests that a cluster got: when, and for which partitions.
type produced struct {
	mu       sync.Mutex
	requests []producedRequest
}

type producedRequest struct {
	at         time.Time
	partitions []int32
}

// watch notes each produce request; hold, if it is not nil, is called with its
// partitions and the broker answers when it returns.
func (c *cluster) watch(hold func(partitions []int32)) *produced {
	p := new(produced)
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		var partitions []int32
		for _, x := range req.(*kmsg.ProduceRequest).Topics[0].Partitions {
			partitions = append(partitions, x.Partition)
		}
		p.mu.Lock()
		p.requests = append(p.requests, producedRequest{time.Now(), partitions})
		p.mu.Unlock()
		if hold != nil {
			c.SleepControl(func() { hold(partitions) })
		}
		return nil, nil, false
	})
	return p
}

func (p *produced) take() []producedRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.requests
	p.requests = nil
	return taken
}

// keyOf is a key whose records come to the partition.
func keyOf(partition, partitions int) []byte {
	for i := 0; ; i++ {
		if key := fmt.Appendf(nil, "key-%d", i); queue.PartitionOf(key, partitions) == partition {
			return key
		}
	}
}

// oneBroker makes all partitions of the topic the first broker's.
func (c *cluster) oneBroker(t *testing.T, partitions int) {
	t.Helper()
	for i := range partitions {
		if err := c.MoveTopicPartition(c.topic, int32(i), 0); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(5 * time.Second) // virtual: the publisher's view is a second old at most
}

func TestRecordsOfOneMomentShareARequestAcrossPartitions(t *testing.T) {
	const partitions = 12
	inBubble(t, partitions, func(t *testing.T, c *cluster) {
		c.oneBroker(t, partitions)
		requests := c.watch(nil)
		p := c.log.Publisher(c.topic, queue.PublisherOptions{})
		defer p.Close()
		ctx := virtual(t)
		all := func() {
			var callers sync.WaitGroup
			for i := range 10 * partitions {
				callers.Go(func() {
					pos, err := p.Publish(ctx, queue.Record{Key: keyOf(i%partitions, partitions), Value: []byte("v")})
					if err != nil || pos.Partition != i%partitions {
						t.Errorf("got %v and error %v, want partition %d", pos, err, i%partitions)
					}
				})
			}
			callers.Wait()
		}
		if _, err := p.Publish(ctx, queue.Record{Key: keyOf(0, partitions)}); err != nil {
			t.Fatal(err)
		}
		all()
		got := requests.take()
		if len(got) != 2 || len(got[1].partitions) != partitions {
			t.Fatalf("got requests %v, want one for the first record and one for all of the others", got)
		}
		if apart := got[1].at.Sub(got[0].at); apart < queue.DefaultLinger {
			t.Errorf("the requests are %v apart, want at least %v", apart, queue.DefaultLinger)
		}
	})
}

func TestIdlePublisherSendsAtOnce(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.log.Publisher(c.topic, queue.PublisherOptions{Linger: time.Minute})
		defer p.Close()
		for range 3 {
			start := time.Now()
			if _, err := p.Publish(virtual(t), queue.Record{}); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took >= time.Second {
				t.Errorf("took %v, want no waiting for others", took)
			}
			time.Sleep(time.Minute)
		}
	})
}

// A partition whose replicas are slow holds up its own records alone, and has one
// request under way at a time.
func TestSlowPartitionHoldsUpItselfAlone(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, c *cluster) {
		c.oneBroker(t, 2)
		const slowness = time.Second
		requests := c.watch(func(partitions []int32) {
			if slices.Contains(partitions, 0) {
				time.Sleep(slowness)
			}
		})
		p := c.log.Publisher(c.topic, queue.PublisherOptions{})
		defer p.Close()
		ctx := virtual(t)
		var callers sync.WaitGroup
		publish := func(partition int, value string) time.Duration {
			start := time.Now()
			if _, err := p.Publish(ctx, queue.Record{Key: keyOf(partition, 2), Value: []byte(value)}); err != nil {
				t.Error(err)
			}
			return time.Since(start)
		}
		var order []string
		for i := range 5 {
			value := fmt.Sprint("v", i)
			order = append(order, value)
			callers.Go(func() { publish(0, value) })
			synctest.Wait() // so it is in line
		}
		if took := publish(1, "other"); took >= slowness {
			t.Errorf("the other partition's record took %v", took)
		}
		callers.Wait()
		if diff := cmp.Diff(order, c.read(t, 5, queue.ReaderOptions{})); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		ofSlow := 0
		for _, r := range requests.take() {
			if slices.Contains(r.partitions, 0) {
				ofSlow++
			}
		}
		if ofSlow != 2 {
			t.Errorf("%d requests for the slow partition, want the first record's and one for all that waited", ofSlow)
		}
	})
}

// What nobody waits for any more and was not sent will not be: so memory is bounded
// by what the callers have under way.
func TestRecordThatIsGivenUpBeforeItIsSentIsNotSent(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		release := make(chan struct{})
		c.watch(func([]int32) { <-release })
		p := c.log.Publisher(c.topic, queue.PublisherOptions{})
		var first sync.WaitGroup
		first.Go(func() {
			if _, err := p.Publish(virtual(t), queue.Record{Value: []byte("first")}); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(virtual(t), time.Second)
		defer cancel()
		if _, err := p.Publish(ctx, queue.Record{Value: []byte("given up")}); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, queue.ErrUnavailable) {
			t.Errorf("got error %v, want ErrUnavailable and the context's", err)
		}
		close(release)
		first.Wait()
		if _, err := p.Publish(virtual(t), queue.Record{Value: []byte("last")}); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"first", "last"}, c.read(t, 2, queue.ReaderOptions{})); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
	})
}

// A batch that a topic would refuse for its size is not made.
func TestRequestKeepsThePublishersBoundPerPartition(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		var mu sync.Mutex
		var sizes []int
		c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			mu.Lock()
			defer mu.Unlock()
			sizes = append(sizes, len(req.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records))
			return nil, nil, false
		})
		p := c.log.Publisher(c.topic, queue.PublisherOptions{MaxRecordBytes: 10_000})
		defer p.Close()
		ctx := virtual(t)
		var callers sync.WaitGroup
		for range 50 {
			callers.Go(func() {
				if _, err := p.Publish(ctx, queue.Record{Value: make([]byte, 1000)}); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		mu.Lock()
		defer mu.Unlock()
		if largest := slices.Max(sizes); largest > 10_000+4<<10 || len(sizes) > 8 {
			t.Errorf("batches of %v bytes, want few and none over the bound", sizes)
		}
	})
}

// Close lets what was published have its attempt.
func TestCloseWaitsForWhatIsUnderWay(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		c.watch(func([]int32) { time.Sleep(time.Second) })
		p := c.log.Publisher(c.topic, queue.PublisherOptions{})
		ctx := virtual(t)
		var callers sync.WaitGroup
		for range 3 { // the second and third wait for the first
			callers.Go(func() {
				if _, err := p.Publish(ctx, queue.Record{Value: []byte("v")}); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		bounds, err := c.log.Bounds(ctx, c.topic)
		if err != nil || bounds[0].End != 3 {
			t.Errorf("after Close: got %v and error %v, want 3 records", bounds, err)
		}
		callers.Wait()
	})
}

// One partition's error is not the others'.
func TestErrorOfOnePartitionIsItsOwn(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, c *cluster) {
		c.oneBroker(t, 2)
		c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			r := req.(*kmsg.ProduceRequest)
			if len(r.Topics[0].Partitions) < 2 {
				return nil, nil, false
			}
			response := r.ResponseKind().(*kmsg.ProduceResponse)
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic = r.Topics[0].Topic
			for _, x := range slices.Backward(r.Topics[0].Partitions) { // in any order
				answer := kmsg.NewProduceResponseTopicPartition()
				answer.Partition, answer.BaseOffset = x.Partition, 40
				if x.Partition == 0 {
					answer.ErrorCode = 44 // PolicyViolation
				}
				topic.Partitions = append(topic.Partitions, answer)
			}
			response.Topics = append(response.Topics, topic)
			return response, nil, true
		})
		p := c.log.Publisher(c.topic, queue.PublisherOptions{})
		defer p.Close()
		ctx := virtual(t)
		if _, err := p.Publish(ctx, queue.Record{Key: keyOf(1, 2)}); err != nil {
			t.Fatal(err)
		}
		var callers sync.WaitGroup
		for _, partition := range []int{0, 1} {
			callers.Go(func() {
				pos, err := p.Publish(ctx, queue.Record{Key: keyOf(partition, 2)})
				if partition == 0 && !errors.Is(err, queue.ErrRefused) {
					t.Errorf("the refused partition: got error %v, want ErrRefused", err)
				}
				if want := (queue.Position{Topic: c.topic, Partition: 1, Offset: 40}); partition == 1 && (err != nil || pos != want) {
					t.Errorf("the other: got %v and error %v, want %v", pos, err, want)
				}
			})
		}
		callers.Wait()
	})
}
