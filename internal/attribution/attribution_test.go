package attribution_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"pgregory.net/rapid"

	"refinersource/internal/attribution"
	"refinersource/internal/survey"
)

var received = time.Date(2026, 10, 12, 2, 6, 0, 0, time.UTC)

func sortTraits(traits []attribution.Trait) {
	slices.SortFunc(traits, func(a, b attribution.Trait) int { return strings.Compare(string(a.Name), string(b.Name)) })
}

// encoded are the calls as they are sent, one a line.
func encoded(calls []attribution.Call) string {
	var b []byte
	for i := range calls {
		b = append(calls[i].AppendJSON(b), '\n')
	}
	return string(b)
}

// messageIDs are the message ids of the calls.
func messageIDs(calls []attribution.Call) []string {
	var ids []string
	for i := range calls {
		ids = append(ids, calls[i].MessageID)
	}
	return ids
}

// completions draws what Decode may return for a completed survey.
func completions() *rapid.Generator[survey.Completion] {
	value := rapid.SampledFrom([]string{"1", "4.50", "false", `"text"`, `"<script>"`, `["a","b"]`, `{"a":1,"b":{"c":2},"":3,"d":null,"日":4}`, `"` + strings.Repeat("&", 1000) + `"`})
	return rapid.Custom(func(t *rapid.T) survey.Completion {
		c := survey.Completion{
			ID:          rapid.StringN(1, 20, -1).Draw(t, "id"),
			Revision:    rapid.SampledFrom([]string{"", "2026-10-12T02:05:55Z"}).Draw(t, "revision"),
			SurveyID:    "s1",
			SurveyName:  "Onboarding",
			UserID:      rapid.SampledFrom([]string{"", "user-17"}).Draw(t, "user"),
			AnonymousID: "anon-1",
			Email:       rapid.SampledFrom([]string{"", "ann@example.com"}).Draw(t, "email"),
			AccountID:   rapid.SampledFrom([]string{"", "acc-9"}).Draw(t, "account"),
			Timestamp:   received.Add(time.Duration(rapid.IntRange(-600, 600).Draw(t, "seconds")) * time.Second),
		}
		// A few names and what they make with a number: they collide, and are many.
		names := append([]string{"", "a", "A", "a!", "email", "industry"}, rapid.SliceOfN(sources(), 0, 4).Draw(t, "names")...)
		name := rapid.Custom(func(t *rapid.T) string {
			return strings.TrimSpace(rapid.SampledFrom(names).Draw(t, "name") + rapid.SampledFrom([]string{"", " 2", fmt.Sprint(rapid.Uint8().Draw(t, "number"))}).Draw(t, "suffix"))
		})
		for range rapid.IntRange(0, 40).Draw(t, "attributes") {
			c.AccountAttributes = append(c.AccountAttributes, survey.Attribute{Name: name.Draw(t, "attribute"), Value: []byte(value.Draw(t, "value"))})
		}
		for range rapid.IntRange(0, 400).Draw(t, "answers") {
			c.Answers = append(c.Answers, survey.Answer{
				Property:  name.Draw(t, "property"),
				Question:  name.Draw(t, "question"),
				BelongsTo: rapid.SampledFrom([]survey.Level{survey.LevelUnknown, survey.LevelUser, survey.LevelAccount}).Draw(t, "belongs to"),
				Value:     []byte(value.Draw(t, "value")),
			})
		}
		return c
	})
}

// The same completion and rules give byte-identical calls (invariant 6), and
// these are within Segment's limits, in order, and with ids of their own.
func TestCallsAreDeterministicAndWithinLimits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := completions().Draw(t, "completion")
		rules := attribution.DefaultRules()
		rules.EmitAnonymous = true
		rules.Track = rapid.Bool().Draw(t, "track")
		rules.AccountProperties = setOf([]string{"a", "industry"})
		rules.Names = attribution.CompileNames(map[string]string{"A": "a", "Industry": "industry"})
		first, err := attribution.Attribute(c, &rules, "acme", received)
		if err != nil {
			t.Fatal(err)
		}
		again, err := attribution.Attribute(c, &rules, "acme", received)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(encoded(first.Calls), encoded(again.Calls)); diff != "" {
			t.Fatalf("-first +again:\n%s", diff)
		}
		checkCalls(t, &c, &first)
	})
}

func checkCalls(t *rapid.T, c *survey.Completion, res *attribution.Result) {
	ids := make(map[string]bool)
	var kinds []attribution.Kind
	for i := range res.Calls {
		call := &res.Calls[i]
		kinds = append(kinds, call.Kind)
		if got := len(call.AppendJSON(nil)); got != call.Size() || got > attribution.MaxCallBytes {
			t.Fatalf("%s has %d bytes, Size is %d", call.Kind, got, call.Size())
		}
		if len(call.Traits) > attribution.MaxCallTraits {
			t.Fatalf("%s has %d traits", call.Kind, len(call.Traits))
		}
		if ids[call.MessageID] || len(call.MessageID) > 100 {
			t.Fatalf("message id %q is not unique or too long", call.MessageID)
		}
		ids[call.MessageID] = true
		if call.UserID == "" && call.AnonymousID == "" || call.UserID != c.UserID {
			t.Fatalf("%s is of user %q, anonymous %q", call.Kind, call.UserID, call.AnonymousID)
		}
		if call.Timestamp.Sub(received) > attribution.MaxClockSkew || !call.Timestamp.Equal(res.Calls[0].Timestamp) {
			t.Fatalf("%s is of %s", call.Kind, call.Timestamp)
		}
		for j, trait := range call.Traits {
			if !strings.HasSuffix(string(trait.Name), "_id") && trait.Name != attribution.PropertySurveyName {
				checkName(t, "an answer", trait.Name)
			}
			if j > 0 && call.Traits[j-1].Name >= trait.Name {
				t.Fatalf("trait %s comes after %s", trait.Name, call.Traits[j-1].Name)
			}
			if !trait.Value.IsValid() {
				t.Fatalf("trait %s is not JSON: %s", trait.Name, trait.Value)
			}
		}
	}
	if !slices.IsSorted(kinds) || kinds[0] != attribution.Identify {
		t.Fatalf("calls come as %v", kinds)
	}
	if slices.Contains(kinds, attribution.Group) != (c.AccountID != "") {
		t.Fatalf("account %q makes calls %v", c.AccountID, kinds)
	}
}

// The webhook and the REST form of one response are one event to Segment.
func TestWebhookAndRESTFormMakeTheSameCalls(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(goldenCalls(t, "events_webhook"), goldenCalls(t, "events_rest")); diff != "" {
		t.Errorf("-webhook +REST:\n%s", diff)
	}
}

func goldenCalls(t *testing.T, name string) string {
	t.Helper()
	archive, err := txtar.ParseFile("testdata/" + name + ".txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.Files {
		if f.Name == "calls.jsonl" {
			return string(f.Data)
		}
	}
	t.Fatalf("%s has no calls", name)
	return ""
}

// Segment drops a message id that it has seen, in whatever workspace: ids differ
// where the calls do.
func TestMessageIDsDiffer(t *testing.T) {
	t.Parallel()
	rules := attribution.DefaultRules()
	rules.Track = true
	seen := make(map[string]string)
	for _, v := range []struct{ tenant, id, revision string }{
		{"acme", "evt-1", "1"},
		{"acme", "evt-1", "2"},
		{"acme", "evt-11", ""},
		{"acme", "evt-1", ""},
		{"acm", "e\x01evt-1", "1"},
		{"other", "evt-1", "1"},
	} {
		c := survey.Completion{ID: v.id, Revision: v.revision, UserID: "user-17", AccountID: "acc-9"}
		res, err := attribution.Attribute(c, &rules, v.tenant, received)
		if err != nil {
			t.Fatal(err)
		}
		for i, id := range messageIDs(res.Calls) {
			what := fmt.Sprintf("%v %s", v, res.Calls[i].Kind)
			if other, ok := seen[id]; ok {
				t.Errorf("%s and %s have one message id", what, other)
			}
			seen[id] = what
		}
	}
}

func TestOrderKey(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		order                    attribution.OrderBy
		user, anonymous, account string
		want                     string
	}{
		{attribution.ByUser, "user-17", "anon-1", "acc-9", "u:user-17"},
		{attribution.ByUser, "", "anon-1", "acc-9", "a:anon-1"},
		{attribution.ByUser, "", "", "acc-9", ""},
		{attribution.ByAccount, "user-17", "anon-1", "acc-9", "g:acc-9"},
		{attribution.ByAccount, "user-17", "anon-1", "", "u:user-17"},
		{attribution.ByAccount, "", "anon-1", "", "a:anon-1"},
	} {
		rules := attribution.DefaultRules()
		rules.OrderBy, rules.EmitAnonymous = tt.order, true
		c := survey.Completion{ID: "evt-1", UserID: tt.user, AnonymousID: tt.anonymous, AccountID: tt.account}
		res, err := attribution.Attribute(c, &rules, "acme", received)
		if err != nil {
			t.Fatal(err)
		}
		if res.OrderKey != tt.want {
			t.Errorf("order by %s of %q, %q, %q: got %q, want %q", tt.order, tt.user, tt.anonymous, tt.account, res.OrderKey, tt.want)
		}
	}
}

// An answer may fill a call to the last byte; with one byte more it is too large.
func TestOneTraitMayFillACall(t *testing.T) {
	t.Parallel()
	rules := attribution.DefaultRules()
	c := survey.Completion{ID: "evt-1", UserID: "user-17", Answers: []survey.Answer{{Property: "essay", Value: []byte(`""`)}}}
	res, err := attribution.Attribute(c, &rules, "acme", received)
	if err != nil {
		t.Fatal(err)
	}
	room := attribution.MaxCallBytes - res.Calls[0].Size()

	c.Answers[0].Value = []byte(`"` + strings.Repeat("x", room) + `"`)
	res, err = attribution.Attribute(c, &rules, "acme", received)
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Calls[0].Size(); got != attribution.MaxCallBytes {
		t.Errorf("size is %d, want %d", got, attribution.MaxCallBytes)
	}

	c.Answers[0].Value = []byte(`"` + strings.Repeat("x", room+1) + `"`)
	res, err = attribution.Attribute(c, &rules, "acme", received)
	if fault, ok := errors.AsType[*survey.Fault](err); !ok || fault.Reason != survey.TooLarge {
		t.Errorf("got %v, want a fault of reason %s", err, survey.TooLarge)
	}
	if len(res.Calls) > 0 || res.OrderKey != "u:user-17" {
		t.Errorf("got %d calls of %q, want none of u:user-17", len(res.Calls), res.OrderKey)
	}
}

// Two answers share a call to the last byte; with one byte more they are in two,
// and nothing is lost or twice.
func TestCallsAreSplitAtTheLimit(t *testing.T) {
	t.Parallel()
	rules := attribution.DefaultRules()
	half := []byte(`"` + strings.Repeat("x", 15_000) + `"`)
	c := survey.Completion{ID: "evt-1", UserID: "user-17", Answers: []survey.Answer{{Property: "a", Value: half}, {Property: "b", Value: []byte(`""`)}}}
	res, err := attribution.Attribute(c, &rules, "acme", received)
	if err != nil {
		t.Fatal(err)
	}
	room := attribution.MaxCallBytes - res.Calls[0].Size()
	for _, tt := range []struct{ length, calls int }{{room, 1}, {room + 1, 2}} {
		c.Answers[1].Value = []byte(`"` + strings.Repeat("y", tt.length) + `"`)
		res, err := attribution.Attribute(c, &rules, "acme", received)
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Calls) != tt.calls {
			t.Errorf("%d bytes make %d calls, want %d", tt.length, len(res.Calls), tt.calls)
		}
		var got []attribution.TraitName
		for _, call := range res.Calls {
			for _, trait := range call.Traits {
				got = append(got, trait.Name)
			}
		}
		if diff := cmp.Diff([]attribution.TraitName{"refiner_a", "refiner_b"}, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

// Attributes and answers beyond what is compared one by one are told apart too.
func TestManyAttributesDecideOwners(t *testing.T) {
	t.Parallel()
	rules := attribution.DefaultRules()
	c := survey.Completion{ID: "evt-1", UserID: "user-17", AccountID: "acc-9"}
	for i := range 100 {
		name := fmt.Sprintf("p%02d", i)
		c.Answers = append(c.Answers, survey.Answer{Property: name, Value: []byte("1")})
		if i%2 == 0 {
			c.AccountAttributes = append(c.AccountAttributes, survey.Attribute{Name: name, Value: []byte("0")})
		}
		if i%4 == 0 {
			c.UserAttributes = append(c.UserAttributes, name)
		}
	}
	res, err := attribution.Attribute(c, &rules, "acme", received)
	if err != nil {
		t.Fatal(err)
	}
	answered := 0
	for _, trait := range res.Calls[1].Traits {
		if string(trait.Value) == "1" {
			answered++
		}
	}
	if got := [2]int{len(res.Calls[0].Traits), answered}; got != [2]int{75, 25} {
		t.Errorf("user and account have %v answers, want [75 25]", got)
	}
}
