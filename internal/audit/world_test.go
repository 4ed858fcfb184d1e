package audit_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"refinersource/internal/audit"
	"refinersource/internal/broker"
	"refinersource/internal/deadletter"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
)

const (
	partitions = 2
	group      = "workers"
)

// start is when the events of a world are accepted, a second apart. Kafka knows it to
// the millisecond, the envelope exactly.
var start = time.Date(2026, 11, 1, 12, 0, 0, 123_456_789, time.UTC)

// world is a broker with the topics, which a test fills as workers would.
type world struct {
	t      *testing.T
	broker *broker.Broker
	client *kgo.Client
	log    *queue.Log
	topics queue.Topics
	made   int
}

func newWorld(t *testing.T) *world { return newWorldOf(t, "delete", "delete") }

// newWorldOf has those cleanup policies for its events and receipts, which only
// tests of holes set to anything but delete.
func newWorldOf(t *testing.T, events, receipts string) *world {
	t.Helper()
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	log, err := queue.Open(queue.Options{Brokers: b.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	w := &world{t: t, broker: b, log: log, topics: queue.Topics{Prefix: "t."}}
	config := func(cleanup string) map[string]string {
		return map[string]string{"retention.ms": "-1", "cleanup.policy": cleanup, "segment.bytes": "100"}
	}
	err = log.EnsureTopics(w.ctx(), []queue.TopicSpec{
		{Name: w.topics.Events(), Partitions: partitions, Config: config(events)},
		{Name: w.topics.Receipts(), Partitions: partitions, Config: config(receipts)},
		{Name: w.topics.Dead(), Partitions: partitions, Config: config("delete")},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.client, err = kgo.NewClient(
		kgo.SeedBrokers(b.Addrs()...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MaxVersions(kversion.V3_0_0()), // whose requests name topics by their names
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	return w
}

// ctx bounds whatever hangs.
func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *world) produce(r *kgo.Record) queue.Offset {
	w.t.Helper()
	if err := w.client.ProduceSync(w.ctx(), r).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
	return queue.Offset(r.Offset)
}

// event is one that was accepted.
type event struct {
	tenant, id, user string
	partition        int
	offset           queue.Offset
	at               time.Time
}

func (e *event) key() []byte { return []byte(e.tenant + "/" + e.user) }

// partitionOf is where the events of a tenant's user are.
func partitionOf(tenant, user string) int {
	return queue.PartitionOf([]byte(tenant+"/"+user), partitions)
}

// accept puts an event of a user into the log, in the user's partition.
func (w *world) accept(tenant, user string) *event {
	w.t.Helper()
	return w.acceptAs(tenant, user, fmt.Sprintf("event-%d", w.made))
}

// acceptAs puts one with that id.
func (w *world) acceptAs(tenant, user, id string) *event {
	w.t.Helper()
	e := &event{tenant: tenant, user: user, id: id, at: start.Add(time.Duration(w.made) * time.Second)}
	e.partition = queue.PartitionOf(e.key(), partitions)
	w.made++
	e.offset = w.produce(&kgo.Record{
		Topic: w.topics.Events(), Partition: int32(e.partition), Key: e.key(), Value: []byte(`{"n":1}`), Timestamp: e.at,
		Headers: []kgo.RecordHeader{
			{Key: queue.HeaderTenant, Value: []byte(tenant)},
			{Key: queue.HeaderSource, Value: []byte("survey-event")},
			{Key: queue.HeaderEventID, Value: []byte(e.id)},
			{Key: queue.HeaderReceivedAt, Value: e.at.AppendFormat(nil, time.RFC3339Nano)},
		},
	})
	return e
}

// finish writes the receipt of an event, changed by the functions.
func (w *world) finish(e *event, change ...func(*receipt.Receipt)) queue.Offset {
	w.t.Helper()
	r := receiptOf(e.tenant, e.id, e.partition, e.offset, e.at)
	for _, f := range change {
		f(&r)
	}
	return w.produce(&kgo.Record{
		Topic: w.topics.Receipts(), Partition: int32(e.partition), Key: e.key(), Value: receipt.Append(nil, &r), Timestamp: r.FinishedAt,
		Headers: []kgo.RecordHeader{{Key: queue.HeaderTenant, Value: []byte(r.Tenant)}, {Key: queue.HeaderEventID, Value: []byte(r.EventID)}},
	})
}

func dead(r *receipt.Receipt) {
	r.Outcome, r.Reason, r.Calls = receipt.Dead, "rejected", r.Calls[:1]
}

func ignored(r *receipt.Receipt) {
	r.Outcome, r.Reason, r.Calls, r.Attempts, r.FirstAttemptAt = receipt.Ignored, "partial", nil, 0, time.Time{}
}

// bury writes the dead letter of an event.
func (w *world) bury(e *event) { w.buryOf(e, w.topics.Events()) }

// buryOf writes one that names another topic of the event.
func (w *world) buryOf(e *event, topic string) {
	w.t.Helper()
	value, err := deadletter.Encode(deadletter.Letter{
		Tenant: e.tenant, Source: "survey-event", EventID: e.id, ReceivedAt: e.at, Reason: deadletter.Rejected, Stage: deadletter.StageGroup,
		Detail: "refused when it was sent alone: rejected 400", Attempts: 3, Status: 400, RulesVersion: 1, DeadAt: e.at.Add(time.Second),
		Origin: queue.Position{Topic: topic, Partition: e.partition, Offset: e.offset}, Key: e.key(), Raw: []byte(`{"n":1}`),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.produce(&kgo.Record{
		Topic: w.topics.Dead(), Partition: int32(e.partition), Key: e.key(), Value: value, Timestamp: e.at.Add(time.Second),
		Headers: []kgo.RecordHeader{{Key: queue.HeaderTenant, Value: []byte(e.tenant)}, {Key: queue.HeaderEventID, Value: []byte(e.id)}},
	})
}

// commit stores the group's commit of a partition.
func (w *world) commit(partition int, to queue.Offset, cursors ...lane.Cursor) {
	w.t.Helper()
	text, _, err := (&lane.Metadata{Partitions: partitions, Cursors: cursors}).Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	commit(w.t, w.client, group, w.topics.Events(), partition, to, text)
}

// commitAll commits the ends of all partitions: everything is finished.
func (w *world) commitAll() {
	w.t.Helper()
	bounds, err := w.log.Bounds(w.ctx(), w.topics.Events())
	if err != nil {
		w.t.Fatal(err)
	}
	for p, b := range bounds {
		w.commit(p, b.End)
	}
}

// deleteBefore deletes the records of a partition below the offset.
func (w *world) deleteBefore(topic string, partition int, offset queue.Offset) {
	w.t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 10_000
	of := kmsg.NewDeleteRecordsRequestTopic()
	of.Topic = topic
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Partition, p.Offset = int32(partition), int64(offset)
	of.Partitions = append(of.Partitions, p)
	req.Topics = append(req.Topics, of)
	if _, err := req.RequestWith(w.ctx(), w.client); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) audit(change ...func(*audit.Options)) *audit.Report {
	w.t.Helper()
	o := audit.Options{Group: group, Topics: w.topics}
	for _, f := range change {
		f(&o)
	}
	r, err := audit.Run(w.ctx(), w.log, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) trace(q audit.Query) []*audit.Story {
	w.t.Helper()
	q.Group, q.Topics = group, w.topics
	stories, _, err := audit.Trace(w.ctx(), w.log, q)
	if err != nil {
		w.t.Fatal(err)
	}
	return stories
}

// receiptOf is the receipt of a delivered event.
func receiptOf(tenant, id string, partition int, at queue.Offset, received time.Time) receipt.Receipt {
	return receipt.Receipt{
		Tenant: tenant, Source: "survey-event", EventID: id, Partition: partition, Offset: at, Outcome: receipt.Delivered,
		Calls: []receipt.Call{
			{Type: "identify", ID: "identify:" + id, Digest: receipt.Digest{1}},
			{Type: "group", ID: "group:" + id, Digest: receipt.Digest{2}},
		},
		Attempts: 2, ReceivedAt: received, FirstAttemptAt: received.Add(time.Second), FinishedAt: received.Add(2 * time.Second),
		Rules: 1, RulesOf: "0123456789abcdef", Library: "3.3.0",
	}
}

// commit stores a commit, as an operator's tool does while no member is active.
func commit(t *testing.T, client *kgo.Client, group, topic string, partition int, offset queue.Offset, metadata string) {
	t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = group, -1
	of := kmsg.NewOffsetCommitRequestTopic()
	of.Topic = topic
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.Metadata = int32(partition), int64(offset), &metadata
	of.Partitions = append(of.Partitions, p)
	req.Topics = append(req.Topics, of)
	res, err := req.RequestWith(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	if code := res.Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Fatalf("commit: error %d", code)
	}
}
