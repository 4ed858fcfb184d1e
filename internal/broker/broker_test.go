package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"refinersource/internal/broker"
	"refinersource/internal/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, o broker.Options) *broker.Broker {
	t.Helper()
	b, err := broker.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func stop(t *testing.T, b *broker.Broker) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

const (
	topic = "events"
	group = "workers"
)

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, b *broker.Broker) *queue.Log {
	t.Helper()
	l, err := queue.Open(queue.Options{Brokers: b.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// fill creates the topic, publishes n records and commits behind the third.
func fill(t *testing.T, b *broker.Broker, n int) {
	t.Helper()
	l := open(t, b)
	defer l.Close()
	spec := queue.TopicSpec{Name: topic, Partitions: 2, Config: map[string]string{"retention.ms": "3600000"}}
	if err := l.EnsureTopics(deadline(t), []queue.TopicSpec{spec}); err != nil {
		t.Fatal(err)
	}
	p := l.Publisher(topic, queue.PublisherOptions{})
	for i := range n {
		if _, err := p.Publish(deadline(t), queue.Record{Key: []byte("key"), Value: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	member(t, l, func(g *queue.Generation) {
		var commits []queue.Commit
		for _, a := range g.Assignments {
			commits = append(commits, queue.Commit{Partition: a.Partition, Offset: min(3, a.End), Metadata: "kept"})
		}
		if err := g.Commit(deadline(t), commits); err != nil {
			t.Error(err)
		}
	})
}

// member runs f in one generation.
func member(t *testing.T, l *queue.Log, f func(*queue.Generation)) {
	t.Helper()
	g, err := l.Group(queue.GroupOptions{ID: group, Topic: topic})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	if err := g.Run(ctx, func(_ context.Context, g *queue.Generation) { defer cancel(); f(g) }); err != nil {
		t.Fatal(err)
	}
}

// check fails the test unless all of fill is there, and the log can be gone on with.
func check(t *testing.T, b *broker.Broker, n int) {
	t.Helper()
	l := open(t, b)
	defer l.Close()
	bounds, err := l.Bounds(deadline(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for partition, b := range bounds {
		r := l.Reader(topic, partition, 0, queue.ReaderOptions{})
		for r.Offset() < b.End {
			batch, err := r.Next(deadline(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range batch.Records {
				if want := fmt.Sprint(got); string(rec.Value) != want {
					t.Fatalf("record %v: got value %s, want %s", rec.Position, rec.Value, want)
				}
				got++
			}
		}
	}
	if got != n {
		t.Errorf("got %d records, want %d", got, n)
	}
	member(t, l, func(g *queue.Generation) {
		for _, a := range g.Assignments {
			want := queue.Assignment{Partition: a.Partition, Offset: min(3, a.End), Metadata: "kept", Committed: true, End: bounds[a.Partition].End}
			if diff := cmp.Diff(want, a); diff != "" {
				t.Errorf("assignment (-want +got):\n%s", diff)
			}
		}
	})
	p := l.Publisher(topic, queue.PublisherOptions{})
	defer p.Close()
	if pos, err := p.Publish(deadline(t), queue.Record{Key: []byte("key")}); err != nil || pos.Offset != queue.Offset(n) {
		t.Errorf("next record: got %v and error %v, want offset %d", pos, err, n)
	}
}

func TestDataSurvivesARestartOnOtherPorts(t *testing.T) {
	t.Parallel()
	for _, brokers := range []int{1, 3} {
		t.Run(fmt.Sprint(brokers), func(t *testing.T) {
			t.Parallel()
			o := broker.Options{DataDir: t.TempDir(), Brokers: brokers}
			b := start(t, o)
			before := b.Addrs()
			fill(t, b, 20)
			stop(t, b)
			for _, addr := range before { // so that none comes again
				taken, err := net.Listen("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer taken.Close()
			}
			b = start(t, o)
			defer stop(t, b)
			if len(b.Addrs()) != brokers {
				t.Errorf("addresses: got %v, want %d", b.Addrs(), brokers)
			}
			check(t, b, 20)
		})
	}
}

// A process that dies leaves what it has written to its files, as a copy of them
// has it. Nothing is closed, nothing is saved on the way out.
func TestDataSurvivesTheDeathOfTheProcess(t *testing.T) {
	t.Parallel()
	for _, sync := range []bool{false, true} {
		t.Run(fmt.Sprint("sync ", sync), func(t *testing.T) {
			t.Parallel()
			live := filepath.Join(t.TempDir(), "live")
			o := broker.Options{DataDir: live, Sync: sync}
			b := start(t, o)
			defer stop(t, b)
			fill(t, b, 20)

			o.DataDir = filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(o.DataDir, os.DirFS(live)); err != nil {
				t.Fatal(err)
			}
			after := start(t, o)
			defer stop(t, after)
			check(t, after, 20)
		})
	}
}

func TestTwoBrokersCannotHaveOneDirectory(t *testing.T) {
	t.Parallel()
	o := broker.Options{DataDir: t.TempDir()}
	b := start(t, o)
	if _, err := broker.Start(o); !errors.Is(err, broker.ErrInUse) {
		t.Errorf("second broker: got error %v, want ErrInUse", err)
	}
	stop(t, b)
	stop(t, start(t, o))
}

func TestWithoutADirectoryNothingIsKept(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	fill(t, b, 5)
	stop(t, b)
	b = start(t, broker.Options{})
	defer stop(t, b)
	if _, err := open(t, b).Partitions(deadline(t), topic); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("topic of the broker before: got error %v, want ErrUnavailable", err)
	}
}

func TestPortsMustBeAsManyAsBrokers(t *testing.T) {
	t.Parallel()
	if b, err := broker.Start(broker.Options{Brokers: 2, Ports: []int{0}}); err == nil {
		stop(t, b)
		t.Error("two brokers on one port: got no error")
	}
}
