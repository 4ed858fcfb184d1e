// Package queuetest is the conformance suite of the log: what package queue
// promises, on whatever cluster it is given. It runs on the embedded broker always,
// and on real Kafka in CI.
package queuetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/queue"
)

// patience ends a test that would hang; no test waits for it to pass.
const patience = 30 * time.Second

// Run runs the suite against the cluster of the options. Topics and groups have
// names of their own, so that runs do not meet.
func Run(t *testing.T, options queue.Options) {
	s := suite{options: options}
	for name, test := range map[string]func(*testing.T){
		"PublishedRecordsComeBackAsTheyWere":             s.recordsComeBack,
		"PositionsAreWhereTheRecordsStand":               s.positions,
		"KeysGoWhereJavaPutsThem":                        s.partitioner,
		"OffsetsAtATimeAreOfTheRecordsFromThenOn":        s.offsetsAt,
		"TooLargeRecordFailsAlone":                       s.tooLargeFailsAlone,
		"RecordOverThePublishersBoundIsNotSent":          s.overPublishersBound,
		"ClosedPublisherRefuses":                         s.closedPublisher,
		"EndedContextSaysUnavailable":                    s.endedContext,
		"ReaderStartsAtItsOffset":                        s.readerStartsAtOffset,
		"ReaderWaitsAtTheEnd":                            s.readerWaits,
		"RecordOverTheReadersBoundComesWhole":            s.largeRecordComesWhole,
		"DeletedRecordsAreAGap":                          s.gap,
		"OffsetPastTheEndIsAnError":                      s.pastTheEnd,
		"TransactionMarkersAreNoRecordsAndNoGap":         s.transactionMarkers,
		"NewGroupStartsAtTheEarliestOffset":              s.groupStartsEarliest,
		"CommitKeepsOffsetAndMetadata":                   s.commitRoundTrip,
		"MetadataOverTheBoundIsRefusedBeforeSending":     s.metadataTooLarge,
		"CommitOfAnEndedGenerationIsRefusedPerPartition": s.staleGeneration,
		"CommitOutsideTheLogIsReportedNotReset":          s.commitOutsideLog,
		"DrainingMemberCommitsAndTheNextStartsThere":     s.handOver,
		"DeadMembersRecordsComeAgainFromTheCommit":       s.crash,
		"RunEndsByLeavingTheGroup":                       s.leave,
		"HandlerThatReturnsEarlyGetsAnotherGeneration":   s.earlyReturn,
		"GroupWaitsForItsTopic":                          s.groupWaitsForTopic,
		"EnsureTopicsCreatesAndNeverAlters":              s.ensureTopics,
		"CheckTopicsFindsWhatIsWrong":                    s.checkTopics,
		"BoundsAndCommittedSayHowFarAGroupIs":            s.boundsAndCommitted,
		"ResetIsRefusedWhileTheGroupHasMembers":          s.resetCommits,
		"ResetMakesTheFirstCommitsOfAGroup":              s.resetOfNewGroup,
		"RetentionIsWhatTheTopicHasOrTheCluster":         s.retention,
		"RequestsToATopicThatDoesNotExistAreUnavailable": s.missingTopic,
		"MoreReplicasThanBrokersAreRefused":              s.refusedTopic,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

type suite struct{ options queue.Options }

// open opens a log of its own for the test.
func (s suite) open(t *testing.T) *queue.Log {
	t.Helper()
	l, err := queue.Open(s.options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// topic creates a topic of its own for the test.
func (s suite) topic(t *testing.T, l *queue.Log, partitions int, config map[string]string) string {
	t.Helper()
	spec := queue.TopicSpec{Name: unique(t), Partitions: partitions, Config: config}
	if err := l.EnsureTopics(deadline(t), []queue.TopicSpec{spec}); err != nil {
		t.Fatal(err)
	}
	return spec.Name
}

func unique(t *testing.T) string {
	name := t.Name()[strings.LastIndexByte(t.Name(), '/')+1:]
	return fmt.Sprintf("test-%s-%x", name, rand.Uint64())
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	t.Cleanup(cancel)
	return ctx
}

func publisher(t *testing.T, l *queue.Log, topic string, o queue.PublisherOptions) *queue.Publisher {
	t.Helper()
	p := l.Publisher(topic, o)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// publish appends records with the values, one after another.
func publish(t *testing.T, p *queue.Publisher, values ...string) []queue.Position {
	t.Helper()
	positions := make([]queue.Position, len(values))
	for i, v := range values {
		pos, err := p.Publish(deadline(t), queue.Record{Key: []byte("key"), Value: []byte(v)})
		if err != nil {
			t.Fatal(err)
		}
		positions[i] = pos
	}
	return positions
}

// read reads n records of a partition.
func read(t *testing.T, r *queue.Reader, n int) []queue.Record {
	t.Helper()
	ctx := deadline(t)
	var records []queue.Record
	for len(records) < n {
		b, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d records: %v", len(records), n, err)
		}
		records = append(records, b.Records...)
	}
	return records
}

// committed asks until the group's coordinator is there, which a new cluster has to
// find first.
func committed(t *testing.T, l *queue.Log, group, topic string) (map[int]queue.Committed, error) {
	t.Helper()
	ctx := deadline(t)
	for {
		got, err := l.Committed(ctx, group, topic)
		if !errors.Is(err, queue.ErrUnavailable) || ctx.Err() != nil {
			return got, err
		}
	}
}

func values(records []queue.Record) []string {
	out := make([]string, len(records))
	for i, r := range records {
		out[i] = string(r.Value)
	}
	return out
}

// numbered is prefix0 to prefix(n-1).
func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint(prefix, i)
	}
	return out
}

// kafka is another client of the same cluster, for what the log never does.
func (s suite) kafka(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	opts = append(opts, kgo.SeedBrokers(s.options.Brokers...))
	if s.options.Dial != nil {
		opts = append(opts, kgo.Dialer(s.options.Dial))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// deleteBefore deletes the partition's records below the offset.
func (s suite) deleteBefore(t *testing.T, topic string, partition int, offset queue.Offset) {
	t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 10_000
	rt := kmsg.NewDeleteRecordsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewDeleteRecordsRequestTopicPartition()
	rp.Partition, rp.Offset = int32(partition), int64(offset)
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	res, err := req.RequestWith(deadline(t), s.kafka(t))
	if err != nil {
		t.Fatal(err)
	}
	if code := res.Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Fatalf("delete records: error %d", code)
	}
}

// wantClass fails the test unless err is of the class.
func wantClass(t *testing.T, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("got error %v, want one that is %q", err, class)
	}
}
