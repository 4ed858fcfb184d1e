package attribution_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"refinersource/internal/attribution"
	"refinersource/internal/survey"
)

// What Derive tells of is what Attribute's calls have and what it withholds, and of a
// user's and an account's traits no two are of one origin.
func TestDerivedTraitsAreThoseOfTheCalls(t *testing.T) {
	t.Parallel()
	type trait struct {
		Kind  attribution.Kind
		Name  attribution.TraitName
		Value string
	}
	rapid.Check(t, func(t *rapid.T) {
		c := completions().Draw(t, "completion")
		c.Ignored = rapid.SampledFrom([]survey.Ignored{survey.NotIgnored, survey.Partial, survey.NoResponse}).Draw(t, "ignored")
		rules := attribution.DefaultRules()
		rules.Track = rapid.Bool().Draw(t, "track")
		rules.Partials = rapid.Bool().Draw(t, "partials")
		rules.EmitAnonymous = rapid.Bool().Draw(t, "anonymous")
		rules.AccountProperties = setOf([]string{"a", "industry"})
		res, err := attribution.Attribute(c, &rules, "acme", received)
		if err != nil {
			t.Fatal(err)
		}
		want := make(map[trait]int) // a track call's own properties stand in each of its parts
		for i := range res.Calls {
			for _, tr := range res.Calls[i].Traits {
				want[trait{res.Calls[i].Kind, tr.Name, string(tr.Value)}] = 1
			}
		}
		got := make(map[trait]int)
		type of struct {
			track  bool
			origin attribution.Origin
		}
		origins := make(map[of]attribution.TraitName)
		var withheld []attribution.TraitName
		for _, d := range attribution.Derive(&c, &rules) {
			if d.Withheld {
				withheld = append(withheld, d.Name)
			} else {
				got[trait{d.Kind, d.Name, string(d.Value)}]++
			}
			o := of{d.Kind == attribution.Track, d.Origin}
			if other, ok := origins[o]; ok {
				t.Fatalf("%s and %s are of one origin", other, d.Name)
			}
			origins[o] = d.Name
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("traits of the calls and derived ones (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(res.Notes.WithheldNoAccount, withheld); diff != "" {
			t.Fatalf("what is withheld (-want +got):\n%s", diff)
		}
	})
}

// What a completion says keeps its origin whatever it is called, and whoever gets it.
func TestOriginIsThatOfTheAnswerWhateverTheRules(t *testing.T) {
	t.Parallel()
	c := fiveAnswers()
	c.Answers = append(c.Answers, survey.Answer{Property: "matrix", Value: []byte(`{"speed":1,"price":2}`)})
	c.AccountAttributes = append(c.AccountAttributes, survey.Attribute{Name: "matrix", Value: []byte(`{"speed":1}`)})
	rules := attribution.DefaultRules()
	other := attribution.DefaultRules()
	other.Prefix = "other_"
	other.Names = attribution.CompileNames(map[string]string{"how_big_is_your_team": "size", "matrix": "m", "industry": "branch"})
	other.AccountProperties = setOf([]string{"how_likely_to_recommend"})
	names := func(r *attribution.Rules) map[attribution.Origin]string {
		all := make(map[attribution.Origin]string)
		for _, d := range attribution.Derive(&c, r) {
			all[d.Origin] = d.Kind.String() + " " + string(d.Name)
		}
		return all
	}
	before, after := names(&rules), names(&other)
	got := make(map[string]string)
	for o, name := range before {
		got[name] = after[o]
	}
	want := map[string]string{
		"identify refiner_email":                     "identify other_email",
		"identify refiner_what_is_your_job_role":     "identify other_what_is_your_job_role",
		"identify refiner_how_big_is_your_team":      "identify other_size",
		"group refiner_employee_count":               "group other_employee_count",
		"group refiner_industry":                     "group other_branch",
		"identify refiner_how_likely_to_recommend":   "group other_how_likely_to_recommend",
		"identify refiner_which_features_do_you_use": "identify other_which_features_do_you_use",
		"group refiner_matrix_speed":                 "group other_m_speed",
		"group refiner_matrix_price":                 "group other_m_price",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
