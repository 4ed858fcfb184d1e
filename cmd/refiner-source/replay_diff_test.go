package main

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"refinersource/internal/app"
	"refinersource/internal/attribution"
	"refinersource/internal/broker"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
	"refinersource/internal/replay"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

// diffWorld is a log whose events were delivered by the rules of then.
type diffWorld struct {
	t       *testing.T
	broker  *broker.Broker
	client  *kgo.Client
	tenants string // the file, which has the rules of then
	text    string // of it
}

// diffCanary stands in every answer, and must not be shown.
const diffCanary = "canary-answer"

// What was delivered: four events of acme, one that it ignores, and one of beta.
var diffEvents = []struct{ tenant, body string }{
	{"acme", `{"remote_id":"u1","account":{"remote_id":"acc"},"response":{"uuid":"r-1","completed_at":"2026-10-12T02:05:51Z","data":{"size":"canary-answer 10+","role":"canary-answer CEO"}}}`},
	{"acme", `{"remote_id":"u2","account":{"remote_id":"acc"},"response":{"uuid":"r-2","completed_at":"2026-10-12T02:05:52Z","data":{"role":"canary-answer CTO"}}}`},
	{"acme", `{"remote_id":"u3","response":{"uuid":"r-3","completed_at":"2026-10-12T02:05:53Z","data":{"size":"canary-answer 1","role":"canary-answer none"}}}`},
	{"acme", `{"remote_id":"u4","response":{"uuid":"r-4","completed_at":"2026-10-12T02:05:54Z","data":{"why":"canary-answer"}}}`},
	{"acme", `{"remote_id":"u5","response":{"uuid":"r-5","completed_at":null,"data":{"size":"canary-answer 7"}}}`},
	{"beta", `{"remote_id":"u1","response":{"uuid":"r-6","completed_at":"2026-10-12T02:05:56Z","data":{"size":"canary-answer 9"}}}`},
}

const diffCalls = 2 + 2 + 1 + 1 + 1

func newDiffWorld(t *testing.T) *diffWorld {
	t.Helper()
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	client, err := kgo.NewClient(
		kgo.SeedBrokers(b.Addrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MaxVersions(kversion.V3_0_0()), // whose requests name topics by their names
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	receiver := httptest.NewServer(segment.NewCapture(segment.CaptureOptions{}))
	t.Cleanup(receiver.Close)
	w := &diffWorld{t: t, broker: b, client: client, tenants: filepath.Join(t.TempDir(), "tenants.yaml")}
	w.text = fmt.Sprintf("tenants:\n  - {id: acme, write_key: \"${DIFF_TEST_NOT_SET}\", auth: none, endpoint: %[1]q, names: {size: team_size}}\n"+
		"  - {id: beta, write_key: k, auth: none, endpoint: %[1]q}\n", receiver.URL)
	w.write(w.tenants, w.text)
	w.deliver()
	return w
}

func (w *diffWorld) write(path, text string) {
	w.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// deliver runs ingress and worker until all events are delivered.
func (w *diffWorld) deliver() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	topics := queue.Topics{Prefix: queue.DefaultTopicPrefix}
	log, err := queue.Open(queue.Options{Brokers: w.broker.Addrs()})
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	if err := log.EnsureTopics(ctx, topics.Specs(1, 1)); err != nil {
		w.t.Fatal(err)
	}
	calls := make(chan struct{}, 2*diffCalls)
	a, err := app.New(app.Options{
		Ingress: &app.IngressOptions{Listen: "127.0.0.1:0"},
		Worker:  &app.WorkerOptions{OnCall: func(tenant.ID, *attribution.Call) { calls <- struct{}{} }},
		Brokers: w.broker.Addrs(), Topics: topics, Partitions: 1, AdminListen: "127.0.0.1:0", TenantsFile: w.tenants,
		Env: func(string) (string, bool) { return "k", true },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := a.Start(ctx); err != nil {
		w.t.Fatal(err)
	}
	for _, e := range diffEvents {
		answer, err := http.Post("http://"+a.PublicAddr().String()+"/v1/webhooks/refiner/"+e.tenant, "application/json", strings.NewReader(e.body))
		if err != nil {
			w.t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusAccepted {
			w.t.Fatalf("the ingress answered %s", answer.Status)
		}
	}
	for n := range diffCalls {
		select {
		case <-calls:
		case <-ctx.Done():
			w.t.Fatalf("%d calls were delivered, want %d", n, diffCalls)
		}
	}
	if err := a.Stop(); err != nil { // its receipts are written before the last commit
		w.t.Fatal(err)
	}
}

// run runs replay --diff, and wants that exit code.
func (w *diffWorld) run(want int, args ...string) (out, said string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	root := newRoot()
	root.SetArgs(append([]string{"replay", "--diff", "--brokers", strings.Join(w.broker.Addrs(), ",")}, args...))
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	if code := execute(ctx, root, &stderr); code != want {
		w.t.Errorf("%q: exit code %d, want %d:\n%s%s", args, code, want, stdout.String(), stderr.String())
	}
	if strings.Contains(stdout.String()+stderr.String(), diffCanary) {
		w.t.Errorf("%q shows an answer:\n%s%s", args, stdout.String(), stderr.String())
	}
	return stdout.String(), stderr.String()
}

// report is run with --output json.
func (w *diffWorld) report(want int, args ...string) (r replay.DiffReport) {
	w.t.Helper()
	out, said := w.run(want, append(args, "--output", "json")...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		w.t.Fatalf("%v: %s%s", err, out, said)
	}
	return r
}

var diffTimes = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`)

func TestReplayDiffTellsWhatAChangeOfTheRulesDoes(t *testing.T) {
	t.Parallel()
	w := newDiffWorld(t)
	if out, _ := w.run(exitDone, "--tenants", w.tenants); !strings.Contains(out, "Nothing differs.") {
		t.Errorf("by the rules of then:\n%s", out)
	}

	changed := strings.Replace(w.text, "names: {size: team_size}", "names: {size: crew}, account_properties: [role], partials: true", 1)
	next := filepath.Join(t.TempDir(), "next.yaml")
	w.write(next, changed)
	if same := w.report(exitDone, "--tenants", w.tenants); same.Total.Same != len(diffEvents) {
		t.Errorf("a file that is not in force has changed something: %+v", same.Total)
	}
	inForce := filepath.Join(t.TempDir(), "in-force.yaml")
	w.write(inForce, changed)
	byRules, _ := w.run(exitFailed, "--tenants", w.tenants, "--rules", next)
	byTenants, _ := w.run(exitFailed, "--tenants", inForce)
	if d := cmp.Diff(byTenants, byRules); d != "" {
		t.Errorf("with the rules in force, and with --rules:\n%s", d)
	}
	want := `TENANT  EVENTS  SAME  DIFFERENT  NOT COMPARABLE  FIRST  LAST
acme 5 1 4 0 TIME TIME
beta 1 1 0 0 TIME TIME
all 6 2 4 0 TIME TIME

CHANGE TENANT CALL TRAIT BECOMES EVENTS EXAMPLE
call added acme identify - sent; was ignored: partial 1 r-5
gone acme identify refiner_role not sent; it is of an account that is not known 1 r-3
renamed acme identify refiner_team_size refiner_crew 2 r-1
owner acme identify refiner_role group 2 r-1
`
	if d := cmp.Diff(columns(want), columns(diffTimes.ReplaceAllString(byRules, "TIME"))); d != "" {
		t.Errorf("the table (-want +got):\n%s", d)
	}

	got := w.report(exitFailed, "--rules", next)
	changes := []replay.ChangeCount{
		{Change: replay.Change{Kind: replay.CallAdded, Call: "identify", Why: "ignored: partial"}, Events: 1, Example: "r-5"},
		{Change: replay.Change{Kind: replay.Gone, Call: "identify", Trait: "refiner_role", Why: replay.NoAccount}, Events: 1, Example: "r-3"},
		{Change: replay.Change{Kind: replay.Renamed, Call: "identify", Trait: "refiner_team_size", ToCall: "identify", ToTrait: "refiner_crew"}, Events: 2, Example: "r-1"},
		{Change: replay.Change{Kind: replay.Owner, Call: "identify", Trait: "refiner_role", ToCall: "group", ToTrait: "refiner_role"}, Events: 2, Example: "r-1"},
	}
	if d := cmp.Diff(changes, got.Tenants[0].Changes, cmpopts.IgnoreUnexported(replay.ChangeCount{})); d != "" || !got.Differs || len(got.Tenants[1].Changes) > 0 {
		t.Errorf("json: differs is %v, changes of acme (-want +got):\n%s", got.Differs, d)
	}
	for name, args := range map[string][]string{
		"beta alone":      {"--tenant", "beta"},
		"a user":          {"--user", "u4"},
		"no dry run":      {"--tenant", "beta", "--dry-run"},
		"an empty range":  {"--to", "2026-01-01T00:00:00Z"},
		"the last offset": {"--partition", "0", "--from-offset", "5"},
	} {
		if r := w.report(exitDone, append(args, "--rules", next)...); r.Differs || r.Total.Different > 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if _, said := w.run(exitUsage, "--rules", next, "--tenant", "acne"); !strings.Contains(said, `--tenant "acne"`) {
		t.Errorf("a tenant that nobody knows: %s", said)
	}
}

// columns are the words of each line, and so whatever widths a table has.
func columns(table string) []string {
	lines := strings.Split(table, "\n")
	for i, line := range lines {
		lines[i] = strings.Join(strings.Fields(line), " ")
	}
	return lines
}

// What is missing in the log is said, and is no success.
func TestReplayDiffSaysWhatItCannotCompare(t *testing.T) {
	t.Parallel()
	w := newDiffWorld(t)
	next := filepath.Join(t.TempDir(), "next.yaml")
	w.write(next, strings.Replace(w.text, "team_size", "crew", 1))

	rules := attribution.DefaultRules()
	rules.Names = attribution.CompileNames(map[string]string{"size": "team_size"})
	key := receipt.RulesKey{Tenant: "acme", Fingerprint: tenant.Fingerprint(&rules)}
	if err := w.client.ProduceSync(t.Context(), &kgo.Record{Topic: "refiner.tenants", Key: []byte(key.String())}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	got := w.report(exitFailed, "--rules", next)
	if want := map[replay.Incomparable]int{replay.NoRules: 2}; !cmp.Equal(want, got.Total.Reasons) || !got.Differs || got.Total.Same != 4 {
		t.Errorf("without the text of acme's rules: %+v, want %v", got, want)
	}
	if out, _ := w.run(exitFailed, "--rules", next); !strings.Contains(out, "no_rules (2): its calls differ, but how cannot be said") || strings.Contains(out, "Nothing differs") {
		t.Errorf("without the text of acme's rules:\n%s", out)
	}
	if got := w.report(exitDone, "--tenants", w.tenants); got.Total.Same != len(diffEvents) {
		t.Errorf("the digests are the same, and no text is needed: %+v", got.Total)
	}

	w.dropReceipts(1)
	got = w.report(exitDone, "--tenants", w.tenants)
	if want := map[replay.Incomparable]int{replay.NoReceipt: 1}; !cmp.Equal(want, got.Total.Reasons) || got.Total.Same != len(diffEvents)-1 {
		t.Errorf("without one receipt: %+v, want %v", got.Total, want)
	}
	w.dropReceipts(len(diffEvents))
	out, said := w.run(exitFailed, "--tenants", w.tenants)
	if !strings.Contains(said, "no event of the range can be compared") || strings.Contains(out, "Nothing differs") {
		t.Errorf("without any receipt:\n%s%s", out, said)
	}
}

// dropReceipts takes all receipts before an offset out of the log.
func (w *diffWorld) dropReceipts(before int) {
	w.t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	topic := kmsg.NewDeleteRecordsRequestTopic()
	topic.Topic = "refiner.receipts"
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Offset = int64(before)
	topic.Partitions = append(topic.Partitions, p)
	req.Topics = append(req.Topics, topic)
	for _, shard := range w.client.RequestSharded(w.t.Context(), req) {
		if shard.Err != nil {
			w.t.Fatal(shard.Err)
		}
	}
}
