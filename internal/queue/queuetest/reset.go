package queuetest

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/queue"
)

// resetCommits moves commits while the group has a member, and when it has left.
func (s suite) resetCommits(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 2, nil)
	group := unique(t)
	if n := members(t, l, group); n != 0 {
		t.Errorf("a group that does not exist has %d members", n)
	}
	m := s.join(t, l, group, topic)
	worked := []queue.Commit{{Partition: 0, Offset: 7, Metadata: "worked"}, {Partition: 1, Offset: 8, Metadata: "worked"}}
	if err := m.next(t).Commit(deadline(t), worked); err != nil {
		t.Fatal(err)
	}
	if n := members(t, l, group); n != 1 {
		t.Errorf("a group with a member has %d", n)
	}
	moved := []queue.Commit{{Partition: 0, Offset: 3, Metadata: "moved"}, {Partition: 1, Offset: 9, Metadata: "moved"}}
	err := l.ResetCommits(deadline(t), group, topic, moved)
	wantClass(t, err, queue.ErrGroupActive)
	if refused, ok := errors.AsType[*queue.CommitError](err); !ok || len(refused.Partitions) != 2 {
		t.Errorf("got error %v, want one that names both partitions", err)
	}
	wantCommits(t, l, group, topic, map[int]queue.Committed{0: {Offset: 7, Metadata: "worked"}, 1: {Offset: 8, Metadata: "worked"}})

	m.leave()
	if n := members(t, l, group); n != 0 {
		t.Errorf("a group whose member has left has %d", n)
	}
	if err := l.ResetCommits(deadline(t), group, topic, moved); err != nil {
		t.Fatal(err)
	}
	wantCommits(t, l, group, topic, map[int]queue.Committed{0: {Offset: 3, Metadata: "moved"}, 1: {Offset: 9, Metadata: "moved"}})
	// The next member has them as if a member had made them.
	for _, a := range s.join(t, l, group, topic).next(t).Assignments {
		if want := moved[a.Partition]; a.Offset != want.Offset || a.Metadata != "moved" || !a.Committed {
			t.Errorf("assignment %+v, want %+v", a, want)
		}
	}
}

// resetOfNewGroup makes the first commits of a group.
func (s suite) resetOfNewGroup(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 2, nil)
	group := unique(t)
	wantCommits(t, l, group, topic, map[int]queue.Committed{}) // its coordinator is there
	if err := l.ResetCommits(deadline(t), group, topic, []queue.Commit{{Partition: 1, Offset: 4, Metadata: "first"}}); err != nil {
		t.Fatal(err)
	}
	wantCommits(t, l, group, topic, map[int]queue.Committed{1: {Offset: 4, Metadata: "first"}})
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Members(canceled, group)
	wantClass(t, err, queue.ErrUnavailable)
}

func wantCommits(t *testing.T, l *queue.Log, group, topic string, want map[int]queue.Committed) {
	t.Helper()
	got, err := committed(t, l, group, topic)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("commits (-want +got):\n%s", diff)
	}
}

// members asks until the group's coordinator is there.
func members(t *testing.T, l *queue.Log, group string) int {
	t.Helper()
	ctx := deadline(t)
	for {
		n, err := l.Members(ctx, group)
		if err == nil {
			return n
		}
		if !errors.Is(err, queue.ErrUnavailable) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}
