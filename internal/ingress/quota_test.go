package ingress_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/ingress"
	"refinersource/internal/tenant"
)

// What is over a tenant's quota is answered 429 with the time after which it is not,
// and is not in the log. Other tenants do not notice.
func TestWhatIsOverTheQuotaIsAnswered429(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		acme, other := newTenant("acme"), newTenant("other")
		acme.Quota = 2
		log := &fakeLog{}
		h := newHandler(t, log, ingress.Options{Tenants: registry(t, acme, other), MaxBatchEvents: 4})
		for i := range 4 { // a full batch may come at once
			if w := post(t, h, webhookPath, ofSize(100)); w.Code != http.StatusAccepted {
				t.Fatalf("event %d within the quota: %d", i, w.Code)
			}
		}
		w := post(t, h, webhookPath, ofSize(100))
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "quota of 2 events") {
			t.Errorf("over the quota: %d, Retry-After %q, %s", w.Code, w.Header().Get("Retry-After"), w.Body)
		}
		if w := post(t, h, strings.Replace(webhookPath, "acme", "other", 1), ofSize(100)); w.Code != http.StatusAccepted {
			t.Errorf("another tenant: %d", w.Code)
		}
		if got := len(log.values()); got != 5 {
			t.Errorf("%d events are in the log, want 5", got)
		}
		time.Sleep(time.Second)
		for range 2 {
			if w := post(t, h, webhookPath, ofSize(100)); w.Code != http.StatusAccepted {
				t.Errorf("after the time that was named: %d", w.Code)
			}
		}
		if w := post(t, h, webhookPath, ofSize(100)); w.Code != http.StatusTooManyRequests {
			t.Errorf("what was refused has taken nothing of the quota, and nothing is left: %d", w.Code)
		}
	})
}

func TestQuotaFollowsTheTenantsFile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		acme := newTenant("acme")
		acme.Quota = 1
		var now atomic.Pointer[tenant.Registry]
		now.Store(registry(t, acme)())
		h := newHandler(t, &fakeLog{}, ingress.Options{Tenants: now.Load, MaxBatchEvents: 1})
		codes := func() (all [3]int) {
			for i := range all {
				all[i] = post(t, h, webhookPath, ofSize(100)).Code
			}
			return all
		}
		if got := codes(); got != [3]int{202, 429, 429} {
			t.Errorf("with a quota of 1: %v", got)
		}
		acme.Quota = 3
		now.Store(registry(t, acme)())
		codes()
		time.Sleep(time.Second)
		if got := codes(); got != [3]int{202, 202, 202} {
			t.Errorf("with a quota of 3: %v", got)
		}
		acme.Quota = 0
		now.Store(registry(t, acme)())
		if got := codes(); got != [3]int{202, 202, 202} {
			t.Errorf("without a quota: %v", got)
		}
	})
}
