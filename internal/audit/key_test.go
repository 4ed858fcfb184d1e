package audit_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"refinersource/internal/attribution"
	"refinersource/internal/audit"
	"refinersource/internal/ingress"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

// What the ingress accepts is found by the ids that its sender knows, however long
// they are, in the partition where it put them.
func TestTraceFindsWhatTheIngressAccepted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	publisher := w.log.Publisher(w.topics.Events(), queue.PublisherOptions{})
	defer publisher.Close()
	of := func(id tenant.ID, order attribution.OrderBy) tenant.Tenant {
		rules := attribution.DefaultRules()
		rules.OrderBy = order
		return tenant.Tenant{ID: id, WriteKey: tenant.NewSecret("key"), Rules: rules, NoAuth: true}
	}
	tenants, err := tenant.NewRegistry(of("acme", attribution.ByUser), of("umbrella", attribution.ByAccount))
	if err != nil {
		t.Fatal(err)
	}
	h, err := ingress.New(ingress.Options{Tenants: func() *tenant.Registry { return tenants }, Publisher: publisher})
	if err != nil {
		t.Fatal(err)
	}
	long, whole, hashed := strings.Repeat("long", 200), strings.Repeat("w", 512), strings.Repeat("h", 513)
	for i, c := range []struct{ tenant, user, account, key string }{
		{"acme", "user-17", "acc-9", "user-17"},
		{"acme", long, "acc-9", long},
		{"acme", long + "er", "acc-9", long + "er"},
		{"acme", whole, "", whole},
		{"acme", hashed, "", hashed},
		{"acme", "user-17", "", "user-17"},
		{"umbrella", "user-17", "acc-9", "acc-9"},
		{"umbrella", "user-17", "", "user-17"},
	} {
		for _, id := range []string{fmt.Sprintf("evt-%d", i), fmt.Sprintf("evt-%d-%s", i, long)} {
			body := fmt.Sprintf(`{"id":%q,"completed_at":"2026-10-12T02:05:55Z","user":{"id":%q},"account":{"id":%q},"answers":[{"question":"Why?","value":"x"}]}`, id, c.user, c.account)
			r := httptest.NewRequestWithContext(w.ctx(), http.MethodPost, "/v1/events/"+c.tenant, strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			answer := httptest.NewRecorder()
			h.ServeHTTP(answer, r)
			if answer.Code != http.StatusAccepted {
				t.Fatalf("%d %s", answer.Code, answer.Body)
			}
			for _, q := range []audit.Query{{EventID: id}, {EventID: id, Tenant: c.tenant, User: c.key}} {
				if got := w.trace(q); len(got) != 1 || got[0].State != audit.Waiting || got[0].Bytes != len(body) {
					t.Errorf("%.20s… of %+.20v: %+v", id, c, got)
				}
			}
		}
	}
}
