package e2e_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// One user's events always get 500. Everybody else's must arrive; how soon is
// printed. As it was measured with other tools: 200,000 events of 10,000 users
// (E2E_POISON_EVENTS=200000), of which the bad one has 20.
func TestOnePoisonousUserHoldsNobodyElse(t *testing.T) {
	events := 20_000
	if n, err := strconv.Atoi(os.Getenv("E2E_POISON_EVENTS")); err == nil {
		events = n
	}
	const tenants, each = 100, 20
	users := events / each
	const bad = "user-7"
	s := newSystem(t, tenants)
	s.workers[1].terminate()
	s.workers[0].terminate()

	l := &load{tenants: tenants}
	s.post(l, users, each)
	s.receiver.script(func(calls []call) (int, http.Header) {
		for _, c := range calls {
			if c.UserID == bad {
				return http.StatusInternalServerError, nil
			}
		}
		return 0, nil
	})
	begun := time.Now()
	s.addWorker()
	want := 2 * (users - 1) * each
	s.receiver.await(t, want, patience)
	t.Logf("%d of %d events accepted %v after the worker was started, with its group's start; 1 user of %d gets 500 for ever",
		want/2, events, time.Since(begun).Round(10*time.Millisecond), users)

	s.receiver.mu.Lock()
	defer s.receiver.mu.Unlock()
	next := make(map[string]int)
	for i, c := range s.receiver.accepted {
		k := 2 * (c.seq - 1)
		if c.Type == "group" {
			k++
		}
		if who := c.tenant + "/" + c.UserID; k != next[who] {
			t.Fatalf("call %d: %s %d of %s came after %d calls of it", i, c.Type, c.seq, who, next[who])
		}
		next[c.tenant+"/"+c.UserID]++
	}
	if n := next[writeKey(7)+"/"+bad]; n != 0 {
		t.Errorf("%d calls of the bad user were accepted", n)
	}
}

// post sends so many events of each user as canonical events, in batches of one
// tenant's, each user's in their order.
func (s *system) post(l *load, users, each int) {
	s.t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	var posting sync.WaitGroup
	slots := make(chan struct{}, 8)
	for tenant := range l.tenants {
		slots <- struct{}{}
		posting.Go(func() {
			defer func() { <-slots }()
			for seq := 1; seq <= each; seq++ {
				var body bytes.Buffer
				for u := tenant; u < users; u += l.tenants {
					fmt.Fprintf(&body, `{"id":"e-%d-%d","completed_at":"2026-10-12T02:05:%02dZ","user":{"id":"user-%d"},`+
						`"account":{"id":"acc-%d","attributes":{"account_seq":%d}},"answers":[{"question":"seq","value":%d},`+
						`{"question":"What is your job role?","value":"CEO"},{"question":"How big is your team?","value":"10+"},`+
						`{"question":"Why did you choose us?","value":"%0500d"}]}`+"\n", u, seq, seq, u, u, seq, seq, u)
				}
				if err := postLines(client, s.ingress, tenantID(tenant), &body); err != nil {
					s.t.Error(err)
					return
				}
			}
		})
	}
	posting.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
}

func postLines(client *http.Client, ingress, tenant string, body *bytes.Buffer) error {
	q, err := http.NewRequest(http.MethodPost, "http://"+ingress+"/v1/events/"+tenant, body)
	if err != nil {
		return err
	}
	q.Header.Set("Authorization", "Bearer token-of-"+tenant)
	q.Header.Set("Content-Type", "application/x-ndjson")
	answer, err := client.Do(q)
	if err != nil {
		return err
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		return fmt.Errorf("events of %s: %s", tenant, answer.Status)
	}
	return nil
}
