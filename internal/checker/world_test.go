package checker_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"refinersource/internal/checker"
	"refinersource/internal/lane"
)

const (
	millisecond = int64(time.Millisecond)
	second      = int64(time.Second)
)

// world makes histories as a service without fault would leave them. Whatever is
// done in it takes time.
type world struct {
	t    testing.TB
	h    *checker.History
	now  checker.Time
	ends []int64 // of the partitions
	seen int64   // applied requests
	trim bool    // retention has taken all but the last record
}

// posted is an event in the log.
type posted struct {
	tenant    *checker.Tenant
	partition int
	offset    int64
	calls     []json.RawMessage
}

const partitions = 2

func newWorld(t testing.TB) *world {
	start := time.Date(2026, 10, 12, 12, 0, 0, 0, time.UTC).UnixNano()
	w := &world{t: t, now: start, h: &checker.History{}, ends: make([]int64, partitions)}
	for _, tenant := range []checker.Tenant{
		{ID: "acme", Endpoint: "one"},
		{ID: "bolt", Endpoint: "one", Pairing: "batch"},
		{ID: "corp", Endpoint: "two", OrderBy: "account", Names: map[string]string{"How big is your team?": "team_size"}},
		{ID: "dove", Endpoint: "two"},
	} {
		tenant.WriteKeys = []checker.WriteKey{{Key: "key-" + tenant.ID}}
		w.h.Tenants = append(w.h.Tenants, tenant)
	}
	return w
}

func (w *world) tenant(id string) *checker.Tenant {
	for i := range w.h.Tenants {
		if w.h.Tenants[i].ID == id {
			return &w.h.Tenants[i]
		}
	}
	return &checker.Tenant{ID: id}
}

func (w *world) pass(d int64) checker.Time {
	w.now += d
	return w.now
}

// post has an event accepted. Whatever has the same user stands in the same partition.
func (w *world) post(tenant, source, user string, body []byte) posted {
	w.t.Helper()
	p := partitionOf(tenant, user)
	at := w.pass(millisecond)
	e := posted{tenant: w.tenant(tenant), partition: p, offset: w.ends[p]}
	w.ends[p]++
	d, err := checker.Derive(e.tenant, source, body, time.Unix(0, at), "")
	if err != nil {
		w.t.Fatal(err)
	}
	e.calls = d.Calls
	w.h.Log = append(w.h.Log, checker.Record{
		Partition: p, Offset: e.offset, Key: []byte(tenant + "/" + user), Value: body, Time: at,
		Headers: map[string]string{
			"tenant": tenant, "source": source, "event-id": d.ID, "received-at": time.Unix(0, at).UTC().Format(time.RFC3339Nano),
		},
	})
	w.h.Sent = append(w.h.Sent, checker.Sent{
		At: at - millisecond, Done: w.pass(millisecond), Tenant: tenant, Source: source, EventID: d.ID, Body: body,
		Status: 202, Partition: p, Offset: e.offset,
	})
	return e
}

// forget says that a respondent is to be forgotten from now on.
func (w *world) forget(tenant, user string) {
	t := w.tenant(tenant)
	t.Forgotten, t.ForgottenAt = []string{user}, w.pass(millisecond)
}

// partitionOf stands in for Kafka's partitioner.
func partitionOf(tenant, user string) int {
	sum := sha256.Sum256([]byte(tenant + user))
	return int(sum[0]) % partitions
}

// event posts a canonical event of a user.
func (w *world) event(tenant, user, id string, value any) posted {
	w.t.Helper()
	key := user
	if tenant == "corp" {
		key = "acc-1"
	}
	return w.post(tenant, "survey-event", key, w.body(user, id, value))
}

func (w *world) body(user, id string, value any) []byte {
	return must(json.Marshal(map[string]any{
		"id": id, "completed_at": time.Unix(0, w.now).UTC().Format(time.RFC3339Nano),
		"user":    map[string]any{"id": user, "email": user + "@example.com"},
		"account": map[string]any{"id": "acc-1", "attributes": map[string]any{"industry": "health"}},
		"answers": []any{
			map[string]any{"question": "How big is your team?", "value": value},
			map[string]any{"property": "seats", "belongs_to": "account", "value": value},
		},
	}))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// answer is what a receiver does with a request: 0 cuts the connection.
type answer struct {
	status  int
	applied bool
	after   string // Retry-After
}

var taken = answer{status: 200, applied: true}

// request has calls of one tenant sent.
func (w *world) request(tenant *checker.Tenant, a answer, calls ...json.RawMessage) *checker.Request {
	r := checker.Request{
		Begun: w.pass(millisecond), Answered: w.pass(millisecond), Endpoint: tenant.Endpoint, WriteKey: tenant.WriteKeys[0].Key,
		Status: a.status, SentAnswer: a.status != 0, RetryAfter: a.after, Calls: calls,
	}
	if a.applied {
		w.seen++
		r.Applied = w.seen
	}
	if a.status == 0 {
		r.Answered = 0
	}
	w.h.Received = append(w.h.Received, r)
	return &w.h.Received[len(w.h.Received)-1]
}

// deliver has all calls of events accepted, as their tenant wants it.
func (w *world) deliver(events ...posted) {
	for _, e := range events {
		if e.tenant.Pairing == "batch" {
			w.request(e.tenant, taken, e.calls...)
			continue
		}
		for _, call := range e.calls {
			w.request(e.tenant, taken, call)
		}
	}
}

// commit commits partitions' ends, or whatever stands in to, with cursors.
func (w *world) commit(p int, to int64, cursors ...lane.Cursor) {
	w.t.Helper()
	m := lane.Metadata{Partitions: partitions, Cursors: cursors}
	text, _, err := m.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	w.h.Commits = append(w.h.Commits, checker.Commit{At: w.pass(20 * millisecond), Partition: p, Offset: to, Metadata: text})
	w.pass(20 * millisecond)
}

// asked is a run whose requests for commits were seen: one for each commit.
func asked(of func(testing.TB) *world) func(testing.TB) *world {
	return func(t testing.TB) *world {
		w := of(t)
		for _, k := range w.h.Commits {
			w.h.CommitRequests = append(w.h.CommitRequests, checker.CommitRequest{
				At: k.At - 10*millisecond, Answered: k.At + 10*millisecond, Worker: "worker-1", Generation: 3, Member: "m1",
				Asked: []checker.CommitPart{{Partition: k.Partition, Offset: k.Offset}},
			})
		}
		return w
	}
}

// ask has a member of a generation ask for the partition's end, once more: made
// says that the coordinator stores it, and code is its answer.
func (w *world) ask(p, generation int, member string, made bool, code int) *checker.CommitRequest {
	at := w.pass(millisecond)
	if made {
		w.commit(p, w.ends[p])
	}
	w.h.CommitRequests = append(w.h.CommitRequests, checker.CommitRequest{
		At: at, Answered: w.pass(millisecond), Worker: "worker-1", Generation: generation, Member: member,
		Asked: []checker.CommitPart{{Partition: p, Offset: w.ends[p], Error: code}},
	})
	return &w.h.CommitRequests[len(w.h.CommitRequests)-1]
}

func (w *world) commitAll(cursors ...lane.Cursor) {
	for p := range partitions {
		w.commit(p, w.ends[p], cursors...)
	}
}

// letter writes the dead letter of an event.
func (w *world) letter(e posted, reason string, status int) {
	w.t.Helper()
	var raw []byte
	for _, r := range w.h.Log {
		if r.Partition == e.partition && r.Offset == e.offset {
			raw = r.Value
		}
	}
	at := w.pass(millisecond)
	w.h.Letters = append(w.h.Letters, checker.Letter{
		Partition: e.partition, Offset: int64(len(w.h.Letters)), Time: at,
		Value: must(json.Marshal(map[string]any{
			"version": 1, "tenant": e.tenant.ID, "reason": reason, "stage": "identify", "status": status, "raw": raw,
			"dead_at": time.Unix(0, at).UTC(),
			"origin":  map[string]any{"topic": "refiner.events", "partition": e.partition, "offset": e.offset},
		})),
	})
}

// close says how things stand, and returns the history.
func (w *world) close() *checker.History {
	w.h.Bounds = nil
	for p, end := range w.ends {
		w.h.Bounds = append(w.h.Bounds, checker.Bounds{Partition: p, End: end})
		if w.trim {
			w.h.Bounds[p].Start = end
		}
	}
	w.h.Final.At = w.now
	return w.h
}

// webhook is the body of Refiner's webhook.
func webhook(user, id, completed string, data map[string]any) []byte {
	var at any
	if completed != "" {
		at = completed
	}
	return must(json.Marshal(map[string]any{
		"uuid": "3c9e6c52-49cf-11ed-968d-936a69fadf81", "remote_id": user, "email": "ann@example.com",
		"attributes": map[string]any{"role": "CEO"},
		"account":    map[string]any{"remote_id": "acc-9", "attributes": map[string]any{"industry": "accounting", "plan": nil}},
		"response":   map[string]any{"uuid": id, "completed_at": at, "last_data_reception_at": at, "data": data},
	}))
}

// calm is a run without faults but for what receivers answer. It has everything
// that can become of an event.
func calm(t testing.TB) *world {
	w := newWorld(t)
	for i := range 4 {
		for _, tenant := range []string{"acme", "bolt", "corp"} {
			w.deliver(w.event(tenant, "u1", fmt.Sprintf("%s-%d", tenant, i), i))
		}
		w.deliver(w.post("acme", "refiner-webhook", "u2", webhook("u2", fmt.Sprintf("eb11-%d", i), "2026-10-12T02:05:55.000000Z",
			map[string]any{"job_role": "<b>'; DROP TABLE--", "nps": json.RawMessage("9007199254740993"), "ok": false, "plan": "gold"})))
		w.commitAll()
	}
	w.post("acme", "refiner-webhook", "u3", webhook("u3", "seen", "", nil))                                         // dismissed
	w.post("acme", "refiner-webhook", "u3", webhook("u3", "partial", "", map[string]any{"a": 1}))                   // partial
	w.post("acme", "refiner-webhook", "", webhook("", "anonymous", "2026-10-12T02:05:55Z", map[string]any{"a": 1})) // anonymous
	w.letter(w.post("acme", "refiner-webhook", "x", []byte("\x00garbage")), "undecodable", 0)
	w.letter(w.post("nobody", "survey-event", "x", []byte("{}")), "unknown_tenant", 0)
	copied := w.event("acme", "u4", "copied", "once")
	w.deliver(copied)
	w.post("acme", "survey-event", "u4", w.h.Log[len(w.h.Log)-1].Value)

	refused := w.event("acme", "u5", "refused", "x")
	w.request(refused.tenant, answer{status: 400}, refused.calls[0])
	w.letter(refused, "rejected", 400)
	w.deliver(w.event("acme", "u5", "behind the refused one", "y"))
	w.commitAll()
	return w
}

// outage is calm with a tenant that fails, waits in a cursor, and is mended.
func outage(t testing.TB) *world {
	w := calm(t)
	var waiting []posted
	for i := range 4 {
		waiting = append(waiting, w.event("dove", "u1", fmt.Sprintf("dove-%d", i), i))
	}
	first := waiting[0]
	w.request(first.tenant, answer{status: 503, after: "2"}, first.calls[0])
	held := lane.Cursor{Tag: lane.TagOf("dove"), From: lane.Offset(first.offset)}
	w.commit(first.partition, w.ends[first.partition], held)
	w.deliver(w.event("acme", "u1", "goes on", 9))
	w.commit(first.partition, w.ends[first.partition], held)
	w.pass(3 * second)
	w.deliver(waiting[0])
	w.request(first.tenant, taken, waiting[1].calls[0])
	held.From = lane.Offset(waiting[1].offset)
	held.Runs = []lane.Run{{Events: 1, State: lane.AfterFirst}}
	w.commit(first.partition, w.ends[first.partition], held)
	w.request(first.tenant, taken, waiting[1].calls[1])
	w.deliver(waiting[2:]...)
	w.commitAll()
	return w
}

// rough is an outage with an answer that is lost, and a worker that is killed.
func rough(t testing.TB) *world {
	w := outage(t)
	e := w.event("acme", "u1", "in doubt", "a")
	w.request(e.tenant, answer{applied: true}, e.calls[0])
	w.deliver(e)
	w.commitAll()
	again := []posted{w.event("acme", "u6", "again-1", "b"), w.event("acme", "u6", "again-2", "c")}
	w.deliver(again...)
	w.h.Faults = append(w.h.Faults, checker.Fault{At: w.pass(millisecond), Fault: "F1", Target: "worker-1"})
	w.deliver(again...)
	w.deliver(w.event("acme", "u6", "again-3", "d"))
	w.commitAll()
	return w
}
