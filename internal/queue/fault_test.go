package queue_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/queue"
)

// K1: kafka-go gives up after milliseconds.
func TestPublishAndReadWaitForALeader(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		c.publish(t, "before")
		until := time.Now().Add(20 * time.Second)
		c.noLeader(1, until)
		time.Sleep(5 * time.Second) // the metadata is a second old at most
		c.publish(t, "after")
		if got := time.Now(); got.Before(until) {
			t.Errorf("published %v before there was a leader", until.Sub(got))
		}

		until = time.Now().Add(20 * time.Second)
		c.noLeader(1, until)
		time.Sleep(5 * time.Second)
		if diff := cmp.Diff([]string{"before", "after"}, c.read(t, 2, queue.ReaderOptions{})); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		if got := time.Now(); got.Before(until) {
			t.Errorf("read %v before there was a leader", until.Sub(got))
		}
	})
}

// K1: of the network's errors kafka-go takes only some for such as pass.
func TestPublishAndReadWaitForTheNetwork(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		var down atomic.Bool
		var mu sync.Mutex
		var conns []net.Conn
		options := c.options
		options.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if down.Load() {
				return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.EHOSTUNREACH}
			}
			conn, err := c.options.Dial(ctx, network, address)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				conns = append(conns, conn)
			}
			return conn, err
		}
		l, err := queue.Open(options)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c.log = l
		c.publish(t, "before")
		synctest.Wait()
		lose := func() {
			down.Store(true)
			mu.Lock()
			defer mu.Unlock()
			for _, conn := range conns {
				conn.Close()
			}
			conns = nil
			time.AfterFunc(20*time.Second, func() { down.Store(false) })
		}
		lose()
		c.publish(t, "after")
		synctest.Wait()
		lose()
		if diff := cmp.Diff([]string{"before", "after"}, c.read(t, 2, queue.ReaderOptions{})); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
	})
}

func TestPublishTriesAgainWhatMayPass(t *testing.T) {
	for _, test := range []struct {
		err    *kerr.Error
		copies int // how often the record comes to stand in the log
	}{
		{kerr.NotEnoughReplicas, 1},
		{kerr.NotLeaderForPartition, 1},
		{kerr.LeaderNotAvailable, 1},
		{kerr.UnknownServerError, 1},
		{kerr.KafkaStorageError, 1},
		{kerr.UnknownTopicOrPartition, 1},
		// K4: these are written all the same, each time.
		{kerr.RequestTimedOut, 4},
		{kerr.NotEnoughReplicasAfterAppend, 4},
	} {
		t.Run(test.err.Message, func(t *testing.T) {
			inBubble(t, 1, func(t *testing.T, c *cluster) {
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: c.topic, Err: test.err, Count: 3})
				var retries atomic.Int32
				p := c.log.Publisher(c.topic, queue.PublisherOptions{OnRetry: func(err error) {
					if !errors.Is(err, queue.ErrUnavailable) {
						t.Errorf("retried error %v, want ErrUnavailable", err)
					}
					retries.Add(1)
				}})
				defer p.Close()
				pos, err := p.Publish(virtual(t), queue.Record{Value: []byte("v")})
				if err != nil {
					t.Fatal(err)
				}
				if want := (queue.Position{Topic: c.topic, Offset: queue.Offset(test.copies - 1)}); pos != want {
					t.Errorf("position: got %v, want %v", pos, want)
				}
				if got := retries.Load(); got != 3 {
					t.Errorf("got %d retries, want 3", got)
				}
				bounds, err := c.log.Bounds(virtual(t), c.topic)
				if err != nil || bounds[0].End != queue.Offset(test.copies) {
					t.Errorf("log: got %v and error %v, want %d records", bounds, err, test.copies)
				}
			})
		})
	}
}

func TestPublishDoesNotTryAgainWhatIsRefused(t *testing.T) {
	for _, refusal := range []*kerr.Error{
		kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.InvalidTopicException, kerr.InvalidRecord, kerr.PolicyViolation,
	} {
		t.Run(refusal.Message, func(t *testing.T) {
			inBubble(t, 1, func(t *testing.T, c *cluster) {
				fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: c.topic, Err: refusal, Count: -1})
				p := c.log.Publisher(c.topic, queue.PublisherOptions{})
				defer p.Close()
				if _, err := p.Publish(virtual(t), queue.Record{}); !errors.Is(err, queue.ErrRefused) || errors.Is(err, queue.ErrUnavailable) {
					t.Errorf("got error %v, want ErrRefused alone", err)
				}
				if fault.Hits() != 1 {
					t.Errorf("got %d attempts, want 1", fault.Hits())
				}
			})
		})
	}
}

// A password that is not accepted may be about to be changed.
func TestPublishTriesAgainWhereThePasswordIsNotAccepted(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: c.topic, Err: kerr.SaslAuthenticationFailed, Count: 2})
		p := c.log.Publisher(c.topic, queue.PublisherOptions{})
		defer p.Close()
		if _, err := p.Publish(virtual(t), queue.Record{}); err != nil || fault.Hits() != 2 {
			t.Errorf("got error %v after %d refusals, want none after 2", err, fault.Hits())
		}
	})
}

// K3: kafka-go cannot call a write back; the caller gets its time back all the same.
func TestPublishReturnsWhenItsContextEndsUnderWay(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		c.publish(t, "warm")
		release := make(chan struct{})
		c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.SleepControl(func() { <-release })
			return nil, nil, false
		})
		p := c.log.Publisher(c.topic, queue.PublisherOptions{})
		start := time.Now()
		ctx, cancel := context.WithTimeout(virtual(t), 2*time.Second)
		defer cancel()
		_, err := p.Publish(ctx, queue.Record{Value: []byte("slow")})
		if !errors.Is(err, queue.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v, want ErrUnavailable and the context's", err)
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("returned after %v, want 2s", took)
		}
		close(release)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		// An error is no promise that the record is not there.
		if diff := cmp.Diff([]string{"warm", "slow"}, c.read(t, 2, queue.ReaderOptions{})); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
	})
}

// Invariant 1: a record is acknowledged by all in-sync replicas, also where it is
// sent by itself since the batch that it was in was refused for its size.
func TestPublishAsksForAllInSyncReplicas(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		var mu sync.Mutex
		var acks []int16
		c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			mu.Lock()
			defer mu.Unlock()
			acks = append(acks, req.(*kmsg.ProduceRequest).Acks)
			return nil, nil, false
		})
		p := c.log.Publisher(c.topic, queue.PublisherOptions{})
		ctx := virtual(t)
		if _, err := p.Publish(ctx, queue.Record{Value: []byte("a")}); err != nil {
			t.Fatal(err)
		}
		// So soon after a, the others share a request.
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: c.topic, Err: kerr.MessageTooLarge, Count: 1})
		var both sync.WaitGroup
		for _, v := range []string{"b", "c"} {
			both.Go(func() {
				if _, err := p.Publish(ctx, queue.Record{Value: []byte(v)}); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(acks) != 4 {
			t.Errorf("%d requests, want 4: one for a, one that is refused, one each for b and c alone", len(acks))
		}
		for _, got := range acks {
			if got != -1 {
				t.Errorf("a request asks for %d acknowledgements, want all (-1)", got)
			}
		}
	})
}

func TestReadTriesAgainAndSkipsNothing(t *testing.T) {
	for _, fault := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.UnknownTopicOrPartition, kerr.CorruptMessage,
		kerr.KafkaStorageError, kerr.UnknownServerError, kerr.RequestTimedOut,
		kerr.OffsetOutOfRange, // for no reason: the offset is there
	} {
		t.Run(fault.Message, func(t *testing.T) {
			inBubble(t, 1, func(t *testing.T, c *cluster) {
				c.publish(t, "a", "b", "c")
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: c.topic, Err: fault, Count: 3})
				retries := 0
				got := c.read(t, 3, queue.ReaderOptions{OnRetry: func(error) { retries++ }})
				if diff := cmp.Diff([]string{"a", "b", "c"}, got); diff != "" {
					t.Errorf("records (-want +got):\n%s", diff)
				}
				if retries != 3 {
					t.Errorf("got %d retries, want 3", retries)
				}
			})
		})
	}
}

func TestReadDoesNotTryAgainWhatIsRefused(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: c.topic, Err: kerr.TopicAuthorizationFailed, Count: -1})
		_, err := c.log.Reader(c.topic, 0, 0, queue.ReaderOptions{}).Next(virtual(t))
		if !errors.Is(err, queue.ErrRefused) {
			t.Errorf("got error %v, want ErrRefused", err)
		}
	})
}

func TestPublishAndReadFollowTheLeader(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		for i := range 4 {
			if err := c.MoveTopicPartition(c.topic, 0, int32(i%2)); err != nil {
				t.Fatal(err)
			}
			c.publish(t, fmt.Sprint("v", i))
		}
		if diff := cmp.Diff([]string{"v0", "v1", "v2", "v3"}, c.read(t, 4, queue.ReaderOptions{})); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
	})
}

// Compaction makes holes that the raw log must not have; they are said, not passed over.
func TestCompactedRecordsAreAGap(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		spec := queue.TopicSpec{Name: "compacted", Partitions: 1, Config: map[string]string{"cleanup.policy": "compact", "segment.bytes": "100"}}
		if err := c.log.EnsureTopics(virtual(t), []queue.TopicSpec{spec}); err != nil {
			t.Fatal(err)
		}
		p := c.log.Publisher("compacted", queue.PublisherOptions{})
		defer p.Close()
		for _, key := range []string{"a", "b", "b", "b", "c"} {
			if _, err := p.Publish(virtual(t), queue.Record{Key: []byte(key), Value: []byte(strings.Repeat("x", 100))}); err != nil {
				t.Fatal(err)
			}
		}
		c.Compact()
		ctx := virtual(t)
		r := c.log.Reader("compacted", 0, 0, queue.ReaderOptions{})
		var keys []string
		var gaps []queue.GapError
		for r.Offset() < 5 {
			b, err := r.Next(ctx)
			if gap, ok := errors.AsType[*queue.GapError](err); ok {
				gaps = append(gaps, *gap)
				r.SkipGap()
			} else if err != nil {
				t.Fatal(err)
			}
			for _, rec := range b.Records {
				keys = append(keys, string(rec.Key))
			}
		}
		if diff := cmp.Diff([]string{"a", "b", "c"}, keys); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]queue.GapError{{Topic: "compacted", From: 1, To: 3}}, gaps); diff != "" {
			t.Errorf("gaps (-want +got):\n%s", diff)
		}
	})
}

func TestPingAsksABroker(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		if err := c.log.Ping(virtual(t)); err != nil {
			t.Errorf("with brokers: %v", err)
		}
		c.Close()
		if err := c.log.Ping(virtual(t)); !errors.Is(err, queue.ErrUnavailable) {
			t.Errorf("without brokers: got error %v, want ErrUnavailable", err)
		}
	})
}

func TestOptionsSayAllTheirFaults(t *testing.T) {
	t.Parallel()
	_, err := queue.Open(queue.Options{Brokers: []string{"nowhere", "host:9092", "also"}})
	for _, want := range []string{`"nowhere"`, `"also"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want it to name %s", err, want)
		}
	}
	if _, err := queue.Open(queue.Options{}); err == nil {
		t.Error("no brokers: got no error")
	}
	for name, o := range map[string]queue.GroupOptions{
		"no id":                      {Topic: "t"},
		"no topic":                   {ID: "g"},
		"negative":                   {ID: "g", Topic: "t", SessionTimeout: -1},
		"heartbeat over a third":     {ID: "g", Topic: "t", SessionTimeout: 6 * time.Second, HeartbeatInterval: 3 * time.Second},
		"drain longer than sessions": {ID: "g", Topic: "t", SessionTimeout: 9 * time.Second, RebalanceTimeout: time.Minute},
	} {
		if o.Validate() == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	o := queue.GroupOptions{ID: "g", Topic: "t"}
	if err := o.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	if got := o.DrainBudget(); got != 10*time.Second {
		t.Errorf("drain budget: got %v, want a third of 30s", got)
	}
}
