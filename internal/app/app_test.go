package app_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"refinersource/internal/app"
	"refinersource/internal/attribution"
	"refinersource/internal/broker"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds a wait for something that happens at once where all is well.
const patience = 30 * time.Second

// dev returns the options of a dev in dir; its calls go to the channel.
func dev(dir string, calls chan<- string) app.Options {
	return app.Options{
		Ingress: &app.IngressOptions{Listen: "127.0.0.1:0", AllowNoTokens: true},
		Worker: &app.WorkerOptions{OnCall: func(id tenant.ID, c *attribution.Call) {
			calls <- fmt.Sprintf("%s %v %s", id, c.Kind, c.UserID)
		}},
		Embedded:    &broker.Options{DataDir: dir},
		Topics:      queue.Topics{Prefix: queue.DefaultTopicPrefix},
		AdminListen: "127.0.0.1:0",
	}
}

// start starts an app, and stops it at the end of the test if it still runs.
func start(t *testing.T, o app.Options) *app.App {
	t.Helper()
	a, err := app.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, a) })
	return a
}

func stop(t *testing.T, a *app.App) {
	t.Helper()
	if err := a.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// webhook is a survey that the user has completed.
func webhook(user, answer string) string {
	return fmt.Sprintf(`{"remote_id":%[1]q,"email":"canary-mail@example.com","account":{"remote_id":"acc"},`+
		`"response":{"uuid":"r-%[1]s","completed_at":"2026-10-12T02:05:55Z","data":{"q":%[2]q}}}`, user, answer)
}

// request makes a request and returns the answer's status and body.
func request(t *testing.T, method, url, body string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	// A connection of its own: nothing of a test is left for the next.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func submit(t *testing.T, a *app.App, id, body string, header ...string) int {
	t.Helper()
	status, _ := request(t, http.MethodPost, "http://"+a.PublicAddr().String()+"/v1/webhooks/refiner/"+id, body,
		append([]string{"Content-Type", "application/json"}, header...)...)
	return status
}

func admin(t *testing.T, a *app.App, path string) (int, string) {
	t.Helper()
	return request(t, http.MethodGet, "http://"+a.AdminAddr().String()+path, "")
}

// take takes the next n calls.
func take(t *testing.T, calls <-chan string, n int) []string {
	t.Helper()
	var got []string
	for range n {
		select {
		case c := <-calls:
			got = append(got, c)
		case <-time.After(patience):
			t.Fatalf("%d calls came, want %d: %q", len(got), n, got)
		}
	}
	return got
}

// eventually asks again until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(limit) {
			t.Fatalf("gave up waiting for %s", what)
		}
	}
}

func TestSurveyBecomesAPairAndARestartGoesOnWithTheData(t *testing.T) {
	t.Parallel()
	calls := make(chan string, 100)
	dir := t.TempDir()
	a := start(t, dev(dir, calls))
	if status := submit(t, a, "demo", webhook("ann", "CEO")); status != http.StatusAccepted {
		t.Fatalf("the ingress answered %d, want 202", status)
	}
	want := []string{"demo identify ann", "demo group ann"}
	if d := cmp.Diff(want, take(t, calls, 2)); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
	stop(t, a)

	a = start(t, dev(dir, calls))
	if status := submit(t, a, "demo", webhook("bob", "CTO")); status != http.StatusAccepted {
		t.Fatalf("the ingress answered %d after a restart, want 202", status)
	}
	want = []string{"demo identify bob", "demo group bob"}
	if d := cmp.Diff(want, take(t, calls, 2)); d != "" {
		t.Errorf("calls after a restart, where ann's must not come again (-want +got):\n%s", d)
	}
}

// What was accepted while the worker could not deliver is delivered by the next.
func TestAcceptedEventOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := dev(dir, make(chan string, 1))
	o.Worker = nil // an ingress alone
	a := start(t, o)
	if status := submit(t, a, "demo", webhook("ann", "CEO")); status != http.StatusAccepted {
		t.Fatalf("the ingress answered %d, want 202", status)
	}
	stop(t, a)
	calls := make(chan string, 100)
	start(t, dev(dir, calls))
	if d := cmp.Diff([]string{"demo identify ann", "demo group ann"}, take(t, calls, 2)); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
}

func TestAdminListenerServesHealthMetricsAndThePage(t *testing.T) {
	t.Parallel()
	calls := make(chan string, 100)
	a := start(t, dev(t.TempDir(), calls))
	submit(t, a, "demo", webhook("ann", "canary-answer"))
	take(t, calls, 2)
	for path, want := range map[string]string{
		"/healthz":      "ok",
		"/debug/pprof/": "goroutine",
	} {
		if status, text := admin(t, a, path); status != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%s answered %d: %.100q", path, status, text)
		}
	}
	eventually(t, "/readyz to be 200", func() bool {
		status, _ := admin(t, a, "/readyz")
		return status == http.StatusOK
	})
	eventually(t, "the page to show the event", func() bool {
		_, text := admin(t, a, "/")
		return strings.Contains(text, "r-ann") && strings.Contains(text, "canary-answer")
	})
	_, text := admin(t, a, "/metrics")
	for _, name := range []string{
		`ingress_requests_total{code="202",route="/v1/webhooks/refiner/{tenant}"} 1`, "ingress_request_seconds_count 1",
		`events_accepted_total{source="refiner-webhook",tenant="demo"} 1`,
		`events_finished_total{outcome="delivered",tenant="demo"} 1`, `delivery_attempts_total{class="accepted",tenant="demo"} 2`,
		"delivery_seconds_count 2", "end_to_end_seconds_count 1", `lag_events{partition="0"}`, `lag_seconds{partition="0"}`,
		`in_flight_events{partition="0"}`, "generation_changes_total 1",
	} {
		if !strings.Contains(text, "refiner_source_"+name) {
			t.Errorf("/metrics has no refiner_source_%s", name)
		}
	}
}

// Whoever tries dev and sees no call is told why.
func TestDevSaysWhyAnEventMakesNoCall(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	calls := make(chan string, 100)
	o := dev(t.TempDir(), calls)
	o.Logger = zap.New(core)
	a := start(t, o)
	submit(t, a, "demo", webhook("ann", "CEO"))
	take(t, calls, 2)
	submit(t, a, "demo", webhook("ann", "CEO"))
	submit(t, a, "demo", `{"remote_id":"bob"}`)
	said := func() map[any]any {
		reasons := make(map[any]any)
		for _, line := range logs.FilterMessage("an event makes no call").All() {
			reasons[line.ContextMap()["reason"]] = line.ContextMap()["tenant"]
		}
		return reasons
	}
	eventually(t, "two events to be ignored", func() bool { return len(said()) == 2 })
	if d := cmp.Diff(map[any]any{"duplicate": "demo", "no_response": "demo"}, said()); d != "" {
		t.Errorf("reasons (-want +got):\n%s", d)
	}
}

// Of what the mapping leaves out, renames or replaces the metrics tell how much.
func TestWhatTheMappingChangesIsCounted(t *testing.T) {
	t.Parallel()
	calls := make(chan string, 100)
	a := start(t, dev(t.TempDir(), calls))
	status, text := request(t, http.MethodPost, "http://"+a.PublicAddr().String()+"/v1/events/demo",
		`{"id":"e1","completed_at":"2999-01-01T00:00:00Z","user":{"id":"ann"},"answers":[
		{"question":"Size?","value":1,"belongs_to":"account"},{"question":"Sector?","value":1,"belongs_to":"account"},
		{"question":" ","value":1},{"question":"Why?","value":1},{"question":"Why!","value":2}]}
		`, "Content-Type", "application/json")
	if status != http.StatusAccepted {
		t.Fatalf("answered %d: %s", status, text)
	}
	take(t, calls, 1)
	for _, want := range []string{`note="withheld",tenant="demo"} 2`, `note="unnamed",tenant="demo"} 1`, `note="name_collision",tenant="demo"} 1`, `note="future_timestamp",tenant="demo"} 1`} {
		eventually(t, want, func() bool {
			_, text := admin(t, a, "/metrics")
			return strings.Contains(text, "refiner_source_mapping_notes_total{"+want)
		})
	}
}

// Invariant 9: whatever happens to an event, neither its answers nor an e-mail
// nor a credential is logged or counted.
func TestNoAnswerMailOrSecretInLogsOrMetrics(t *testing.T) {
	t.Parallel()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusBadRequest) // and quotes what it was sent, as some do
		_, _ = w.Write(body)
	}))
	defer receiver.Close()
	core, logs := observer.New(zap.DebugLevel)
	o := dev(t.TempDir(), make(chan string, 100))
	o.Logger = zap.New(core)
	o.TenantsFile = writeTenants(t, filepath.Join(t.TempDir(), "tenants.yaml"), receiver.URL, "acme")
	a := start(t, o)
	token := []string{"Authorization", "Bearer canary-token-acme"}
	submit(t, a, "acme", webhook("ann", "canary-answer"), token...)
	submit(t, a, "acme", `{"remote_id":["canary-answer"],"email":"canary-mail@example.com","response":{"uuid":"bad","completed_at":"2026-10-12T02:05:55Z","data":{"canary-answer":1}}}`, token...)
	submit(t, a, "acme", `{"canary-answer": canary-mail@example.com}`, token...)
	submit(t, a, "acme", webhook("ann", "canary-answer"), "Authorization", "Bearer canary-wrong")
	request(t, http.MethodPost, "http://"+a.PublicAddr().String()+"/v1/webhooks/refiner/acme?token=canary-token-acme", webhook("bob", "canary-answer"), "Content-Type", "application/json")
	var metrics string
	eventually(t, "three dead letters", func() bool {
		_, metrics = admin(t, a, "/metrics")
		return strings.Contains(metrics, `refiner_source_events_finished_total{outcome="dead",tenant="acme"} 3`)
	})
	stop(t, a)
	if logs.FilterMessage("an event became a dead letter").Len() != 3 {
		t.Error("the log does not name the three dead letters: is this the right log?")
	}
	for _, line := range logs.All() {
		if text := fmt.Sprint(line.Message, line.ContextMap()); strings.Contains(text, "canary") {
			t.Errorf("a log line tells: %s", text)
		}
	}
	if strings.Contains(metrics, "canary") {
		t.Error("the metrics tell")
	}
}

// writeTenants writes a tenants file.
func writeTenants(t *testing.T, path, endpoint string, ids ...string) string {
	t.Helper()
	text := "tenants:\n"
	for _, id := range ids {
		text += fmt.Sprintf("  - {id: %[1]s, write_key: canary-key-%[1]s, endpoint: %[2]q, tokens: [canary-token-%[1]s]}\n", id, endpoint)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestChangedTenantsFileIsInForceAndABrokenOneRefused(t *testing.T) {
	t.Parallel()
	receiver := httptest.NewServer(segment.NewCapture(segment.CaptureOptions{}))
	defer receiver.Close()
	path := writeTenants(t, filepath.Join(t.TempDir(), "tenants.yaml"), receiver.URL, "acme")
	calls := make(chan string, 100)
	o := dev(t.TempDir(), calls)
	o.TenantsFile = path
	a := start(t, o)
	send := func(id string) int {
		return submit(t, a, id, webhook("ann", "CEO"), "Authorization", "Bearer canary-token-"+id)
	}
	// A counter that begins at 1 would hide its first step from Prometheus.
	_, text := admin(t, a, "/metrics")
	for _, result := range []string{"applied", "refused"} {
		if want := `refiner_source_config_reloads_total{result="` + result + `"} 0`; !strings.Contains(text, want) {
			t.Errorf("/metrics has no %s from the start", want)
		}
	}
	if got := send("beta"); got != http.StatusUnauthorized {
		t.Fatalf("an unknown tenant was answered %d, want 401", got)
	}
	writeTenants(t, path, receiver.URL, "acme", "beta")
	eventually(t, "the new tenant", func() bool { return send("beta") == http.StatusAccepted })
	take(t, calls, 2)

	if err := os.WriteFile(path, []byte("tenants: [{id: beta, no_such_key: 1}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the refusal", func() bool {
		_, text := admin(t, a, "/metrics")
		return strings.Contains(text, `refiner_source_config_reloads_total{result="refused"} 1`)
	})
	if got := send("acme"); got != http.StatusAccepted {
		t.Errorf("acme was answered %d while a broken file is refused, want 202", got)
	}
	take(t, calls, 2)
}

// Invariant 10: topics that would break the promise are refused.
func TestWrongTopicsAreRefusedWithTheRemedy(t *testing.T) {
	t.Parallel()
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	log, err := queue.Open(queue.Options{Brokers: b.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	topics := queue.Topics{Prefix: "wrong."}
	specs := topics.Specs(3, 1)
	for i := range specs {
		if specs[i].Name == topics.Events() {
			specs[i].Config = map[string]string{"cleanup.policy": "compact"}
		}
	}
	if err := log.EnsureTopics(t.Context(), specs); err != nil {
		t.Fatal(err)
	}
	o := dev("", make(chan string))
	o.Embedded, o.Brokers, o.Topics = nil, b.Addrs(), topics
	o.TenantsFile = writeTenants(t, filepath.Join(t.TempDir(), "tenants.yaml"), "https://api.segment.io", "acme")
	a, err := app.New(o)
	if err != nil {
		t.Fatal(err)
	}
	err = a.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "cleanup") {
		t.Errorf("Start returned %v, want an error that names the cleanup policy", err)
	}
}

// Without brokers the process says what it waits for, and ends when it is told to.
func TestWaitingForBrokersIsNotReadyAndEndsWithTheContext(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	o := dev("", make(chan string))
	o.Logger = zap.New(core)
	o.Embedded, o.Brokers = nil, []string{"127.0.0.1:1"}
	o.TenantsFile = writeTenants(t, filepath.Join(t.TempDir(), "tenants.yaml"), "https://api.segment.io", "acme")
	a, err := app.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	eventually(t, "a line that says what it waits for", func() bool { return logs.FilterMessage("wait for the brokers").Len() > 0 })
	if status, text := admin(t, a, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(text, "starting") {
		t.Errorf("/readyz answered %d %q, want 503 and that it is starting", status, text)
	}
	if status, _ := admin(t, a, "/healthz"); status != http.StatusOK {
		t.Errorf("/healthz answered %d, want 200", status)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	case <-time.After(patience):
		t.Fatal("Run did not end with its context")
	}
}

func TestOptionsAreValidated(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]app.Options{
		"no role":      {Brokers: []string{"a:1"}, TenantsFile: "x"},
		"no broker":    {Ingress: &app.IngressOptions{}, TenantsFile: "x"},
		"both brokers": {Ingress: &app.IngressOptions{}, TenantsFile: "x", Brokers: []string{"a:1"}, Embedded: &broker.Options{}},
		"no tenants":   {Ingress: &app.IngressOptions{}, Brokers: []string{"a:1"}},
	} {
		if _, err := app.New(o); err == nil {
			t.Errorf("%s: an app was made", name)
		}
	}
}
