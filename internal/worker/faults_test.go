package worker_test

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"refinersource/internal/queue"
)

// deleteRecords moves the start of a partition's log, as retention does.
func (w *world) deleteRecords(partition int, to queue.Offset) {
	w.t.Helper()
	client := w.client()
	defer client.Close()
	request := kmsg.NewPtrDeleteRecordsRequest()
	topic := kmsg.NewDeleteRecordsRequestTopic()
	topic.Topic = w.topics.Events()
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Partition, p.Offset = int32(partition), int64(to)
	topic.Partitions = append(topic.Partitions, p)
	request.Topics = append(request.Topics, topic)
	response, err := request.RequestWith(w.t.Context(), client)
	if err != nil {
		w.t.Fatal(err)
	}
	if code := response.Topics[0].Partitions[0].ErrorCode; code != 0 {
		w.t.Fatalf("delete records: error code %d", code)
	}
}

// refuseLetters makes the broker refuse records of the dead-letter topic for as
// long as refuse says.
func (w *world) refuseLetters(refuse func() bool) {
	cluster := w.broker.Cluster()
	cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		r := request.(*kmsg.ProduceRequest)
		if r.Topics[0].Topic != w.topics.Dead() || !refuse() {
			return nil, nil, false
		}
		response := r.ResponseKind().(*kmsg.ProduceResponse)
		for _, t := range r.Topics {
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic = t.Topic
			for _, p := range t.Partitions {
				partition := kmsg.NewProduceResponseTopicPartition()
				partition.Partition, partition.ErrorCode = p.Partition, kerr.NotEnoughReplicas.Code
				topic.Partitions = append(topic.Partitions, partition)
			}
			response.Topics = append(response.Topics, topic)
		}
		return response, nil, true
	})
}

// answerCommits makes the coordinator answer commits with an error, in each
// partition and not in the call itself, for as long as refuse says.
func (w *world) answerCommits(with *kerr.Error, refuse func() bool) {
	cluster := w.broker.Cluster()
	cluster.ControlKey(int16(kmsg.OffsetCommit), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if !refuse() {
			return nil, nil, false
		}
		r := request.(*kmsg.OffsetCommitRequest)
		response := r.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, t := range r.Topics {
			topic := kmsg.NewOffsetCommitResponseTopic()
			topic.Topic = t.Topic
			for _, p := range t.Partitions {
				partition := kmsg.NewOffsetCommitResponseTopicPartition()
				partition.Partition, partition.ErrorCode = p.Partition, with.Code
				topic.Partitions = append(topic.Partitions, partition)
			}
			response.Topics = append(response.Topics, topic)
		}
		return response, nil, true
	})
}

// holdCommits makes the coordinator answer no commits for as long as hold says.
func (w *world) holdCommits(hold func() bool) {
	w.answerCommits(kerr.CoordinatorNotAvailable, hold)
}

// commitAs commits for the group, which has no members.
func (w *world) commitAs(partition int, to queue.Offset, metadata string) {
	w.t.Helper()
	client := w.client()
	defer client.Close()
	request := kmsg.NewPtrOffsetCommitRequest()
	request.Group, request.Generation = "group", -1
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic = w.topics.Events()
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.Metadata = int32(partition), int64(to), &metadata
	topic.Partitions = append(topic.Partitions, p)
	request.Topics = append(request.Topics, topic)
	response, err := request.RequestWith(w.t.Context(), client)
	if err != nil {
		w.t.Fatal(err)
	}
	if code := response.Topics[0].Partitions[0].ErrorCode; code != 0 {
		w.t.Fatalf("commit: error code %d", code)
	}
}

// addPartitions gives the topic of events more partitions.
func (w *world) addPartitions(to int) {
	w.t.Helper()
	client := w.client()
	defer client.Close()
	request := kmsg.NewPtrCreatePartitionsRequest()
	topic := kmsg.NewCreatePartitionsRequestTopic()
	topic.Topic, topic.Count = w.topics.Events(), int32(to)
	request.Topics = append(request.Topics, topic)
	response, err := request.RequestWith(w.t.Context(), client)
	if err != nil {
		w.t.Fatal(err)
	}
	if code := response.Topics[0].ErrorCode; code != 0 {
		w.t.Fatalf("create partitions: error code %d", code)
	}
}

func (w *world) client() *kgo.Client {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.addrs...), kgo.Dialer(w.network.DialContext), kgo.MaxVersions(kversion.V3_0_0()))
	if err != nil {
		w.t.Fatal(err)
	}
	return client
}

// logs keeps what a worker logs.
type logs struct{ seen *observer.ObservedLogs }

func (l *logs) logger() *zap.Logger {
	core, seen := observer.New(zap.DebugLevel)
	l.seen = seen
	return zap.New(core)
}

// gaps are the ranges that the log lines name as gone.
func (l *logs) gaps() []string {
	var gaps []string
	for _, line := range l.seen.FilterMessage("events were deleted from the log before they were delivered").All() {
		f := line.ContextMap()
		gaps = append(gaps, fmt.Sprintf("partition %d from %d to %d", f["partition"], f["from"], f["to"]))
	}
	return gaps
}
