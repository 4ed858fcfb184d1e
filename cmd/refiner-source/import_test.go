package main

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/app"
	"refinersource/internal/attribution"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

// refinerAPI is a server as Refiner documents it: n responses on each of three days,
// by three users, the latest first, two a page.
type refinerAPI struct {
	*httptest.Server
	n        int
	requests atomic.Int32
	fail     atomic.Int32 // from this request on it refuses the key; 0 is never
}

func newRefinerAPI(t *testing.T, n int) *refinerAPI {
	t.Helper()
	a := &refinerAPI{n: n}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

// events are those of a day, in the order in which they were received.
func (a *refinerAPI) events(day string) []string {
	if day < "2026-10-01" || day > "2026-10-03" {
		return nil
	}
	var all []string
	for i := range a.n {
		at := fmt.Sprintf("%s %02d:00:00", day, i)
		all = append(all, fmt.Sprintf(`{"uuid":"r-%s-%02d","completed_at":%q,"last_data_reception_at":%q,"form":{"uuid":"f","name":"F"},`+
			`"data":{"role":"CEO of %[2]d"},"contact":{"uuid":"c","remote_id":"user-%[5]d","email":"a@b.c","account":{"uuid":"a","remote_id":"acc"}}}`,
			day, i, at, at, i%3))
	}
	return all
}

func (a *refinerAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, q := a.requests.Add(1), r.URL.Query()
	if fail := a.fail.Load(); fail > 0 && n >= fail || r.Header.Get("Authorization") != "Bearer canary-key" || r.URL.Path != "/v1/responses" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	items := a.events(q.Get("date_range_start"))
	slices.Reverse(items)
	from, _ := strconv.Atoi(q.Get("page_cursor"))
	to, next := min(from+2, len(items)), "null"
	if to < len(items) {
		next = strconv.Quote(strconv.Itoa(to))
	}
	_, _ = fmt.Fprintf(w, `{"items":[%s],"pagination":{"items_count":%d,"last_page":%d,"next_page_cursor":%s}}`,
		strings.Join(items[from:to], ","), len(items), (len(items)+1)/2, next)
}

// args are those of an import, with the key in a file.
func (a *refinerAPI) args(t *testing.T, more ...string) []string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"tenants.yaml": "tenants:\n  - id: demo\n    write_key: ${REFINER_SOURCE_TEST_UNSET}\n    auth: none\n",
		"key":          "canary-key\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return append([]string{
		"import", "refiner", "--tenant", "demo", "--tenants", filepath.Join(dir, "tenants.yaml"), "--since", "2026-10-01", "--until", "2026-10-03",
		"--api-key", "file:" + filepath.Join(dir, "key"), "--base-url", a.URL + "/v1", "--rate", "1000",
	}, more...)
}

func TestImportedResponsesAreDeliveredByTheWorkerInOrder(t *testing.T) {
	t.Parallel()
	w, a := newCLIWorld(t), newRefinerAPI(t, 9)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"success":true}`)) }))
	t.Cleanup(receiver.Close)
	tenants := filepath.Join(t.TempDir(), "tenants.yaml")
	text := "tenants:\n  - id: demo\n    write_key: secret\n    auth: none\n    endpoint: " + receiver.URL + "\n"
	if err := os.WriteFile(tenants, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, said, code := w.run(t, "", a.args(t)...); code != exitDone || out != "27 events are in the log, 0 were there by the state, 0 are left out.\n" {
		t.Fatalf("%d %s %s", code, out, said)
	}
	want := map[string][]string{}
	for range 3 { // days
		for i := range 9 {
			user := fmt.Sprintf("user-%d", i%3)
			want[user] = append(want[user], fmt.Sprintf("identify CEO of %d", i), "group acc")
		}
	}
	calls := make(chan [2]string, 100)
	o := app.Options{
		Worker: &app.WorkerOptions{Group: "test", OnCall: func(_ tenant.ID, c *attribution.Call) {
			text := "group " + c.GroupID
			if c.Kind == attribution.Identify {
				text = "identify " + roleOf(c)
			}
			calls <- [2]string{c.UserID, text}
		}},
		Brokers: w.broker.Addrs(), Topics: w.topics, AdminListen: "127.0.0.1:0",
		TenantsFile: tenants, Env: os.LookupEnv,
	}
	worker, err := app.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := worker.Stop(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got := map[string][]string{}
	for range 2 * 27 {
		select {
		case c := <-calls:
			got[c[0]] = append(got[c[0]], c[1])
		case <-ctx.Done():
			t.Fatalf("calls are missing: %v", got)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// roleOf is the answer in an identify.
func roleOf(c *attribution.Call) string {
	var call struct {
		Traits map[string]any `json:"traits"`
	}
	_ = json.Unmarshal(c.AppendJSON(nil), &call)
	return fmt.Sprint(call.Traits["refiner_role"])
}

func TestImportThatWasInterruptedResumes(t *testing.T) {
	t.Parallel()
	w, a := newCLIWorld(t), newRefinerAPI(t, 4)
	args := a.args(t)
	args = append(args, "--state", filepath.Join(t.TempDir(), "state"))
	a.fail.Store(4) // in the midst of the second day
	_, said, code := w.run(t, "", args...)
	for _, want := range []string{"2026-10-02", "answers 401", "--api-key", "4 events are in the log", "Run the same command again: it goes on where it was."} {
		if code != exitFailed || !strings.Contains(said, want) {
			t.Errorf("%d: %q is not in: %s", code, want, said)
		}
	}
	if strings.Contains(said, "canary-key") {
		t.Errorf("it shows the key: %s", said)
	}
	a.fail.Store(0)
	a.requests.Store(0)
	out, said, code := w.run(t, "", append(args, "--output", "json")...)
	var summary struct {
		Published int `json:"published"`
	}
	if err := json.Unmarshal([]byte(out), &summary); err != nil || code != exitDone || summary.Published != 8 {
		t.Errorf("%d %s %s", code, out, said)
	}
	if n := a.requests.Load(); n != 4 {
		t.Errorf("%d requests, and the first day was done", n)
	}
	ids := map[string]int{}
	for _, r := range w.records(t, w.topics.Events()) {
		ids[r.Header(queue.HeaderEventID)]++
	}
	if n := w.end(t, w.topics.Events()); len(ids) != 12 || n != 12 {
		t.Errorf("%d events in %d records", len(ids), n)
	}
	for n, i := range args { // the state is of this import alone
		if i == "2026-10-01" {
			args[n] = "2026-09-30"
		}
	}
	if _, said, code := w.run(t, "", args...); code != exitUsage || !strings.Contains(said, "since 2026-10-01: name another file") {
		t.Errorf("%d %s", code, said)
	}
}

func TestImportDryRunPrintsTheEventsAndPublishesNothing(t *testing.T) {
	t.Parallel()
	w, a := newCLIWorld(t), newRefinerAPI(t, 3)
	state := filepath.Join(t.TempDir(), "state")
	out, said, code := w.run(t, "", a.args(t, "--dry-run", "--state", state)...)
	var want []string
	for _, day := range []string{"2026-10-01", "2026-10-02", "2026-10-03"} {
		want = append(want, a.events(day)...)
	}
	if diff := cmp.Diff(strings.Join(want, "\n")+"\n", out); diff != "" || code != exitDone {
		t.Errorf("%d %s\n%s", code, said, diff)
	}
	if n := w.end(t, w.topics.Events()); n != 0 {
		t.Errorf("%d events in the log", n)
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("it wrote a state: %v", err)
	}
}

func TestStateFileThatIsNotUnderstoodIsRefused(t *testing.T) {
	t.Parallel()
	w, a := newCLIWorld(t), newRefinerAPI(t, 1)
	for _, text := range []string{"", "{}", `{"version":2}`, `{"version":1,"more":1}`, "\x00"} {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, said, code := w.run(t, "", a.args(t, "--state", path)...); code != exitUsage || !strings.Contains(said, "--state") {
			t.Errorf("%q: %d %s", text, code, said)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("%q: it was overwritten by %q", text, got)
		}
	}
	if n := a.requests.Load(); n != 0 {
		t.Errorf("%d requests", n)
	}
}
