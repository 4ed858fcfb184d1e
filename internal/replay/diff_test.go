package replay_test

import (
	"encoding/json/jsontext"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"refinersource/internal/attribution"
	"refinersource/internal/copies"
	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
	"refinersource/internal/replay"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// diffWorld is a world with receipts, and the rules of then in the log.
type diffWorld struct {
	*world
	receipts, rules *queue.Publisher
	key             []byte       // of all records; it says in which partition they are
	partitions      int          // that there are
	next            queue.Offset // of the event that is published next
}

func newDiffWorld(t *testing.T) *diffWorld {
	t.Helper()
	return newDiffWorldOf(t, 1)
}

func newDiffWorldOf(t *testing.T, partitions int) *diffWorld {
	t.Helper()
	w := &diffWorld{world: newWorldOf(t, partitions), key: []byte("x"), partitions: partitions}
	w.receipts = w.log.Publisher(w.topics.Receipts(), queue.PublisherOptions{})
	w.rules = w.log.Publisher(w.topics.Tenants(), queue.PublisherOptions{})
	t.Cleanup(func() {
		_ = w.receipts.Close()
		_ = w.rules.Close()
	})
	return w
}

// then are the rules under which the events were sent.
func then() attribution.Rules {
	r := attribution.DefaultRules()
	r.Names = attribution.CompileNames(map[string]string{"n": "number"})
	return r
}

// keep puts rules into the log.
func (w *diffWorld) keep(t *testing.T, id tenant.ID, r attribution.Rules) {
	t.Helper()
	key := receipt.RulesKey{Tenant: string(id), Fingerprint: tenant.Fingerprint(&r)}
	if _, err := w.rules.Publish(t.Context(), queue.Record{Key: []byte(key.String()), Value: tenant.RulesText(&r)}); err != nil {
		t.Fatal(err)
	}
}

// sent publishes an event, and its receipt as the worker would have written it by the
// rules of then, but for what change does.
func (w *diffWorld) sent(t *testing.T, id tenant.ID, body string, r attribution.Rules, change func(*receipt.Receipt)) {
	t.Helper()
	n := w.receipt(t, id, body, r)
	_, err := w.events.Publish(t.Context(), queue.Record{
		Key: w.key, Value: []byte(body), Time: w.at(w.next),
		Headers: []queue.Header{
			{Key: queue.HeaderTenant, Value: []byte(id)},
			{Key: queue.HeaderSource, Value: []byte(survey.RefinerWebhook)},
			{Key: queue.HeaderEventID, Value: []byte(n.EventID)},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.next++
	if change != nil {
		change(&n)
	}
	w.write(t, &n)
}

// at is when the event of an offset was accepted.
func (w *diffWorld) at(o queue.Offset) time.Time {
	return w.begun.Add(time.Duration(o) * time.Minute).UTC()
}

// receipt is that of the event that is published next, without calls if it is none.
func (w *diffWorld) receipt(t *testing.T, id tenant.ID, body string, r attribution.Rules) receipt.Receipt {
	t.Helper()
	n := receipt.Receipt{
		Tenant: string(id), Source: string(survey.RefinerWebhook), Outcome: receipt.Delivered,
		Partition: queue.PartitionOf(w.key, w.partitions), Offset: w.next,
		FinishedAt: time.Now(), FirstAttemptAt: time.Now(), Rules: attribution.RulesVersion, RulesOf: tenant.Fingerprint(&r), Library: r.LibraryVersion,
	}
	c, err := survey.Decode(survey.RefinerWebhook, []byte(body))
	if err != nil {
		return n
	}
	n.EventID = c.ID
	result, err := attribution.Attribute(c, &r, string(id), w.at(w.next))
	if err != nil {
		t.Fatal(err)
	}
	for i := range result.Calls {
		digest, _ := result.Calls[i].Digest(nil)
		n.Calls = append(n.Calls, receipt.Call{Type: result.Calls[i].Kind.String(), ID: result.Calls[i].MessageID, Digest: digest})
	}
	return n
}

func (w *diffWorld) write(t *testing.T, n *receipt.Receipt) {
	t.Helper()
	_, err := w.receipts.Publish(t.Context(), queue.Record{
		Key: w.key, Value: receipt.Append(nil, n), Time: n.FinishedAt,
		Headers: []queue.Header{{Key: queue.HeaderTenant, Value: []byte(n.Tenant)}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// diff compares a range with what the rules of these tenants would send.
func (w *diffWorld) diff(t *testing.T, r replay.Range, now *tenant.Registry) *replay.DiffReport {
	t.Helper()
	spans, err := r.Spans(t.Context(), w.log, w.topics.Events())
	if err != nil {
		t.Fatal(err)
	}
	d := replay.Diff{Scan: &replay.Scan{Log: w.log, Topic: w.topics.Events(), Range: r, Tenants: now}, Topics: w.topics}
	report, err := d.Run(t.Context(), spans)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// acme is a registry with that tenant and these rules.
func acme(t *testing.T, r attribution.Rules) *tenant.Registry {
	t.Helper()
	all, err := tenant.NewRegistry(tenant.Tenant{ID: "acme", WriteKey: tenant.NewSecret("k"), NoAuth: true, Rules: r})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// renamed is what becomes of the trait of answer() under the default rules.
func renamed(events int, example string) []replay.ChangeCount {
	return []replay.ChangeCount{{
		Change: replay.Change{Kind: replay.Renamed, Call: "identify", Trait: "refiner_number", ToCall: "identify", ToTrait: "refiner_n"},
		Events: events, Example: example,
	}}
}

// What is the same is told by digest, and what differs by the rules of then.
func TestDiffHoldsTheRulesOfNowAgainstWhatWasSent(t *testing.T) {
	t.Parallel()
	w := newDiffWorld(t)
	w.sent(t, "acme", answer("ann", 1), then(), nil)
	w.sent(t, "acme", answer("ann", 2), then(), nil)
	w.sent(t, "acme", answer("bob", 3), then(), nil)

	same := w.diff(t, replay.Range{}, acme(t, then()))
	if total := same.Total; same.Differs || total.Events != 3 || total.Same != 3 {
		t.Errorf("by the rules of then, whose text is not needed: %+v", same)
	}
	w.keep(t, "acme", then())
	got := w.diff(t, replay.Range{}, acme(t, attribution.DefaultRules()))
	want := replay.DiffCounts{Events: 3, Different: 3, Reasons: map[replay.Incomparable]int{}, First: w.at(0), Last: w.at(2)}
	if d := cmp.Diff(want, got.Total); d != "" || !got.Differs {
		t.Errorf("by other rules: differs is %v, counts (-want +got):\n%s", got.Differs, d)
	}
	if d := cmp.Diff(renamed(3, "r-ann-1"), got.Tenants[0].Changes, cmpopts.IgnoreUnexported(replay.ChangeCount{})); d != "" {
		t.Errorf("changes (-want +got):\n%s", d)
	}
	for name, r := range map[string]replay.Range{
		"a user":   {User: "ann"},
		"a time":   {To: w.at(2)},
		"offsets":  {Offsets: true, FromOffset: 0, ToOffset: 2},
		"a tenant": {Tenants: []tenant.ID{"acme"}, To: w.at(2)},
	} {
		if got := w.diff(t, r, acme(t, attribution.DefaultRules())).Total; got.Events != 2 || got.Different != 2 {
			t.Errorf("%s: %+v, want two events that differ", name, got)
		}
	}
	if got := w.diff(t, replay.Range{Tenants: []tenant.ID{"beta"}}, acme(t, then())); got.Total.Events != 0 || got.Differs {
		t.Errorf("another tenant: %+v", got)
	}
}

// All partitions are compared, and the example of a change is the same each time.
func TestDiffPutsThePartitionsTogether(t *testing.T) {
	t.Parallel()
	w := newDiffWorldOf(t, 3)
	w.keep(t, "acme", then())
	for partition := range w.partitions {
		for i := 0; queue.PartitionOf(w.key, w.partitions) != partition; i++ {
			w.key = []byte("user-" + strconv.Itoa(i))
		}
		w.next = 0
		w.sent(t, "acme", answer("ann", partition), then(), nil)
	}
	got := w.diff(t, replay.Range{}, acme(t, attribution.DefaultRules()))
	if d := cmp.Diff(renamed(3, "r-ann-0"), got.Tenants[0].Changes, cmpopts.IgnoreUnexported(replay.ChangeCount{})); d != "" || got.Total.Different != 3 {
		t.Errorf("changes (-want +got):\n%s%+v", d, got.Total)
	}
}

// What cannot be compared is counted by its reason, and nothing is said of how it
// differs; that it does is said where the digests prove it.
func TestDiffNeverGuesses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		change  func(*receipt.Receipt)
		forgets bool // the log has not the rules of then
		want    replay.Incomparable
		differs bool
	}{
		{name: "no receipt", change: func(r *receipt.Receipt) { r.Offset = 7 }, want: replay.NoReceipt},
		{name: "the receipt of another event", change: func(r *receipt.Receipt) { r.EventID = "another" }, want: replay.NoReceipt},
		{name: "the receipt of another partition's event", change: func(r *receipt.Receipt) { r.Partition = 3 }, want: replay.NoReceipt},
		{name: "a replay's receipt alone", change: func(r *receipt.Receipt) { r.Replay = "friday" }, want: replay.NoReceipt},
		{name: "the mark of a discarded letter alone", change: func(r *receipt.Receipt) {
			r.Outcome, r.Reason, r.Calls = receipt.Dead, deadletter.Discarded, nil
		}, want: replay.NoReceipt},
		{name: "an event that was refused", change: func(r *receipt.Receipt) {
			r.Outcome, r.Reason, r.Calls = receipt.Dead, string(deadletter.Rejected), nil
		}, want: replay.NotDelivered},
		{name: "one that was too large for the receiver", change: func(r *receipt.Receipt) {
			r.Outcome, r.Reason, r.Calls = receipt.Dead, string(deadletter.TooLarge), nil
		}, want: replay.NotDelivered},
		{name: "no text of the rules", forgets: true, want: replay.NoRules, differs: true},
		{name: "another version of the rules", change: func(r *receipt.Receipt) { r.Rules++ }, want: replay.OtherVersion, differs: true},
		{name: "other calls than by the rules of then", change: func(r *receipt.Receipt) { r.Calls[0].Digest[0]++ }, want: replay.NotReproduced, differs: true},
		{name: "fewer calls than by the rules of then", change: func(r *receipt.Receipt) { r.Calls = r.Calls[:0] }, want: replay.NotReproduced, differs: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newDiffWorld(t)
			if !c.forgets {
				w.keep(t, "acme", then())
			}
			w.sent(t, "acme", answer("ann", 1), then(), c.change)
			got := w.diff(t, replay.Range{}, acme(t, attribution.DefaultRules()))
			want := map[replay.Incomparable]int{c.want: 1}
			if d := cmp.Diff(want, got.Total.Reasons); d != "" || got.Total.NotComparable != 1 || got.Differs != c.differs || len(got.Tenants[0].Changes) > 0 {
				t.Errorf("differs is %v, want %v; reasons (-want +got):\n%s%+v", got.Differs, c.differs, d, got)
			}
		})
	}
}

// The first receipt of live traffic counts: what came later was sent later, and what
// a replay sent was not sent first.
func TestDiffComparesWithWhatWasSentFirst(t *testing.T) {
	t.Parallel()
	w := newDiffWorld(t)
	now := attribution.DefaultRules()
	w.keep(t, "acme", then())
	replayed := w.receipt(t, "acme", answer("ann", 1), now)
	replayed.Replay = "friday"
	w.write(t, &replayed) // stands before, which no replay's does: it must not count for its place
	again := w.receipt(t, "acme", answer("ann", 1), now)
	w.sent(t, "acme", answer("ann", 1), then(), nil)
	w.write(t, &again)
	got := w.diff(t, replay.Range{}, acme(t, now))
	if got.Total.Different != 1 || got.Total.Replayed != 1 || !got.Differs {
		t.Errorf("%+v; want one event that differs and was replayed", got.Total)
	}
}

// What was never sent would newly be, and what was would no longer: with the reason.
func TestDiffTellsWhichCallsComeAndGo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		body   string
		then   func(*attribution.Rules)
		change func(*receipt.Receipt)
		now    func(*testing.T) *tenant.Registry
		want   []replay.Change
	}{
		{
			name: "partials are switched on", body: strings.Replace(answer("ann", 1), `"completed_at":"2026-10-12T02:05:55Z"`, `"completed_at":null`, 1),
			change: func(r *receipt.Receipt) {
				r.Outcome, r.Reason = receipt.Ignored, string(survey.Partial)
			},
			now: func(t *testing.T) *tenant.Registry {
				t.Helper()
				r := attribution.DefaultRules()
				r.Partials = true
				return acme(t, r)
			},
			want: []replay.Change{{Kind: replay.CallAdded, Call: "identify", Why: "ignored: partial"}},
		},
		{
			name: "a tenant that nobody knew has come into the file", body: answer("ann", 1),
			change: func(r *receipt.Receipt) {
				r.Outcome, r.Reason, r.Calls = receipt.Dead, string(deadletter.UnknownTenant), nil
				r.RulesOf, r.FirstAttemptAt = "", time.Time{}
			},
			now:  func(t *testing.T) *tenant.Registry { t.Helper(); return acme(t, attribution.DefaultRules()) },
			want: []replay.Change{{Kind: replay.CallAdded, Call: "identify", Why: "dead: unknown_tenant"}},
		},
		{
			name: "a tenant has left the file", body: answer("ann", 1),
			now:  func(t *testing.T) *tenant.Registry { t.Helper(); return registry(t) },
			want: []replay.Change{{Kind: replay.CallGone, Call: "identify", Why: "dead: unknown_tenant"}},
		},
		{
			name: "anonymous respondents are left out", body: strings.Replace(answer("ann", 1), `"remote_id":"ann"`, `"cookie_uuid":"c-1"`, 1),
			then: func(r *attribution.Rules) { r.EmitAnonymous = true },
			now:  func(t *testing.T) *tenant.Registry { t.Helper(); return acme(t, attribution.DefaultRules()) },
			want: []replay.Change{{Kind: replay.CallGone, Call: "identify", Why: "ignored: anonymous"}},
		},
		{
			name: "a copy stays one", body: answer("ann", 1),
			change: func(r *receipt.Receipt) {
				r.Outcome, r.Reason, r.Calls = receipt.Ignored, string(copies.Reason), nil
			},
			now: func(t *testing.T) *tenant.Registry { t.Helper(); return acme(t, attribution.DefaultRules()) },
		},
		{
			name: "what no rules can read stays unsent", body: `{"remote_id":true}`,
			change: func(r *receipt.Receipt) {
				r.Outcome, r.Reason, r.FirstAttemptAt = receipt.Dead, string(deadletter.BadIdentity), time.Time{}
			},
			now: func(t *testing.T) *tenant.Registry { t.Helper(); return acme(t, attribution.DefaultRules()) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newDiffWorld(t)
			rules := attribution.DefaultRules()
			if c.then != nil {
				c.then(&rules)
			}
			w.keep(t, "acme", rules)
			w.sent(t, "acme", c.body, rules, c.change)
			got := w.diff(t, replay.Range{}, c.now(t))
			var changes []replay.Change
			for _, row := range got.Tenants[0].Changes {
				changes = append(changes, row.Change)
			}
			if d := cmp.Diff(c.want, changes); d != "" || got.Differs != (len(c.want) > 0) || got.Total.NotComparable > 0 {
				t.Errorf("differs is %v; changes (-want +got):\n%s%+v", got.Differs, d, got.Total)
			}
		})
	}
}

func registry(t *testing.T, all ...tenant.Tenant) *tenant.Registry {
	t.Helper()
	r, err := tenant.NewRegistry(all...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A copy that the worker did not know for one was sent, and is compared.
func TestDiffTakesTheReceiptsWordForWhatIsACopy(t *testing.T) {
	t.Parallel()
	w := newDiffWorld(t)
	w.keep(t, "acme", then())
	for w.next < 2 {
		n := w.receipt(t, "acme", answer("ann", 1), then())
		w.publish(t, "acme", int(w.next), answer("ann", 1)) // without a header that says its id
		w.write(t, &n)
		w.next++
	}
	if got := w.diff(t, replay.Range{}, acme(t, attribution.DefaultRules())).Total; got.Different != 2 {
		t.Errorf("%+v; want both events to differ", got)
	}
	if got := w.diff(t, replay.Range{}, acme(t, then())).Total; got.Same != 2 {
		t.Errorf("%+v; want both events to be the same", got)
	}
}

// The version of the program in the calls is no rule.
func TestDiffDoesNotCountAnotherVersionOfTheProgram(t *testing.T) {
	t.Parallel()
	w := newDiffWorld(t)
	old := then()
	old.LibraryVersion = "0.0.9"
	w.keep(t, "acme", old)
	w.sent(t, "acme", answer("ann", 1), old, nil)
	if got := w.diff(t, replay.Range{}, acme(t, then())); got.Total.Same != 1 || got.Differs {
		t.Errorf("by the same rules: %+v", got)
	}
	got := w.diff(t, replay.Range{}, acme(t, attribution.DefaultRules()))
	if d := cmp.Diff(renamed(1, "r-ann-1"), got.Tenants[0].Changes, cmpopts.IgnoreUnexported(replay.ChangeCount{})); d != "" {
		t.Errorf("by other rules (-want +got):\n%s%+v", d, got.Total)
	}
}

// Receipts that cannot be read are counted, and rules that cannot be are as if they
// were not there.
func TestDiffCountsWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newDiffWorld(t)
	r := then()
	key := receipt.RulesKey{Tenant: "acme", Fingerprint: tenant.Fingerprint(&r)}
	if _, err := w.rules.Publish(t.Context(), queue.Record{Key: []byte(key.String()), Value: jsontext.Value(`{"prefix":"refiner_","later":true}`)}); err != nil {
		t.Fatal(err)
	}
	w.sent(t, "acme", answer("ann", 1), then(), nil)
	if _, err := w.receipts.Publish(t.Context(), queue.Record{Key: []byte("x"), Value: []byte(`{"version":2}`)}); err != nil {
		t.Fatal(err)
	}
	got := w.diff(t, replay.Range{}, acme(t, attribution.DefaultRules()))
	if got.Unreadable != 1 || got.Total.Reasons[replay.NoRules] != 1 {
		t.Errorf("%+v; want one receipt that cannot be read, and one event without rules", got)
	}
}

// The changes of a tenant are bounded: an attacker's questions are not.
func TestDiffKeepsSoManyChangesOfATenant(t *testing.T) {
	t.Parallel()
	w := newDiffWorld(t)
	w.keep(t, "acme", attribution.DefaultRules())
	const each, events = 250, replay.MaxChanges/250 + 2
	for i := range events {
		answers := make([]string, each)
		for j := range answers {
			answers[j] = fmt.Sprintf(`"q_%d_%d":1`, i, j)
		}
		body := fmt.Sprintf(`{"remote_id":"ann","response":{"uuid":"r-%d","completed_at":"2026-10-12T02:05:55Z","data":{%s}}}`, i, strings.Join(answers, ","))
		w.sent(t, "acme", body, attribution.DefaultRules(), nil)
	}
	now := attribution.DefaultRules()
	now.Prefix = "survey_"
	got := w.diff(t, replay.Range{}, acme(t, now)).Tenants[0]
	if len(got.Changes) != replay.MaxChanges || got.LeftOut != each*events-replay.MaxChanges || got.Different != events {
		t.Errorf("%d changes, %d left out, %d events that differ; want %d, %d and %d",
			len(got.Changes), got.LeftOut, got.Different, replay.MaxChanges, each*events-replay.MaxChanges, events)
	}
}

// A range whose table would be larger than allowed is refused with the remedy.
func TestDiffRefusesMoreThanItsMemory(t *testing.T) {
	t.Parallel()
	w := newDiffWorld(t)
	d := replay.Diff{Scan: &replay.Scan{Log: w.log, Topic: w.topics.Events(), Tenants: acme(t, then())}, Topics: w.topics, TableBytes: 1 << 20}
	if replay.SentEventSize != replay.SentEventBytes {
		t.Errorf("an event takes %d bytes, not the %d that are reckoned with", replay.SentEventSize, replay.SentEventBytes)
	}
	most := queue.Offset(1<<20) / replay.SentEventBytes
	if _, err := d.Run(t.Context(), []replay.Span{{To: most + 1}}); err == nil || !strings.Contains(err.Error(), "--memory") {
		t.Errorf("%v; want a refusal that names --memory", err)
	}
}
