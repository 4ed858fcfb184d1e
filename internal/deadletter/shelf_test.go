package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/broker"
	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
)

// shelfWorld is an installation with dead letters.
type shelfWorld struct {
	log    *queue.Log
	topics queue.Topics
	dead   *queue.Publisher
	marks  *queue.Publisher
}

func newShelfWorld(t *testing.T) *shelfWorld {
	t.Helper()
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	w := &shelfWorld{topics: queue.Topics{Prefix: "refiner."}}
	if w.log, err = queue.Open(queue.Options{Brokers: b.Addrs()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.log.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := w.log.EnsureTopics(ctx, w.topics.Specs(3, 1)); err != nil {
		t.Fatal(err)
	}
	w.dead = w.log.Publisher(w.topics.Dead(), queue.PublisherOptions{MaxRecordBytes: queue.DeadRecordBytes})
	w.marks = w.log.Publisher(w.topics.Receipts(), queue.PublisherOptions{})
	t.Cleanup(func() { _, _ = w.dead.Close(), w.marks.Close() })
	return w
}

var died = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// letter is one of the user's: the minute is that of its death and its origin's offset.
func letter(tenant, user string, reason deadletter.Reason, minute int) deadletter.Letter {
	return deadletter.Letter{
		Tenant: tenant, Source: "refiner-webhook", EventID: fmt.Sprintf("%s-%d", user, minute), Reason: reason, Stage: deadletter.StageDecode,
		DeadAt: died.Add(time.Duration(minute) * time.Minute),
		Origin: queue.Position{Topic: "refiner.events", Partition: 1, Offset: queue.Offset(minute)},
		Key:    []byte(tenant + "/" + user), Raw: []byte("raw"),
	}
}

func (w *shelfWorld) bury(t *testing.T, letters ...deadletter.Letter) []queue.Position {
	t.Helper()
	var at []queue.Position
	for _, l := range letters {
		p, err := deadletter.NewWriter(w.dead, w.topics.Dead()).Write(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, p)
	}
	return at
}

func (w *shelfWorld) open(t *testing.T, f deadletter.Filter) *deadletter.Shelf {
	t.Helper()
	s, err := deadletter.OpenShelf(t.Context(), w.log, w.topics, f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ids are the events of the shelf's letters; those discarded have a mark.
func ids(t *testing.T, s *deadletter.Shelf) []string {
	t.Helper()
	all := []string{}
	err := s.Each(t.Context(), func(f deadletter.Found) error {
		id := f.EventID
		if f.Discarded {
			id += " discarded"
		}
		if f.Fault != nil {
			id += " unreadable"
		}
		all = append(all, id)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func TestShelfHoldsWhatTheFilterMeans(t *testing.T) {
	t.Parallel()
	w := newShelfWorld(t)
	w.bury(t,
		letter("acme", "ann", deadletter.Undecodable, 0), letter("acme", "bob", deadletter.Rejected, 5),
		letter("acme", "cy", deadletter.Undecodable, 9), letter("other", "dan", deadletter.Undecodable, 30), letter("acme", "ann", deadletter.Poison, 60))
	minute := func(n int) time.Time { return died.Add(time.Duration(n) * time.Minute) }
	for _, c := range []struct {
		name   string
		filter deadletter.Filter
		want   []string
	}{
		{"all", deadletter.Filter{}, []string{"ann-0", "ann-60", "bob-5", "cy-9", "dan-30"}},
		{"tenant", deadletter.Filter{Tenant: "other"}, []string{"dan-30"}},
		{"reason", deadletter.Filter{Reason: deadletter.Undecodable}, []string{"ann-0", "cy-9", "dan-30"}},
		{"tenant and reason", deadletter.Filter{Tenant: "acme", Reason: deadletter.Undecodable}, []string{"ann-0", "cy-9"}},
		{"event", deadletter.Filter{EventID: "bob-5"}, []string{"bob-5"}},
		{"from, with its own time", deadletter.Filter{From: minute(9)}, []string{"ann-60", "cy-9", "dan-30"}},
		{"to, without its own time", deadletter.Filter{To: minute(9)}, []string{"ann-0", "bob-5"}},
		{"both", deadletter.Filter{From: minute(1), To: minute(31)}, []string{"bob-5", "cy-9", "dan-30"}},
		{"later than all", deadletter.Filter{From: minute(600)}, []string{}},
		{"earlier than all", deadletter.Filter{To: minute(-600)}, []string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, ids(t, w.open(t, c.filter))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDiscardMarksOneLetterWithAReceiptThatStandsByTheEvents(t *testing.T) {
	t.Parallel()
	w := newShelfWorld(t)
	at := w.bury(t, letter("acme", "ann", deadletter.Undecodable, 1), letter("acme", "ann", deadletter.Undecodable, 2))
	l := letter("acme", "ann", deadletter.Undecodable, 2)
	l.Attempts, l.RulesVersion = 3, 1
	d := deadletter.NewDiscarder(w.marks, w.topics.Receipts(), "v1")
	// Another dead event's receipt, and one of another event's discard, mark nothing here.
	for _, r := range []receipt.Receipt{
		{Tenant: "acme", EventID: "ann-1", Partition: 1, Offset: 1, Outcome: receipt.Dead, Reason: "undecodable"},
		{Tenant: "acme", EventID: "x", Partition: 2, Offset: 1, Outcome: receipt.Dead, Reason: "discarded"},
		{Tenant: `acme","reason":"discarded`, EventID: `","reason":"discarded"`, Partition: 1, Offset: 1, Outcome: receipt.Dead, Reason: "undecodable"},
	} {
		r.FinishedAt = died.Add(time.Hour)
		if _, err := w.marks.Publish(t.Context(), queue.Record{Key: l.Key, Value: receipt.Append(nil, &r), Time: r.FinishedAt}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // twice does no harm
		if err := d.Discard(t.Context(), &l, died.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	s := w.open(t, deadletter.Filter{})
	if diff := cmp.Diff([]string{"ann-1", "ann-2 discarded"}, ids(t, s)); diff != "" {
		t.Error(diff)
	}
	for n, want := range []bool{false, true} {
		if f, err := s.At(t.Context(), at[n].Partition, at[n].Offset); err != nil || f.Discarded != want || f.Position != at[n] {
			t.Errorf("letter %d: %+v, %v", n, f, err)
		}
	}
}

func TestDiscardIsThisReceipt(t *testing.T) {
	t.Parallel()
	var p log
	l := full()
	at := l.DeadAt.Add(time.Hour)
	if err := deadletter.NewDiscarder(&p, "refiner.receipts", "v1").Discard(t.Context(), &l, at); err != nil {
		t.Fatal(err)
	}
	got, err := receipt.Parse(p.last.Value)
	if err != nil {
		t.Fatal(err)
	}
	want := receipt.Receipt{
		Tenant: l.Tenant, Source: l.Source, EventID: l.EventID, Partition: l.Origin.Partition, Offset: l.Origin.Offset,
		Outcome: receipt.Dead, Reason: "discarded", Attempts: l.Attempts, ReceivedAt: l.ReceivedAt, FirstAttemptAt: l.FirstAttemptAt,
		FinishedAt: at, Rules: l.RulesVersion, Library: "v1", Calls: got.Calls,
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got.Calls) > 0 {
		t.Error(diff)
	}
	if string(p.last.Key) != string(l.Key) || !p.last.Time.Equal(at) || p.last.Header("tenant") != l.Tenant || p.last.Header("event-id") != l.EventID {
		t.Errorf("the record is %+v", p.last)
	}
	down := errors.New("no leader")
	if err := deadletter.NewDiscarder(&log{err: down}, "x", "").Discard(t.Context(), &l, at); !errors.Is(err, down) {
		t.Errorf("got %v", err)
	}
}

func TestShelfIsAsItWasWhenItWasOpened(t *testing.T) {
	t.Parallel()
	w := newShelfWorld(t)
	w.bury(t, letter("acme", "ann", deadletter.Undecodable, 1))
	s := w.open(t, deadletter.Filter{})
	late := w.bury(t, letter("acme", "ann", deadletter.Undecodable, 2))
	if diff := cmp.Diff([]string{"ann-1"}, ids(t, s)); diff != "" {
		t.Error(diff)
	}
	if _, err := s.At(t.Context(), late[0].Partition, late[0].Offset); !errors.Is(err, deadletter.ErrNoLetter) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNoLetterIsShownAsSuch(t *testing.T) {
	t.Parallel()
	w := newShelfWorld(t)
	r := queue.Record{Key: []byte("acme/ann"), Value: []byte("{}"), Headers: []queue.Header{{Key: "tenant", Value: []byte("acme")}, {Key: "event-id", Value: []byte("ann-0")}}}
	at, err := w.dead.Publish(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	w.bury(t, letter("acme", "ann", deadletter.Undecodable, 1))
	s := w.open(t, deadletter.Filter{Tenant: "acme"})
	if diff := cmp.Diff([]string{"ann-0 unreadable", "ann-1"}, ids(t, s)); diff != "" {
		t.Error(diff)
	}
	if f, err := s.At(t.Context(), at.Partition, at.Offset); err != nil || f.Fault == nil {
		t.Errorf("got %+v, %v", f, err)
	}
}

func TestEachEndsWithTheFirstError(t *testing.T) {
	t.Parallel()
	w := newShelfWorld(t)
	for i := range 20 {
		w.bury(t, letter("acme", fmt.Sprint("user", i), deadletter.Undecodable, i))
	}
	enough, n := errors.New("enough"), 0
	err := w.open(t, deadletter.Filter{}).Each(t.Context(), func(deadletter.Found) error {
		n++
		return enough
	})
	if !errors.Is(err, enough) || n > 4 {
		t.Errorf("after %d letters: %v", n, err)
	}
}

func TestEveryReasonHasARuleInWords(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{deadletter.Reason("").Rule(): true}
	for _, r := range deadletter.Reasons() {
		if rule := r.Rule(); seen[rule] || !strings.HasSuffix(rule, ".") {
			t.Errorf("%s: %q", r, rule)
		}
		seen[r.Rule()] = true
	}
}
