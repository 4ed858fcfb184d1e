package main

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/app"
	"refinersource/internal/copies"
	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
	"refinersource/internal/redrive"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

// redriveWorld is an installation with a worker and a receiver, which refuses calls
// with a trait refiner_bad while it is strict.
type redriveWorld struct {
	*cliWorld
	tenants string // the file
	server  *httptest.Server
	capture *segment.Capture
	strict  atomic.Bool
	seen    int // calls that were looked at
}

func newRedriveWorld(t *testing.T, tenants ...string) *redriveWorld {
	t.Helper()
	w := &redriveWorld{cliWorld: newCLIWorld(t), tenants: filepath.Join(t.TempDir(), "tenants.yaml")}
	w.strict.Store(true)
	w.capture = segment.NewCapture(segment.CaptureOptions{Answer: func(_ *http.Request, b segment.Batch) segment.Answer {
		for _, c := range b.Calls {
			if w.strict.Load() && strings.Contains(string(c.Call), "refiner_bad") {
				return segment.Answer{Status: http.StatusBadRequest}
			}
		}
		return segment.Answer{}
	}})
	w.server = httptest.NewServer(w.capture)
	t.Cleanup(w.server.Close)
	w.write(t, w.tenants, "", tenants...)
	return w
}

// write writes a tenants file; rules are added to each tenant.
func (w *redriveWorld) write(t *testing.T, path, rules string, tenants ...string) {
	t.Helper()
	text := "tenants:\n"
	for _, id := range tenants {
		text += fmt.Sprintf("  - {id: %s, write_key: k-%s, auth: none, endpoint: %q%s}\n", id, id, w.server.URL, rules)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// publish appends an event of a user; its id is the user's and the number's.
func (w *redriveWorld) publish(t *testing.T, id, user string, n int, answers, account string) queue.Position {
	t.Helper()
	return w.publishRaw(t, id, user, fmt.Sprintf(`{"remote_id":%q,"account":{"remote_id":"acc","attributes":%s},"response":{"uuid":"%s-%d","completed_at":"2026-10-12T02:05:%02dZ","data":%s}}`,
		user, account, user, n, n, answers), fmt.Sprintf("%s-%d", user, n))
}

func (w *redriveWorld) publishRaw(t *testing.T, id, user, body, eventID string) queue.Position {
	t.Helper()
	publisher := w.log.Publisher(w.topics.Events(), queue.PublisherOptions{})
	defer func() { _ = publisher.Close() }()
	at, err := publisher.Publish(t.Context(), queue.Record{
		Key: []byte(id + "/" + user), Value: []byte(body),
		Headers: []queue.Header{
			{Key: queue.HeaderTenant, Value: []byte(id)},
			{Key: queue.HeaderSource, Value: []byte("refiner-webhook")},
			{Key: queue.HeaderEventID, Value: []byte(eventID)},
			{Key: queue.HeaderReceivedAt, Value: time.Now().UTC().AppendFormat(nil, time.RFC3339Nano)},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// deliver lets a worker work until every event has its receipt.
func (w *redriveWorld) deliver(t *testing.T) {
	t.Helper()
	a, err := app.New(app.Options{
		Worker: &app.WorkerOptions{}, Brokers: w.broker.Addrs(), Topics: w.topics, TenantsFile: w.tenants, Env: os.LookupEnv, AdminListen: "127.0.0.1:0",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(time.Minute); w.end(t, w.topics.Receipts()) < w.end(t, w.topics.Events()); <-tick.C {
		if time.Now().After(limit) {
			t.Fatal("gave up waiting for receipts")
		}
	}
}

// calls are those that the receiver has got since the last time, as one line each.
func (w *redriveWorld) calls(t *testing.T) []string {
	t.Helper()
	all := w.capture.Calls()
	lines := []string{}
	for _, c := range all[w.seen:] {
		var call struct {
			Traits map[string]any `json:"traits"`
		}
		if err := json.Unmarshal(c.Call, &call); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%s %s %v", c.Type, c.UserID, call.Traits))
	}
	w.seen = len(all)
	return lines
}

// must runs a command that is done well, and returns what it printed.
func (w *redriveWorld) must(t *testing.T, args ...string) string {
	t.Helper()
	out, said, code := w.run(t, "", args...)
	if code != exitDone {
		t.Fatalf("%q: exit code %d: %s%s", args, code, out, said)
	}
	return out
}

// ends are how many events, letters and receipts there are.
func (w *redriveWorld) ends(t *testing.T) [3]queue.Offset {
	t.Helper()
	return [3]queue.Offset{w.end(t, w.topics.Events()), w.end(t, w.topics.Dead()), w.end(t, w.topics.Receipts())}
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestRedriveSendsWhatNoNewerCompletionSet(t *testing.T) {
	t.Parallel()
	w := newRedriveWorld(t, "acme")
	w.publish(t, "acme", "ann", 1, `{"bad":1,"role":"old","team":5}`, `{"industry":"old","size":"10+"}`)
	w.publish(t, "acme", "ann", 2, `{"role":"new"}`, `{"industry":"new"}`)
	w.deliver(t)
	same(t, "calls before", []string{"identify ann map[refiner_role:new]", "group ann map[refiner_industry:new]"}, w.calls(t))

	w.strict.Store(false)
	before := w.ends(t)
	out := w.must(t, "dead", "redrive", "--tenant", "acme", "--tenants", w.tenants)
	if !strings.Contains(out, "1 letters would be redriven: add --execute.") || !strings.Contains(out, "acme    rejected  1        1        1           2                0             0") {
		t.Error(out)
	}
	if _, said, code := w.run(t, "n\n", "dead", "redrive", "--tenant", "acme", "--tenants", w.tenants, "--execute"); code != exitFailed || !strings.Contains(said, "Redrive 1 letters? [y/N]") || !strings.Contains(said, "nothing was redriven") {
		t.Errorf("%d %s", code, said)
	}
	same(t, "the log without --execute, and without a yes", before, w.ends(t))

	redrive := []string{"dead", "redrive", "--tenant", "acme", "--tenants", w.tenants, "--execute", "--yes"}
	same(t, "said", "1 letters are back in the log.\n", w.must(t, redrive...))
	back := w.ends(t)
	// Before it has its outcome it is still a letter, and on its way.
	if out, said, code := w.run(t, "", redrive...); code != exitDone || out != "0 letters are back in the log.\n" || !strings.Contains(said, "under_way") {
		t.Errorf("%d %s%s", code, out, said)
	}
	same(t, "the log after a second run", back, w.ends(t))
	w.deliver(t)
	same(t, "calls of the redrive", []string{"identify ann map[refiner_bad:1 refiner_team:5]", "group ann map[refiner_size:10+]"}, w.calls(t))

	same(t, "said by a third run", "No dead letters to redrive.\n", w.must(t, redrive...))
	same(t, "dead list", "No dead letters.\n", w.must(t, "dead", "list"))
	if out := w.must(t, "dead", "list", "--redriven", "--all"); !strings.Contains(out, "rejected (redriven: delivered)") {
		t.Error(out)
	}
	w.must(t, "audit")
	for _, want := range []string{"redrive of", "redriven", "the dead letter of the event at"} {
		if out := w.must(t, "trace", "ann-1"); !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}

	// A replay sends the first event in its own place, so that the last role is the
	// newest one's; what it shows is what it sends.
	shown := w.must(t, "replay", "--tenants", w.tenants, "--dry-run")
	w.must(t, "replay", "--tenants", w.tenants, "--yes", "--new-ids", "again")
	same(t, "calls of a replay", []string{
		"identify ann map[refiner_bad:1 refiner_role:old refiner_team:5]", "group ann map[refiner_industry:old refiner_size:10+]",
		"identify ann map[refiner_role:new]", "group ann map[refiner_industry:new]",
	}, w.calls(t))
	if n := strings.Count(shown, "\n"); n != 4 {
		t.Errorf("the dry run shows %d calls, want 4", n)
	}
	w.must(t, "audit")
}

func TestRedriveAfterTheTenantWasAdded(t *testing.T) {
	t.Parallel()
	w := newRedriveWorld(t, "acme")
	none := `{}`
	first := w.publish(t, "late", "ann", 1, `{"role":"first","team":1}`, none)
	w.publish(t, "late", "ann", 1, `{"role":"first","team":1}`, none) // the sender's copy
	w.publish(t, "late", "ann", 2, `{"role":"second"}`, none)
	w.publish(t, "late", "bob", 1, `{"role":"bob"}`, none)
	w.publish(t, "gone", "eve", 1, `{"role":"eve"}`, none)
	w.publishRaw(t, "late", "kim", `{"remote_id":`, "kim-1")
	w.deliver(t)
	same(t, "calls before", []string{}, w.calls(t))
	w.write(t, w.tenants, "", "acme", "late")

	out := w.must(t, "dead", "redrive", "--reason", "unknown_tenant", "--tenants", w.tenants, "--output", "json")
	var report redriveReport
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	same(t, "groups", []*redriveGroup{
		{Tenant: "gone", Reason: deadletter.UnknownTenant, Letters: 1, Stays: 1},
		{Tenant: "late", Reason: deadletter.UnknownTenant, Letters: 4, Goes: 3, Stays: 1},
	}, report.Groups)
	why := map[string]string{}
	for _, s := range report.Stays {
		why[s.Tenant] = string(s.Fate) + " " + s.Why
	}
	same(t, "what stays", map[string]string{"gone": "still_dead unknown_tenant", "late": "still_dead undecodable"}, why)

	same(t, "said", "3 letters are back in the log.\n", w.must(t, "dead", "redrive", "--reason", "unknown_tenant", "--tenants", w.tenants, "--execute", "--yes"))
	w.deliver(t)
	of := map[string][]string{}
	for _, c := range w.calls(t) {
		user := strings.Fields(c)[1]
		of[user] = append(of[user], c)
	}
	same(t, "calls of each user, the older event's first", map[string][]string{
		"ann": {"identify ann map[refiner_role:first refiner_team:1]", "group ann map[]", "identify ann map[refiner_role:second]", "group ann map[]"},
		"bob": {"identify bob map[refiner_role:bob]", "group bob map[]"},
	}, of)
	if out := w.must(t, "dead", "list", "--all"); !strings.Contains(out, "eve-1") || !strings.Contains(out, "kim-1") || strings.Contains(out, "ann-") || strings.Contains(out, "bob-") {
		t.Error(out)
	}
	w.must(t, "audit")
	if out := w.must(t, "dead", "show", "ann-1"); !strings.Contains(out, "redriven: delivered, at refiner.events/") || !strings.Contains(out, letterID(first)) {
		t.Error(out)
	}
}

// plan is one of the letters of acme.
func (w *redriveWorld) plan(t *testing.T) *redrive.Plan {
	t.Helper()
	shelf, err := deadletter.OpenShelf(t.Context(), w.log, w.topics, deadletter.Filter{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	tenants, err := tenant.Load(w.tenants, os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := redrive.New(t.Context(), redrive.Options{Log: w.log, Topics: w.topics, Tenants: tenants, Shelf: shelf}, shelf.Each)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// publishing is a publisher that does something around each record.
type publishing func(ctx context.Context, r queue.Record) (queue.Position, error)

func (p publishing) Publish(ctx context.Context, r queue.Record) (queue.Position, error) {
	return p(ctx, r)
}

// events is a publisher to the log of events.
func (w *redriveWorld) events(t *testing.T) *queue.Publisher {
	t.Helper()
	p := w.log.Publisher(w.topics.Events(), queue.PublisherOptions{})
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// outcomes counts the receipts by outcome and reason.
func (w *redriveWorld) outcomes(t *testing.T) map[string]int {
	t.Helper()
	n := map[string]int{}
	for _, r := range w.records(t, w.topics.Receipts()) {
		got, err := receipt.Parse(r.Value)
		if err != nil {
			t.Fatal(err)
		}
		n[strings.TrimSpace(string(got.Outcome)+" "+got.Reason)]++
	}
	return n
}

func TestRedriveThatWasKilledGoesOnAndSendsNothingTwice(t *testing.T) {
	t.Parallel()
	w := newRedriveWorld(t, "other")
	for u := range 2 {
		w.publish(t, "acme", fmt.Sprintf("user-%d", u), 1, fmt.Sprintf(`{"role":%d}`, u), `{}`)
	}
	w.deliver(t)
	w.write(t, w.tenants, "", "other", "acme")
	plan, late := w.plan(t), w.plan(t)
	if len(plan.Items) != 2 {
		t.Fatalf("%d items", len(plan.Items))
	}
	events := w.events(t)
	killed := errors.New("killed")
	done, err := plan.Run(t.Context(), publishing(func(ctx context.Context, r queue.Record) (queue.Position, error) {
		if _, err := events.Publish(ctx, r); err != nil {
			return queue.Position{}, err
		}
		return queue.Position{}, killed // the log has it, and nobody knows
	}))
	if done != 0 || !errors.Is(err, killed) {
		t.Errorf("%d %v", done, err)
	}
	// One that was planned before knows nothing of it, and one that is planned now does.
	if _, err := late.Run(t.Context(), events); err != nil {
		t.Error(err)
	}
	if n, err := w.plan(t).Run(t.Context(), events); err != nil || n != 0 {
		t.Errorf("%d letters went again: %v", n, err)
	}
	w.deliver(t)
	if got := w.calls(t); len(got) != 4 {
		t.Errorf("calls: %q", got)
	}
	same(t, "dead list", "No dead letters.\n", w.must(t, "dead", "list"))
	w.must(t, "audit")
}

func TestTwoRedrivesAtOnceSendOnce(t *testing.T) {
	t.Parallel()
	w := newRedriveWorld(t, "acme")
	w.publish(t, "acme", "ann", 1, `{"bad":1}`, `{}`)
	w.deliver(t)
	w.strict.Store(false)
	one, other, events := w.plan(t), w.plan(t), w.events(t)
	// Both have looked at the log before either has published.
	_, err := one.Run(t.Context(), publishing(func(ctx context.Context, r queue.Record) (queue.Position, error) {
		at, err := events.Publish(ctx, r)
		_, _ = events.Publish(ctx, r) // as the log's client does when an answer was lost
		if n, err := other.Run(ctx, events); n != 0 || err != nil {
			t.Errorf("the other one: %d %v", n, err)
		}
		return at, err
	}))
	if err != nil {
		t.Fatal(err)
	}
	w.deliver(t)
	same(t, "calls", []string{"identify ann map[refiner_bad:1]", "group ann map[]"}, w.calls(t))
	copied := 0
	for _, r := range w.records(t, w.topics.Receipts()) {
		if got, err := receipt.Parse(r.Value); err != nil || got.Reason == string(copies.Reason) {
			copied++
			if got.RedriveOf != nil {
				t.Error("a copy says what became of the letter")
			}
		}
	}
	if copied != 1 {
		t.Errorf("%d copies", copied)
	}
}

func TestEventThatComesWhileItsUsersLetterIsRedrivenWins(t *testing.T) {
	t.Parallel()
	w := newRedriveWorld(t, "acme")
	w.publish(t, "acme", "ann", 1, `{"bad":1,"role":"old"}`, `{}`)
	w.deliver(t)
	w.strict.Store(false)
	plan, events, first := w.plan(t), w.events(t), true
	n, err := plan.Run(t.Context(), publishing(func(ctx context.Context, r queue.Record) (queue.Position, error) {
		if first { // after the log was looked at, and before the letter is in it
			first = false
			w.publish(t, "acme", "ann", 2, `{"role":"new"}`, `{}`)
		}
		return events.Publish(ctx, r)
	}))
	if n != 1 || err != nil {
		t.Fatalf("%d %v", n, err)
	}
	w.deliver(t)
	same(t, "calls", []string{"identify ann map[refiner_role:new]", "group ann map[]", "identify ann map[refiner_bad:1]"}, w.calls(t))
	same(t, "outcomes", map[string]int{"dead rejected": 1, "delivered": 2, "ignored redrive_outdated": 1}, w.outcomes(t))
	same(t, "dead list", "No dead letters.\n", w.must(t, "dead", "list"))
	w.must(t, "audit")
}

func TestRedriveByOtherRulesThanTheWorkersSendsNothingAndTheLetterStays(t *testing.T) {
	t.Parallel()
	w := newRedriveWorld(t, "acme")
	w.publish(t, "acme", "ann", 1, `{"bad":1,"role":"old"}`, `{}`)
	w.publish(t, "acme", "ann", 2, `{"job":"new"}`, `{}`)
	w.deliver(t)
	w.strict.Store(false)
	w.calls(t)
	other := filepath.Join(t.TempDir(), "tenants.yaml")
	w.write(t, other, ", names: {role: job}", "acme")
	w.must(t, "dead", "redrive", "ann-1", "--tenants", w.tenants, "--execute", "--yes")
	// The rules change before it is delivered: what was left out is not what is to be.
	w.write(t, w.tenants, ", names: {role: job}", "acme")
	w.deliver(t)
	same(t, "calls by the rules of before", []string{}, w.calls(t))
	if out := w.must(t, "dead", "list", "--all"); !strings.Contains(out, "ann-1") {
		t.Error(out)
	}
	same(t, "said", "1 letters are back in the log.\n", w.must(t, "dead", "redrive", "ann-1", "--tenants", other, "--execute", "--yes"))
	w.deliver(t)
	same(t, "calls by the rules of now", []string{"identify ann map[refiner_bad:1]"}, w.calls(t))
	same(t, "dead list", "No dead letters.\n", w.must(t, "dead", "list"))
}

func TestLetterOfARedriveIsRedrivenInThePlaceOfTheFirst(t *testing.T) {
	t.Parallel()
	w := newRedriveWorld(t, "acme")
	w.publish(t, "acme", "ann", 1, `{"bad":1,"role":"old"}`, `{}`)
	w.publish(t, "acme", "ann", 2, `{"role":"new"}`, `{}`)
	w.deliver(t)
	redrive := []string{"dead", "redrive", "ann-1", "--tenants", w.tenants, "--execute", "--yes"}
	w.must(t, redrive...)
	w.deliver(t) // it is refused once more
	if out := w.must(t, "dead", "list"); !strings.Contains(out, "acme    rejected  1 ") {
		t.Error(out)
	}
	w.calls(t)
	w.strict.Store(false)
	same(t, "said", "1 letters are back in the log.\n", w.must(t, redrive...))
	w.deliver(t)
	same(t, "calls", []string{"identify ann map[refiner_bad:1]"}, w.calls(t))
	same(t, "dead list", "No dead letters.\n", w.must(t, "dead", "list"))
	if out := w.must(t, "dead", "show", "ann-1"); !strings.Contains(out, "redriven: dead: rejected") || !strings.Contains(out, "redriven from") {
		t.Error(out)
	}
	w.must(t, "audit")
}

func TestDeadEventThatWasDeliveredAfterACrashCountsAsNewer(t *testing.T) {
	t.Parallel()
	w := newRedriveWorld(t, "other")
	w.publish(t, "acme", "ann", 1, `{"role":"old","team":1}`, `{}`)
	second := w.publish(t, "acme", "ann", 2, `{"role":"new"}`, `{}`)
	w.deliver(t)
	w.write(t, w.tenants, "", "other", "acme")
	// As a worker does that takes it again, since the one before died before its commit.
	receipts := w.log.Publisher(w.topics.Receipts(), queue.PublisherOptions{})
	defer func() { _ = receipts.Close() }()
	_, err := receipts.Publish(t.Context(), queue.Record{Key: []byte("acme/ann"), Value: receipt.Append(nil, &receipt.Receipt{
		Tenant: "acme", EventID: "ann-2", Partition: second.Partition, Offset: second.Offset, Outcome: receipt.Delivered, FinishedAt: time.Now(),
	})})
	if err != nil {
		t.Fatal(err)
	}
	fates := map[string]string{}
	for _, i := range w.plan(t).Items {
		fates[i.EventID] = fmt.Sprint(i.Fate, i.Since.User)
	}
	same(t, "fates", map[string]string{"ann-1": "redrive[refiner_role]", "ann-2": "delivered[]"}, fates)

	// With other keys nobody knows where her newer events are.
	w.write(t, w.tenants, ", order_by: account", "other", "acme")
	if i := w.plan(t).Items[0]; i.Fate != redrive.Unknown {
		t.Errorf("with another key: %+v", i)
	}
}
