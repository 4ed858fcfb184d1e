package attribution_test

import (
	"bytes"
	"crypto/sha256"
	"strconv"
	"strings"
	"testing"

	"refinersource/internal/attribution"
	"refinersource/internal/survey"
)

// fiveAnswers is the completion of a webhook of five answers, about 1 KB.
func fiveAnswers() survey.Completion {
	return survey.Completion{
		ID: "eb117cb0-49cf-11ed-b050-03a44b32151c", Revision: "2026-10-12T02:05:55Z",
		SurveyID: "f0a3c1de-3c55-4a3b-9f3e-4d1f4f7b2a10", SurveyName: "Onboarding",
		UserID: "user-17", Email: "ann@example.com", AccountID: "acc-9", Timestamp: received,
		UserAttributes: []string{"email", "name", "form_submissions_count", "what_is_your_job_role"},
		AccountAttributes: []survey.Attribute{
			{Name: "employee_count", Value: []byte(`"1000+"`)}, {Name: "industry", Value: []byte(`"accounting"`)},
		},
		Answers: []survey.Answer{
			{Property: "what_is_your_job_role", Value: []byte(`"CEO"`)},
			{Property: "how_big_is_your_team", Value: []byte(`"10+"`)},
			{Property: "employee_count", Value: []byte(`"1000+"`)},
			{Property: "how_likely_to_recommend", Value: []byte(`9`)},
			{Property: "which_features_do_you_use", Value: []byte(`["Surveys","Dashboards"]`)},
		},
	}
}

func BenchmarkAttribute(b *testing.B) {
	rules := attribution.DefaultRules()
	c := fiveAnswers()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := attribution.Attribute(c, &rules, "acme", received); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	rules := attribution.DefaultRules()
	res, err := attribution.Attribute(fiveAnswers(), &rules, "acme", received)
	if err != nil {
		b.Fatal(err)
	}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = dst[:0]
		for i := range res.Calls {
			dst = res.Calls[i].AppendJSON(dst)
		}
	}
}

func benchCalls(tb testing.TB) []attribution.Call {
	tb.Helper()
	rules := attribution.DefaultRules()
	res, err := attribution.Attribute(fiveAnswers(), &rules, "acme", received)
	if err != nil {
		tb.Fatal(err)
	}
	return res.Calls
}

// The digest of both calls of a completion, as a receipt has them.
func BenchmarkDigest(b *testing.B) {
	calls, scratch := benchCalls(b), []byte(nil)
	b.ReportAllocs()
	for b.Loop() {
		for i := range calls {
			_, scratch = calls[i].Digest(scratch)
		}
	}
}

// What of it is the encoding, which making the calls has done before.
func BenchmarkDigestEncoding(b *testing.B) {
	calls, scratch := benchCalls(b), []byte(nil)
	b.ReportAllocs()
	for b.Loop() {
		for i := range calls {
			scratch = calls[i].AppendJSON(scratch[:0])
		}
	}
}

func TestDigestAllocatesNothing(t *testing.T) {
	calls, scratch := benchCalls(t), make([]byte, 0, 8<<10)
	if n := testing.AllocsPerRun(100, func() { _, scratch = calls[0].Digest(scratch) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
	sum := sha256.Sum256(calls[0].AppendJSON(nil))
	if digest, _ := calls[0].Digest(nil); !bytes.Equal(digest[:], sum[:16]) {
		t.Errorf("digest %x, want the first half of %x", digest, sum)
	}
}

func BenchmarkAttributeAndDigest(b *testing.B) {
	rules := attribution.DefaultRules()
	c := fiveAnswers()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := attribution.AttributeAndDigest(c, &rules, "acme", received); err != nil {
			b.Fatal(err)
		}
	}
}

// Also of calls that were cut to Segment's limits.
func TestDigestsMadeWithTheCallsAreTheSame(t *testing.T) {
	t.Parallel()
	rules := attribution.DefaultRules()
	rules.Track = true
	c := fiveAnswers()
	for i := range 40 {
		c.Answers = append(c.Answers, survey.Answer{Property: "long_" + strconv.Itoa(i), Value: []byte(`"` + strings.Repeat("x", 3000) + `"`)})
	}
	with, err := attribution.AttributeAndDigest(c, &rules, "acme", received)
	if err != nil {
		t.Fatal(err)
	}
	without, err := attribution.Attribute(c, &rules, "acme", received)
	if err != nil {
		t.Fatal(err)
	}
	if len(with.Calls) < 6 || len(with.Calls) != len(without.Calls) {
		t.Fatalf("%d and %d calls, want the same number, of several parts", len(with.Calls), len(without.Calls))
	}
	scratch := []byte("untouched")
	for i := range with.Calls {
		got, after := with.Calls[i].Digest(scratch)
		want, _ := without.Calls[i].Digest(nil)
		if got != want || string(after) != "untouched" {
			t.Errorf("call %d: digest %x, want %x, made before", i, got, want)
		}
	}
}
