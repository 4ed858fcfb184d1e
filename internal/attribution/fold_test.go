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

func folded(t *testing.T, f *attribution.Fold) (lines []string, ids map[string]bool) {
	t.Helper()
	ids = make(map[string]bool)
	for calls, err := range f.Calls() {
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

func TestFoldKeepsTheLatestValueOfEachTrait(t *testing.T) {
	t.Parallel()
	rules := attribution.DefaultRules()
	rules.AccountProperties = map[string]struct{}{"size": {}}
	at := func(hour int) time.Time { return time.Date(2026, 10, 12, hour, 0, 0, 0, time.UTC) }
	f := attribution.NewFold("acme", &rules)
	add := func(user, account, data string, hour int) {
		f.Add(foldCalls(t, &rules, user, account, data, at(hour)), at(hour))
	}
	add("ann", "a1", `{"nps":1,"liked":"x","size":10}`, 1)
	add("ann", "a1", `{"nps":9}`, 3)
	// The account's later value is read first, as that of another partition can be.
	add("bob", "a1", `{"size":30}`, 5)
	add("cid", "a1", `{"size":20}`, 4)
	add("cid", "a2", `{"size":7}`, 6)
	lines, ids := folded(t, f)
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
	if again, same := folded(t, f); !cmp.Equal(again, lines) || !cmp.Equal(same, ids) {
		t.Error("the same fold makes other calls the second time")
	}
	add("bob", "a1", `{"nps":3}`, 7)
	if _, other := folded(t, f); len(other) != len(ids) || cmp.Equal(other, ids) {
		t.Error("a fold that says something else has the same message ids")
	}
	if f.Users() != 3 {
		t.Errorf("%d users, want 3", f.Users())
	}
}

func TestFoldIsWithinSegmentsLimits(t *testing.T) {
	t.Parallel()
	rules := attribution.DefaultRules()
	f := attribution.NewFold("acme", &rules)
	now := time.Date(2026, 10, 12, 0, 0, 0, 0, time.UTC)
	for i := range 40 {
		var data []string
		for j := range 10 {
			data = append(data, fmt.Sprintf(`"answer_%d_%d":%q`, i, j, strings.Repeat("x", 200)))
		}
		f.Add(foldCalls(t, &rules, "ann", "a1", "{"+strings.Join(data, ",")+"}", now.Add(time.Duration(i)*time.Minute)), now)
	}
	traits := 0
	for calls, err := range f.Calls() {
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range calls {
			traits += len(c.Traits)
			if len(c.Traits) > attribution.MaxCallTraits || c.Size() > attribution.MaxCallBytes {
				t.Errorf("a call has %d traits and %d bytes", len(c.Traits), c.Size())
			}
		}
	}
	if traits != 400 {
		t.Errorf("%d traits in all, want 400", traits)
	}
}
