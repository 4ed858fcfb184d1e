package audit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"refinersource/internal/audit"
	"refinersource/internal/deadletter"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
)

// storyOf is the story of an event as far as its record tells it.
func storyOf(e *event, state audit.State) *audit.Story {
	return &audit.Story{
		Tenant: e.tenant, Source: "survey-event", EventID: e.id, Key: string(e.key()), ReceivedAt: e.at, Bytes: len(`{"n":1}`),
		Position: audit.Position{Topic: "t.events", Partition: e.partition, Offset: e.offset}, State: state, Receipts: []audit.Receipt{},
	}
}

func (w *world) wantTrace(q audit.Query, want ...*audit.Story) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.trace(q), cmpopts.IgnoreUnexported(audit.Story{}), cmpopts.EquateEmpty()); diff != "" {
		w.t.Errorf("trace of %+v (-want +got):\n%s", q, diff)
	}
}

func TestTraceOfADeliveredEvent(t *testing.T) {
	t.Parallel()
	w, all := sound(t)
	e := all[4]
	at := w.finish(e, func(r *receipt.Receipt) { r.Withheld, r.Replay = []string{"refiner_nps"}, "again" })
	s := storyOf(e, audit.Delivered)
	calls := []audit.Call{
		{Type: "identify", ID: "identify:" + e.id, Digest: "01" + strings.Repeat("0", 30)},
		{Type: "group", ID: "group:" + e.id, Digest: "02" + strings.Repeat("0", 30)},
	}
	first := audit.Receipt{
		Position: audit.Position{Topic: "t.receipts", Partition: e.partition, Offset: e.offset}, // one each
		Outcome:  receipt.Delivered, Calls: calls, Attempts: 2, FirstAttemptAt: e.at.Add(time.Second), FinishedAt: e.at.Add(2 * time.Second),
		Rules: 1, RulesOf: "0123456789abcdef", Library: "3.3.0",
	}
	again := first
	again.Position.Offset, again.Withheld, again.Replay = at, []string{"refiner_nps"}, "again"
	s.Receipts = []audit.Receipt{first, again}
	w.wantTrace(audit.Query{EventID: e.id}, s)
	w.wantTrace(audit.Query{EventID: e.id, Tenant: e.tenant}, s)
	w.wantTrace(audit.Query{EventID: e.id, Tenant: e.tenant, User: e.user}, s)
	w.wantTrace(audit.Query{EventID: e.id, Tenant: "umbrella"})
	w.wantTrace(audit.Query{EventID: e.id, Tenant: e.tenant, User: "another"})
	w.wantTrace(audit.Query{EventID: "nowhere"})
	w.wantTrace(audit.Query{EventID: e.id, Range: audit.Range{From: e.at, To: e.at.Add(time.Millisecond)}}, s)
	w.wantTrace(audit.Query{EventID: e.id, Range: audit.Range{From: e.at.Add(time.Millisecond)}})
	w.wantTrace(audit.Query{EventID: e.id, Range: audit.Range{To: e.at}})
}

func TestTraceOfADeadEventHasItsLetter(t *testing.T) {
	t.Parallel()
	w, all := sound(t)
	e := all[6]
	for _, q := range []audit.Query{{EventID: e.id}, {EventID: e.id, Tenant: e.tenant, User: e.user}} {
		got := w.trace(q)
		if len(got) != 1 || got[0].State != audit.Dead || len(got[0].Receipts) != 1 || got[0].Receipts[0].Reason != "rejected" || len(got[0].Letters) != 1 {
			t.Fatalf("%+v", got)
		}
		want := audit.Letter{
			Position: got[0].Letters[0].Position, Reason: deadletter.Rejected, Stage: deadletter.StageGroup,
			Detail: "refused when it was sent alone: rejected 400", Attempts: 3, Status: 400, DeadAt: e.at.Add(time.Second),
		}
		if diff := cmp.Diff(want, got[0].Letters[0]); diff != "" || want.Position.Topic != "t.dead" || want.Position.Partition != e.partition {
			t.Errorf("letter (-want +got):\n%s", diff)
		}
	}
}

// An event that has no receipt is looked for from the earliest cursor on.
func TestTraceTellsWhyAnEventWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before, held, passed, ahead := w.accept("acme", "x"), w.accept("acme", "x"), w.accept("umbrella", sameAs2("umbrella", partitionOf("acme", "x"))), w.accept("acme", "x")
	since := start.Add(time.Hour).Truncate(time.Second)
	w.commit(held.partition, ahead.offset, lane.Cursor{Tag: lane.TagOf("acme"), From: lane.Offset(held.offset), Since: since, Cause: lane.CauseThrottled})
	s := storyOf(held, audit.Waiting)
	s.Wait = &audit.Wait{Why: audit.Behind, Commit: ahead.offset, Cursor: held.offset, Since: since, Cause: "throttled"}
	w.wantTrace(audit.Query{EventID: held.id}, s)
	s = storyOf(ahead, audit.Waiting)
	s.Wait = &audit.Wait{Why: audit.Ahead, Commit: ahead.offset}
	w.wantTrace(audit.Query{EventID: ahead.id}, s)
	w.wantTrace(audit.Query{EventID: passed.id}, storyOf(passed, audit.Unaccounted)) // seen on the way
	w.wantTrace(audit.Query{EventID: before.id})                                     // it may be anywhere
	w.wantTrace(audit.Query{EventID: before.id, Tenant: "acme", User: "x"}, storyOf(before, audit.Unaccounted))
}

// What a producer wrote as its tenant names a lane as the worker makes it.
func TestTraceKnowsTheLaneOfAnyTenant(t *testing.T) {
	t.Parallel()
	for tenant, lanes := range map[string]string{"a\x00b": "a\ufffdb", "\xff": "\xff", "": ""} {
		w := newWorld(t)
		e := w.accept(tenant, "x")
		w.commit(e.partition, 1, lane.Cursor{Tag: lane.TagOf(lanes), From: 0})
		got := w.trace(audit.Query{EventID: e.id})
		if len(got) != 1 || got[0].State != audit.Waiting || got[0].Wait.Why != audit.Behind {
			t.Errorf("%q: %+v", tenant, got)
		}
		if r := w.audit(); r.Total.Waiting != 1 || !r.Sound() {
			t.Errorf("%q: %+v", tenant, r)
		}
	}
}

// A dead letter is written before its receipt.
func TestTraceOfAnEventThatHasALetterAndNoReceipt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.accept("acme", "x")
	w.bury(e)
	got := w.trace(audit.Query{EventID: e.id})
	if len(got) != 1 || got[0].State != audit.Waiting || len(got[0].Letters) != 1 {
		t.Errorf("%+v", got)
	}
}

// sameAs2 is a user of the tenant whose events are in the partition.
func sameAs2(tenant string, partition int) string {
	for _, user := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		if partitionOf(tenant, user) == partition {
			return user
		}
	}
	panic("no such user")
}

func TestTraceOfAUserTellsAllHisEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var want []audit.State
	var all []*event
	for i := range 8 {
		e := w.accept("acme", "x")
		w.finish(w.accept("acme", "y"))
		w.finish(w.accept("umbrella", "x"))
		all = append(all, e)
		switch i % 4 {
		case 0:
			w.finish(e)
			want = append(want, audit.Delivered)
		case 1:
			w.bury(e)
			w.finish(e, dead)
			want = append(want, audit.Dead)
		case 2:
			w.finish(e, ignored)
			want = append(want, audit.Ignored)
		case 3:
			want = append(want, audit.Waiting)
		}
	}
	states := func(stories []*audit.Story) (states []audit.State) {
		for i, s := range stories {
			if s.Position.Offset != all[len(all)-len(stories)+i].offset {
				t.Errorf("story %d is of %+v", i, s.Position)
			}
			states = append(states, s.State)
			if letters := len(s.Letters); letters != map[bool]int{true: 1}[s.State == audit.Dead] {
				t.Errorf("story %d, %s, has %d letters", i, s.State, letters)
			}
		}
		return states
	}
	user := audit.Query{Group: group, Topics: w.topics, Tenant: "acme", User: "x"}
	if diff := cmp.Diff(want, states(w.trace(user))); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	user.From = all[5].at
	if diff := cmp.Diff(want[5:], states(w.trace(user))); diff != "" {
		t.Errorf("states of the last (-want +got):\n%s", diff)
	}
	user.From, user.Most = time.Time{}, 3
	stories, omitted, err := audit.Trace(w.ctx(), w.log, user)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want[5:], states(stories)); diff != "" || omitted != 5 {
		t.Errorf("states of the latest (-want +got):\n%s\n%d omitted", diff, omitted)
	}
}

// A receipt outlives its event.
func TestTraceOfAnEventThatIsGoneFromTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.accept("acme", "x")
	w.finish(e)
	w.finish(w.accept("acme", "x"))
	w.commitAll()
	w.deleteBefore(w.topics.Events(), e.partition, 1)
	got := w.trace(audit.Query{EventID: e.id})
	if len(got) != 1 || got[0].State != audit.Delivered || !got[0].Gone || got[0].Tenant != "acme" || got[0].Key != "acme/x" || !got[0].ReceivedAt.Equal(e.at) {
		t.Errorf("%+v", got)
	}
}

// What a replay or an operator writes is no outcome of the event.
func TestTraceTellsOutcomesFromReplaysAndDiscards(t *testing.T) {
	t.Parallel()
	replay := func(r *receipt.Receipt) { r.Replay = "again" }
	discard := func(r *receipt.Receipt) { dead(r); r.Reason = "discarded" }
	for _, c := range []struct {
		name     string
		receipts []func(*receipt.Receipt)
		passed   bool
		want     audit.State
	}{
		{"a replay before its time", []func(*receipt.Receipt){replay}, false, audit.Waiting},
		{"a replay alone", []func(*receipt.Receipt){replay}, true, audit.Unaccounted},
		{"a discard alone", []func(*receipt.Receipt){discard}, true, audit.Unaccounted},
		{"both before the outcome", []func(*receipt.Receipt){replay, discard, ignored}, true, audit.Ignored},
		{"both after the outcome", []func(*receipt.Receipt){ignored, replay, discard}, true, audit.Ignored},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			e := w.accept("acme", "x")
			for _, f := range c.receipts {
				w.finish(e, f)
			}
			if c.passed {
				w.commitAll()
			}
			got := w.trace(audit.Query{EventID: e.id})
			if len(got) != 1 || got[0].State != c.want || len(got[0].Receipts) != len(c.receipts) {
				t.Errorf("%+v", got)
			}
			w.deleteBefore(w.topics.Events(), e.partition, 1)
			if got := w.trace(audit.Query{EventID: e.id}); len(got) != 1 || got[0].State == audit.Waiting {
				t.Errorf("it waits, and is gone from the log: %+v", got)
			}
		})
	}
}

// The same event may be in the log more than once: each has its story.
func TestTraceOfCopies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.accept("acme", "x")
	w.made--
	again := w.accept("acme", "x")
	w.finish(e)
	w.finish(again, func(r *receipt.Receipt) { ignored(r); r.Reason = "duplicate" })
	got := w.trace(audit.Query{EventID: e.id})
	if len(got) != 2 || got[0].State != audit.Delivered || got[1].State != audit.Ignored || got[1].Receipts[0].Reason != "duplicate" {
		t.Errorf("%+v", got)
	}
}

// Topics that are cut differently have no partitions that belong together.
func TestTopicsOfDifferentSizesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topics := queue.Topics{Prefix: "uneven."}
	err := w.log.EnsureTopics(w.ctx(), []queue.TopicSpec{
		{Name: topics.Events(), Partitions: 3}, {Name: topics.Receipts(), Partitions: 2}, {Name: topics.Dead(), Partitions: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = audit.Run(w.ctx(), w.log, audit.Options{Group: group, Topics: topics})
	_, _, traced := audit.Trace(w.ctx(), w.log, audit.Query{Group: group, Topics: topics, EventID: "x"})
	for _, err := range []error{err, traced} {
		if err == nil || !strings.Contains(err.Error(), "topics check") {
			t.Errorf("error: %v", err)
		}
	}
}
