package ingress_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"refinersource/internal/ingress"
	"refinersource/internal/queue"
)

// noLog takes every record and keeps none.
type noLog struct{}

func (noLog) Publish(context.Context, queue.Record) (queue.Position, error) {
	return queue.Position{}, nil
}

// BenchmarkWebhook compares the handler, without a log, with one that only reads
// the body.
func BenchmarkWebhook(b *testing.B) {
	h, err := ingress.New(ingress.Options{Tenants: registry(b, newTenant("acme")), Publisher: noLog{}})
	if err != nil {
		b.Fatal(err)
	}
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
	})
	body := strings.Replace(webhook, "CEO", strings.Repeat("CEO ", 500), 1)
	for _, c := range []struct {
		name string
		h    http.Handler
	}{{"ingress", h}, {"bare", bare}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, webhookPath, strings.NewReader(body))
				r.Header.Set("X-Refiner-Token", token)
				w := httptest.NewRecorder()
				c.h.ServeHTTP(w, r)
				if w.Code != http.StatusAccepted {
					b.Fatalf("got %d", w.Code)
				}
			}
		})
	}
}
