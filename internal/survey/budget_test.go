package survey_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/allocs"
	"refinersource/internal/survey"
)

// canonicalKB is the canonical event of the five answers of oneKB, about 1 KB.
const canonicalKB = `{"id":"eb117cb0-49cf-11ed-b050-03a44b32151c","completed_at":"2026-10-12T02:05:55.000000Z",` +
	`"survey":{"id":"f0a3c1de-3c55-4a3b-9f3e-4d1f4f7b2a10","name":"Onboarding"},` +
	`"user":{"id":"user-17","anonymous_id":"d769e130-49cf-11ed-968d-936a69fadf81","email":"ann@example.com"},` +
	`"account":{"id":"acc-9","name":"Awesome Inc.","attributes":{"employee_count":"1000+","industry":"accounting","revenue":null}},` +
	`"answers":[{"question":"What is your job role?","property":"what_is_your_job_role","belongs_to":"user","value":"CEO"},` +
	`{"question":"How big is your team?","property":"how_big_is_your_team","belongs_to":"account","value":"10+"},` +
	`{"question":"How many people work for your company?","property":"employee_count","belongs_to":"account","value":"1000+"},` +
	`{"question":"How likely are you to recommend us to a friend or colleague?","property":"how_likely_to_recommend","value":9},` +
	`{"question":"Which features do you use?","property":"which_features_do_you_use","value":["Surveys","Dashboards"]}]}`

// Budgets: how often reading an event of five answers may allocate.
const (
	decodeWebhookAllocs   = 2
	decodeCanonicalAllocs = 2
	// The ids of the head, in one piece; more is the decoder's, so this also shows
	// that an ordinary event is read without it.
	peekAllocs = 1
)

func TestAllocationBudgetOfReadingAnEvent(t *testing.T) {
	for name, c := range map[string]struct {
		budget int
		read   func() error
	}{
		"decode webhook":   {decodeWebhookAllocs, decoding(survey.RefinerWebhook, oneKB)},
		"decode canonical": {decodeCanonicalAllocs, decoding(survey.SurveyEvent, canonicalKB)},
		"peek webhook":     {peekAllocs, peeking(survey.RefinerWebhook, oneKB)},
		"peek canonical":   {peekAllocs, peeking(survey.SurveyEvent, canonicalKB)},
	} {
		t.Run(name, func(t *testing.T) {
			allocs.Hold(t, c.budget, func() {
				if err := c.read(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// What a completion's strings and values are parts of is the event, and not what
// Release gives back.
func TestReleaseLeavesWhatTheListsHeld(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		source survey.Source
		events [2]string
	}{
		"webhook":   {survey.RefinerWebhook, [2]string{oneKB, strings.NewReplacer("CEO", "CTO", "accounting", "farming").Replace(oneKB)}},
		"canonical": {survey.SurveyEvent, [2]string{canonicalKB, strings.NewReplacer("CEO", "CTO", "accounting", "farming").Replace(canonicalKB)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 3 { // each decodes into what the one before gave back
				for _, event := range c.events {
					fresh, err := survey.Decode(c.source, []byte(event))
					if err != nil {
						t.Fatal(err)
					}
					again, err := survey.Decode(c.source, []byte(event))
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(fresh, again); diff != "" {
						t.Fatalf("two completions of one event that are both in use (-first +second)\n%s", diff)
					}
					kept := slices.Clone(again.Answers)
					again.Release()
					if diff := cmp.Diff(fresh.Answers, kept); diff != "" {
						t.Fatalf("what was taken from a list (-want +got)\n%s", diff)
					}
				}
			}
		})
	}
}

func decoding(source survey.Source, event string) func() error {
	raw := []byte(event)
	return func() error {
		c, err := survey.Decode(source, raw)
		c.Release()
		return err
	}
}

func peeking(source survey.Source, event string) func() error {
	raw := []byte(event)
	return func() error { _, err := survey.Peek(source, raw); return err }
}

func BenchmarkDecodeCanonical(b *testing.B) {
	benchmarkReading(b, decoding(survey.SurveyEvent, canonicalKB))
}

func BenchmarkPeekCanonical(b *testing.B) {
	benchmarkReading(b, peeking(survey.SurveyEvent, canonicalKB))
}

func benchmarkReading(b *testing.B, read func() error) {
	b.SetBytes(int64(len(canonicalKB)))
	b.ReportAllocs()
	for b.Loop() {
		if err := read(); err != nil {
			b.Fatal(err)
		}
	}
}
