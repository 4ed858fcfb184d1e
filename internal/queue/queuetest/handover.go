package queuetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/queue"
)

// consumer reads what its member is assigned, notes it, and commits when it drains.
type consumer struct {
	log   *queue.Log
	topic string

	mu   sync.Mutex
	seen map[queue.Position]int // how often
	next map[int]queue.Offset   // by partition: behind the last that was read
	more chan struct{}          // gets a value when something was read
	t    *testing.T
}

func newConsumer(t *testing.T, l *queue.Log, topic string) *consumer {
	return &consumer{
		log: l, topic: topic, t: t, seen: make(map[queue.Position]int), next: make(map[int]queue.Offset),
		more: make(chan struct{}, 1),
	}
}

// handle is the handler of a group. It reads until the generation is to end.
func (c *consumer) handle(ctx context.Context, g *queue.Generation) {
	var readers sync.WaitGroup
	for _, a := range g.Assignments {
		c.mu.Lock()
		if want := c.next[a.Partition]; a.Offset != want {
			c.t.Errorf("partition %d: assigned at %d, want %d, where the last member stopped", a.Partition, a.Offset, want)
		}
		c.mu.Unlock()
		readers.Go(func() { c.read(ctx, a) })
	}
	readers.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	var commits []queue.Commit
	for _, a := range g.Assignments {
		commits = append(commits, queue.Commit{Partition: a.Partition, Offset: c.next[a.Partition]})
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := g.Commit(ctx, commits); err != nil {
		c.t.Errorf("commit while draining: %v", err)
	}
}

func (c *consumer) read(ctx context.Context, a queue.Assignment) {
	r := c.log.Reader(c.topic, a.Partition, a.Offset, queue.ReaderOptions{})
	for {
		b, err := r.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				c.t.Error(err)
			}
			return
		}
		c.mu.Lock()
		for _, rec := range b.Records {
			c.seen[rec.Position]++
		}
		c.next[a.Partition] = r.Offset()
		c.mu.Unlock()
		select {
		case c.more <- struct{}{}:
		default:
		}
	}
}

// wait waits until so many different records were seen.
func (c *consumer) wait(t *testing.T, n int) {
	t.Helper()
	ctx := deadline(t)
	for {
		c.mu.Lock()
		got := len(c.seen)
		c.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-c.more:
		case <-ctx.Done():
			t.Fatalf("saw %d records, want %d", got, n)
		}
	}
}

// handOver: members come and go while records are published; each record is read
// once, since who drains commits, also while the group prepares the rebalance.
func (s suite) handOver(t *testing.T) {
	const partitions, each = 4, 100
	l := s.open(t)
	topic := s.topic(t, l, partitions, nil)
	p := publisher(t, l, topic, queue.PublisherOptions{})
	c := newConsumer(t, l, topic)
	group := unique(t)
	run := func() (leave func()) {
		g, err := l.Group(queue.GroupOptions{
			ID: group, Topic: topic, SessionTimeout: 6 * time.Second, HeartbeatInterval: 50 * time.Millisecond,
			RebalanceTimeout: 10 * time.Second, JoinBackoff: 50 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() {
			if err := g.Run(ctx, c.handle); err != nil {
				t.Error(err)
			}
		})
		return func() { cancel(); run.Wait() }
	}
	published := 0
	send := func() {
		for i := range each {
			rec := queue.Record{Key: fmt.Append(nil, i), Value: []byte("v")}
			if _, err := p.Publish(deadline(t), rec); err != nil {
				t.Fatal(err)
			}
		}
		published += each
	}
	leaveFirst := run()
	send()
	c.wait(t, published/2)
	leaveSecond := run()
	send()
	c.wait(t, published)
	leaveFirst()
	send()
	c.wait(t, published)
	leaveSecond()

	bounds, err := l.Bounds(deadline(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[queue.Position]int)
	for partition, b := range bounds {
		for o := b.Start; o < b.End; o++ {
			want[queue.Position{Topic: topic, Partition: partition, Offset: o}] = 1
		}
	}
	if diff := cmp.Diff(want, c.seen); diff != "" {
		t.Errorf("how often each record was read (-want +got):\n%s", diff)
	}
	stored, err := committed(t, l, group, topic)
	if err != nil {
		t.Fatal(err)
	}
	for partition, b := range bounds {
		if got := stored[partition].Offset; got != b.End {
			t.Errorf("partition %d: committed %d, want %d", partition, got, b.End)
		}
	}
}

// crash: a member whose process is gone neither commits nor leaves.
func (s suite) crash(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	publish(t, publisher(t, l, topic, queue.PublisherOptions{}), numbered("v", 4)...)
	group := unique(t)

	var wire cable
	options := s.options
	options.Dial = wire.dial(options.Dial)
	doomed := suite{options: options}
	victim := doomed.join(t, doomed.open(t), group, topic)
	g := victim.next(t)
	if err := g.Commit(deadline(t), []queue.Commit{{Offset: 1, Metadata: "kept"}}); err != nil {
		t.Fatal(err)
	}
	wire.cut()
	<-g.ctx.Done()
	wantClass(t, context.Cause(g.ctx), queue.ErrGenerationEnded)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	wantClass(t, g.Commit(ctx, []queue.Commit{{Offset: 4}}), queue.ErrUnavailable)

	got := s.join(t, l, group, topic).nextWith(t, 1).Assignments
	want := []queue.Assignment{{Offset: 1, Metadata: "kept", Committed: true, End: 4}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("assignments of the next member (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"v1", "v2", "v3"}, values(read(t, l.Reader(topic, 0, got[0].Offset, queue.ReaderOptions{}), 3))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// cable is a network that can be cut.
type cable struct {
	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

func (c *cable) dial(below dialFunc) dialFunc {
	if below == nil {
		below = (&net.Dialer{}).DialContext
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c.mu.Lock()
		isCut := c.isCut
		c.mu.Unlock()
		if isCut {
			return nil, errors.New("cable is cut")
		}
		conn, err := below(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns = append(c.conns, conn)
		return conn, nil
	}
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isCut = true
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}
