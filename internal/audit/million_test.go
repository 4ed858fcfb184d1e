package audit_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"refinersource/internal/audit"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
)

// TestManyEvents measures a trace and an audit of AUDIT_EVENTS events on the Kafka
// of KAFKA_BROKERS, and says what they took:
//
//	AUDIT_EVENTS=1000000 scripts/kafka run-with 1 -- go test -v -timeout 30m -run TestManyEvents ./internal/audit
//
// With AUDIT_TOPICS, a prefix, the topics are left there, and used again.
func TestManyEvents(t *testing.T) { //nolint:paralleltest // it measures
	brokers, n := os.Getenv("KAFKA_BROKERS"), 0
	if text := os.Getenv("AUDIT_EVENTS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	if brokers == "" || n == 0 {
		t.Skip("it needs real Kafka and a number of events: KAFKA_BROKERS and AUDIT_EVENTS")
	}
	log, err := queue.Open(queue.Options{Brokers: strings.Split(brokers, ",")})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	prefix := os.Getenv("AUDIT_TOPICS")
	topics := queue.Topics{Prefix: prefix}
	if prefix == "" {
		topics.Prefix = fmt.Sprintf("many-%d.", time.Now().UnixNano())
	}
	ctx := t.Context()
	if bounds, err := log.Bounds(ctx, topics.Events()); err != nil || len(bounds) == 0 {
		if err := log.EnsureTopics(ctx, topics.Specs(12, 1)); err != nil {
			t.Fatal(err)
		}
		load(t, strings.Split(brokers, ","), topics, n)
	}
	var stories []*audit.Story
	for range 3 {
		measure(t, "trace of the first event by its id", func() {
			stories = trace(t, log, topics, audit.Query{EventID: eventID(0)}, 1)
		})
		measure(t, "trace of one in the middle, by its id", func() {
			trace(t, log, topics, audit.Query{EventID: eventID(n / 2)}, 1)
		})
		measure(t, "trace of an event that is not there", func() {
			trace(t, log, topics, audit.Query{EventID: "nowhere"}, 0)
		})
		measure(t, "trace by id, of the last tenth of the time", func() {
			from := stories[0].ReceivedAt.Add(time.Duration(n) * apart * 9 / 10)
			trace(t, log, topics, audit.Query{EventID: eventID(n - 1), Range: audit.Range{From: from}}, 1)
		})
		measure(t, "trace of a user", func() {
			trace(t, log, topics, audit.Query{Tenant: "t3", User: "user-3"}, (n+usersOf-4)/usersOf)
		})
	}
	measure(t, "audit", func() {
		r, err := audit.Run(ctx, log, audit.Options{Group: "many", Topics: topics})
		if err != nil {
			t.Fatal(err)
		}
		if !r.Sound() || r.Total.Events != n || r.Total.Delivered != n {
			t.Errorf("%+v", r)
		}
	})
}

func trace(t *testing.T, log *queue.Log, topics queue.Topics, q audit.Query, want int) []*audit.Story {
	t.Helper()
	q.Group, q.Topics = "many", topics
	stories, _, err := audit.Trace(t.Context(), log, q)
	if err != nil {
		t.Fatal(err)
	}
	if len(stories) != want {
		t.Errorf("%+v: %d stories, want %d", q, len(stories), want)
	}
	for _, s := range stories {
		if s.State != audit.Delivered || s.Bytes == 0 {
			t.Errorf("a story: %+v", s)
		}
	}
	return stories
}

func measure(t *testing.T, what string, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	f()
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	t.Logf("%-40s %8.2f s, memory of the process %d MiB, allocated %d MiB", what, took.Seconds(), after.Sys>>20, (after.TotalAlloc-before.TotalAlloc)>>20)
}

// usersOf is how many users there are, and apart how far their events are.
const (
	usersOf = 20_000
	apart   = 36 * time.Millisecond
)

func eventID(i int) string { return fmt.Sprintf("eb117cb0-49cf-11ed-b050-%012x", i) }

// load writes so many events of about 1 KB, their receipts, and the commits that
// pass them.
func load(t *testing.T, brokers []string, topics queue.Topics, n int) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxVersions(kversion.V3_0_0()), kgo.ProducerLinger(20*time.Millisecond), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(20_000))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	value := []byte(strings.Repeat(`{"question":"How likely are you to recommend us?","answer":9},`, 16))
	first := time.Now().Add(-time.Duration(n) * apart)
	next := make([]queue.Offset, 12)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := func(_ *kgo.Record, err error) {
		if err != nil {
			cancel(err)
		}
	}
	for i := range n {
		user, tenant := i%usersOf, fmt.Sprintf("t%d", i%usersOf%100)
		key := fmt.Appendf(nil, "%s/user-%d", tenant, user)
		p := queue.PartitionOf(key, len(next))
		at := first.Add(time.Duration(i) * apart).UTC()
		headers := []kgo.RecordHeader{{Key: queue.HeaderTenant, Value: []byte(tenant)}, {Key: queue.HeaderEventID, Value: []byte(eventID(i))}}
		client.Produce(ctx, &kgo.Record{
			Topic: topics.Events(), Partition: int32(p), Key: key, Value: value, Timestamp: at,
			Headers: append(headers[:2:2], kgo.RecordHeader{Key: queue.HeaderSource, Value: []byte("refiner-webhook")}, kgo.RecordHeader{Key: queue.HeaderReceivedAt, Value: at.AppendFormat(nil, time.RFC3339Nano)}),
		}, done)
		r := receiptOf(tenant, eventID(i), p, next[p], at)
		client.Produce(ctx, &kgo.Record{
			Topic: topics.Receipts(), Partition: int32(p), Key: key, Value: receipt.Append(nil, &r), Timestamp: r.FinishedAt, Headers: headers,
		}, done)
		next[p]++
	}
	if err := client.Flush(ctx); err != nil {
		t.Fatal(context.Cause(ctx))
	}
	metadata, _, err := (&lane.Metadata{Partitions: len(next)}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for p, to := range next {
		commit(t, client, "many", topics.Events(), p, to, metadata)
	}
}
