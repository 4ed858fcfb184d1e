package survey_test

import (
	"fmt"

	"refinersource/internal/survey"
)

func ExampleDecode() {
	completion, err := survey.Decode(survey.RefinerWebhook, []byte(`{
		"remote_id": "user-17", "email": "ann@example.com",
		"account": {"remote_id": "acc-9", "attributes": {"industry": "accounting", "revenue": null}},
		"response": {
			"uuid": "eb117cb0-49cf-11ed-b050-03a44b32151c", "completed_at": "2026-10-12T02:05:55.000000Z",
			"data": {"what_is_your_job_role": "CEO", "how_big_is_your_team": null}
		}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(completion.UserID, "of", completion.AccountID, "at", completion.Timestamp)
	for _, answer := range completion.Answers {
		fmt.Printf("%s = %s\n", answer.Property, answer.Value)
	}
	// Output:
	// user-17 of acc-9 at 2026-10-12 02:05:55 +0000 UTC
	// what_is_your_job_role = "CEO"
}

func ExampleDecode_fault() {
	_, err := survey.Decode(survey.SurveyEvent, []byte(`{"user": {"id": ["user-17"]}}`))
	fmt.Println(err)
	// Output:
	// bad_identity at /user/id: must be a string, an integer or null
}

func ExamplePeek() {
	head, err := survey.Peek(survey.RefinerWebhook, []byte(`{"remote_id": "user-17", "response": {"uuid": "eb117cb0", "completed_at": null}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(head.EventID, head.UserID, head.Ignored)
	// Output:
	// eb117cb0 user-17 not_completed
}
