package attribution_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/attribution"
	"refinersource/internal/survey"
)

// calls are those of a completion of ours.
func foldCalls(t *testing.T, rules *attribution.Rules, user, account, data string, at time.Time) []attribution.Call {
	t.Helper()
	raw := fmt.Sprintf(`{"remote_id":%q,"account":{"remote_id":%q},"response":{"uuid":"r-%s-%d","completed_at":%q,"data":%s}}`,
		user, account, user, at.Unix(), at.Format(time.RFC3339), data)
	c, err := survey.Decode(survey.RefinerWebhook, []byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	r, err := attribution.Attribute(c, rules, "acme", at)
	if err != nil {
		t.Fatal(err)
	}
	return r.Calls
}

// folding folds events of several record keys, as those who read a log do: all of
// them are known before the first is folded.
type folding struct {
	spread *attribution.Spread
	keys   []string
	folds  map[string]*attribution.Fold
}

func newFolding(rules *attribution.Rules) *folding {
	return &folding{spread: attribution.NewSpread("acme", rules), folds: make(map[string]*attribution.Fold)}
}

func (f *folding) add(key string, calls []attribution.Call, at time.Time) {
	f.spread.Add(calls, at)
	if f.folds[key] == nil {
		f.folds[key] = f.spread.Fold()
		f.keys = append(f.keys, key)
	}
	f.folds[key].Add(calls)
}

// lines are the calls of all keys, and their message ids.
func (f *folding) lines(t *testing.T) (lines []string, ids map[string]bool) {
	t.Helper()
	ids = make(map[string]bool)
	for _, key := range f.keys {
		calls, err := f.folds[key].Calls()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range calls {
			var traits []string
			for _, trait := range c.Traits {
				traits = append(traits, fmt.Sprintf("%s=%s", trait.Name, trait.Value))
			}
			lines = append(lines, fmt.Sprintf("%v %s %s %s: %s", c.Kind, c.UserID, c.GroupID, c.Timestamp.Format("15:04"), strings.Join(traits, " ")))
			if ids[c.MessageID] {
				t.Errorf("two calls have the message id %s", c.MessageID)
			}
			ids[c.MessageID] = true
		}
	}
	return lines, ids
}

func hour(h int) time.Time { return time.Date(2026, 10, 12, h, 0, 0, 0, time.UTC) }

func TestFoldKeepsTheLatestValueOfEachTrait(t *testing.T) {
	t.Parallel()
	rules := attribution.DefaultRules()
	rules.AccountProperties = map[string]struct{}{"size": {}}
	f := newFolding(&rules)
	add := func(user, account, data string, at int) {
		f.add(user, foldCalls(t, &rules, user, account, data, hour(at)), hour(at))
	}
	add("ann", "a1", `{"nps":1,"liked":"x","size":10}`, 1)
	add("ann", "a1", `{"nps":9}`, 3)
	// The account's later value is read first, as that of another partition can be.
	add("bob", "a1", `{"size":30}`, 5)
	add("cid", "a1", `{"size":20}`, 4)
	add("cid", "a2", `{"size":7}`, 6)
	lines, ids := f.lines(t)
	want := []string{
		`identify ann a1 03:00: refiner_liked="x" refiner_nps=9`,
		`group ann a1 03:00: refiner_size=30`,
		`identify bob a1 05:00: `,
		`group bob a1 05:00: refiner_size=30`,
		`identify cid a2 06:00: `,
		`group cid a1 04:00: refiner_size=30`,
		`group cid a2 06:00: refiner_size=7`,
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("the fold (-want +got):\n%s", d)
	}
	if again, same := f.lines(t); !cmp.Equal(again, lines) || !cmp.Equal(same, ids) {
		t.Error("the same fold makes other calls the second time")
	}
	add("bob", "a1", `{"nps":3}`, 7)
	if _, other := f.lines(t); len(other) != len(ids) || cmp.Equal(other, ids) {
		t.Error("a fold that says something else has the same message ids")
	}
	rules.IDLabel = "again"
	_, labelled := f.lines(t)
	for id := range labelled {
		if ids[id] {
			t.Errorf("the message id %s is made without the label", id)
		}
	}
}

// A user's latest value is that of his last event in the log, whatever the clocks of
// those who accepted them said: it is what live delivery leaves behind.
func TestFoldGoesByTheLogNotByClocks(t *testing.T) {
	t.Parallel()
	rules := attribution.DefaultRules()
	f := newFolding(&rules)
	f.add("ann", foldCalls(t, &rules, "ann", "a1", `{"nps":1}`, hour(5)), hour(5))
	f.add("ann", foldCalls(t, &rules, "ann", "a1", `{"nps":2}`, hour(4)), hour(4))
	lines, _ := f.lines(t)
	if want := "identify ann a1 04:00: refiner_nps=2"; lines[0] != want {
		t.Errorf("got %q, want %q", lines[0], want)
	}
}

// Where the order is that of accounts, a user of several is folded with each of them
// apart, and says the same of himself each time.
func TestFoldByAccountsKnowsUsersOfSeveral(t *testing.T) {
	t.Parallel()
	rules := attribution.DefaultRules()
	rules.OrderBy = attribution.ByAccount
	rules.AccountProperties = map[string]struct{}{"size": {}}
	f := newFolding(&rules)
	add := func(user, account, data string, at int) {
		f.add(account, foldCalls(t, &rules, user, account, data, hour(at)), hour(at))
	}
	add("ann", "a1", `{"nps":1,"size":10}`, 1)
	add("bob", "a1", `{"nps":5,"size":20}`, 2)
	add("ann", "a2", `{"nps":2,"size":30}`, 3)
	lines, _ := f.lines(t)
	want := []string{
		`identify ann a1 01:00: refiner_nps=2`,
		`identify bob a1 02:00: refiner_nps=5`,
		`group ann a1 01:00: refiner_size=20`,
		`group bob a1 02:00: refiner_size=20`,
		`identify ann a2 03:00: refiner_nps=2`,
		`group ann a2 03:00: refiner_size=30`,
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("the fold (-want +got):\n%s", d)
	}
}

func TestFoldIsWithinSegmentsLimits(t *testing.T) {
	t.Parallel()
	rules := attribution.DefaultRules()
	f := newFolding(&rules)
	for i := range 40 {
		var data []string
		for j := range 10 {
			data = append(data, fmt.Sprintf(`"answer_%d_%d":%q`, i, j, strings.Repeat("x", 200)))
		}
		f.add("ann", foldCalls(t, &rules, "ann", "a1", "{"+strings.Join(data, ",")+"}", hour(0).Add(time.Duration(i)*time.Minute)), hour(0))
	}
	calls, err := f.folds["ann"].Calls()
	if err != nil {
		t.Fatal(err)
	}
	traits := 0
	for _, c := range calls {
		traits += len(c.Traits)
		if len(c.Traits) > attribution.MaxCallTraits || c.Size() > attribution.MaxCallBytes {
			t.Errorf("a call has %d traits and %d bytes", len(c.Traits), c.Size())
		}
	}
	if traits != 400 {
		t.Errorf("%d traits in all, want 400", traits)
	}
}
