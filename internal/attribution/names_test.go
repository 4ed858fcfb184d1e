package attribution_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"pgregory.net/rapid"

	"refinersource/internal/attribution"
	"refinersource/internal/survey"
)

// kinds of the source of a name.
const (
	textSource     = "text"
	propertySource = "property"
	customSource   = "custom"
)

// nameOf is the trait's name that a source makes; "" if it makes none.
func nameOf(t interface{ Fatal(...any) }, kind, source string) attribution.TraitName {
	rules := attribution.DefaultRules()
	answer := survey.Answer{Value: []byte("1")}
	switch kind {
	case textSource:
		answer.Question = strings.TrimSpace(source)
	case propertySource:
		answer.Property = strings.TrimSpace(source)
	case customSource:
		answer.Property = "p"
		rules.Names = attribution.CompileNames(map[string]string{"p": source})
	default:
		t.Fatal("unknown kind", kind)
	}
	traits := userTraits(t, &rules, answer)
	if len(traits) == 0 {
		return ""
	}
	return traits[0].Name
}

// userTraits are the traits of the identify that a user's answers make.
func userTraits(t interface{ Fatal(...any) }, rules *attribution.Rules, answers ...survey.Answer) []attribution.Trait {
	c := survey.Completion{ID: "evt-1", UserID: "user-17", Answers: answers}
	res, err := attribution.Attribute(c, rules, "acme", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	var traits []attribution.Trait
	for _, call := range res.Calls {
		traits = append(traits, call.Traits...)
	}
	return traits
}

// TestNames runs the table testdata/names.txtar, the specification of names in
// examples.
func TestNames(t *testing.T) {
	t.Parallel()
	const path = "testdata/names.txtar"
	want, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := &txtar.Archive{Comment: want.Comment}
	for _, f := range want.Files {
		var rows strings.Builder
		for row := range strings.Lines(string(f.Data)) {
			cells := strings.SplitN(row, "|", 3)
			if len(cells) != 3 {
				rows.WriteString(row)
				continue
			}
			var source string
			if err := json.Unmarshal([]byte(cells[1]), &source); err != nil {
				t.Fatalf("%s: %q: %v", f.Name, row, err)
			}
			fmt.Fprintf(&rows, "%s|%s| %s\n", cells[0], cells[1], nameOf(t, strings.TrimSpace(cells[0]), source))
		}
		got.Files = append(got.Files, txtar.File{Name: f.Name, Data: []byte(rows.String())})
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(txtar.Format(want)), string(txtar.Format(got))); diff != "" {
		t.Errorf("-want +got; if the change is meant, run go test -update:\n%s", diff)
	}
}

// wellFormed is the promise of a name with the default prefix.
var wellFormed = regexp.MustCompile(`^refiner(_[a-z0-9]+)+$`)

func checkName(t interface{ Fatalf(string, ...any) }, source string, name attribution.TraitName) {
	if !wellFormed.MatchString(string(name)) || len(name) > attribution.MaxNameBytes {
		t.Fatalf("%q is named %q (%d bytes)", source, name, len(name))
	}
}

// sources draws the source of a name: words of all scripts, tags, entities,
// names with the prefix, long ones.
func sources() *rapid.Generator[string] {
	piece := rapid.OneOf(
		rapid.String(),
		rapid.StringMatching(`[a-z0-9_]{1,40}`),
		rapid.SampledFrom([]string{"refiner_", "Refiner ", "_", "'", "’", "ʼ", "<b>", "</", "<!", ">", "&amp;", "&lt;b&gt;", "日本", "é", "e\u0301", "ß", "İ", "ŋ", "_2"}),
	)
	return rapid.Map(rapid.SliceOfN(piece, 1, 12), func(p []string) string {
		return strings.TrimSpace(strings.ReplaceAll(strings.Join(p, ""), "\x00", ""))
	})
}

func TestEveryNameIsWellFormed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		source := sources().Draw(t, "source")
		kind := rapid.SampledFrom([]string{textSource, propertySource, customSource}).Draw(t, "kind")
		name := nameOf(t, kind, source)
		if source == "" {
			return // blank: no name, or with a custom name that of the property
		}
		checkName(t, source, name)
	})
}

func TestNamingIsIdempotentForPropertyNames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		source := sources().Draw(t, "source")
		kind := rapid.SampledFrom([]string{textSource, propertySource}).Draw(t, "kind")
		name := nameOf(t, kind, source)
		if again := nameOf(t, propertySource, string(name)); again != name {
			t.Fatalf("%q is named %q, and that %q", source, name, again)
		}
	})
}

// A question keeps its name whatever else was asked, unless the names collide.
func TestNamesDoNotDependOnOtherQuestions(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		questions := rapid.SliceOfNDistinct(sources().Filter(func(s string) bool { return s != "" }), 1, 8, rapid.ID[string]).Draw(t, "questions")
		alone := make(map[attribution.TraitName]string)
		answers := make([]survey.Answer, len(questions))
		for i, q := range questions {
			name := nameOf(t, textSource, q)
			if _, ok := alone[name]; ok {
				t.Skip("names collide")
			}
			value := fmt.Sprintf("%d", i)
			alone[name] = value
			answers[i] = survey.Answer{Question: q, Value: []byte(value)}
		}
		rules := attribution.DefaultRules()
		together := make(map[attribution.TraitName]string)
		for _, trait := range userTraits(t, &rules, answers...) {
			together[trait.Name] = string(trait.Value)
		}
		if diff := cmp.Diff(alone, together); diff != "" {
			t.Fatalf("-alone +together:\n%s", diff)
		}
	})
}

// However names collide, no answer is lost and no two share a name: each
// question's last answer arrives, under a well-formed name.
func TestCollidingNamesLoseNoAnswer(t *testing.T) {
	t.Parallel()
	source := rapid.SampledFrom([]string{"a", "A", "a!", "a 2", "a_2", "a_2_2", "refiner_a", strings.Repeat("long ", 30), strings.Repeat("Long ", 30), "日", "日!"})
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 30).Draw(t, "answers")
		type question struct{ property, text string }
		want := make(map[string]question) // by value
		last := make(map[question]string)
		answers := make([]survey.Answer, n)
		for i := range answers {
			q := question{text: source.Draw(t, "source")}
			if rapid.Bool().Draw(t, "property") {
				q = question{property: q.text}
			}
			value := fmt.Sprintf("%d", i)
			delete(want, last[q])
			last[q], want[value] = value, q
			answers[i] = survey.Answer{Property: strings.TrimSpace(q.property), Question: strings.TrimSpace(q.text), Value: []byte(value)}
		}
		rules := attribution.DefaultRules()
		traits := userTraits(t, &rules, answers...)
		seen := make(map[attribution.TraitName]bool)
		for _, trait := range traits {
			checkName(t, want[string(trait.Value)].text, trait.Name)
			if seen[trait.Name] {
				t.Fatalf("two traits are named %s", trait.Name)
			}
			seen[trait.Name] = true
			if _, ok := want[string(trait.Value)]; !ok {
				t.Fatalf("trait %s has %s, which a later answer replaced", trait.Name, trait.Value)
			}
		}
		if len(traits) != len(want) {
			t.Fatalf("got %d traits of %d questions", len(traits), len(want))
		}
	})
}

func TestCompileNames(t *testing.T) {
	t.Parallel()
	got := attribution.CompileNames(map[string]string{
		" How big is your team? ": " team_size ",
		"what_is_your_role":       "role",
		"What is your role?":      "job",
		"Size!":                   "second",
		"Size":                    "first",
		"日本語 size":                "lost",
		"blank":                   " ",
	})
	want := map[string]string{
		"How big is your team?": "team_size",
		"how_big_is_your_team":  "team_size",
		"what_is_your_role":     "role",
		"What is your role?":    "job",
		"Size!":                 "second",
		"Size":                  "first",
		"size":                  "first",
		"日本語 size":              "lost",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// FuzzName promises of any source, be it a text or a property: no panic, a
// well-formed name, and the same name for that name as a property.
func FuzzName(f *testing.F) {
	for _, s := range []string{"What is your job role?", "<b>Rate</b> us &amp; win<br/>now", "NPS 評価", "refiner_x", "What’s", "<<<", "a<", "&#x110000;"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, source string, property bool) {
		source = strings.TrimSpace(strings.ReplaceAll(strings.ToValidUTF8(source, "\ufffd"), "\x00", ""))
		if source == "" {
			return
		}
		kind := textSource
		if property {
			kind = propertySource
		}
		name := nameOf(t, kind, source)
		checkName(t, source, name)
		if again := nameOf(t, propertySource, string(name)); again != name {
			t.Fatalf("%q is named %q, and that %q", source, name, again)
		}
	})
}
