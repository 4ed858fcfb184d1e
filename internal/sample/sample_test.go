package sample_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/sample"
	"refinersource/internal/survey"
)

func TestSameSeedGivesTheSameCompletedSurveys(t *testing.T) {
	t.Parallel()
	o := sample.Options{Seed: 7, Users: 5, Start: time.Date(2026, 10, 12, 2, 0, 0, 0, time.UTC)}
	a, b := sample.New(o), sample.New(o)
	for range 50 {
		got, again := a.Next(), b.Next()
		if d := cmp.Diff(got, again); d != "" {
			t.Fatalf("two generators of one seed differ:\n%s", d)
		}
		c, err := survey.Decode(survey.RefinerWebhook, got.Body)
		if err != nil {
			t.Fatalf("a generated event does not decode: %v", err)
		}
		if c.ID != got.ID || c.UserID != got.User || c.AccountID == "" || c.Ignored != "" || len(c.Answers) != 5 {
			t.Errorf("completion %+v of event %s by %s", c, got.ID, got.User)
		}
	}
	o.Seed++
	if sample.New(sample.Options{Seed: 7}).Next().ID == sample.New(o).Next().ID {
		t.Error("another seed gives the same event")
	}
}
