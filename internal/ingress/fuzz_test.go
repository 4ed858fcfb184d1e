package ingress_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"refinersource/internal/ingress"
	"refinersource/internal/queue"
)

// FuzzHandler promises, of any path, header and body: no panic; no 5xx but 503, and
// that only where the log refuses; a 202 for exactly what came into the log; and
// never a credential in the answer.
func FuzzHandler(f *testing.F) {
	for _, path := range []string{webhookPath, eventsPath, "/v1/events/x?token=" + token, "/%2e%2e//"} {
		for _, body := range []string{webhook, canonical, array(canonical, "{}"), canonical + "\n{\n", "[", "\xff", ""} {
			f.Add(path, "Content-Type", "application/x-ndjson", []byte(body), false)
			f.Add(path, "Webhook-Signature", "v1,AA==", []byte(body), true)
		}
	}
	f.Fuzz(func(t *testing.T, path, name, value string, body []byte, refused bool) {
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		r, err := http.NewRequest(http.MethodPost, "http://x"+path, strings.NewReader(string(body)))
		if err != nil {
			t.Skip("no request can have that path")
		}
		r.Header.Set("X-Refiner-Token", token)
		r.Header.Set(name, value)
		log := &fakeLog{}
		if refused {
			log.before = func(context.Context, queue.Record) error { return queue.ErrUnavailable }
		}
		w := httptest.NewRecorder()
		newHandler(t, log, ingress.Options{MaxEventBytes: 4096, MaxBodyBytes: 8192, MaxBatchEvents: 20}).ServeHTTP(w, r)
		if w.Code >= 500 && (w.Code != http.StatusServiceUnavailable || !refused) {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
		answer := w.Body.String()
		if w.Code == http.StatusAccepted {
			if got := read(t, w.Body); got.Accepted == 0 || got.Accepted != len(log.records) || got.Accepted != len(got.Events) {
				t.Errorf("got %d accepted, %d told and %d in the log", got.Accepted, len(got.Events), len(log.records))
			}
		} else if len(log.records) != 0 {
			t.Errorf("got %d, and %d records in the log", w.Code, len(log.records))
		}
		if strings.Contains(answer, token) && !strings.Contains(string(body), token) {
			t.Errorf("the answer shows a credential: %s", answer)
		}
	})
}
