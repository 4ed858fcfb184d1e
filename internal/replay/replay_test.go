package replay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/attribution"
	"refinersource/internal/broker"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/replay"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// world is a log, with one partition unless a test asks for more.
type world struct {
	log    *queue.Log
	topics queue.Topics
	events *queue.Publisher
	begun  time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOf(t, 1)
}

func newWorldOf(t *testing.T, partitions int) *world {
	t.Helper()
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	w := &world{topics: queue.Topics{Prefix: "t."}, begun: time.Now().Add(-time.Hour).Truncate(time.Second)}
	if w.log, err = queue.Open(queue.Options{Brokers: b.Addrs()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.log.Close)
	if err := w.log.EnsureTopics(t.Context(), w.topics.Specs(partitions, 1)); err != nil {
		t.Fatal(err)
	}
	w.events = w.log.Publisher(w.topics.Events(), queue.PublisherOptions{})
	t.Cleanup(func() { _ = w.events.Close() })
	return w
}

// publish appends an event that was accepted so many minutes after the beginning.
func (w *world) publish(t *testing.T, id tenant.ID, minute int, body string) {
	t.Helper()
	at := w.begun.Add(time.Duration(minute) * time.Minute)
	_, err := w.events.Publish(t.Context(), queue.Record{
		Key: []byte(string(id) + "/x"), Value: []byte(body), Time: at,
		Headers: []queue.Header{{Key: queue.HeaderTenant, Value: []byte(id)}, {Key: queue.HeaderSource, Value: []byte(survey.RefinerWebhook)}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func answer(user string, n int) string {
	return fmt.Sprintf(`{"remote_id":%q,"response":{"uuid":"r-%s-%d","completed_at":"2026-10-12T02:05:55Z","data":{"n":%d}}}`, user, user, n, n)
}

func tenants(t *testing.T) *tenant.Registry {
	t.Helper()
	r, err := tenant.NewRegistry(
		tenant.Tenant{ID: "acme", WriteKey: tenant.NewSecret("k"), NoAuth: true, Rules: attribution.DefaultRules()},
		tenant.Tenant{ID: "beta", WriteKey: tenant.NewSecret("k"), NoAuth: true, Rules: attribution.DefaultRules()},
	)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestScanFindsTheRangeAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(t, "acme", 0, answer("ann", 1))
	w.publish(t, "beta", 10, answer("ann", 2))
	w.publish(t, "acme", 20, answer("bob", 3))
	w.publish(t, "acme", 21, answer("bob", 3)) // a copy
	w.publish(t, "acme", 30, "no survey")
	w.publish(t, "gone", 40, answer("eve", 4))
	w.publish(t, "acme", 50, answer("ann", 5))
	at := func(minute int) time.Time { return w.begun.Add(time.Duration(minute) * time.Minute) }
	for _, c := range []struct {
		name                              string
		r                                 replay.Range
		events, calls, ignored, faultless int
	}{
		{"all", replay.Range{}, 7, 4, 1, 5},
		{"a tenant", replay.Range{Tenants: []tenant.ID{"acme"}}, 5, 3, 1, 4},
		{"a user", replay.Range{User: "ann"}, 3, 3, 0, 3},
		{"from a time", replay.Range{From: at(20)}, 5, 2, 1, 3},
		{"to a time", replay.Range{To: at(20)}, 2, 2, 0, 2},
		{"offsets", replay.Range{Offsets: true, FromOffset: 1, ToOffset: 3}, 2, 2, 0, 2},
		{"nothing", replay.Range{From: at(59)}, 0, 0, 0, 0},
	} {
		spans, err := c.r.Spans(t.Context(), w.log, w.topics.Events())
		if err != nil {
			t.Fatal(err)
		}
		scan := replay.Scan{Log: w.log, Topic: w.topics.Events(), Range: c.r, Tenants: tenants(t)}
		summary := replay.NewSummary()
		if err := scan.Run(t.Context(), spans, func(int) replay.Visitor { return summary.Partition() }); err != nil {
			t.Fatal(err)
		}
		got := replay.Total(summary.Tenants())
		want := []int{c.events, c.calls, c.ignored, c.faultless}
		if d := cmp.Diff(want, []int{got.Events, got.Calls, got.Ignored["duplicate"], got.Events - got.Faults}); d != "" {
			t.Errorf("%s: events, calls, copies, events without a fault (-want +got):\n%s", c.name, d)
		}
		var out bytes.Buffer
		lines := replay.NewLines(&out)
		if err := scan.Run(t.Context(), spans, func(int) replay.Visitor { return lines.Partition() }); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), "\n"); n != c.calls {
			t.Errorf("%s: %d lines, want %d", c.name, n, c.calls)
		}
	}
	if _, err := (&replay.Range{Offsets: true, Partition: 7}).Spans(t.Context(), w.log, w.topics.Events()); err == nil {
		t.Error("a partition that is not there is taken for one")
	}
}

func TestPreviewTellsHowLongTheLimitsTake(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 30 {
		w.publish(t, []tenant.ID{"acme", "beta"}[i%3/2], i, answer("ann", i)) // 20 and 10
	}
	var r replay.Range
	spans, err := r.Spans(t.Context(), w.log, w.topics.Events())
	if err != nil {
		t.Fatal(err)
	}
	scan := replay.Scan{Log: w.log, Topic: w.topics.Events(), Tenants: tenants(t)}
	summary := replay.NewSummary()
	if err := scan.Run(t.Context(), spans, func(int) replay.Visitor { return summary.Partition() }); err != nil {
		t.Fatal(err)
	}
	limits := map[tenant.ID]int{"acme": 10, "beta": 2}
	if got := summary.Duration(func(id tenant.ID) int { return limits[id] }); got != 5*time.Second {
		t.Errorf("it takes %v, want the 5s of beta", got)
	}
}

func TestPlansAreKeptAndToldApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := replay.Find(ctx, w.log, w.topics, "one"); !errors.Is(err, replay.ErrNoPlan) {
		t.Errorf("before there is one: %v, want ErrNoPlan", err)
	}
	one := replay.Plan{
		ID: "one", Created: time.Date(2026, 10, 12, 0, 0, 0, 0, time.UTC), Tenants: []tenant.ID{"acme"},
		Spans: []replay.Span{{Partition: 0, From: 3, To: 9}}, Label: "x", Rate: 7, Live: "live",
	}
	two := replay.Plan{ID: "two", Created: one.Created.Add(time.Hour), Spans: []replay.Span{{To: 1}}, Live: "live"}
	for _, p := range []*replay.Plan{&two, &one} {
		if err := replay.Save(ctx, w.log, w.topics, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := replay.Save(ctx, w.log, w.topics, &replay.Plan{ID: "one", Live: "live"}); !errors.Is(err, replay.ErrExists) {
		t.Errorf("another one of that id: %v, want ErrExists", err)
	}
	plans, err := replay.Plans(ctx, w.log, w.topics)
	if d := cmp.Diff([]replay.Plan{one, two}, plans); err != nil || d != "" {
		t.Errorf("plans, the oldest first (-want +got): %v\n%s", err, d)
	}
	for id, p := range map[string]replay.Plan{"no id": {}, "a bad id": {ID: "A b"}, "a bad span": {ID: "x", Spans: []replay.Span{{From: 2, To: 2}}}, "a bad rate": {ID: "x", Rate: -1}} {
		p.Version = 1
		if p.Validate() == nil {
			t.Errorf("%s is taken", id)
		}
	}
}

func TestProgressIsThatOfTheCommits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := replay.Plan{ID: "one", Spans: []replay.Span{{Partition: 0, From: 0, To: 10}}, Live: "live"}
	before, err := p.Progress(t.Context(), w.log, w.topics)
	if d := cmp.Diff(replay.Progress{All: 10}, before); err != nil || d != "" {
		t.Errorf("before it has begun (-want +got): %v\n%s", err, d)
	}
	if m, err := lane.Decode(""); err != nil || m.Owner == lane.Finished {
		t.Errorf("no commit decodes to %v, %v", m, err)
	}
	// One tenant is held to its limit, another one waits in two lanes.
	metadata := lane.Metadata{Partitions: 1, Cursors: []lane.Cursor{
		{Tag: lane.TagOf("acme"), From: 4, Since: w.begun, Cause: lane.CauseSlow},
		{Tag: lane.TagOf("beta"), From: 2, Since: w.begun, Cause: lane.CauseMisconfigured},
		{Tag: lane.TagOf("beta"), Key: lane.TagOf("x"), From: 3, Since: w.begun, Cause: lane.CauseMisconfigured},
	}}
	text, _, err := metadata.Encode()
	if err != nil {
		t.Fatal(err)
	}
	group, err := w.log.Group(queue.GroupOptions{ID: p.Group(), Topic: w.topics.Events()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := group.Run(ctx, func(ctx context.Context, g *queue.Generation) {
		if err := g.Commit(ctx, []queue.Commit{{Partition: 0, Offset: 9, Metadata: text}}); err != nil {
			t.Error(err)
		}
		cancel()
	}); err != nil {
		t.Fatal(err)
	}
	under, err := p.Progress(t.Context(), w.log, w.topics)
	if d := cmp.Diff(replay.Progress{All: 10, Done: 4, Waiting: 1}, under); err != nil || d != "" {
		t.Errorf("with cursors (-want +got): %v\n%s", err, d)
	}
}

// Which events are places follows from the log alone: with other rules other calls
// stand in them, and none.
func TestPlacesOfAFoldDoNotDependOnTheRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, body := range []string{answer("ann", 1), answer("bob", 2), answer("ann", 3), "no survey"} {
		w.publish(t, "acme", i, body)
	}
	w.publish(t, "gone", 9, answer("eve", 4))
	spans, err := (&replay.Range{}).Spans(t.Context(), w.log, w.topics.Events())
	if err != nil {
		t.Fatal(err)
	}
	other, err := tenant.NewRegistry(tenant.Tenant{ID: "beta", WriteKey: tenant.NewSecret("k"), NoAuth: true, Rules: attribution.DefaultRules()})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		rules *tenant.Registry
		calls int
	}{"its tenant is known": {tenants(t), 2}, "its tenant is gone": {other, 0}} {
		folder := replay.NewFolder(replay.Scan{Log: w.log, Topic: w.topics.Events(), Tenants: c.rules}, spans)
		folded, err := folder.Partition(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		// The test's events have one key for each tenant.
		var places []int
		calls := 0
		for at := range 5 {
			if folded.Has(queue.Offset(at)) {
				places = append(places, at)
			}
			made, err := folded.Calls(queue.Offset(at))
			if err != nil {
				t.Fatal(err)
			}
			calls += len(made)
		}
		if d := cmp.Diff([]int{3, 4}, places); d != "" || calls != c.calls {
			t.Errorf("%s: %d calls, want %d; places (-want +got):\n%s", name, calls, c.calls, d)
		}
	}
}
