package ingress_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"refinersource/internal/allocs"
	"refinersource/internal/ingress"
)

// requestAllocs is the budget of a request with one event: how often the handler may
// allocate for it, without what net/http and the log do.
const requestAllocs = 9

// answerOnly is a ResponseWriter that allocates nothing.
type answerOnly struct {
	header http.Header
	status int
	body   []byte
}

func (a *answerOnly) Header() http.Header { return a.header }

func (a *answerOnly) WriteHeader(status int) { a.status = status }

func (a *answerOnly) Write(p []byte) (int, error) {
	a.body = append(a.body, p...)
	return len(p), nil
}

// requests returns what makes one request after another of the handler, with memory
// that is used again.
func requests(tb testing.TB, path, event string) func() {
	tb.Helper()
	h, err := ingress.New(ingress.Options{Tenants: registry(tb, newTenant("acme")), Publisher: noLog{}})
	if err != nil {
		tb.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, path, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	raw := []byte(event)
	body := bytes.NewReader(raw)
	r.Body, r.ContentLength = io.NopCloser(body), int64(len(raw))
	w := &answerOnly{header: make(http.Header)}
	return func() {
		body.Reset(raw)
		w.body = w.body[:0]
		if h.ServeHTTP(w, r); w.status != http.StatusAccepted {
			tb.Fatalf("got %d %s", w.status, w.body)
		}
	}
}

func TestAllocationBudgetOfARequest(t *testing.T) {
	for name, request := range map[string]func(){
		"webhook":   requests(t, webhookPath, webhook),
		"canonical": requests(t, eventsPath, canonical),
	} {
		t.Run(name, func(t *testing.T) { allocs.Hold(t, requestAllocs, request) })
	}
}

// BenchmarkRequest is the handler alone, without a network and a log.
func BenchmarkRequest(b *testing.B) {
	request := requests(b, webhookPath, webhook)
	b.ReportAllocs()
	for b.Loop() {
		request()
	}
}
