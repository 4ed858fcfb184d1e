package chaos

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"
)

// Sources of events, as the ingress and the records name them.
const (
	webhookSource   = "refiner-webhook"
	canonicalSource = "survey-event"
)

// generated is an event to be posted.
type generated struct {
	tenant, source, id string
	body               []byte
}

// stream makes one sender's events: of its own users alone, so that each user's
// events have an order. Same seed, same events, whatever is answered.
type stream struct {
	rand            *rand.Rand
	sender, senders int
	tenants, active int
	users           int // of an active tenant
	zipf            *rand.Zipf
	epoch           time.Time
	seq             map[string]int // by user
	made            int
}

func newStream(seed uint64, sender, senders int, tenants, active, users int) *stream {
	r := rand.New(rand.NewPCG(seed, 100+uint64(sender)))
	return &stream{
		rand: r, sender: sender, senders: senders, tenants: tenants, active: min(active, tenants), users: users,
		zipf:  rand.NewZipf(r, 1.3, 4, uint64(users-1)),
		epoch: time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC), seq: make(map[string]int),
	}
}

// texts are answers: what is plain, and what must stay text.
var texts = []string{
	"CEO", "10+", "It is <b>great</b> & 日本語", "a\u2028b", "\"quoted\" \\ back", "<script>alert('x')</script>", "${jndi:ldap://x/a}",
	"'; DROP TABLE users; --", "=HYPERLINK(\"http://x\")", "😀👩‍👩‍👧", "line\nbreak\ttab", "\x1b[31mred", "Ünïcödé ﬁ", "", "null", "0", "a,b;c|d",
}

// next makes the next event. special, if not "", is the answer that makes it poison.
func (s *stream) next(special string, hotUser bool) generated {
	t, u := s.tenant(), int(s.zipf.Uint64())
	if hotUser && s.rand.IntN(2) == 0 {
		t, u = s.sender%s.active, 0
	}
	kind := s.rand.IntN(100)
	if special != "" {
		kind = 0
	}
	return s.event(t, u, kind, special)
}

// batch makes up to so many canonical events of one tenant, each of another user: what
// of them has to be posted again overtakes nothing.
func (s *stream) batch(most int) []generated {
	t := s.tenant()
	users := make(map[int]bool)
	var list []generated
	for range most {
		if u := int(s.zipf.Uint64()); !users[u] {
			users[u] = true
			list = append(list, s.event(t, u, canonicalKind, ""))
		}
	}
	return list
}

// tenant draws one: nine in ten are of the active.
func (s *stream) tenant() int {
	t := s.rand.IntN(s.active)
	if s.rand.IntN(10) == 0 {
		t = s.rand.IntN(s.tenants)
	}
	return t
}

// Of a hundred kinds of events those from canonicalKind on are canonical, until
// dismissedKind, from where on they make no calls.
const (
	canonicalKind = 90
	dismissedKind = 95
)

// event makes the next event of a tenant's user.
func (s *stream) event(t, u, kind int, special string) generated {
	r := s.rand
	s.made++
	u = u*s.senders + s.sender
	tenant := fmt.Sprintf("t%04d", t)
	user := fmt.Sprintf("u%d", u)
	key := tenant + "/" + user
	s.seq[key]++
	n := s.seq[key]
	g := generated{tenant: tenant, source: webhookSource, id: fmt.Sprintf("r-%s-%d", user, n)}
	at := s.epoch.Add(time.Duration(s.made)*time.Second + time.Duration(r.IntN(1e6))*time.Microsecond)
	if kind >= canonicalKind && kind < dismissedKind {
		g.source, g.id = canonicalSource, "c-"+g.id
		g.body = canonical(r, g.id, user, u, n, at)
		return g
	}
	g.body = webhook(r, kind, g.id, user, u, n, at, special)
	return g
}

func object(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers alone
	}
	return b
}

// answers are a response's, each a number, a truth or a text.
func answers(r *rand.Rand, n int, special string) map[string]any {
	data := map[string]any{"seq": n, "account_seq": n, "why": texts[r.IntN(len(texts))]}
	for i := range r.IntN(4) {
		name := fmt.Sprintf("q_%d", r.IntN(12))
		switch r.IntN(4) {
		case 0:
			data[name] = r.IntN(11)
		case 1:
			data[name] = i%2 == 0
		case 2:
			data[name] = json.Number(fmt.Sprintf("%d.%02d", r.IntN(100), r.IntN(100)))
		default:
			data[name] = texts[r.IntN(len(texts))]
		}
	}
	if special != "" {
		data["poison"] = special
	}
	return data
}

func webhook(r *rand.Rand, kind int, id, user string, u, n int, at time.Time, special string) []byte {
	stamp := at.Format("2006-01-02T15:04:05.000000Z")
	response := map[string]any{
		"uuid": id, "completed_at": stamp, "last_data_reception_at": stamp, "received_at": stamp,
		"dismissed_at": nil, "data": answers(r, n, special), "tags": []any{},
	}
	body := map[string]any{
		"uuid": "contact-" + user, "remote_id": user, "email": user + "@example.com", "cookie_uuid": "cookie-" + user,
		"attributes":      map[string]any{"email": user + "@example.com", "user_id": nil, "form_submissions_count": fmt.Sprint(n)},
		"triggered_event": "Completed Survey", "form": map[string]any{"uuid": "f", "name": "Onboarding"}, "response": response,
	}
	account := map[string]any{"remote_id": nil, "attributes": map[string]any{"industry": "accounting", "account_seq": 0}}
	if u%10 != 9 {
		account["remote_id"] = fmt.Sprintf("acc-%d", u/5)
		body["account"] = account
	}
	switch {
	case kind == dismissedKind:
		response["completed_at"], response["dismissed_at"], response["data"] = nil, stamp, map[string]any{}
	case kind == 96: // partial
		response["completed_at"] = nil
	case kind == 97: // nobody known
		body["remote_id"], body["account"] = nil, nil
	case kind == 98: // no survey at all
		delete(body, "response")
		body["triggered_event"] = "Entered Segment"
	}
	return object(body)
}

func canonical(r *rand.Rand, id, user string, u, n int, at time.Time) []byte {
	list := []any{
		map[string]any{"question": "Seq", "value": n},
		map[string]any{"question": "Account seq", "property": "account_seq", "belongs_to": "account", "value": n},
		map[string]any{"question": "What is your job role?", "value": texts[r.IntN(len(texts))]},
	}
	body := map[string]any{
		"id": id, "completed_at": at.Format(time.RFC3339Nano), "survey": map[string]any{"id": "s1", "name": "Onboarding"},
		"user": map[string]any{"id": user, "email": user + "@example.com"}, "answers": list,
	}
	if u%10 != 9 {
		body["account"] = map[string]any{"id": fmt.Sprintf("acc-%d", u/5), "attributes": map[string]any{"industry": "accounting"}}
	}
	return object(body)
}
