package audit_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"refinersource/internal/audit"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
)

// sound is a world in which each event is finished, as each can be, and passed.
func sound(t *testing.T) (*world, []*event) {
	t.Helper()
	w := newWorld(t)
	var all []*event
	for i := range 12 {
		tenant := []string{"acme", "umbrella"}[i%2]
		e := w.accept(tenant, fmt.Sprintf("user-%d", i%5))
		all = append(all, e)
		switch i % 4 {
		case 3:
			w.finish(e, ignored)
		case 2:
			w.bury(e)
			w.finish(e, dead)
		default:
			w.finish(e)
		}
	}
	w.commitAll()
	return w, all
}

func TestAuditProvesThatEachEventHasOneOutcome(t *testing.T) {
	t.Parallel()
	w, _ := sound(t)
	got := w.audit()
	want := &audit.Report{
		Group: group, Topic: "t.events",
		Total: audit.Counts{Events: 12, Delivered: 6, Dead: 3, Ignored: 3},
		Tenants: []audit.TenantCounts{
			{Tenant: "acme", Counts: audit.Counts{Events: 6, Delivered: 3, Dead: 3}},
			{Tenant: "umbrella", Counts: audit.Counts{Events: 6, Delivered: 3, Ignored: 3}},
		},
		Kinds: map[audit.Kind]int{}, Findings: []audit.Finding{},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if !got.Sound() {
		t.Error("it is not sound")
	}
}

// What is wrong is found, and nothing else with it.
func TestAuditFinds(t *testing.T) {
	t.Parallel()
	other := func(r *receipt.Receipt) { r.EventID = "another" }
	for _, c := range []struct {
		name string
		do   func(w *world) *event // what goes wrong, and with which event
		want audit.Kind            // "" if nothing is wrong
	}{
		{"an event that was skipped: a commit has passed it", func(w *world) *event {
			return w.accept("acme", "x")
		}, audit.NoOutcome},
		{"a letter and no receipt", func(w *world) *event {
			e := w.accept("acme", "x")
			w.bury(e)
			return e
		}, audit.LetterWithoutReceipt},
		{"a receipt of a dead event and no letter", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e, dead)
			return e
		}, audit.DeadWithoutLetter},
		{"two outcomes", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e)
			w.finish(e, ignored)
			w.finish(e, ignored)
			return e
		}, audit.OutcomesDisagree},
		{"a letter of a delivered event", func(w *world) *event {
			e := w.accept("acme", "x")
			w.bury(e)
			w.finish(e)
			return e
		}, audit.OutcomesDisagree},
		{"other message ids in a repeat", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e)
			for range 2 {
				w.finish(e, func(r *receipt.Receipt) { r.Calls[1].ID = "group:changed" })
			}
			return e
		}, audit.IDsDiffer},
		{"other message ids that read the same one after another", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e, func(r *receipt.Receipt) { r.Calls[0].ID, r.Calls[1].ID = "ab", "c" })
			w.finish(e, func(r *receipt.Receipt) { r.Calls[0].ID, r.Calls[1].ID = "a", "bc" })
			return e
		}, audit.IDsDiffer},
		{"other message ids of a dead event", func(w *world) *event {
			e := w.accept("acme", "x")
			w.bury(e)
			none := func(r *receipt.Receipt) { dead(r); r.Calls = nil }
			w.finish(e, none)
			w.finish(e, dead)
			w.finish(e, none)
			w.finish(e, func(r *receipt.Receipt) { dead(r); r.Calls[0].ID = "identify:changed" })
			return e
		}, audit.IDsDiffer},
		{"a dead event of which more was accepted the second time", func(w *world) *event {
			e := w.accept("acme", "x")
			w.bury(e)
			w.finish(e, func(r *receipt.Receipt) { dead(r); r.Calls = nil })
			w.finish(e, dead)
			w.finish(e, func(r *receipt.Receipt) { calls := r.Calls; dead(r); r.Calls = calls })
			w.finish(e, func(r *receipt.Receipt) { dead(r); r.Calls = nil })
			return e
		}, ""},
		{"an id that the worker found in the event alone", func(w *world) *event {
			e := w.acceptAs("acme", "x", "")
			e.id = "from the event"
			w.bury(e)
			w.finish(e, dead)
			return e
		}, ""},
		{"a receipt of another event's id", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e)
			w.finish(e, other)
			return e
		}, audit.OtherEvent},
		{"a receipt of another tenant", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e)
			w.finish(e, func(r *receipt.Receipt) { r.Tenant = "umbrella" })
			return e
		}, audit.OtherEvent},
		{"a letter of another event's id", func(w *world) *event {
			e := w.accept("acme", "x")
			w.bury(e)
			w.finish(e, dead)
			same := *e
			same.id = "another"
			w.bury(&same)
			return e
		}, audit.OtherEvent},
		{"a receipt from behind the end", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e)
			e.offset += 100
			w.finish(e)
			return e
		}, audit.ReceiptWithoutEvent},
		{"a receipt of another partition", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e)
			w.finish(e, func(r *receipt.Receipt) { r.Partition = 1 - r.Partition })
			e.partition = 1 - e.partition
			return e
		}, audit.ReceiptWithoutEvent},
		{"a receipt of what is no event, but a transaction's marker", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e)
			w.mark(e.partition)
			marker := *e
			marker.offset += 2
			w.finish(&marker)
			return &marker
		}, audit.ReceiptWithoutEvent},
		{"a letter of another topic", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e)
			w.buryOf(e, "other.events")
			return e
		}, ""},
		{"what others wrote, without bounds or sense", func(w *world) *event {
			long := strings.Repeat("a", receipt.MaxTextBytes-1) + "ä"
			for _, tenant := range []string{"\x00", "\xff", ""} {
				for _, id := range []string{long, "\xff\x00", ""} {
					e := w.acceptAs(tenant, "x", id)
					w.bury(e)
					w.finish(e, dead)
				}
			}
			return nil
		}, ""},
		{"a repeat", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e)
			w.finish(e)
			return e
		}, ""},
		{"a replay, whatever it made", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e, func(r *receipt.Receipt) { ignored(r); r.Replay = "again" })
			w.finish(e)
			w.finish(e, func(r *receipt.Receipt) { r.Calls[0].ID = "new:1"; r.Replay = "again" })
			return e
		}, ""},
		{"a replay alone", func(w *world) *event {
			e := w.accept("acme", "x")
			w.finish(e, func(r *receipt.Receipt) { r.Replay = "again" })
			return e
		}, audit.NoOutcome},
		{"a letter that was discarded", func(w *world) *event {
			e := w.accept("acme", "x")
			w.bury(e)
			w.finish(e, dead)
			w.finish(e, func(r *receipt.Receipt) { dead(r); r.Reason, r.Calls = "discarded", nil })
			return e
		}, ""},
		{"a letter that was discarded, and no receipt", func(w *world) *event {
			e := w.accept("acme", "x")
			w.bury(e)
			w.finish(e, func(r *receipt.Receipt) { dead(r); r.Reason = "discarded" })
			return e
		}, audit.LetterWithoutReceipt},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, _ := sound(t)
			e := c.do(w)
			w.commitAll()
			got := w.audit()
			if c.want == "" {
				if !got.Sound() {
					t.Errorf("findings: %+v", got.Findings)
				}
				return
			}
			if diff := cmp.Diff(map[audit.Kind]int{c.want: 1}, got.Kinds); diff != "" || len(got.Findings) != 1 {
				t.Fatalf("kinds (-want +got):\n%s\n%+v", diff, got.Findings)
			}
			f := got.Findings[0]
			at := audit.Position{Topic: "t.events", Partition: e.partition, Offset: e.offset}
			if f.Kind != c.want || f.Tenant == "" || f.EventID != e.id && f.Kind != audit.ReceiptWithoutEvent || f.Position != at || f.Detail == "" {
				t.Errorf("finding: %+v", f)
			}
			if of := slices.IndexFunc(got.Tenants, func(c audit.TenantCounts) bool { return c.Tenant == f.Tenant }); got.Total.Findings != 1 || got.Tenants[of].Findings != 1 {
				t.Errorf("counts: %+v", got)
			}
		})
	}
}

// As if somebody had removed the receipt of a finished event.
// Whatever had come of an event before its respondent was to be forgotten, and was not
// committed, comes to nothing more, and that is no fault.
func TestAuditOfForgottenRespondents(t *testing.T) {
	t.Parallel()
	forgotten := func(calls int) func(r *receipt.Receipt) {
		return func(r *receipt.Receipt) {
			r.Outcome, r.Reason, r.Calls = receipt.Ignored, "forgotten", r.Calls[:calls]
		}
	}
	for name, do := range map[string]func(w *world, e *event){
		"nothing was sent":                   func(w *world, e *event) { w.finish(e, forgotten(0)) },
		"the identify was accepted":          func(w *world, e *event) { w.finish(e, forgotten(1)) },
		"the same, and then a crash":         func(w *world, e *event) { w.finish(e, forgotten(1)); w.finish(e, forgotten(0)) },
		"it was delivered, and then a crash": func(w *world, e *event) { w.finish(e); w.finish(e, forgotten(0)) },
		"it was dead, and then a crash":      func(w *world, e *event) { w.bury(e); w.finish(e, dead); w.finish(e, forgotten(0)) },
		"its letter alone was written":       func(w *world, e *event) { w.bury(e); w.finish(e, forgotten(1)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			do(w, w.accept("acme", "x"))
			w.commitAll()
			if r := w.audit(func(*audit.Options) {}); !r.Sound() {
				t.Errorf("got %+v", r.Findings)
			}
		})
	}
}

func TestAuditFindsARemovedReceipt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var lost *event
	for i := range 20 {
		e := w.accept("acme", "x")
		if i == 13 {
			lost = e
			continue
		}
		w.finish(e)
	}
	w.commitAll()
	got := w.audit()
	want := []audit.Finding{{
		Kind: audit.NoOutcome, Tenant: "acme", EventID: lost.id, Position: audit.Position{Topic: "t.events", Partition: lost.partition, Offset: lost.offset},
		Detail: "it has no receipt, the commit point has passed it, and no cursor holds it",
	}}
	if diff := cmp.Diff(want, got.Findings); diff != "" || got.Total.Delivered != 19 {
		t.Errorf("findings (-want +got):\n%s\n%+v", diff, got.Total)
	}
}

// A commit one too far is a lost event; the same commit with a cursor is not.
func TestAuditTellsASkippedEventFromOneThatWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := partitionOf("acme", "x")
	var all []*event
	for range 6 {
		all = append(all, w.accept("acme", "x"))
	}
	for _, e := range all[:4] {
		w.finish(e)
	}
	key := lane.TagOf("acme/x")
	for _, c := range []struct {
		name    string
		to      queue.Offset
		cursors []lane.Cursor
		waiting int
		lost    int
	}{
		{"the commit point is at the first unfinished event", 4, nil, 2, 0},
		{"it is one too far", 5, nil, 1, 1},
		{"it is at the end", 6, nil, 0, 2},
		{"a cursor holds them", 6, []lane.Cursor{{Tag: lane.TagOf("acme"), From: 4}}, 2, 0},
		{"a cursor is one too far", 6, []lane.Cursor{{Tag: lane.TagOf("acme"), From: 5}}, 1, 1},
		{"a cursor of another tenant", 6, []lane.Cursor{{Tag: lane.TagOf("umbrella"), From: 0}}, 0, 2},
		{"a cursor of the user's key", 6, []lane.Cursor{{Tag: lane.TagOf("acme"), Key: key, Split: 3, From: 4}}, 2, 0},
		{"a cursor of a tenant that is none", 6, []lane.Cursor{{Tag: lane.TagOf("\xff"), From: 0}}, 0, 2},
		{"one that is too far", 6, []lane.Cursor{{Tag: lane.TagOf("acme"), Key: key, Split: 3, From: 5}}, 1, 1},
		{"the key's own is too far, whatever the tenant's", 6, []lane.Cursor{{Tag: lane.TagOf("acme"), From: 2}, {Tag: lane.TagOf("acme"), Key: key, Split: 3, From: 5}}, 1, 1},
		{"before the split it is the tenant's", 6, []lane.Cursor{{Tag: lane.TagOf("acme"), From: 4}, {Tag: lane.TagOf("acme"), Key: key, Split: 5, From: 6}}, 1, 1},
		{"a cursor of another user's key", 6, []lane.Cursor{{Tag: lane.TagOf("acme"), Key: lane.TagOf("acme/y"), From: 0}}, 0, 2},
	} {
		w.commit(p, c.to, c.cursors...)
		got := w.audit()
		if got.Total.Waiting != c.waiting || got.Kinds[audit.NoOutcome] != c.lost || got.Total.Findings != c.lost || got.Total.Delivered != 4 {
			t.Errorf("%s: %+v %+v", c.name, got.Total, got.Kinds)
		}
	}
}

// Without a commit nothing is passed, and finished events count all the same.
func TestAuditOfANewGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.finish(w.accept("acme", "x"))
	w.accept("acme", "x")
	w.bury(w.accept("acme", "x"))
	got := w.audit()
	if want := (audit.Counts{Events: 3, Delivered: 1, Waiting: 2}); got.Total != want || !got.Sound() {
		t.Errorf("counts: %+v, %+v", got.Total, got.Findings)
	}
}

// Receipts of a tenant that was suspended come days after their events.
func TestAuditOfARangeCountsItsEventsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var all []*event
	for range 9 {
		all = append(all, w.accept("acme", "x"))
	}
	late := func(r *receipt.Receipt) { r.FinishedAt = r.FinishedAt.Add(72 * time.Hour) }
	for i, e := range all {
		switch i {
		case 0, 8: // beyond the range: nobody looks
		case 4:
			w.finish(e, late)
		default:
			w.finish(e)
		}
	}
	w.commitAll()
	at := func(i int) time.Time { return all[i].at }
	for _, c := range []struct {
		name     string
		from, to time.Time
		want     audit.Counts
	}{
		{"all", time.Time{}, time.Time{}, audit.Counts{Events: 9, Delivered: 7, Findings: 2}},
		{"from", at(3), time.Time{}, audit.Counts{Events: 6, Delivered: 5, Findings: 1}},
		{"to", time.Time{}, at(3), audit.Counts{Events: 3, Delivered: 2, Findings: 1}},
		{"both", at(2), at(6), audit.Counts{Events: 4, Delivered: 4}},
		{"one", at(4), at(5), audit.Counts{Events: 1, Delivered: 1}},
		{"nothing is as late", at(8).Add(time.Hour), time.Time{}, audit.Counts{}},
		{"nothing is as early", time.Time{}, at(0), audit.Counts{}},
		{"the wrong way around", at(5), at(2), audit.Counts{}},
	} {
		got := w.audit(func(o *audit.Options) { o.Range = audit.Range{From: c.from, To: c.to} })
		if got.Total != c.want {
			t.Errorf("%s: %+v, want %+v: %+v", c.name, got.Total, c.want, got.Findings)
		}
	}
}

func TestAuditOfATenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.finish(w.accept("acme", "x"))
	w.accept("acme", "x")
	w.accept("umbrella", "x")
	w.finish(w.accept("umbrella", "y"))
	w.commitAll()
	theirs := w.accept("umbrella", "z")
	theirs.tenant = "acme"
	w.finish(theirs) // names an event that is not looked at
	got := w.audit(func(o *audit.Options) { o.Tenant = "acme" })
	if diff := cmp.Diff([]audit.TenantCounts{{Tenant: "acme", Counts: audit.Counts{Events: 2, Delivered: 1, Findings: 1}}}, got.Tenants); diff != "" || got.Total.Findings != 1 {
		t.Errorf("tenants (-want +got):\n%s\n%+v", diff, got)
	}
}

// A compaction makes holes that the log of events must not have.
func TestAuditNamesAGapExactly(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, "compact", "delete")
	p := partitionOf("acme", "x")
	for i := range 6 {
		user := sameAs("x", i)
		if i >= 1 && i <= 3 {
			user = "x"
		}
		w.finish(w.accept("acme", user))
	}
	w.commit(p, 6)
	w.broker.Cluster().Compact()
	got := w.audit()
	want := []audit.Finding{{
		Kind: audit.Gap, Position: audit.Position{Topic: "t.events", Partition: p, Offset: 1}, To: 3,
		Detail: "events 1 to 2 are gone from the log: what became of them is not proven",
	}}
	if diff := cmp.Diff(want, got.Findings); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	if want := (audit.Counts{Events: 4, Delivered: 4, Findings: 1}); got.Total != want {
		t.Errorf("counts: %+v", got.Total)
	}
}

// sameAs is another user of acme in the partition of that one.
func sameAs(user string, n int) string {
	for i := n * 1000; ; i++ {
		if other := fmt.Sprintf("other-%d", i); partitionOf("acme", other) == partitionOf("acme", user) {
			return other
		}
	}
}

// What retention took is not looked at; what it took unfinished is found.
func TestAuditOfALogThatRetentionHasCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := partitionOf("acme", "x")
	var all []*event
	for range 6 {
		all = append(all, w.accept("acme", "x"))
	}
	for _, e := range all[3:] {
		w.finish(e)
	}
	w.deleteBefore(w.topics.Events(), p, 3)
	w.commit(p, 6)
	if got := w.audit(); !got.Sound() || got.Total.Events != 3 {
		t.Errorf("%+v", got)
	}
	gap := func(from queue.Offset, detail string) []audit.Finding {
		return []audit.Finding{{Kind: audit.Gap, Position: audit.Position{Topic: "t.events", Partition: p, Offset: from}, To: 3, Detail: detail}}
	}
	w.commit(p, 1)
	if diff := cmp.Diff(gap(1, "events 1 to 2 are gone from the log, and were not finished"), w.audit().Findings); diff != "" {
		t.Errorf("a commit before the beginning (-want +got):\n%s", diff)
	}
	w.commit(p, 6, lane.Cursor{Tag: lane.TagOf("acme"), From: 2})
	want := gap(2, "events of the tenant with tag "+lane.TagOf("acme").String()+" from 2 up to 2 are gone from the log, and were not finished")
	if diff := cmp.Diff(want, w.audit().Findings); diff != "" {
		t.Errorf("a cursor before the beginning (-want +got):\n%s", diff)
	}
}

// Retention goes on while an audit runs: what it takes at the beginning is just older
// than the range. A hole at the beginning that the log does not own up to is a gap.
func TestAuditWhileRetentionGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := partitionOf("acme", "x")
	for range 6 {
		w.finish(w.accept("acme", "x"))
	}
	w.commit(p, 6)
	w.deleteBefore(w.topics.Events(), p, 2)
	w.beginsAt(p, 0, 1) // as the audit begins
	if got := w.audit(); !got.Sound() || got.Total.Delivered != 4 || got.Unproven != 2 {
		t.Errorf("%+v, %d unproven, %+v", got.Total, got.Unproven, got.Findings)
	}
}

// beginsAt makes the broker say so many times that a partition of the events begins
// at an offset.
func (w *world) beginsAt(partition int, offset queue.Offset, times int) {
	w.broker.Cluster().ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		list, ok := req.(*kmsg.ListOffsetsRequest)
		if !ok || list.Topics[0].Topic != w.topics.Events() || times == 0 {
			return nil, nil, false
		}
		asked := list.Topics[0].Partitions[0]
		if int(asked.Partition) != partition || asked.Timestamp != -2 {
			return nil, nil, false
		}
		times--
		res := kmsg.NewPtrListOffsetsResponse()
		res.SetVersion(req.GetVersion())
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic = w.topics.Events()
		answer := kmsg.NewListOffsetsResponseTopicPartition()
		answer.Partition, answer.Offset, answer.Timestamp = asked.Partition, int64(offset), -1
		topic.Partitions = append(topic.Partitions, answer)
		res.Topics = append(res.Topics, topic)
		return res, nil, true
	})
}

// Where receipts are dropped before their events, those events are left out.
func TestAuditLeavesOutEventsWhoseReceiptsAreGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := partitionOf("acme", "x")
	for range 10 {
		w.finish(w.accept("acme", "x"))
	}
	w.commitAll()
	w.deleteBefore(w.topics.Receipts(), p, 4) // the first that is left was written two seconds after event 4
	got := w.audit()
	if want := (audit.Counts{Events: 4, Delivered: 4}); got.Total != want || got.Unproven != 6 || !got.Sound() {
		t.Errorf("%+v, %d unproven, %+v", got.Total, got.Unproven, got.Findings)
	}
	first := w.audit(func(o *audit.Options) { o.To = start.Add(3 * time.Second) })
	if first.Total.Events != 0 || first.Unproven != 3 || !first.Sound() {
		t.Errorf("of the first three: %+v, %d unproven", first.Total, first.Unproven)
	}
	w.deleteBefore(w.topics.Receipts(), p, 10)
	if got = w.audit(); got.Total.Events != 0 || got.Unproven != 10 || !got.Sound() {
		t.Errorf("without any: %+v, %d unproven", got.Total, got.Unproven)
	}
}

func TestAuditOfDeadEventsWhoseLettersAreGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := partitionOf("acme", "x")
	for range 3 {
		e := w.accept("acme", "x")
		w.bury(e)
		w.finish(e, dead)
	}
	w.commitAll()
	w.deleteBefore(w.topics.Dead(), p, 2)
	if got := w.audit(); !got.Sound() || got.Total.Dead != 3 {
		t.Errorf("%+v", got)
	}
}

func TestAuditFindsWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	w, _ := sound(t)
	headers := []kgo.RecordHeader{{Key: queue.HeaderTenant, Value: []byte("acme\xff")}}
	w.produce(&kgo.Record{Topic: w.topics.Receipts(), Partition: 1, Value: []byte(`{"version":2}`), Headers: headers, Timestamp: start})
	w.produce(&kgo.Record{Topic: w.topics.Receipts(), Partition: 0, Value: []byte("\x00"), Headers: headers, Timestamp: start})
	w.produce(&kgo.Record{Topic: w.topics.Dead(), Partition: 1, Value: []byte(`{}`), Headers: headers, Timestamp: start})
	got := w.audit()
	want := map[audit.Kind]int{audit.UnreadableReceipt: 2, audit.UnreadableLetter: 1}
	if diff := cmp.Diff(want, got.Kinds); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	for _, f := range got.Findings {
		if f.Tenant != "acme\ufffd" || f.Topic == "t.events" {
			t.Errorf("%+v", f)
		}
	}
	if got := w.audit(func(o *audit.Options) { o.Tenant = "acme" }); !got.Sound() {
		t.Errorf("as if they were another tenant's: %+v", got.Findings)
	}
	w.finish(w.accept("acme", "x"), func(r *receipt.Receipt) { r.Outcome = "lost" })
	if got := w.audit(); got.Kinds[audit.UnreadableReceipt] != 3 || got.Total.Waiting != 1 {
		t.Errorf("an outcome that is not known: %+v", got.Kinds)
	}
}

func TestAuditFindsAnUnsoundCommit(t *testing.T) {
	t.Parallel()
	w, _ := sound(t)
	p := partitionOf("acme", "user-0")
	bounds, err := w.log.Bounds(w.ctx(), w.topics.Events())
	if err != nil {
		t.Fatal(err)
	}
	end := bounds[p].End
	other, _, err := (&lane.Metadata{Partitions: partitions + 1}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		to       queue.Offset
		metadata string
		want     int
	}{
		{"of others", end, "", 0},
		{"not ours", end, "something", 1},
		{"past the end", end + 1, "", 1},
		{"of another number of partitions", end, other, 1},
	} {
		commit(t, w.client, group, w.topics.Events(), p, c.to, c.metadata)
		if got := w.audit(); got.Kinds[audit.UnsoundCommit] != c.want || got.Total.Findings != c.want {
			t.Errorf("%s: %+v", c.name, got.Findings)
		}
	}
}

func TestAuditListsSoManyOfEachKindAndCountsAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 7 {
		w.accept("acme", fmt.Sprintf("user-%d", i))
	}
	w.finish(w.accept("acme", "x"), dead)
	w.commitAll()
	got := w.audit(func(o *audit.Options) { o.Findings = 3 })
	want := map[audit.Kind]int{audit.NoOutcome: 7, audit.DeadWithoutLetter: 1}
	if diff := cmp.Diff(want, got.Kinds); diff != "" || len(got.Findings) != 4 || got.Total.Findings != 8 {
		t.Errorf("kinds (-want +got):\n%s\n%d listed, %d counted", diff, len(got.Findings), got.Total.Findings)
	}
}

func TestAuditCountsRepeatsReplaysAndDiscards(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.accept("acme", "x")
	w.bury(e)
	w.finish(e, dead)
	for range 2 {
		w.finish(e, dead)
	}
	for range 3 {
		w.finish(e, func(r *receipt.Receipt) { r.Replay = "again" })
	}
	for range 4 {
		w.finish(e, func(r *receipt.Receipt) { dead(r); r.Reason = "discarded" })
	}
	w.commitAll()
	got := w.audit()
	if want := (audit.Counts{Events: 1, Dead: 1, Repeats: 2, Replayed: 3, Discarded: 4}); got.Total != want || got.Tenants[0].Counts != want || !got.Sound() {
		t.Errorf("%+v", got)
	}
}

func TestAuditNamesAGapInTheReceipts(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, "delete", "compact")
	for range 3 {
		w.finish(w.accept("acme", sameAs("x", w.made)))
	}
	for range 4 {
		w.finish(w.accept("acme", "x"))
	}
	w.finish(w.accept("acme", sameAs("x", w.made)))
	w.commitAll()
	w.broker.Cluster().Compact()
	got := w.audit()
	if diff := cmp.Diff(map[audit.Kind]int{audit.Gap: 1, audit.NoOutcome: 3}, got.Kinds); diff != "" {
		t.Fatalf("kinds (-want +got):\n%s", diff)
	}
	f := got.Findings[len(got.Findings)-1]
	if at := (audit.Position{Topic: "t.receipts", Partition: partitionOf("acme", "x"), Offset: 3}); f.Kind != audit.Gap || f.Position != at || f.To != 6 {
		t.Errorf("%+v", f)
	}
}

func TestAuditWaitsForTheGroupsCoordinator(t *testing.T) {
	t.Parallel()
	w, _ := sound(t)
	asked := make(chan struct{}, 1)
	w.broker.Cluster().ControlKey(int16(kmsg.OffsetFetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		res, ok := req.ResponseKind().(*kmsg.OffsetFetchResponse)
		if !ok {
			return nil, nil, false
		}
		asked <- struct{}{} // once: it is not kept
		res.ErrorCode = kerr.NotCoordinator.Code
		return res, nil, true
	})
	if got := w.audit(); !got.Sound() || len(asked) != 1 {
		t.Errorf("%+v, refused %d times", got, len(asked))
	}
}

// mark leaves a transaction of one event of nobody's in the log, which ends with a
// marker.
func (w *world) mark(partition int) {
	w.t.Helper()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(w.broker.Addrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MaxVersions(kversion.V3_0_0()), kgo.TransactionalID("mark"),
	)
	if err != nil {
		w.t.Fatal(err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		w.t.Fatal(err)
	}
	r := &kgo.Record{Topic: w.topics.Events(), Partition: int32(partition), Timestamp: start.Add(time.Minute)}
	if err := client.ProduceSync(w.ctx(), r).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
	if err := client.EndTransaction(w.ctx(), kgo.TryCommit); err != nil {
		w.t.Fatal(err)
	}
	w.finish(&event{partition: partition, offset: queue.Offset(r.Offset), at: start})
}

func TestAuditRefusesWhatItsMemoryDoesNotHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 3 {
		w.finish(w.accept("acme", "x"))
	}
	w.commitAll()
	_, err := audit.Run(w.ctx(), w.log, audit.Options{Group: group, Topics: w.topics, TableBytes: 35})
	if err == nil || !strings.Contains(err.Error(), "has 3 events in the range") {
		t.Fatalf("error: %v", err)
	}
	if got := w.audit(func(o *audit.Options) { o.TableBytes = 36 }); got.Total.Delivered != 3 {
		t.Errorf("%+v", got.Total)
	}
}
