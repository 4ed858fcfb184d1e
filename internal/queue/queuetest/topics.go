package queuetest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/queue"
)

func (s suite) ensureTopics(t *testing.T) {
	l := s.open(t)
	topics := queue.Topics{Prefix: unique(t) + "."}
	specs := topics.Specs(2, 1)
	for range 2 { // again changes nothing
		if err := l.EnsureTopics(deadline(t), specs); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]int{topics.Events(): 2, topics.Dead(): 2, topics.Receipts(): 2, topics.Tenants(): 1, topics.Replays(): 1}
	got := make(map[string]int)
	for name := range want {
		n, err := l.Partitions(deadline(t), name)
		if err != nil {
			t.Fatal(err)
		}
		got[name] = n
		publish(t, publisher(t, l, name, queue.PublisherOptions{}), "writable")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("partitions (-want +got):\n%s", diff)
	}
	if err := l.EnsureTopics(deadline(t), topics.Specs(3, 1)); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Partitions(deadline(t), topics.Events()); err != nil || n != 2 {
		t.Errorf("partitions after a wish for more: got %d and error %v, want still 2", n, err)
	}
}

func (s suite) checkTopics(t *testing.T) {
	type finding struct {
		Topic    string
		Kind     queue.FindingKind
		Severity queue.Severity
	}
	l := s.open(t)
	topics := queue.Topics{Prefix: unique(t) + "."}
	create := []queue.TopicSpec{
		{Name: topics.Events(), Partitions: 3, Replication: 1, Config: map[string]string{"cleanup.policy": "compact"}},
		{Name: topics.Dead(), Partitions: 2, Replication: 1, Config: map[string]string{"retention.ms": "60000", "min.insync.replicas": "2"}},
		{Name: topics.Tenants(), Partitions: 1, Replication: 1, Config: map[string]string{"cleanup.policy": "compact", "max.message.bytes": "1000"}},
	}
	if err := l.EnsureTopics(deadline(t), create); err != nil {
		t.Fatal(err)
	}
	findings, err := l.CheckTopics(deadline(t), topics.Specs(2, 0))
	if err != nil {
		t.Fatal(err)
	}
	var got []finding
	for _, f := range findings {
		got = append(got, finding{f.Topic, f.Kind, f.Severity})
		if f.Detail == "" || f.Remedy == "" {
			t.Errorf("finding without detail or remedy: %+v", f)
		}
	}
	want := []finding{
		{topics.Events(), queue.FindingPartitions, queue.SeverityError},
		{topics.Events(), queue.FindingReplication, queue.SeverityRisk},
		{topics.Events(), queue.FindingCleanup, queue.SeverityError},
		{topics.Dead(), queue.FindingReplication, queue.SeverityRisk},
		{topics.Dead(), queue.FindingRetention, queue.SeverityRisk},
		{topics.Dead(), queue.FindingMinInSync, queue.SeverityError},
		{topics.Dead(), queue.FindingMessageSize, queue.SeverityError}, // a letter is larger than its record
		{topics.Receipts(), queue.FindingMissing, queue.SeverityError},
		{topics.Tenants(), queue.FindingReplication, queue.SeverityRisk},
		{topics.Tenants(), queue.FindingMessageSize, queue.SeverityError},
		{topics.Replays(), queue.FindingMissing, queue.SeverityError},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}

	sound := queue.Topics{Prefix: unique(t) + "."}
	if err := l.EnsureTopics(deadline(t), sound.Specs(2, 1)); err != nil {
		t.Fatal(err)
	}
	findings, err = l.CheckTopics(deadline(t), sound.Specs(0, 1))
	if err != nil || len(findings) > 0 {
		t.Errorf("topics as ensured: got findings %v and error %v, want none", findings, err)
	}
}

func (s suite) boundsAndCommitted(t *testing.T) {
	l := s.open(t)
	topic := s.topic(t, l, 2, nil)
	p := publisher(t, l, topic, queue.PublisherOptions{})
	at := publish(t, p, numbered("v", 4)...)[0].Partition
	s.deleteBefore(t, topic, at, 1)

	bounds, err := l.Bounds(deadline(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int]queue.Bounds{at: {Start: 1, End: 4}, 1 - at: {}}, bounds); diff != "" {
		t.Errorf("bounds (-want +got):\n%s", diff)
	}
	group := unique(t)
	if got, err := committed(t, l, group, topic); err != nil || len(got) > 0 {
		t.Errorf("commits of a group that never was: got %v and error %v, want none", got, err)
	}
	g := s.join(t, l, group, topic)
	gen := g.next(t)
	if err := gen.Commit(deadline(t), []queue.Commit{{Partition: at, Offset: 3, Metadata: "m"}}); err != nil {
		t.Fatal(err)
	}
	got, err := committed(t, l, group, topic)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int]queue.Committed{at: {Offset: 3, Metadata: "m"}}, got); diff != "" {
		t.Errorf("commits (-want +got):\n%s", diff)
	}
}
