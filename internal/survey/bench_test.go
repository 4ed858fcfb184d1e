package survey_test

import (
	"testing"

	"refinersource/internal/survey"
)

// oneKB is a webhook of five answers, about 1 KB.
const oneKB = `{"uuid":"d769e130-49cf-11ed-968d-936a69fadf81","remote_id":"user-17","email":"ann@example.com","display_name":"Ann",` +
	`"attributes":{"email":"ann@example.com","name":"Ann","form_submissions_count":"1","what_is_your_job_role":"CEO","user_id":null},` +
	`"account":{"uuid":"d76c9e80-49cf-11ed-9f2b-936a69fadf81","remote_id":"acc-9","domain":null,"display_name":"Awesome Inc.",` +
	`"attributes":{"employee_count":"1000+","industry":"accounting","revenue":null}},` +
	`"triggered_event":"Completed Survey","form":{"uuid":"f0a3c1de-3c55-4a3b-9f3e-4d1f4f7b2a10","name":"Onboarding"},` +
	`"response":{"uuid":"eb117cb0-49cf-11ed-b050-03a44b32151c","last_data_reception_at":"2026-10-12T02:05:55.000000Z",` +
	`"completed_at":"2026-10-12T02:05:55.000000Z","dismissed_at":null,"received_at":"2026-10-12T02:05:55.000000Z",` +
	`"data":{"what_is_your_job_role":"CEO","how_big_is_your_team":"10+","employee_count":"1000+","how_likely_to_recommend":9,` +
	`"which_features_do_you_use":["Surveys","Dashboards"]},"tags":[]}}`

func BenchmarkDecode(b *testing.B) {
	raw := []byte(oneKB)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		c, err := survey.Decode(survey.RefinerWebhook, raw)
		if err != nil {
			b.Fatal(err)
		}
		c.Release()
	}
}

func BenchmarkPeek(b *testing.B) {
	raw := []byte(oneKB)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := survey.Peek(survey.RefinerWebhook, raw); err != nil {
			b.Fatal(err)
		}
	}
}
