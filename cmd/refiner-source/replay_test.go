package main

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/broker"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
)

// replayWorld is a log with the events of two tenants, and their receiver.
type replayWorld struct {
	t       *testing.T
	brokers string
	tenants string // the file
	capture *segment.Capture
}

// replayUsers of each tenant have answered three times.
const replayUsers = 4

func newReplayWorld(t *testing.T) *replayWorld {
	t.Helper()
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	w := &replayWorld{t: t, brokers: strings.Join(b.Addrs(), ","), capture: segment.NewCapture(segment.CaptureOptions{})}
	server := httptest.NewServer(w.capture)
	t.Cleanup(server.Close)
	w.tenants = filepath.Join(t.TempDir(), "tenants.yaml")
	file := fmt.Sprintf("tenants:\n  - {id: acme, write_key: k1, auth: none, endpoint: %[1]q}\n  - {id: beta, write_key: k2, auth: none, endpoint: %[1]q}\n", server.URL)
	if err := os.WriteFile(w.tenants, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := queue.Open(queue.Options{Brokers: b.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	topics := queue.Topics{Prefix: queue.DefaultTopicPrefix}
	if err := log.EnsureTopics(ctx, topics.Specs(3, 1)); err != nil {
		t.Fatal(err)
	}
	publisher := log.Publisher(topics.Events(), queue.PublisherOptions{})
	defer func() { _ = publisher.Close() }()
	for round := range 3 {
		for u := range replayUsers {
			for _, id := range []string{"acme", "beta"} {
				user := fmt.Sprintf("%s-user-%d", id, u)
				body := fmt.Sprintf(`{"remote_id":%q,"account":{"remote_id":"acc"},"response":{"uuid":"%s-%d","completed_at":"2026-10-12T02:05:0%dZ","data":{"round":%d,"only_%d":true}}}`,
					user, user, round, round, round, round)
				_, err := publisher.Publish(ctx, queue.Record{
					Key: []byte(id + "/" + user), Value: []byte(body),
					Headers: []queue.Header{{Key: queue.HeaderTenant, Value: []byte(id)}, {Key: queue.HeaderSource, Value: []byte("refiner-webhook")}},
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return w
}

// run runs the command and returns what it printed.
func (w *replayWorld) run(args ...string) (out, said string, code int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	root := newRoot()
	root.SetArgs(append([]string{"replay"}, append(args, "--brokers", w.brokers)...))
	root.SetIn(strings.NewReader(""))
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	code = execute(ctx, root, &stderr)
	return stdout.String(), stderr.String(), code
}

// ids are the message ids of the calls in JSON lines.
func ids(t *testing.T, lines string) (all []string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		var call struct {
			MessageID string `json:"messageId"`
		}
		if err := json.Unmarshal([]byte(line), &call); err != nil || call.MessageID == "" {
			t.Fatalf("%q is no call: %v", line, err)
		}
		all = append(all, call.MessageID)
	}
	slices.Sort(all)
	return all
}

// received are those of the calls that the receiver has got since the last time.
func (w *replayWorld) received(before int) (all []string) {
	for _, c := range w.capture.Calls()[before:] {
		all = append(all, c.MessageID)
	}
	slices.Sort(all)
	return all
}

func TestReplaySendsWhatItHasShown(t *testing.T) {
	t.Parallel()
	w := newReplayWorld(t)
	shown, said, code := w.run("--tenants", w.tenants, "--tenant", "acme", "--dry-run")
	want := ids(t, shown)
	if code != exitDone || len(want) != replayUsers*3*2 {
		t.Fatalf("the dry run printed %d calls, exit code %d: %s", len(want), code, said)
	}
	if len(w.capture.Calls()) > 0 {
		t.Fatal("a dry run sent something")
	}
	if _, said, code := w.run("--tenants", w.tenants, "--tenant", "acme"); code != exitUsage || !strings.Contains(said, "--yes") || !strings.Contains(said, "acme") {
		t.Errorf("without --yes, and nobody to ask: exit code %d, and %q; want a preview and the remedy", code, said)
	}
	if _, said, code := w.run("--tenants", w.tenants, "--tenant", "acme", "--yes", "--id", "first"); code != exitDone {
		t.Fatalf("the replay: exit code %d: %s", code, said)
	}
	if d := cmp.Diff(want, w.received(0)); d != "" {
		t.Errorf("message ids that were shown and those that were sent (-want +got):\n%s", d)
	}
	order := make(map[string][]string)
	for _, c := range w.capture.Calls() {
		order[c.UserID] = append(order[c.UserID], c.Type)
	}
	for user, kinds := range order {
		if got := strings.Join(kinds, " "); got != "identify group identify group identify group" {
			t.Errorf("%s got %s", user, got)
		}
	}
	status, said, code := w.run("status", "--output", "json")
	var reports []replayReport
	if err := json.Unmarshal([]byte(status), &reports); err != nil || code != exitDone || len(reports) != 1 || !reports[0].Over || reports[0].ID != "first" || reports[0].Done != reports[0].All {
		t.Errorf("status: %s%s, exit code %d, %v", status, said, code, err)
	}
	before := len(w.capture.Calls())
	if _, said, code := w.run("--tenants", w.tenants, "--id", "first"); code != exitDone || len(w.capture.Calls()) != before {
		t.Errorf("a replay that is over sent %d calls more, exit code %d: %s", len(w.capture.Calls())-before, code, said)
	}
	if _, said, code := w.run("--tenants", w.tenants, "--tenant", "acme", "--yes", "--id", "first"); code != exitUsage || !strings.Contains(said, "first") {
		t.Errorf("another replay with the id of one that was: exit code %d: %s", code, said)
	}
	if _, said, code := w.run("--tenants", w.tenants, "--user", "beta-user-1", "--yes", "--new-ids", "again"); code != exitDone {
		t.Fatalf("the replay with new ids: exit code %d: %s", code, said)
	}
	again := w.received(before)
	if len(again) != 6 {
		t.Errorf("the replay of one user made %d calls, want 6", len(again))
	}
	for _, id := range again {
		if slices.Contains(want, id) {
			t.Errorf("the message id %s is an old one", id)
		}
	}
}

func TestLatestFoldsTheRange(t *testing.T) {
	t.Parallel()
	w := newReplayWorld(t)
	out, said, code := w.run("--tenants", w.tenants, "--dry-run", "--latest")
	if n := len(ids(t, out)); code != exitDone || n != 2*2*replayUsers {
		t.Fatalf("the fold printed %d calls, exit code %d: %s%s", n, code, out, said)
	}
	for line := range strings.Lines(out) {
		var call struct {
			Type      string         `json:"type"`
			UserID    string         `json:"userId"`
			Timestamp time.Time      `json:"timestamp"`
			Traits    map[string]any `json:"traits"`
		}
		if err := json.Unmarshal([]byte(line), &call); err != nil {
			t.Fatal(err)
		}
		if call.Type != "identify" {
			continue
		}
		want := map[string]any{"refiner_round": 2.0, "refiner_only_0": true, "refiner_only_1": true, "refiner_only_2": true}
		for name, value := range want {
			if call.Traits[name] != value {
				t.Errorf("%s of %s is %v, want %v", name, call.UserID, call.Traits[name], value)
			}
		}
		if call.Timestamp.Second() != 2 {
			t.Errorf("the timestamp of %s is %v, want that of the last event", call.UserID, call.Timestamp)
		}
	}
	again, _, _ := w.run("--tenants", w.tenants, "--dry-run", "--latest")
	if again != out {
		t.Error("the same range folds to other calls the second time")
	}
	_, said, code = w.run("--tenants", w.tenants, "--latest")
	if fields := strings.Fields(said); code != exitUsage || !slices.Contains(fields, fmt.Sprint(2*2*replayUsers)) || !strings.Contains(said, "--yes") {
		t.Errorf("without --yes, and nobody to ask: exit code %d, and %q; want a preview with the folded calls, and the remedy", code, said)
	}
	if _, said, code := w.run("--tenants", w.tenants, "--latest", "--yes", "--id", "fold"); code != exitDone {
		t.Fatalf("the fold: exit code %d: %s", code, said)
	}
	if d := cmp.Diff(ids(t, out), w.received(0)); d != "" {
		t.Errorf("message ids that were shown and those that were sent (-want +got):\n%s", d)
	}
	if _, said, code := w.run("--tenants", w.tenants, "--id", "fold"); code != exitDone || len(w.capture.Calls()) != 2*2*replayUsers {
		t.Errorf("a fold that is over sent %d calls in all, exit code %d: %s", len(w.capture.Calls()), code, said)
	}
	if _, said, code := w.run("--tenants", w.tenants, "--latest", "--yes", "--new-ids", "again"); code != exitDone {
		t.Fatalf("the fold with new ids: exit code %d: %s", code, said)
	}
	shown := ids(t, out)
	for _, id := range w.received(2 * 2 * replayUsers) {
		if slices.Contains(shown, id) {
			t.Errorf("the message id %s is an old one", id)
		}
	}
}

func TestReplayRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	for args, says := range map[string]string{
		"--tenants x --rules y":                           "not in force",
		"--tenants x --dry-run --from yesterday":          "--from",
		"--tenants x --dry-run --from-offset 3":           "--partition",
		"--tenants x --dry-run --partition 1 --from -24h": "either times or offsets",
		"--tenants x --dry-run --from -1h --to -2h":       "before it begins",
		"--dry-run": "--tenants",
	} {
		root := newRoot()
		root.SetArgs(append([]string{"replay", "--brokers", "127.0.0.1:1"}, strings.Fields(args)...))
		var stderr bytes.Buffer
		if code := execute(t.Context(), root, &stderr); code != exitUsage || !strings.Contains(stderr.String(), says) {
			t.Errorf("%s: exit code %d, %q; want %d and a word of %s", args, code, stderr.String(), exitUsage, says)
		}
	}
}
