package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"refinersource/internal/ingress"
	"refinersource/internal/tenant"
)

// load is a sequence of events: each of a user drawn at random, the users spread
// over the tenants, four to an account. The same numbers make the same bytes.
type load struct {
	users, tenants int
	user           []int32 // of each event
	seq            []int32 // of each event among its user's, from 1
	first          []int32 // of each user, how many events those before it have; and of all
}

func newLoad(events, users, tenants int, seed uint64) *load {
	l := &load{
		users: users, tenants: tenants,
		user: make([]int32, events), seq: make([]int32, events), first: make([]int32, users+1),
	}
	random := rand.New(rand.NewPCG(seed, 0xbe))
	for i := range l.user {
		u := random.Int32N(int32(users))
		l.user[i] = u
		l.first[u+1]++
		l.seq[i] = l.first[u+1]
	}
	for u := range users {
		l.first[u+1] += l.first[u]
	}
	return l
}

func (l *load) events() int { return len(l.user) }

// of is how many events the user has.
func (l *load) of(user int) int { return int(l.first[user+1] - l.first[user]) }

// slot numbers a user's seq-th event among all.
func (l *load) slot(user, seq int) int { return int(l.first[user]) + seq - 1 }

func (l *load) tenantOf(user int) int { return user % l.tenants }

// What the answers and the account's attributes are drawn from.
var (
	roles = []string{"CEO", "Engineer", "Designer", "Support", "Other: <everything>"}
	sizes = []string{"1", "2-5", "6-10", "11-50", "1000+"}
	whys  = []string{
		"It does what it says, and the support answered within the hour.",
		"Too expensive for a team of our size; we'd like a smaller plan.",
		"We miss an export & the German translation is \\\"interesting\\\".",
		"日本語のサポートがあると助かります。",
	}
	trades = []string{"accounting", "logistics", "health", "education"}
)

// begun is when the first survey was completed.
var begun = time.Date(2026, 10, 12, 2, 5, 55, 0, time.UTC)

// appendEvent appends a user's seq-th survey as Refiner's webhook sends it: about
// 1 kB, five answers, of which one belongs to the account.
func (l *load) appendEvent(b []byte, user, seq int) []byte {
	draw := user + 3*seq
	at := begun.Add(time.Duration(seq) * time.Minute).Format("2006-01-02T15:04:05.000000Z")
	return fmt.Appendf(b, `{"uuid":"3c9e0000-49cf-11ed-b050-%012[1]x","project_uuid":"71ab58cc-6f0e-4f5e-9d1b-0c1c2b6f9a01",`+
		`"remote_id":"user-%[1]d","email":"user.%[1]d@example.com","display_name":"Ann",`+
		`"first_seen_at":"2026-10-12T01:47:33.000000Z","last_seen_at":"%[4]s",`+
		`"attributes":{"email":"user.%[1]d@example.com","name":"Ann","form_submissions_count":"%[2]d","user_id":null},`+
		`"account":{"uuid":"9a1d0000-49cf-11ed-968d-%012[3]x","remote_id":"acc-%[3]d","domain":null,"display_name":"Awesome Inc.",`+
		`"attributes":{"employee_count":"1","industry":"%[8]s","surveys":%[2]d,"revenue":null}},`+
		`"triggered_event":"Completed Survey","form":{"uuid":"f0a3c1de-3c55-4a3b-9f3e-4d1f4f7b2a10","name":"Onboarding"},`+
		`"response":{"uuid":"%[10]s","first_shown_at":"%[4]s","last_data_reception_at":"%[4]s",`+
		`"completed_at":"%[4]s","dismissed_at":null,"received_at":"%[4]s",`+
		`"data":{"what_is_your_job_role":"%[5]s","how_likely_are_you_to_recommend_us":%[9]d,"why":"%[7]s",`+
		`"survey_number":%[2]d,"employee_count":"%[6]s"},"tags":[]}}`,
		user, seq, user/4, at, roles[draw%len(roles)], sizes[draw%len(sizes)], whys[draw%len(whys)], trades[user%len(trades)], draw%11, eventID(user, seq))
}

// eventID is the id of a user's seq-th event: that of the response.
func eventID(user, seq int) string { return fmt.Sprintf("eb11%04x-49cf-11ed-b050-%012x", seq, user) }

// tenantID names a tenant: those of the load, and as many more as are configured.
func tenantID(i int) string { return fmt.Sprintf("t%05d", i) }
func writeKey(i int) string { return "key-of-" + tenantID(i) }
func token(i int) string    { return "token-of-" + tenantID(i) }

// writeTenants writes a tenants file whose tenants deliver to endpoint without a
// limit of rate, and returns its path.
func writeTenants(dir string, n int, endpoint, pairing string) (string, error) {
	var b strings.Builder
	b.WriteString("tenants:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {id: %s, write_key: %s, endpoint: %q, tokens: [%s], pairing: %s, rate_limit: 0}\n",
			tenantID(i), writeKey(i), endpoint, token(i), pairing)
	}
	path := filepath.Join(dir, "tenants.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return "", fmt.Errorf("write tenants file: %w", err)
	}
	return path, nil
}

// records makes the records that the ingress makes of the load's events.
type records struct {
	load    *load
	tenants []*tenant.Tenant
}

func newRecords(l *load, tenantsFile string) (*records, error) {
	registry, err := tenant.Load(tenantsFile, os.LookupEnv)
	if err != nil {
		return nil, fmt.Errorf("load tenants: %w", err)
	}
	r := &records{load: l, tenants: make([]*tenant.Tenant, l.tenants)}
	for i := range r.tenants {
		t, ok := registry.Get(tenant.ID(tenantID(i)))
		if !ok {
			return nil, fmt.Errorf("load tenants: %s is missing", tenantID(i))
		}
		r.tenants[i] = t
	}
	return r, nil
}

// record is that of the load's i-th event.
func (r *records) record(topic string, i int, received time.Time) (*kgo.Record, error) {
	user, seq := int(r.load.user[i]), int(r.load.seq[i])
	rec, err := ingress.Record(r.tenants[r.load.tenantOf(user)], r.load.appendEvent(nil, user, seq), received)
	if err != nil {
		return nil, fmt.Errorf("make record: %w", err)
	}
	out := &kgo.Record{Topic: topic, Key: rec.Key, Value: rec.Value, Timestamp: rec.Time}
	for _, h := range rec.Headers {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return out, nil
}
