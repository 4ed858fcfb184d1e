package attribution_test

import (
	"encoding/json/jsontext"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/attribution"
	"refinersource/internal/survey"
)

// answered is a completion of ann's with these answers, whose names begin with "a" if
// they are the account's.
func answered(account string, names ...string) survey.Completion {
	c := survey.Completion{ID: "r", UserID: "ann", AccountID: account}
	for _, n := range names {
		a := survey.Answer{Property: n, Value: jsontext.Value(`1`)}
		if n[0] == 'a' {
			a.BelongsTo = survey.LevelAccount
		}
		c.Answers = append(c.Answers, a)
	}
	return c
}

func TestWhatNewerCompletionsHaveSaidIsLeftOut(t *testing.T) {
	t.Parallel()
	tracked := attribution.DefaultRules()
	tracked.Track = true
	plain := attribution.DefaultRules()
	bob := answered("acc", "x", "a1")
	bob.UserID = "bob"
	forgetful := attribution.DefaultRules()
	forgetful.Forgotten = map[string]struct{}{"bob": {}}
	for _, c := range []struct {
		rule  string
		rules *attribution.Rules
		old   survey.Completion
		newer []survey.Completion
		want  []string
	}{
		{"nothing newer: all of it", &plain, answered("acc", "x", "a1"), nil, []string{"identify acc [refiner_x]", "group acc [refiner_a1]"}},
		{"only what no newer one set", &plain, answered("acc", "x", "y", "a1", "a2"), []survey.Completion{answered("acc", "y", "z", "a2")}, []string{"identify acc [refiner_x]", "group acc [refiner_a1]"}},
		{"no group of which nothing is left", &plain, answered("acc", "x", "a1"), []survey.Completion{answered("acc", "a1")}, []string{"identify acc [refiner_x]"}},
		{"a group needs its identify", &plain, answered("acc", "x", "a1"), []survey.Completion{answered("acc", "x")}, []string{"identify acc []", "group acc [refiner_a1]"}},
		{"the membership, if no newer one says it", &plain, answered("acc", "x"), []survey.Completion{answered("", "x")}, []string{"identify acc []", "group acc []"}},
		{"nothing is left", &plain, answered("acc", "x"), []survey.Completion{answered("acc", "x")}, []string{"superseded"}},
		{"the account is another by now", &plain, answered("old", "x", "a1"), []survey.Completion{answered("old"), answered("new")}, []string{"identify  [refiner_x]", "withheld [refiner_a1]"}},
		{"the account is the same again", &plain, answered("acc", "x", "a1"), []survey.Completion{answered("new"), answered("acc")}, []string{"identify acc [refiner_x]", "group acc [refiner_a1]"}},
		{"other users count for the account alone", &plain, answered("acc", "x", "a1", "a2"), []survey.Completion{bob}, []string{"identify acc [refiner_x]", "group acc [refiner_a2]"}},
		{"somebody to forget brings no older values back", &forgetful, answered("acc", "x", "a1", "a2"), []survey.Completion{bob}, []string{"identify acc [refiner_x]", "group acc [refiner_a2]"}},
		{"a track tells what was, as it was", &tracked, answered("acc", "x"), []survey.Completion{answered("acc", "x")}, []string{"identify acc []", "track acc [refiner_x response_id]"}},
	} {
		older, ok := attribution.Say(&c.old, c.rules)
		if !ok {
			t.Fatalf("%s: it says nothing", c.rule)
		}
		var since attribution.Since
		for i := range c.newer {
			newer, _ := attribution.Say(&c.newer[i], c.rules)
			since.Add(&older, &newer)
		}
		res, err := attribution.AttributeSince(c.old, c.rules, "acme", time.Unix(0, 0), &since)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i := range res.Calls {
			call := &res.Calls[i]
			names := []attribution.TraitName{}
			for _, tr := range call.Traits {
				names = append(names, tr.Name)
			}
			got = append(got, fmt.Sprintf("%v %s %v", call.Kind, call.GroupID, names))
		}
		if res.Ignored != survey.NotIgnored {
			got = append(got, string(res.Ignored))
		}
		if w := res.Notes.WithheldNoAccount; len(w) > 0 {
			got = append(got, fmt.Sprintf("withheld %v", w))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.rule, diff)
		}
	}
}

func TestTraitThatIsTooLargeDoesNotMatterIfItIsLeftOut(t *testing.T) {
	t.Parallel()
	rules := attribution.DefaultRules()
	old := answered("", "x", "y")
	big, _ := jsontext.AppendQuote(nil, string(make([]byte, attribution.MaxCallBytes)))
	old.Answers[0].Value = big
	newer := answered("", "x")
	older, _ := attribution.Say(&old, &rules)
	said, _ := attribution.Say(&newer, &rules)
	var since attribution.Since
	if _, err := attribution.AttributeSince(old, &rules, "acme", time.Unix(0, 0), &since); err == nil {
		t.Fatal("it is not too large")
	}
	since.Add(&older, &said)
	if res, err := attribution.AttributeSince(old, &rules, "acme", time.Unix(0, 0), &since); err != nil || len(res.Calls) != 1 || len(res.Calls[0].Traits) != 1 {
		t.Errorf("%v %v", res.Calls, err)
	}
}
