package ingress_test

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"refinersource/internal/attribution"
	"refinersource/internal/ingress"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	webhookPath = "/v1/webhooks/refiner/acme"
	eventsPath  = "/v1/events/acme"
	token       = "canary-token-1"
	oldToken    = "canary-token-0"
	signingKey  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	oldSigning  = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"

	webhook = `{"remote_id":"user-17","email":"ann@example.com","account":{"remote_id":"acc-9"},` +
		`"response":{"uuid":"r-1","completed_at":"2026-10-12T02:05:55Z","data":{"role":"CEO"}}}`
	canonical = `{"id":"evt-1","completed_at":"2026-10-12T02:05:55Z","user":{"id":"user-17"},"answers":[{"question":"Why?","value":"x"}]}`
)

// fakeLog is a log with three partitions. before, if it is set, is called with each
// record and may refuse it.
type fakeLog struct {
	before func(ctx context.Context, r queue.Record) error

	mu      sync.Mutex
	records []queue.Record
}

func (l *fakeLog) Publish(ctx context.Context, r queue.Record) (queue.Position, error) {
	if l.before != nil {
		if err := l.before(ctx, r); err != nil {
			return queue.Position{}, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Position = queue.Position{Topic: "events", Partition: len(r.Key) % 3, Offset: queue.Offset(len(l.records))}
	l.records = append(l.records, r)
	return r.Position, nil
}

// values are the records' values in the order of the log.
func (l *fakeLog) values() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	values := make([]string, len(l.records))
	for i, r := range l.records {
		values[i] = string(r.Value)
	}
	return values
}

func newTenant(id tenant.ID) tenant.Tenant {
	return tenant.Tenant{
		ID: id, WriteKey: tenant.NewSecret("canary-write-key"), Rules: attribution.DefaultRules(),
		Tokens:         []tenant.Secret{tenant.NewSecret(oldToken), tenant.NewSecret(token)},
		SigningSecrets: []tenant.Secret{tenant.NewSecret(oldSigning), tenant.NewSecret(signingKey)},
	}
}

func registry(t testing.TB, tenants ...tenant.Tenant) func() *tenant.Registry {
	t.Helper()
	r, err := tenant.NewRegistry(tenants...)
	if err != nil {
		t.Fatal(err)
	}
	return func() *tenant.Registry { return r }
}

// newHandler is one for the tenant acme, with what the options say besides.
func newHandler(t testing.TB, log *fakeLog, o ingress.Options) *ingress.Handler {
	t.Helper()
	o.Publisher = log
	if o.Tenants == nil {
		o.Tenants = registry(t, newTenant("acme"))
	}
	h, err := ingress.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// post sends a request with the token.
func post(t testing.TB, h http.Handler, path, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	return send(t, h, http.MethodPost, path, body, append([]string{"X-Refiner-Token", token}, header...)...)
}

// send sends a request with these names and values of headers; the last of a name
// counts, and an empty value removes it.
func send(t testing.TB, h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	maps.DeleteFunc(r.Header, func(_ string, values []string) bool { return slices.Equal(values, []string{""}) })
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// answer is what any answer of the ingress can hold.
type answer struct {
	Accepted, Ignored int
	Events            []struct {
		ID        string
		Partition int
		Offset    int64
	}
	Rejected []rejection

	Type, Title, Detail, Pointer string
	Status                       int
}

type rejection struct {
	Index           int
	Detail, Pointer string
	Retry           bool
}

func read(t testing.TB, body io.Reader) answer {
	t.Helper()
	var a answer
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		t.Fatalf("answer: %v", err)
	}
	return a
}
