package main

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"refinersource/internal/audit"
	"refinersource/internal/deadletter"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
)

// auditWorld is a broker with the topics of the worker.
type auditWorld struct{ *offsetsWorld }

func newAuditWorld(t *testing.T) auditWorld {
	t.Helper()
	w := auditWorld{newOffsetsWorld(t, "-1")}
	log, err := queue.Open(queue.Options{Brokers: w.broker.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := log.EnsureTopics(ctx, queue.Topics{Prefix: "refiner."}.Specs(3, 1)); err != nil {
		t.Fatal(err)
	}
	return w
}

// write appends a record about an event of a user of acme, and returns its place.
func (w auditWorld) write(t *testing.T, topic, user, id string, value []byte, at time.Time) (int, queue.Offset) {
	t.Helper()
	key := []byte("acme/" + user)
	r := &kgo.Record{
		Topic: topic, Partition: int32(queue.PartitionOf(key, 3)), Key: key, Value: value, Timestamp: at,
		Headers: []kgo.RecordHeader{
			{Key: queue.HeaderTenant, Value: []byte("acme")},
			{Key: queue.HeaderSource, Value: []byte("survey-event")},
			{Key: queue.HeaderEventID, Value: []byte(id)},
		},
	}
	if err := w.client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	return int(r.Partition), queue.Offset(r.Offset)
}

// finish writes an event and its receipt, with those calls; of a dead one its letter
// too.
func (w auditWorld) finish(t *testing.T, user, id string, at time.Time, outcome receipt.Outcome, reason string, calls ...receipt.Call) queue.Position {
	t.Helper()
	p, offset := w.write(t, "refiner.events", user, id, []byte(`{"n":1}`), at)
	origin := queue.Position{Topic: "refiner.events", Partition: p, Offset: offset}
	if outcome == receipt.Dead {
		letter, err := deadletter.Encode(deadletter.Letter{
			Tenant: "acme", EventID: id, Reason: deadletter.Reason(reason), Stage: deadletter.StageIdentify, Detail: "bad\x1b[2J", Status: 400,
			DeadAt: at, Origin: origin,
		})
		if err != nil {
			t.Fatal(err)
		}
		w.write(t, "refiner.dead", user, id, letter, at)
	}
	w.write(t, "refiner.receipts", user, id, receipt.Append(nil, &receipt.Receipt{
		Tenant: "acme", Source: "survey-event", EventID: id, Partition: p, Offset: offset, Outcome: outcome, Reason: reason, Calls: calls,
		Attempts: 1, ReceivedAt: at, FirstAttemptAt: at, FinishedAt: at, Rules: 1, RulesOf: "0123456789abcdef", Library: "3.3.0",
	}), at)
	return origin
}

// run runs a command of the command line.
func (w auditWorld) run(t *testing.T, args ...string) (out, said string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	root := newRoot()
	root.SetArgs(append(args, "--brokers", strings.Join(w.broker.Addrs(), ",")))
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	code = execute(ctx, root, &stderr)
	return stdout.String(), stderr.String(), code
}

func (w auditWorld) want(t *testing.T, code int, words []string, args ...string) string {
	t.Helper()
	out, said, got := w.run(t, args...)
	if got != code {
		t.Errorf("%q ended with %d, want %d: %s", args, got, code, said)
	}
	for _, word := range words {
		if !strings.Contains(out+said, word) {
			t.Errorf("%q lacks %q:\n%s%s", args, word, out, said)
		}
	}
	if strings.ContainsAny(out+said, "\x1b\u202e") {
		t.Errorf("%q lets a terminal be written to:\n%q", args, out+said)
	}
	return out
}

func TestTraceShowsWhatBecameOfAnEvent(t *testing.T) {
	t.Parallel()
	w := newAuditWorld(t)
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	delivered := w.finish(t, "u1", "one", at, receipt.Delivered, "",
		receipt.Call{Type: "identify", ID: "m-1", Digest: receipt.Digest{1}}, receipt.Call{Type: "group", ID: "m-2", Digest: receipt.Digest{2}})
	w.finish(t, "u1", "two", at.Add(time.Second), receipt.Dead, "rejected")
	p, waits := w.write(t, "refiner.events", "u1", "three", []byte("{}"), at.Add(2*time.Second))
	w.commit(t, int32(p), int64(waits)+1, metadata(t, lane.Metadata{Partitions: 3, Cursors: []lane.Cursor{
		{Tag: lane.TagOf("acme"), From: lane.Offset(waits), Since: at.Add(time.Minute), Cause: lane.CauseMisconfigured},
	}}))
	w.finish(t, "u2", "four\x1b[2J\u202e", at.Add(3*time.Second), receipt.Ignored, "partial")

	w.want(t, exitDone, []string{
		"acme/u1", "2026-11-01T12:00:00.000Z from survey-event, at " + place(audit.Position(delivered)), "7 bytes", "delivered at ",
		"m-1, digest 0100", "m-2, digest 0200",
	}, "trace", "one")
	w.want(t, exitDone, []string{"rejected at ", "in stage identify", `bad\x1b[2J`, "status 400"}, "trace", "two")
	w.want(t, exitDone, []string{"waiting", "since 2026-11-01T12:01:00.000Z: misconfigured"}, "trace", "three")
	w.want(t, exitDone, []string{`four\x1b[2J\u202e`, "ignored", "partial"}, "trace", "four\x1b[2J\u202e")
	w.want(t, exitDone, []string{"one", "two", "three", "delivered", "dead", "waiting", "misconfigured", "rejected: bad"}, "trace", "--tenant", "acme", "--user", "u1")
	w.want(t, exitDone, []string{"three", "2 older events are left out"}, "trace", "--tenant", "acme", "--user", "u1", "--limit", "1")
	for _, args := range [][]string{{"trace", "five\x1b"}, {"trace", "one", "--tenant", "umbrella"}} {
		if out := w.want(t, exitFailed, []string{"no event", "check the id", "--user"}, args...); out != "" {
			t.Errorf("%q printed %q", args, out)
		}
	}
	w.want(t, exitFailed, []string{`no event of user "u9\x1b" of tenant "acme"`, "order_by"}, "trace", "--tenant", "acme", "--user", "u9\x1b")

	var got traceReport
	if err := json.Unmarshal([]byte(w.want(t, exitDone, nil, "trace", "one", "--output", "json")), &got); err != nil {
		t.Fatal(err)
	}
	want := []audit.Call{{Type: "identify", ID: "m-1", Digest: receipt.Digest{1}.String()}, {Type: "group", ID: "m-2", Digest: receipt.Digest{2}.String()}}
	if len(got.Events) != 1 || got.Events[0].State != audit.Delivered || !cmp.Equal(got.Events[0].Receipts[0].Calls, want) {
		t.Errorf("%+v", got)
	}
	if err := json.Unmarshal([]byte(w.want(t, exitFailed, nil, "trace", "five", "--output", "json")), &got); err != nil || got.Events == nil || len(got.Events) != 0 {
		t.Errorf("%v, %+v", err, got)
	}
}

func TestAuditShowsTheCountsAndWhatItFound(t *testing.T) {
	t.Parallel()
	w := newAuditWorld(t)
	at := time.Now().Add(-2 * time.Hour)
	w.finish(t, "u1", "one", at, receipt.Delivered, "")
	p := w.finish(t, "u1", "two", at, receipt.Dead, "rejected")
	w.commit(t, int32(p.Partition), int64(p.Offset)+1, metadata(t, lane.Metadata{Partitions: 3}))
	w.want(t, exitDone, []string{"acme    2       1          1", "Nothing found"}, "audit")

	lost, offset := w.write(t, "refiner.events", "u1", "lost\x1b[2J", []byte("{}"), at.Add(time.Hour))
	w.commit(t, int32(lost), int64(offset)+1, metadata(t, lane.Metadata{Partitions: 3}))
	found := []string{"no_outcome", `lost\x1b[2J`, place(audit.Position{Topic: "refiner.events", Partition: lost, Offset: offset}), "no_outcome (1): if receipts were off"}
	w.want(t, exitFailed, found, "audit")
	w.want(t, exitFailed, found, "audit", "--tenant", "acme")
	w.want(t, exitDone, []string{"Nothing found"}, "audit", "--tenant", "umbrella")
	w.want(t, exitDone, []string{"Nothing found"}, "audit", "--to", "-90m")
	w.want(t, exitFailed, found, "audit", "--from", "-90m")

	var got audit.Report
	if err := json.Unmarshal([]byte(w.want(t, exitFailed, nil, "audit", "--output", "json")), &got); err != nil {
		t.Fatal(err)
	}
	if got.Total.Events != 3 || got.Kinds[audit.NoOutcome] != 1 || len(got.Findings) != 1 || got.Findings[0].EventID != "lost\x1b[2J" {
		t.Errorf("%+v", got)
	}
	w.want(t, exitFailed, []string{"other.events"}, "audit", "--topic-prefix", "other.")
}
