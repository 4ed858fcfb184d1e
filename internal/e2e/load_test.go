package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// person is one user of one tenant.
type person struct{ tenant, user string }

// position is where an event stands in the log.
type position struct {
	partition int
	offset    int64
}

// load is what was sent and where it stands in the log.
type load struct {
	tenants, users, each int // users in all; events of each user

	mu        sync.Mutex
	positions map[person][]position // of the user's 1st, 2nd, … event
	refused   []string
}

func tenantID(i int) string { return fmt.Sprintf("t%02d", i) }
func writeKey(i int) string { return fmt.Sprintf("write-key-of-t%02d", i) }

// tenantsFile writes a tenants file whose tenants all deliver to endpoint, with more
// keys, if there are any.
func tenantsFile(t *testing.T, n int, endpoint string, more ...string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("tenants:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {id: %s, write_key: %s, endpoint: %q, tokens: [token-of-%s]%s}\n", tenantID(i), writeKey(i), endpoint, tenantID(i),
			strings.Join(append([]string{""}, more...), ", "))
	}
	path := filepath.Join(t.TempDir(), "tenants.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// webhook is the user's seq-th survey as Refiner sends it.
func webhook(user string, account, seq int) []byte {
	return fmt.Appendf(nil, `{"uuid":"c-%[1]s","remote_id":%[1]q,"email":"%[1]s@example.com","attributes":{"email":"%[1]s@example.com","user_id":null},`+
		`"account":{"remote_id":"acc-%[2]d","attributes":{"industry":"accounting","account_seq":0}},"triggered_event":"Completed Survey",`+
		`"form":{"uuid":"f","name":"Onboarding"},"response":{"uuid":"r-%[1]s-%[3]d","completed_at":"2026-10-12T02:05:%02[3]d.000000Z",`+
		`"last_data_reception_at":"2026-10-12T02:05:%02[3]d.000000Z","data":{"seq":%[3]d,"account_seq":%[3]d,`+
		`"what_is_your_job_role":"CEO","how_big_is_your_team":"10+","why":"It is <b>great</b> & 日本語"}}}`, user, account, seq)
}

// send posts the load to the ingress, each user's events one after another, and
// keeps where they stand. Everything has to be answered 202.
func (l *load) send(ctx context.Context, ingress string) {
	l.mu.Lock()
	l.positions = make(map[person][]position)
	l.mu.Unlock()
	l.sendRounds(ctx, ingress, 1, l.each)
}

// sendRounds posts those events of every user, and returns when all are answered.
func (l *load) sendRounds(ctx context.Context, ingress string, first, last int) {
	client := newClient()
	defer client.CloseIdleConnections()
	const senders = 32
	var sending sync.WaitGroup
	for s := range senders {
		sending.Go(func() {
			for seq := first; seq <= last; seq++ {
				for u := s; u < l.users; u += senders {
					l.post(ctx, client, ingress, u, seq)
				}
			}
		})
	}
	sending.Wait()
}

// person is the user of that number.
func (l *load) person(u int) person {
	return person{tenantID(u % l.tenants), fmt.Sprintf("user-%d", u)}
}

// keyTenant is the tenant of a write key.
func keyTenant(key string) string { return strings.TrimPrefix(key, "write-key-of-") }

func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}
}

func (l *load) post(ctx context.Context, client *http.Client, ingress string, u, seq int) {
	who := l.person(u)
	at, err := post(ctx, client, ingress, who.tenant, webhook(who.user, u/10, seq))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.refused = append(l.refused, err.Error())
		return
	}
	l.positions[who] = append(l.positions[who], at)
}

func post(ctx context.Context, client *http.Client, ingress, tenant string, body []byte) (position, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+ingress+"/v1/webhooks/refiner/"+tenant, bytes.NewReader(body))
	if err != nil {
		return position{}, err
	}
	q.Header.Set("Authorization", "Bearer token-of-"+tenant)
	q.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(q)
	if err != nil {
		return position{}, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return position{}, err
	}
	var accepted struct {
		Accepted int `json:"accepted"`
		Events   []struct {
			Partition int   `json:"partition"`
			Offset    int64 `json:"offset"`
		} `json:"events"`
	}
	if err := json.Unmarshal(text, &accepted); answer.StatusCode != http.StatusAccepted || err != nil || accepted.Accepted != 1 || len(accepted.Events) != 1 {
		return position{}, fmt.Errorf("%s: %s", answer.Status, text)
	}
	return position{accepted.Events[0].Partition, accepted.Events[0].Offset}, nil
}

// check reads what arrived against what was sent: for each user identify 1,
// group 1, identify 2, group 2, and so on; under the right write key; all of it. A
// call may come again only where mayRepeat says so of its event, beginning with an
// identify, and then everything after it in order. It returns how many came again.
func (l *load) check(t *testing.T, r *receiver, mayRepeat func(position) bool) (repeated int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(l.refused) > 0 || len(r.faults) > 0 {
		t.Fatalf("%d of the events were not answered 202: %.3q; faults at the receiver: %.3q", len(l.refused), l.refused, r.faults)
	}
	tenantOf := make(map[string]string)
	for i := range l.tenants {
		tenantOf[writeKey(i)] = tenantID(i)
	}
	next := make(map[person]int) // index of the call that must come next
	violations := 0
	violation := func(format string, args ...any) {
		if violations++; violations <= 10 {
			t.Errorf(format, args...)
		}
	}
	for i, c := range r.accepted {
		who := person{tenantOf[c.tenant], c.UserID}
		at, known := l.positions[who]
		if !known || c.seq < 1 || c.seq > len(at) {
			violation("call %d: a %s of %v with number %d was never sent", i, c.Type, who, c.seq)
			continue
		}
		k := 2 * (c.seq - 1)
		switch c.Type {
		case "identify":
		case "group":
			k++
		default:
			violation("call %d is a %q", i, c.Type)
			continue
		}
		switch {
		case k == next[who]:
			next[who]++
		case k < next[who]:
			repeated++
			if c.Type != "identify" {
				violation("call %d: %v goes on with group %d after %d calls", i, who, c.seq, next[who])
			}
			if !mayRepeat(at[c.seq-1]) {
				violation("call %d: %s %d of %v at %+v came again without a cause", i, c.Type, c.seq, who, at[c.seq-1])
			}
			next[who] = k + 1
		default:
			violation("call %d: %s %d of %v came after %d calls of it: out of order or one is missing", i, c.Type, c.seq, who, next[who])
		}
	}
	for who, at := range l.positions {
		if next[who] != 2*len(at) {
			violation("%v has %d calls in order, want %d", who, next[who], 2*len(at))
		}
	}
	if violations > 10 {
		t.Errorf("and %d violations more", violations-10)
	}
	return repeated
}

// never allows no call to come again.
func never(position) bool { return false }
