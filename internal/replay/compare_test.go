package replay_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"refinersource/internal/attribution"
	"refinersource/internal/replay"
	"refinersource/internal/survey"
)

var accepted = time.Date(2026, 10, 12, 2, 6, 0, 0, time.UTC)

// event is a webhook with these answers and, of an account, attributes.
func event(t *testing.T, data, attributes string) *survey.Completion {
	t.Helper()
	account := ""
	if attributes != "" {
		account = `,"account":{"remote_id":"acc","attributes":` + attributes + `}`
	}
	c, err := survey.Decode(survey.RefinerWebhook, []byte(
		`{"remote_id":"ann","email":"ann@example.com"`+account+`,"response":{"uuid":"r","completed_at":"2026-10-12T02:05:55Z","data":`+data+`}}`))
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

// manyAnswers are n answers.
func manyAnswers(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"q%d":%d`, i, i)
	}
	return "{" + strings.Join(all, ",") + "}"
}

func set(names ...string) map[string]struct{} {
	all := make(map[string]struct{})
	for _, n := range names {
		all[n] = struct{}{}
	}
	return all
}

func names(pairs ...string) map[string]string {
	all := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		all[pairs[i]] = pairs[i+1]
	}
	return attribution.CompileNames(all)
}

func TestCompareTellsWhatBecomesOfEachTrait(t *testing.T) {
	t.Parallel()
	nothing := func(*attribution.Rules) {}
	for _, c := range []struct {
		name             string
		data, attributes string
		then, now        func(*attribution.Rules)
		want             []replay.Change
	}{
		{
			name: "the same rules differ in nothing",
			data: `{"size":"10+","role":"CEO"}`, attributes: `{"industry":"x"}`,
			then: nothing, now: nothing,
		},
		{
			name: "an entry of names renames its answer",
			data: `{"size":"10+","role":"CEO"}`,
			then: nothing,
			now:  func(r *attribution.Rules) { r.Names = names("size", "team_size") },
			want: []replay.Change{{Kind: replay.Renamed, Call: "identify", Trait: "refiner_size", ToCall: "identify", ToTrait: "refiner_team_size"}},
		},
		{
			name: "a prefix renames all, the email and attributes with the answers",
			data: `{"size":"10+"}`, attributes: `{"industry":"x"}`,
			then: nothing,
			now:  func(r *attribution.Rules) { r.Prefix = "survey_" },
			want: []replay.Change{
				{Kind: replay.Renamed, Call: "identify", Trait: "refiner_email", ToCall: "identify", ToTrait: "survey_email"},
				{Kind: replay.Renamed, Call: "identify", Trait: "refiner_size", ToCall: "identify", ToTrait: "survey_size"},
				{Kind: replay.Renamed, Call: "group", Trait: "refiner_industry", ToCall: "group", ToTrait: "survey_industry"},
			},
		},
		{
			name: "names that are exchanged are two renames, and no other values",
			data: `{"a":"one","b":"two"}`,
			then: nothing,
			now:  func(r *attribution.Rules) { r.Names = map[string]string{"a": "b", "b": "a"} },
			want: []replay.Change{
				{Kind: replay.Renamed, Call: "identify", Trait: "refiner_b", ToCall: "identify", ToTrait: "refiner_a"},
				{Kind: replay.Renamed, Call: "identify", Trait: "refiner_a", ToCall: "identify", ToTrait: "refiner_b"},
			},
		},
		{
			name: "answers of the same value that exchange their names change nothing",
			data: `{"a":"one","b":"one"}`,
			then: nothing,
			now:  func(r *attribution.Rules) { r.Names = map[string]string{"a": "b", "b": "a"} },
		},
		{
			name: "the members of an answer are renamed each",
			data: `{"matrix":{"speed":1,"price":2}}`,
			then: nothing,
			now:  func(r *attribution.Rules) { r.Names = names("matrix", "m") },
			want: []replay.Change{
				{Kind: replay.Renamed, Call: "identify", Trait: "refiner_matrix_price", ToCall: "identify", ToTrait: "refiner_m_price"},
				{Kind: replay.Renamed, Call: "identify", Trait: "refiner_matrix_speed", ToCall: "identify", ToTrait: "refiner_m_speed"},
			},
		},
		{
			name: "an answer goes from the user to the account",
			data: `{"size":"10+"}`, attributes: `{}`,
			then: nothing,
			now:  func(r *attribution.Rules) { r.AccountProperties = set("size") },
			want: []replay.Change{{Kind: replay.Owner, Call: "identify", Trait: "refiner_size", ToCall: "group", ToTrait: "refiner_size"}},
		},
		{
			name: "an answer goes from the account to the user, under another name",
			data: `{"size":"10+"}`, attributes: `{}`,
			then: func(r *attribution.Rules) { r.AccountProperties = set("size") },
			now:  func(r *attribution.Rules) { r.Names = names("size", "team") },
			want: []replay.Change{{Kind: replay.Owner, Call: "group", Trait: "refiner_size", ToCall: "identify", ToTrait: "refiner_team"}},
		},
		{
			name: "what an answer has left has what the account's attribute says",
			data: `{"size":"10+"}`, attributes: `{"size":"1000+"}`,
			then: nothing, // the attribute makes it the account's
			now:  func(r *attribution.Rules) { r.UserProperties = set("size") },
			want: []replay.Change{
				{Kind: replay.Owner, Call: "group", Trait: "refiner_size", ToCall: "identify", ToTrait: "refiner_size"},
				{Kind: replay.Value, Call: "group", Trait: "refiner_size"},
			},
		},
		{
			name: "an answer that goes to an account that is not known is gone",
			data: `{"size":"10+","role":"CEO"}`,
			then: nothing,
			now:  func(r *attribution.Rules) { r.AccountProperties = set("size") },
			want: []replay.Change{{Kind: replay.Gone, Call: "identify", Trait: "refiner_size", Why: replay.NoAccount}},
		},
		{
			name: "an answer that comes back from one is added",
			data: `{"size":"10+","role":"CEO"}`,
			then: func(r *attribution.Rules) { r.AccountProperties = set("size") },
			now:  nothing,
			want: []replay.Change{{Kind: replay.Added, Call: "identify", Trait: "refiner_size", Why: replay.NoAccount}},
		},
		{
			name: "another answer of the same value is not the same answer",
			data: `{"one":5,"two":5}`,
			then: func(r *attribution.Rules) { r.AccountProperties = set("two") },
			now:  func(r *attribution.Rules) { r.AccountProperties = set("one") },
			want: []replay.Change{
				{Kind: replay.Gone, Call: "identify", Trait: "refiner_one", Why: replay.NoAccount},
				{Kind: replay.Added, Call: "identify", Trait: "refiner_two", Why: replay.NoAccount},
			},
		},
		{
			name: "an answer that takes an attribute's name gives it another value",
			data: `{"branch":"steel"}`, attributes: `{"industry":"x"}`,
			then: func(r *attribution.Rules) { r.AccountProperties = set("branch") },
			now: func(r *attribution.Rules) {
				r.AccountProperties, r.Names = set("branch"), names("branch", "industry")
			},
			want: []replay.Change{
				{Kind: replay.Renamed, Call: "group", Trait: "refiner_branch", ToCall: "group", ToTrait: "refiner_industry"},
				{Kind: replay.Value, Call: "group", Trait: "refiner_industry"},
			},
		},
		{
			name: "and another type, if its own is another",
			data: `{"branch":7}`, attributes: `{"industry":"x"}`,
			then: func(r *attribution.Rules) { r.AccountProperties = set("branch") },
			now: func(r *attribution.Rules) {
				r.AccountProperties, r.Names = set("branch"), names("branch", "industry")
			},
			want: []replay.Change{
				{Kind: replay.Renamed, Call: "group", Trait: "refiner_branch", ToCall: "group", ToTrait: "refiner_industry"},
				{Kind: replay.Type, Call: "group", Trait: "refiner_industry", Type: "string", ToType: "number"},
			},
		},
		{
			name: "an attribute that gets the name of an answer is gone",
			data: `{"branch":"steel"}`, attributes: `{"industry":"x"}`,
			then: func(r *attribution.Rules) { r.AccountProperties = set("branch") },
			now: func(r *attribution.Rules) {
				r.AccountProperties, r.Names = set("branch"), names("industry", "branch")
			},
			want: []replay.Change{{Kind: replay.Gone, Call: "group", Trait: "refiner_industry"}},
		},
		{
			name: "a track call comes with all that it has",
			data: `{"size":"10+"}`, attributes: `{}`,
			then: nothing,
			now:  func(r *attribution.Rules) { r.Track = true },
			want: []replay.Change{{Kind: replay.CallAdded, Call: "track"}},
		},
		{
			name: "and goes so; one that stays is renamed with the identify",
			data: `{"size":"10+"}`,
			then: func(r *attribution.Rules) { r.Track = true },
			now:  func(r *attribution.Rules) { r.Track, r.Names = true, names("size", "team") },
			want: []replay.Change{
				{Kind: replay.Renamed, Call: "identify", Trait: "refiner_size", ToCall: "identify", ToTrait: "refiner_team"},
				{Kind: replay.Renamed, Call: "track", Trait: "refiner_size", ToCall: "track", ToTrait: "refiner_team"},
			},
		},
		{
			name: "the calls of an event go with its trait that is too large",
			data: `{"long":"` + strings.Repeat("x", 31_750) + `"}`, attributes: `{}`,
			then: nothing,
			now:  func(r *attribution.Rules) { r.Names = names("long", strings.Repeat("long ", 20)) },
			want: []replay.Change{
				{Kind: replay.CallGone, Call: "identify", Why: "dead: too_large"},
				{Kind: replay.CallGone, Call: "group", Why: "dead: too_large"},
			},
		},
		{
			name: "a second identify goes when the traits fit into one",
			data: manyAnswers(attribution.MaxCallTraits), attributes: `{}`, // and the email
			then: nothing,
			now:  func(r *attribution.Rules) { r.AccountProperties = set("q7") },
			want: []replay.Change{
				{Kind: replay.CallGone, Call: "identify"},
				{Kind: replay.Owner, Call: "identify", Trait: "refiner_q7", ToCall: "group", ToTrait: "refiner_q7"},
			},
		},
		{
			name: "integrations are those of every call",
			data: `{"size":"10+"}`, attributes: `{}`,
			then: nothing,
			now:  func(r *attribution.Rules) { r.Integrations = []byte(`{"Refiner":false}`) },
			want: []replay.Change{{Kind: replay.Integrations, Call: "identify"}, {Kind: replay.Integrations, Call: "group"}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			then, now := attribution.DefaultRules(), attribution.DefaultRules()
			c.then(&then)
			c.now(&now)
			got := replay.Compare(event(t, c.data, c.attributes), &then, &now, accepted)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// Of a question that was answered twice the last value counts, once for each level: an
// answer has not moved if it does not bring its value.
func TestCompareTakesForTheSameAnswerWhatHasTheSameValue(t *testing.T) {
	t.Parallel()
	c, err := survey.Decode(survey.SurveyEvent, []byte(`{"id":"e","completed_at":"2026-10-12T02:05:55Z","user":{"id":"ann"},"account":{"id":"acc"},`+
		`"answers":[{"property":"size","value":1},{"property":"size","value":2,"belongs_to":"user"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	then, now := attribution.DefaultRules(), attribution.DefaultRules()
	now.AccountProperties = set("size")
	want := []replay.Change{{Kind: replay.Added, Call: "group", Trait: "refiner_size"}}
	if d := cmp.Diff(want, replay.Compare(&c, &then, &now, accepted)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// Why an event makes no call by one of the rules stands with the calls.
func TestCompareTellsWhyCallsComeAndGo(t *testing.T) {
	t.Parallel()
	c := event(t, `{"size":"10+"}`, `{}`)
	c.Ignored = survey.Partial
	without, with := attribution.DefaultRules(), attribution.DefaultRules()
	with.Partials = true
	added := []replay.Change{
		{Kind: replay.CallAdded, Call: "identify", Why: "ignored: partial"},
		{Kind: replay.CallAdded, Call: "group", Why: "ignored: partial"},
	}
	if d := cmp.Diff(added, replay.Compare(c, &without, &with, accepted)); d != "" {
		t.Errorf("partials are switched on (-want +got):\n%s", d)
	}
	gone := []replay.Change{
		{Kind: replay.CallGone, Call: "identify", Why: "ignored: partial"},
		{Kind: replay.CallGone, Call: "group", Why: "ignored: partial"},
	}
	if d := cmp.Diff(gone, replay.Compare(c, &with, &without, accepted)); d != "" {
		t.Errorf("partials are switched off (-want +got):\n%s", d)
	}
}

// There is a change if and only if the calls differ, and none is told twice.
func TestCompareFindsAChangeWhereCallsDiffer(t *testing.T) {
	t.Parallel()
	name := rapid.SampledFrom([]string{"a", "A", "b", "c", "email", "a 2"})
	rules := rapid.Custom(func(t *rapid.T) attribution.Rules {
		r := attribution.DefaultRules()
		r.Names = rapid.MapOf(name, name).Draw(t, "names")
		r.AccountProperties = set(rapid.SliceOfN(name, 0, 2).Draw(t, "account")...)
		r.Track, r.EmitAnonymous = rapid.Bool().Draw(t, "track"), rapid.Bool().Draw(t, "anonymous")
		r.Prefix = rapid.SampledFrom([]string{"refiner_", "refiner_a_"}).Draw(t, "prefix")
		return r
	})
	value := rapid.SampledFrom([]string{"1", "2", `"x"`, `{"a":1,"b":"y"}`, `["x"]`, "true"})
	rapid.Check(t, func(t *rapid.T) {
		c := survey.Completion{
			ID: "r", UserID: rapid.SampledFrom([]string{"", "ann"}).Draw(t, "user"), AnonymousID: "anon", Timestamp: accepted,
			Email:     rapid.SampledFrom([]string{"", "ann@example.com"}).Draw(t, "email"),
			AccountID: rapid.SampledFrom([]string{"", "acc"}).Draw(t, "account"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "attributes") {
			c.AccountAttributes = append(c.AccountAttributes, survey.Attribute{Name: name.Draw(t, "attribute"), Value: []byte(value.Draw(t, "value"))})
		}
		for range rapid.IntRange(0, 5).Draw(t, "answers") {
			c.Answers = append(c.Answers, survey.Answer{
				Property: name.Draw(t, "property"), Question: rapid.SampledFrom([]string{"", "Q?"}).Draw(t, "question"), Value: []byte(value.Draw(t, "value")),
				BelongsTo: rapid.SampledFrom([]survey.Level{survey.LevelUnknown, survey.LevelUser, survey.LevelAccount}).Draw(t, "level"),
			})
		}
		then, now := rules.Draw(t, "then"), rules.Draw(t, "now")
		was, err := attribution.Attribute(c, &then, "acme", accepted)
		if err != nil {
			t.Fatal(err)
		}
		is, err := attribution.Attribute(c, &now, "acme", accepted)
		if err != nil {
			t.Fatal(err)
		}
		changes := replay.Compare(&c, &then, &now, accepted)
		if same := encoded(was.Calls) == encoded(is.Calls); same != (len(changes) == 0) {
			t.Fatalf("the calls are the same: %v; the changes are %v\n%s\n%s", same, changes, encoded(was.Calls), encoded(is.Calls))
		}
		told := make(map[replay.Change]bool)
		for _, change := range changes {
			if told[change] {
				t.Fatalf("%v is told twice", change)
			}
			told[change] = true
		}
	})
}

func encoded(calls []attribution.Call) string {
	var all []byte
	for i := range calls {
		all = append(calls[i].AppendJSON(all), '\n')
	}
	return string(all)
}
