package main

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/broker"
	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
)

// cliWorld is an installation without roles: its topics alone.
type cliWorld struct {
	broker *broker.Broker
	log    *queue.Log
	topics queue.Topics
}

func newCLIWorld(t *testing.T) *cliWorld {
	t.Helper()
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	w := &cliWorld{broker: b, topics: queue.Topics{Prefix: queue.DefaultTopicPrefix}}
	if w.log, err = queue.Open(queue.Options{Brokers: b.Addrs()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.log.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := w.log.EnsureTopics(ctx, w.topics.Specs(3, 1)); err != nil {
		t.Fatal(err)
	}
	return w
}

// run runs a command with this on its standard input.
func (w *cliWorld) run(t *testing.T, stdin string, args ...string) (out, said string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	root := newRoot()
	root.SetArgs(append(args, "--brokers", strings.Join(w.broker.Addrs(), ",")))
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetIn(strings.NewReader(stdin))
	code = execute(ctx, root, &stderr)
	return stdout.String(), stderr.String(), code
}

// end is how many records the topic has.
func (w *cliWorld) end(t *testing.T, topic string) (n queue.Offset) {
	t.Helper()
	bounds, err := w.log.Bounds(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bounds {
		n += b.End
	}
	return n
}

// records are all of the topic, partition by partition.
func (w *cliWorld) records(t *testing.T, topic string) []queue.Record {
	t.Helper()
	bounds, err := w.log.Bounds(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	var all []queue.Record
	for p := range len(bounds) {
		r := w.log.Reader(topic, p, bounds[p].Start, queue.ReaderOptions{})
		for r.Offset() < bounds[p].End {
			b, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b.Records...)
		}
	}
	return all
}

// hostile is what somebody answered: it would clear the screen, and turn text around.
const hostile = "{\"q\":\"\x1b[2J\u202e<script>\xff\"}"

// bury writes n letters of the tenant, a minute apart, and returns where they stand.
func (w *cliWorld) bury(t *testing.T, tenant string, reason deadletter.Reason, n int) []queue.Position {
	t.Helper()
	publisher := w.log.Publisher(w.topics.Dead(), queue.PublisherOptions{})
	defer func() { _ = publisher.Close() }()
	var at []queue.Position
	for i := range n {
		p, err := deadletter.NewWriter(publisher, w.topics.Dead()).Write(t.Context(), deadletter.Letter{
			Tenant: tenant, Source: "refiner-webhook", EventID: fmt.Sprintf("%s-%s-%d", tenant, reason, i), Reason: reason, Stage: deadletter.StageDecode,
			Detail: "not a JSON object", RulesVersion: 1, ReceivedAt: time.Date(2026, 11, 1, 11, i, 0, 0, time.UTC),
			DeadAt: time.Date(2026, 11, 1, 12, i, 0, 0, time.UTC),
			Origin: queue.Position{Topic: "refiner.events", Partition: i % 3, Offset: queue.Offset(1000*len(tenant) + 100*len(reason) + i)},
			Key:    fmt.Appendf(nil, "%s/user-%d", tenant, i), Raw: []byte(hostile),
		})
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, p)
	}
	return at
}

func TestDeadListGroupsByTenantAndReason(t *testing.T) {
	t.Parallel()
	w := newCLIWorld(t)
	if out, _, code := w.run(t, "", "dead", "list"); code != exitDone || out != "No dead letters.\n" {
		t.Errorf("%d: %s", code, out)
	}
	w.bury(t, "acme", deadletter.Undecodable, 5)
	w.bury(t, "acme", deadletter.Rejected, 2)
	w.bury(t, "beta\x1b[2J", deadletter.Undecodable, 1)
	out, said, code := w.run(t, "", "dead", "list")
	want := strings.Join([]string{
		`TENANT       REASON       LETTERS  DISCARDED  REDRIVEN  FIRST                     LAST`,
		`acme         rejected     2        0          0         2026-11-01T12:00:00.000Z  2026-11-01T12:01:00.000Z`,
		`acme         undecodable  5        0          0         2026-11-01T12:00:00.000Z  2026-11-01T12:04:00.000Z`,
		`beta\x1b[2J  undecodable  1        0          0         2026-11-01T12:00:00.000Z  2026-11-01T12:00:00.000Z`, "",
	}, "\n")
	if diff := cmp.Diff(want, out); diff != "" || code != exitDone {
		t.Errorf("%d %s\n%s", code, said, diff)
	}
	out, said, code = w.run(t, "", "dead", "list", "--tenant", "acme", "--reason", "undecodable", "--from", "2026-11-01T12:01:00Z", "--to", "2026-11-01T12:04:00Z",
		"--all", "--limit", "2", "--output", "json")
	var report deadReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != exitDone {
		t.Fatalf("%d %v %s%s", code, err, out, said)
	}
	if report.Letters != 3 || report.Omitted != 1 || len(report.All) != 2 || report.All[0].EventID != "acme-undecodable-2" || report.All[1].EventID != "acme-undecodable-3" {
		t.Errorf("got %+v", report)
	}
}

func TestDeadListFailsWhereARecordIsNoLetter(t *testing.T) {
	t.Parallel()
	w := newCLIWorld(t)
	publisher := w.log.Publisher(w.topics.Dead(), queue.PublisherOptions{})
	defer func() { _ = publisher.Close() }()
	at, err := publisher.Publish(t.Context(), queue.Record{Key: []byte("k"), Value: []byte(`{"version":9}`)})
	if err != nil {
		t.Fatal(err)
	}
	if _, said, code := w.run(t, "", "dead", "list"); code != exitFailed || !strings.Contains(said, "1 records of refiner.dead cannot be read as letters, the first at "+letterID(at)) {
		t.Errorf("%d %s", code, said)
	}
	if out, said, code := w.run(t, "", "dead", "show", letterID(at)); code != exitDone || !strings.Contains(out, "version 9 is not 1") {
		t.Errorf("%d %s %s", code, out, said)
	}
}

func TestDeadShowEscapesWhatPeopleWroteAndRawDoesNot(t *testing.T) {
	t.Parallel()
	w := newCLIWorld(t)
	at := w.bury(t, "acme", deadletter.Undecodable, 2)
	for _, id := range []string{"acme-undecodable-1", letterID(at[1])} {
		out, said, code := w.run(t, "", "dead", "show", id)
		if code != exitDone {
			t.Fatalf("%d %s", code, said)
		}
		for _, want := range []string{
			"acme-undecodable-1", "refiner.events/1:", "acme/user-1", deadletter.Undecodable.Rule(), "not a JSON object", "2026-11-01T12:01:00.000Z",
			`{"q":"\x1b[2J\u202e<script>\xff"}`,
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
		}
		if strings.ContainsAny(out, "\x1b\u202e") || !utf8.ValidString(out) {
			t.Errorf("it is not escaped:\n%q", out)
		}
		if out, said, code := w.run(t, "", "dead", "show", id, "--raw"); code != exitDone || out != hostile {
			t.Errorf("%d %q %s", code, out, said)
		}
		out, _, code = w.run(t, "", "dead", "show", id, "--output", "json")
		var shown []shownLetter
		if err := json.Unmarshal([]byte(out), &shown); err != nil || code != exitDone || len(shown) != 1 || string(shown[0].Raw) != hostile || shown[0].Letter != letterID(at[1]) {
			t.Errorf("%d %v %s", code, err, out)
		}
	}
	for id, want := range map[string]string{"nobody": `no dead letter of event "nobody"`, "2:9999": "there is no dead letter at 2:9999"} {
		if out, said, code := w.run(t, "", "dead", "show", id); code != exitFailed || out != "" || !strings.Contains(said, want) {
			t.Errorf("%d %s %s", code, out, said)
		}
	}
	w.bury(t, "acme", deadletter.Undecodable, 2)
	if out, said, code := w.run(t, "", "dead", "show", "acme-undecodable-1", "--raw"); code != exitUsage || out != "" || !strings.Contains(said, "has 2 letters") {
		t.Errorf("%d %q %s", code, out, said)
	}
}

func TestDeadDiscardMarksWhatTheFilterMeansAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newCLIWorld(t)
	w.bury(t, "acme", deadletter.Undecodable, 7)
	w.bury(t, "gamma", deadletter.Undecodable, 3)
	filter := []string{"dead", "discard", "--tenant", "acme", "--reason", "undecodable"}
	for _, c := range []struct {
		name, stdin, want string
		args              []string
		code              int
	}{
		{"without --execute", "y\n", "7 letters would be discarded: add --execute.", nil, exitDone},
		{"no", "n\n", "nothing was discarded", []string{"--execute"}, exitFailed},
		{"no answer", "", "nothing was discarded", []string{"--execute"}, exitFailed},
		{"--yes alone", "", "7 letters would be discarded", []string{"--yes"}, exitDone},
	} {
		out, said, code := w.run(t, c.stdin, append(filter, c.args...)...)
		if code != c.code || !strings.Contains(out+said, c.want) {
			t.Errorf("%s: %d %s %s", c.name, code, out, said)
		}
		if n := w.end(t, w.topics.Receipts()); n != 0 {
			t.Fatalf("%s: %d letters were discarded", c.name, n)
		}
	}
	if out, said, code := w.run(t, "", append(filter, "--to", "2026-11-01T12:03:00Z", "--execute", "--yes")...); code != exitDone || out != "3 letters are discarded.\n" {
		t.Fatalf("%d %s %s", code, out, said)
	}
	// Again, as after a run that was ended half-way: only the others are left.
	if out, said, code := w.run(t, "yes\n", append(filter, "--execute")...); code != exitDone || out != "4 letters are discarded.\n" || !strings.Contains(said, "Discard 4 letters? [y/N]") {
		t.Fatalf("%d %s %s", code, out, said)
	}
	if out, said, code := w.run(t, "", append(filter, "--execute", "--yes")...); code != exitDone || out != "No dead letters to discard.\n" {
		t.Errorf("%d %s %s", code, out, said)
	}
	if n := w.end(t, w.topics.Receipts()); n != 7 {
		t.Errorf("%d receipts", n)
	}
	for _, c := range []struct {
		args []string
		want map[string][2]int
	}{
		{nil, map[string][2]int{"gamma": {3, 0}}},
		{[]string{"--discarded"}, map[string][2]int{"acme": {7, 7}, "gamma": {3, 0}}},
	} {
		out, _, _ := w.run(t, "", append([]string{"dead", "list", "--output", "json"}, c.args...)...)
		var report deadReport
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatal(err)
		}
		got := map[string][2]int{}
		for _, g := range report.Groups {
			got[g.Tenant] = [2]int{g.Letters, g.Discarded}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v\n%s", c.args, diff)
		}
	}
}

func TestDeadDiscardTakesOneLetter(t *testing.T) {
	t.Parallel()
	w := newCLIWorld(t)
	at := w.bury(t, "acme", deadletter.Undecodable, 3)
	for _, id := range []string{letterID(at[0]), "acme-undecodable-2"} {
		if out, said, code := w.run(t, "", "dead", "discard", id, "--execute", "--yes"); code != exitDone || out != "1 letters are discarded.\n" {
			t.Errorf("%s: %d %s %s", id, code, out, said)
		}
	}
	out, _, _ := w.run(t, "", "dead", "list", "--all")
	if !strings.Contains(out, "acme-undecodable-1") || strings.Contains(out, "acme-undecodable-0") || strings.Contains(out, "acme-undecodable-2") {
		t.Error(out)
	}
}
