package survey_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/survey"
)

// The rules of decoding are specified by the golden cases of package
// attribution; here is what these do not show.

func TestDecodeReadsAWebhook(t *testing.T) {
	t.Parallel()
	got, err := survey.Decode(survey.RefinerWebhook, []byte(oneKB))
	if err != nil {
		t.Fatal(err)
	}
	want := survey.Completion{
		ID:             "eb117cb0-49cf-11ed-b050-03a44b32151c",
		Revision:       "2026-10-12T02:05:55Z",
		SurveyID:       "f0a3c1de-3c55-4a3b-9f3e-4d1f4f7b2a10",
		SurveyName:     "Onboarding",
		UserID:         "user-17",
		AnonymousID:    "d769e130-49cf-11ed-968d-936a69fadf81",
		Email:          "ann@example.com",
		AccountID:      "acc-9",
		UserAttributes: []string{"email", "name", "form_submissions_count", "what_is_your_job_role", "user_id"},
		AccountAttributes: []survey.Attribute{
			{Name: "employee_count", Value: []byte(`"1000+"`)},
			{Name: "industry", Value: []byte(`"accounting"`)},
			{Name: "revenue", Value: []byte("null")},
		},
		Answers: []survey.Answer{
			{Property: "what_is_your_job_role", Value: []byte(`"CEO"`)},
			{Property: "how_big_is_your_team", Value: []byte(`"10+"`)},
			{Property: "employee_count", Value: []byte(`"1000+"`)},
			{Property: "how_likely_to_recommend", Value: []byte(`9`)},
			{Property: "which_features_do_you_use", Value: []byte(`["Surveys","Dashboards"]`)},
		},
		Timestamp: time.Date(2026, 10, 12, 2, 5, 55, 0, time.UTC),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The raw bytes go into dead letters: neither decoding nor what is done with the
// values may change them.
func TestRawBytesStayAsTheyAre(t *testing.T) {
	t.Parallel()
	raw := []byte(oneKB)
	c, err := survey.Decode(survey.RefinerWebhook, raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range c.Answers {
		_ = append(a.Value, "xxxxxxxx"...)
	}
	if string(raw) != oneKB {
		t.Errorf("the raw bytes became %s", raw)
	}
}

// Values are parts of the event: appending to one must not change the next.
func TestValuesDoNotOverlap(t *testing.T) {
	t.Parallel()
	c, err := survey.Decode(survey.RefinerWebhook, []byte(oneKB))
	if err != nil {
		t.Fatal(err)
	}
	next := string(c.Answers[1].Value)
	_ = append(c.Answers[0].Value, "xxxxxxxx"...)
	if got := string(c.Answers[1].Value); got != next {
		t.Errorf("the next value became %s, want %s", got, next)
	}
}

func TestDerivedIDIsOfTheBytes(t *testing.T) {
	t.Parallel()
	// printf '{"user":{"id":"u"}}' | sha256sum
	const want = "sha256:c2ed0f38051d7524a2b21ef4969d89332ce057a42d9203cc65f13e0c5f172d44"
	c, err := survey.Decode(survey.SurveyEvent, []byte(`{"user":{"id":"u"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.ID != want {
		t.Errorf("got %s, want %s", c.ID, want)
	}
}

func TestFaultHoldsWhatIsKnown(t *testing.T) {
	t.Parallel()
	raw := []byte(`{"id":"evt-1","user":{"id":"user-17"},"account":{"id":true}}`)
	c, err := survey.Decode(survey.SurveyEvent, raw)
	want := &survey.Fault{Reason: survey.BadIdentity, Pointer: "/account/id", Detail: "must be a string, an integer or null"}
	fault, _ := errors.AsType[*survey.Fault](err)
	if diff := cmp.Diff(want, fault); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if c.ID != "evt-1" || c.UserID != "user-17" {
		t.Errorf("got id %q of user %q, want evt-1 of user-17", c.ID, c.UserID)
	}
}

// Answers and e-mails stay out of faults, whatever is wrong with the event.
func TestFaultsHoldNoAnswer(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	for _, format := range []string{
		`{"email":%s}`, `{"email":"%s}`, `{"data":"%s"}`, `{"data":["%s"]}`, `{"response":"%s"}`,
		`{"response":{"data":{"q":"%s" x}}}`, `{"remote_id":{"x":"%s"},"response":{"completed_at":"x"}}`,
		`{"user":"%s"}`, `{"answers":["%s"]}`, `{"answers":[{"question":["%s"]}]}`, `{"answers":[{"belongs_to":"%s"}]}`,
		`{"user":{"id":"%[1]s","id":"%[1]s2"}}`, `"%s"`, `%s`, "{\"q\":\"%s\n\"}",
	} {
		for _, source := range []survey.Source{survey.RefinerWebhook, survey.SurveyEvent} {
			_, err := survey.Decode(source, fmt.Appendf(nil, format, secret))
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s of %s: %v", format, source, err)
			}
		}
	}
}

func TestUnknownSourceIsAFault(t *testing.T) {
	t.Parallel()
	_, err := survey.Decode("typeform", []byte(oneKB))
	if fault, ok := errors.AsType[*survey.Fault](err); !ok || fault.Reason != survey.Undecodable {
		t.Errorf("got %v, want a fault of reason %s", err, survey.Undecodable)
	}
}

func TestFaultSaysReasonAndPlace(t *testing.T) {
	t.Parallel()
	for want, fault := range map[string]*survey.Fault{
		"undecodable: is cut off":                 {Reason: survey.Undecodable, Detail: "is cut off"},
		"bad_identity at /user/id: must be other": {Reason: survey.BadIdentity, Pointer: "/user/id", Detail: "must be other"},
	} {
		if got := fault.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
