package attribution_test

import (
	"fmt"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/survey"
)

func ExampleAttribute() {
	completion, err := survey.Decode(survey.SurveyEvent, []byte(`{
		"id": "evt-1", "completed_at": "2026-10-12T02:05:55Z",
		"user": {"id": "user-17", "email": "ann@example.com"}, "account": {"id": "acc-9"},
		"answers": [
			{"question": "What is your job role?", "value": "CEO"},
			{"property": "employee_count", "belongs_to": "account", "value": "1000+"}
		]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	rules := attribution.DefaultRules()
	result, err := attribution.Attribute(completion, &rules, "acme", time.Date(2026, 10, 12, 2, 6, 0, 0, time.UTC))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, call := range result.Calls {
		fmt.Println(call.Kind, call.UserID, call.GroupID)
		for _, trait := range call.Traits {
			fmt.Printf("  %s = %s\n", trait.Name, trait.Value)
		}
	}
	// Output:
	// identify user-17 acc-9
	//   refiner_email = "ann@example.com"
	//   refiner_what_is_your_job_role = "CEO"
	// group user-17 acc-9
	//   refiner_employee_count = "1000+"
}
