package main

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"refinersource/internal/broker"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
)

// offsetsWorld is a broker with the events topic, and a client beside ours.
type offsetsWorld struct {
	broker  *broker.Broker
	client  *kgo.Client
	tenants string // the file, with the tenant acme
}

func newOffsetsWorld(t *testing.T, retention string) *offsetsWorld {
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
	defer log.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	events := queue.TopicSpec{Name: "refiner.events", Partitions: 3, Config: map[string]string{"retention.ms": retention}}
	if err := log.EnsureTopics(ctx, []queue.TopicSpec{events}); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(b.Addrs()...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MaxVersions(kversion.V3_0_0()), // whose requests name topics by their names
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w := &offsetsWorld{broker: b, client: client, tenants: filepath.Join(t.TempDir(), "tenants.yaml")}
	if err := os.WriteFile(w.tenants, []byte("tenants:\n  - id: acme\n    write_key: secret\n    auth: none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// publish appends an event of the time to the partition.
func (w *offsetsWorld) publish(t *testing.T, partition int32, at time.Time) {
	t.Helper()
	r := &kgo.Record{Topic: "refiner.events", Partition: partition, Value: []byte("{}"), Timestamp: at}
	if err := w.client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// commit stores a commit, as an operator's tool does while no member is active.
func (w *offsetsWorld) commit(t *testing.T, partition int32, offset int64, metadata string) {
	t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = "refiner-source", -1
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic = "refiner.events"
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.Metadata = partition, offset, &metadata
	topic.Partitions = append(topic.Partitions, p)
	req.Topics = append(req.Topics, topic)
	res, err := req.RequestWith(t.Context(), w.client)
	if err != nil {
		t.Fatal(err)
	}
	if code := res.Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Fatalf("commit: error %d", code)
	}
}

// deleteBefore deletes the events of the partition below the offset.
func (w *offsetsWorld) deleteBefore(t *testing.T, partition int32, offset int64) {
	t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 10_000
	topic := kmsg.NewDeleteRecordsRequestTopic()
	topic.Topic = "refiner.events"
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Partition, p.Offset = partition, offset
	topic.Partitions = append(topic.Partitions, p)
	req.Topics = append(req.Topics, topic)
	if _, err := req.RequestWith(t.Context(), w.client); err != nil {
		t.Fatal(err)
	}
}

func (w *offsetsWorld) show(t *testing.T, args ...string) (out, said string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	root := newRoot()
	root.SetArgs(append([]string{"offsets", "show", "--brokers", strings.Join(w.broker.Addrs(), ",")}, args...))
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	code = execute(ctx, root, &stderr)
	return stdout.String(), stderr.String(), code
}

func (w *offsetsWorld) showJSON(t *testing.T, args ...string) (r offsetsReport, code int) {
	t.Helper()
	out, said, code := w.show(t, append(args, "--output", "json")...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s%s", err, out, said)
	}
	return r, code
}

func metadata(t *testing.T, m lane.Metadata) string {
	t.Helper()
	text, _, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestOffsetsShowTellsWhoWaitsSinceWhenAndForHowLongItsEventsAreKept(t *testing.T) {
	t.Parallel()
	const kept = 7 * 24 * time.Hour
	w := newOffsetsWorld(t, "604800000")
	written := time.Now().Add(-2 * time.Hour).Truncate(time.Millisecond).UTC()
	since := written.Add(time.Hour).Truncate(time.Second)
	for i := range 6 {
		w.publish(t, 1, written.Add(time.Duration(i)*time.Minute))
	}
	w.publish(t, 0, written)
	w.commit(t, 1, 5, metadata(t, lane.Metadata{Partitions: 3, Owner: lane.Clean, Cursors: []lane.Cursor{
		{Tag: lane.TagOf("gone"), From: 1},
		{Tag: lane.TagOf("acme"), From: 3, Since: since, Cause: lane.CauseThrottled},
	}}))
	w.commit(t, 2, 0, "")

	got, code := w.showJSON(t, "--tenants", w.tenants)
	if code != exitDone {
		t.Errorf("it ended with %d", code)
	}
	for i, at := range []time.Duration{time.Minute, 3 * time.Minute} {
		c := &got.Suspended[i]
		if c.AgeSeconds == nil || c.MarginSeconds == nil {
			t.Fatalf("no age or margin: %+v", c)
		}
		if c.EventTime != written.Add(at) {
			t.Errorf("time of the event of %q: got %v, want %v", c.Tenant, c.EventTime, written.Add(at))
		}
		// The clock goes on, so all that is sure is that it is not before.
		if least := int64((2*time.Hour - at) / time.Second); *c.AgeSeconds < least {
			t.Errorf("age of the event of %q: got %d s, want at least %d", c.Tenant, *c.AgeSeconds, least)
		}
		if rest := *seconds(kept) - *c.AgeSeconds - *c.MarginSeconds; rest < 0 || rest > 1 { // each is rounded down
			t.Errorf("margin of %q: got %d s with an age of %d", c.Tenant, *c.MarginSeconds, *c.AgeSeconds)
		}
		c.EventTime, c.AgeSeconds, c.MarginSeconds = time.Time{}, nil, nil
	}
	want := offsetsReport{
		Group: "refiner-source", Topic: "refiner.events", RetentionSeconds: seconds(kept),
		Partitions: []partitionReport{
			{Partition: 0, End: 1, Lag: 1},
			{Partition: 1, Commit: new(queue.Offset(5)), End: 6, Lag: 1, Owner: "clean"},
			{Partition: 2, Commit: new(queue.Offset(0))},
		},
		Suspended: []cursorReport{
			{Tag: lane.TagOf("gone").String(), Partition: 1, Cursor: 1},
			{Tenant: "acme", Tag: lane.TagOf("acme").String(), Partition: 1, Cursor: 3, Since: since, Cause: "throttled"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}

	out, _, code := w.show(t, "--tenants", w.tenants)
	if code != exitDone {
		t.Errorf("the table ended with %d", code)
	}
	for _, word := range []string{"acme", since.Format(time.RFC3339), "throttled", lane.TagOf("gone").String(), "clean"} {
		if !strings.Contains(out, word) {
			t.Errorf("the table lacks %q:\n%s", word, out)
		}
	}
	if out, _, _ = w.show(t); strings.Contains(out, "acme") || !strings.Contains(out, "tag "+lane.TagOf("acme").String()) {
		t.Errorf("without a tenants file:\n%s", out)
	}
}

func TestOffsetsShowFailsWhereACommitIsNotSound(t *testing.T) {
	t.Parallel()
	sound := metadata(t, lane.Metadata{Partitions: 3})
	acme := func(from lane.Offset) lane.Metadata {
		return lane.Metadata{Partitions: 3, Cursors: []lane.Cursor{{Tag: lane.TagOf("acme"), From: from}}}
	}
	w := newOffsetsWorld(t, "-1")
	for range 6 {
		for partition := range int32(3) {
			w.publish(t, partition, time.Now())
		}
	}
	w.deleteBefore(t, 0, 3)
	for _, c := range []struct {
		name      string
		partition int32
		offset    int64
		metadata  string
		says      string // in the partition or the cursor; "" if nothing is wrong
	}{
		{"all is well", 0, 4, sound, ""},
		{"a cursor whose event is there", 0, 4, metadata(t, acme(3)), ""},
		{"metadata of others", 0, 4, "stored by somebody\x1b[2J", `it begins with "stored b", want "r1."`},
		{"another version", 0, 4, "r2" + sound[2:], `unknown version`},
		{"a changed checksum", 0, 4, sound[:len(sound)-1] + "A", "wrong checksum"},
		{"events are gone before the commit", 0, 2, sound, "events 2 to 2 are gone from the log"},
		{"the log is shorter than the commit", 0, 7, sound, "the log ends before the commit, at 6"},
		{"the number of partitions has changed", 0, 4, metadata(t, lane.Metadata{Partitions: 2}), "had 2 partitions when this was committed, and has 3"},
		{"the event at the cursor is gone", 0, 4, metadata(t, acme(1)), "events from 1 up to 2 are gone from the log"},
		{"the log is shorter than the cursor", 0, 4, metadata(t, acme(6)), "the log ends before the cursor, at 6"},
	} {
		w.commit(t, c.partition, c.offset, c.metadata)
		got, code := w.showJSON(t)
		said := got.Partitions[c.partition].Error
		for _, s := range got.Suspended {
			said += s.Error
			if s.MarginSeconds != nil {
				t.Errorf("%s: a margin where events are kept for ever", c.name)
			}
			if (s.AgeSeconds == nil) != (s.Error != "") {
				t.Errorf("%s: age and error: %+v", c.name, s)
			}
		}
		if c.says == "" && (code != exitDone || said != "") {
			t.Errorf("%s: it ended with %d and says %q", c.name, code, said)
		}
		if c.says != "" && (code != exitFailed || !strings.Contains(said, c.says)) {
			t.Errorf("%s: it ended with %d and says %q, want %q", c.name, code, said, c.says)
		}
		if out, _, again := w.show(t); again != code || strings.Contains(out, "\x1b") || c.says != "" && !strings.Contains(out, c.says) {
			t.Errorf("%s: the table ended with %d:\n%s", c.name, again, out)
		}
	}
}

func TestOffsetsShowFailsWithoutTheTopic(t *testing.T) {
	t.Parallel()
	w := newOffsetsWorld(t, "-1")
	out, said, code := w.show(t, "--topic-prefix", "other.")
	if code != exitFailed || out != "" || !strings.Contains(said, "other.events") {
		t.Errorf("it ended with %d, %q and %q", code, out, said)
	}
}

// What cannot be read is not shown as if there were nothing.
func TestOffsetsShowFailsWhereTheEventAtACursorCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newOffsetsWorld(t, "-1")
	w.publish(t, 0, time.Now())
	w.commit(t, 0, 1, metadata(t, lane.Metadata{Partitions: 3, Cursors: []lane.Cursor{{Tag: lane.TagOf("acme")}}}))
	w.broker.Cluster().ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		fetch, ok := req.(*kmsg.FetchRequest)
		if !ok {
			return nil, nil, false
		}
		p := kmsg.NewFetchResponseTopicPartition()
		p.Partition, p.ErrorCode = fetch.Topics[0].Partitions[0].Partition, kerr.TopicAuthorizationFailed.Code
		topic := kmsg.NewFetchResponseTopic()
		topic.Topic, topic.Partitions = fetch.Topics[0].Topic, append(topic.Partitions, p)
		res := kmsg.NewPtrFetchResponse()
		res.SetVersion(req.GetVersion())
		res.Topics = append(res.Topics, topic)
		return res, nil, true
	})
	out, said, code := w.show(t)
	if code != exitFailed || out != "" || !strings.Contains(said, "read the event at the cursor") {
		t.Errorf("it ended with %d, %q and %q", code, out, said)
	}
}

func TestOffsetsShowWaitsForTheGroupsCoordinator(t *testing.T) {
	t.Parallel()
	w := newOffsetsWorld(t, "-1")
	asked := make(chan struct{}, 1)
	w.broker.Cluster().ControlKey(int16(kmsg.OffsetFetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		res, ok := req.ResponseKind().(*kmsg.OffsetFetchResponse)
		if !ok {
			return nil, nil, false
		}
		asked <- struct{}{} // once: it is not kept
		res.ErrorCode = kerr.NotCoordinator.Code
		return res, nil, true
	})
	if out, said, code := w.show(t); code != exitDone || len(asked) != 1 {
		t.Errorf("it ended with %d, %q and %q, refused %d times", code, out, said, len(asked))
	}
}

func TestOffsetsShowTellsWhoseGroupItIs(t *testing.T) {
	t.Parallel()
	w := newOffsetsWorld(t, "604800000")
	w.publish(t, 1, time.Now())
	w.commit(t, 0, 0, metadata(t, lane.Metadata{Partitions: 3}))
	w.commit(t, 1, 0, metadata(t, lane.Metadata{Partitions: 3, Installation: lane.TagOf("production")}))
	named := filepath.Join(t.TempDir(), "named.yaml")
	if err := os.WriteFile(named, []byte("installation: production\ntenants:\n  - {id: acme, write_key: secret, auth: none}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{named: "production", w.tenants: "tag " + lane.TagOf("production").String()} {
		if got, _ := w.showJSON(t, "--tenants", file); got.Installation != want {
			t.Errorf("with %s: installation %q, want %q", file, got.Installation, want)
		}
		if out, _, _ := w.show(t, "--tenants", file); !strings.Contains(out, "The group is of installation "+want+".") {
			t.Errorf("with %s the table lacks %q:\n%s", file, want, out)
		}
	}
}
