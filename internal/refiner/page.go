package refiner

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"time"
)

// Page is a page of responses.
type Page struct {
	Responses []Response
	Next      string // cursor of the page that follows, "" if there is none
}

// Response is a response as the API gives it.
type Response struct {
	ID  string
	At  time.Time // when Refiner received the last of its data
	Raw []byte    // exactly as it stood in the page
}

// before orders responses by time; those of one time have a fixed order, too.
func (r *Response) before(at time.Time, id string) int {
	if c := r.At.Compare(at); c != 0 {
		return c
	}
	switch {
	case r.ID < id:
		return -1
	case r.ID > id:
		return 1
	}
	return 0
}

// As lenient as survey is about what is inside a response.
var lenient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// badPage is an error in an answer. It names the field and never shows its value.
func badPage(field, is, want string) error {
	return fmt.Errorf("the answer is not as Refiner's API documents it: %s %s, want %s: check --base-url", field, is, want)
}

func parsePage(body []byte, first bool) (Page, error) {
	var answer struct {
		Items      *[]jsontext.Value `json:"items"`
		Pagination *struct {
			LastPage jsontext.Value `json:"last_page"`
			Next     jsontext.Value `json:"next_page_cursor"`
		} `json:"pagination"`
	}
	if value := jsontext.Value(body); !value.IsValid(lenient) {
		// Cut off on its way, or an error page of something between.
		return Page{}, &transientError{err: badPage("the body", "is no JSON", "an object")}
	}
	if err := json.Unmarshal(body, &answer, lenient); err != nil {
		return Page{}, badPage("the body", "has another form", "an object with items, an array, and pagination, an object")
	}
	switch {
	case answer.Items == nil:
		return Page{}, badPage("items", "is missing", "an array")
	case answer.Pagination == nil:
		return Page{}, badPage("pagination", "is missing", "an object")
	}
	page := Page{Responses: make([]Response, len(*answer.Items))}
	for i, raw := range *answer.Items {
		r, err := parseResponse(fmt.Sprintf("items[%d]", i), raw)
		if err != nil {
			return Page{}, err
		}
		page.Responses[i] = r
	}
	if next := answer.Pagination.Next; len(next) > 0 && next.Kind() != 'n' {
		if json.Unmarshal(next, &page.Next) != nil {
			return Page{}, badPage("pagination.next_page_cursor", "is no text", "a text or null")
		}
	}
	var last int
	_ = json.Unmarshal(answer.Pagination.LastPage, &last)
	if first && page.Next == "" && last > 1 {
		return Page{}, badPage("pagination.next_page_cursor", fmt.Sprintf("is missing on the first of %d pages", last), "a text")
	}
	return page, nil
}

func parseResponse(field string, raw jsontext.Value) (Response, error) {
	var r struct {
		ID        jsontext.Value `json:"uuid"`
		Revised   jsontext.Value `json:"last_data_reception_at"`
		Completed jsontext.Value `json:"completed_at"`
		Contact   jsontext.Value `json:"contact"`
	}
	if raw.Kind() != '{' || json.Unmarshal(raw, &r, lenient) != nil {
		return Response{}, badPage(field, "is no object", "a response")
	}
	var id string
	if json.Unmarshal(r.ID, &id, lenient) != nil || id == "" {
		return Response{}, badPage(field+".uuid", "is missing, or no text", "the response's id")
	}
	if r.Contact.Kind() != '{' {
		return Response{}, badPage(field+".contact", "is missing, or no object", "who answered")
	}
	name, value := ".last_data_reception_at", r.Revised
	if len(value) == 0 || value.Kind() == 'n' {
		name, value = ".completed_at", r.Completed
	}
	at, ok := moment(value)
	if !ok {
		return Response{}, badPage(field+name, "is missing, or no time", "one as 2026-10-12 02:05:55")
	}
	return Response{ID: id, At: at, Raw: raw}, nil
}

func moment(value jsontext.Value) (time.Time, bool) {
	var text string
	if json.Unmarshal(value, &text) != nil {
		return time.Time{}, false
	}
	for _, layout := range [...]string{time.DateTime, time.RFC3339, "2006-01-02T15:04:05"} {
		if at, err := time.Parse(layout, text); err == nil {
			return at.UTC(), true
		}
	}
	return time.Time{}, false
}
