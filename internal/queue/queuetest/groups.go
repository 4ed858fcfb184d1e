package queuetest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/queue"
)

// member is a running member of a group.
type member struct {
	generations chan *generation
	leave       func() // ends Run and waits for it
}

// generation is one that the member is in; its handler waits for its end.
type generation struct {
	*queue.Generation
	ctx context.Context
}

// join makes a member, whose handler runs drain, if there is one, when its
// generation is to end.
func (s suite) join(t *testing.T, l *queue.Log, group, topic string, drain ...func(*generation)) *member {
	t.Helper()
	m := &member{generations: make(chan *generation)}
	g, err := l.Group(queue.GroupOptions{
		ID: group, Topic: topic,
		SessionTimeout:    6 * time.Second, // Kafka's least
		HeartbeatInterval: 50 * time.Millisecond,
		RebalanceTimeout:  10 * time.Second,
		JoinBackoff:       50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var run sync.WaitGroup
	run.Go(func() {
		err := g.Run(ctx, func(ctx context.Context, g *queue.Generation) {
			gen := &generation{Generation: g, ctx: ctx}
			select {
			case m.generations <- gen:
				<-ctx.Done()
			case <-ctx.Done():
			}
			for _, f := range drain {
				f(gen)
			}
		})
		if err != nil {
			t.Errorf("run of group %s: %v", group, err)
		}
	})
	m.leave = func() { cancel(); run.Wait() }
	t.Cleanup(m.leave)
	return m
}

// next is the next generation that the member is in.
func (m *member) next(t *testing.T) *generation {
	t.Helper()
	select {
	case g := <-m.generations:
		return g
	case <-deadline(t).Done():
		t.Fatal("no generation")
		return nil
	}
}

// nextWith skips generations in which the member has another number of partitions.
func (m *member) nextWith(t *testing.T, partitions int) *generation {
	t.Helper()
	for {
		if g := m.next(t); len(g.Assignments) == partitions {
			return g
		}
	}
}

func (s suite) groupStartsEarliest(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 2, nil)
	p := publisher(t, l, topic, queue.PublisherOptions{})
	at := publish(t, p, numbered("v", 5)...)[0].Partition
	s.deleteBefore(t, topic, at, 2)

	g := s.join(t, l, unique(t), topic).next(t)
	want := []queue.Assignment{{Partition: 0}, {Partition: 1}}
	want[at] = queue.Assignment{Partition: at, Offset: 2, Start: 2, End: 5}
	if diff := cmp.Diff(want, g.Assignments); diff != "" {
		t.Errorf("assignments (-want +got):\n%s", diff)
	}
	if g.Partitions != 2 {
		t.Errorf("partitions of the topic: got %d, want 2", g.Partitions)
	}
}

func (s suite) commitRoundTrip(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 2, nil)
	publish(t, publisher(t, l, topic, queue.PublisherOptions{}), numbered("v", 5)...)
	group := unique(t)
	// As much as there may be, in characters of three bytes.
	metadata := strings.Repeat("丏", queue.MaxMetadataUnits)
	m := s.join(t, l, group, topic)
	if err := m.next(t).Commit(deadline(t), []queue.Commit{
		{Partition: 0, Offset: 0, Metadata: metadata},
		{Partition: 1, Offset: 0, Metadata: ""},
	}); err != nil {
		t.Fatal(err)
	}
	m.leave()

	got := s.join(t, l, group, topic).next(t).Assignments
	bounds, err := l.Bounds(deadline(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	want := []queue.Assignment{
		{Partition: 0, Metadata: metadata, Committed: true, End: bounds[0].End},
		{Partition: 1, Committed: true, End: bounds[1].End},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("assignments (-want +got):\n%s", diff)
	}
}

func (s suite) metadataTooLarge(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 3, nil)
	group := unique(t)
	g := s.join(t, l, group, topic).next(t)
	err := g.Commit(deadline(t), []queue.Commit{
		{Partition: 0, Metadata: "fits"},
		{Partition: 1, Metadata: strings.Repeat("x", queue.MaxMetadataUnits+1)},
		{Partition: 2, Metadata: strings.Repeat("\U0001F600", queue.MaxMetadataUnits/2+1)}, // two units each
	})
	wantClass(t, err, queue.ErrMetadataTooLarge)
	refused, ok := errors.AsType[*queue.CommitError](err)
	if !ok || len(refused.Partitions) != 2 || refused.Partitions[0] != nil {
		t.Errorf("got error %v, want one that names partitions 1 and 2", err)
	}
	err = g.Commit(deadline(t), []queue.Commit{{Partition: 0, Metadata: "\xff"}})
	wantClass(t, err, queue.ErrRefused)
	if got, err := committed(t, l, group, topic); err != nil || len(got) > 0 {
		t.Errorf("commits: got %v and error %v, want none", got, err)
	}
	// The most that fits is taken, by any cluster with Kafka's defaults.
	if err := g.Commit(deadline(t), []queue.Commit{
		{Partition: 2, Metadata: strings.Repeat("\U0001F600", queue.MaxMetadataUnits/2)},
	}); err != nil {
		t.Error(err)
	}
}

func (s suite) staleGeneration(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 2, nil)
	group := unique(t)
	old := s.join(t, l, group, topic)
	stale := old.nextWith(t, 2)
	s.join(t, l, group, topic).nextWith(t, 1)
	current := old.nextWith(t, 1)

	commits := []queue.Commit{{Partition: 0, Metadata: "stale"}, {Partition: 1, Metadata: "stale"}}
	err := stale.Commit(deadline(t), commits)
	wantClass(t, err, queue.ErrGenerationEnded)
	refused, ok := errors.AsType[*queue.CommitError](err)
	if !ok || len(refused.Partitions) != 2 {
		t.Errorf("got error %v, want one that names both partitions", err)
	}
	if got, err := committed(t, l, group, topic); err != nil || len(got) > 0 {
		t.Errorf("commits: got %v and error %v, want none", got, err)
	}
	if err := current.Commit(deadline(t), commits[:1]); err != nil {
		t.Errorf("commit in the current generation: %v", err)
	}
}

func (s suite) commitOutsideLog(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	publish(t, publisher(t, l, topic, queue.PublisherOptions{}), numbered("v", 5)...)
	for name, commit := range map[string]queue.Offset{"below": 1, "beyond": 9} {
		group := unique(t) + name
		m := s.join(t, l, group, topic)
		if err := m.next(t).Commit(deadline(t), []queue.Commit{{Offset: commit}}); err != nil {
			t.Fatal(err)
		}
		m.leave()
	}
	s.deleteBefore(t, topic, 0, 3)
	for name, commit := range map[string]queue.Offset{"below": 1, "beyond": 9} {
		group := unique(t) + name
		m := s.join(t, l, group, topic)
		if err := m.next(t).Commit(deadline(t), []queue.Commit{{Offset: commit}}); err != nil {
			t.Fatal(err)
		}
		m.leave()
		got := s.join(t, l, group, topic).next(t).Assignments
		want := []queue.Assignment{{Offset: commit, Committed: true, Start: 3, End: 5}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s the log (-want +got):\n%s", name, diff)
		}
	}
}

func (s suite) leave(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	publish(t, publisher(t, l, topic, queue.PublisherOptions{}), "v")
	group := unique(t)
	drained := false
	m := s.join(t, l, group, topic, func(g *generation) {
		wantCause := context.Canceled
		if cause := context.Cause(g.ctx); !errors.Is(cause, wantCause) {
			t.Errorf("cause of the end: got %v, want %v", cause, wantCause)
		}
		if err := g.Commit(context.WithoutCancel(g.ctx), []queue.Commit{{Offset: 1}}); err != nil {
			t.Errorf("commit while draining: %v", err)
		}
		drained = true
	})
	m.next(t)
	m.leave()
	if !drained {
		t.Error("Run returned without waiting for its handler")
	}
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = []string{group}
	res, err := req.RequestWith(deadline(t), s.kafka(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Groups[0]; got.State != "Empty" || len(got.Members) > 0 {
		t.Errorf("group: got state %s with %d members, want Empty with none", got.State, len(got.Members))
	}
	if got, err := committed(t, l, group, topic); err != nil || got[0].Offset != 1 {
		t.Errorf("commits: got %v and error %v, want offset 1", got, err)
	}
}

func (s suite) earlyReturn(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 1, nil)
	g, err := l.Group(queue.GroupOptions{ID: unique(t), Topic: topic, JoinBackoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	var ids []int
	if err := g.Run(ctx, func(_ context.Context, g *queue.Generation) {
		if ids = append(ids, g.ID); len(ids) == 3 {
			cancel()
		}
	}); err != nil {
		t.Fatal(err)
	}
	if len(ids) != 3 || ids[0] >= ids[1] || ids[1] >= ids[2] {
		t.Errorf("generations: got %v, want three that rise", ids)
	}
}

func (s suite) groupWaitsForTopic(t *testing.T) {
	l := s.open(t)
	topic := unique(t)
	waits := make(chan struct{}, 1)
	g, err := l.Group(queue.GroupOptions{ID: topic, Topic: topic, OnError: func(err error) {
		if !errors.Is(err, queue.ErrUnavailable) {
			t.Errorf("got error %v, want ErrUnavailable", err)
		}
		select {
		case waits <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	assigned := 0
	var run sync.WaitGroup
	run.Go(func() {
		if err := g.Run(ctx, func(_ context.Context, g *queue.Generation) {
			assigned = len(g.Assignments)
			cancel()
		}); err != nil {
			t.Error(err)
		}
	})
	<-waits
	if err := l.EnsureTopics(deadline(t), []queue.TopicSpec{{Name: topic, Partitions: 2}}); err != nil {
		t.Fatal(err)
	}
	run.Wait()
	if assigned != 2 {
		t.Errorf("got %d partitions, want 2", assigned)
	}
}
