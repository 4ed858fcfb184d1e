package simulation

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"time"

	"refinersource/internal/checker"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// stamp is a time as Refiner writes it.
const stamp = "2006-01-02T15:04:05.000000Z"

// body is the event as its sender sends it.
func (w *world) body(c *chain, e event) []byte {
	id := fmt.Sprintf("%s-%s-%d", w.plan.tenants[c.tenant].ID, c.user, e.n)
	at := w.began.Add(e.at).UTC().Format(stamp)
	text := fmt.Sprintf("answer %d", e.n)
	if e.form == hostile {
		text = "</script> \"日本語\" \\u0000 \u2028 " + text
	}
	user, at2 := fmt.Sprintf("%q", c.user), fmt.Sprintf("%q", at)
	switch e.form {
	case anonymous:
		user = "null"
	case partial, dismissed:
		at2 = "null"
	case completed, hostile:
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string can always be written
	}
	account := "null"
	if e.account != "" {
		account = fmt.Sprintf("%q", e.account)
	}
	if e.source == survey.SurveyEvent {
		return fmt.Appendf(nil, `{"id":%q,"completed_at":%q,"survey":{"id":"s1","name":"Survey"},"user":{"id":%s,"email":"%s@example.com"},`+
			`"account":{"id":%s,"attributes":{"industry":"logistics"}},"answers":[{"question":"Seq","value":%d},`+
			`{"question":"What do you say?","value":%s},{"question":"Account seq","belongs_to":"account","value":%d}]}`,
			id, at, user, c.user, account, e.n, quoted, e.n)
	}
	dismissedAt, data := "null", fmt.Sprintf(`{"seq":%d,"say":%s,"account_seq":%d,"fair":true,"score":4.50}`, e.n, quoted, e.n)
	if e.form == dismissed {
		dismissedAt, data = fmt.Sprintf("%q", at), "{}"
	}
	return fmt.Appendf(nil, `{"uuid":"contact-%s","remote_id":%s,"email":"%s@example.com","cookie_uuid":"cookie-%s","attributes":{"name":"A"},`+
		`"account":{"remote_id":%s,"attributes":{"employee_count":"10+","revenue":null}},"form":{"uuid":"f1","name":"Survey"},`+
		`"response":{"uuid":%q,"completed_at":%s,"dismissed_at":%s,"last_data_reception_at":%q,"data":%s,"tags":[]}}`,
		id, user, c.user, c.user, account, id, at2, dismissedAt, at, data)
}

// send sends a user's events one after another, each until it is promised or
// refused for good.
func (w *world) send(ctx context.Context, number int, c *chain) {
	r := w.plan.random(streamAnswers, 1000+number)
	for _, e := range c.events {
		if !pause(ctx, e.at-w.elapsed()) {
			return
		}
		body := w.body(c, e)
		for {
			status := w.post(ctx, w.plan.tenants[c.tenant].ID, e.source, body)
			if status == http.StatusAccepted || status/100 == 4 {
				break
			}
			if !pause(ctx, time.Duration(1000+r.IntN(9000))*time.Millisecond) {
				return
			}
		}
	}
}

// post sends one event to the ingress and keeps the answer.
func (w *world) post(ctx context.Context, id tenant.ID, source survey.Source, body []byte) int {
	path := "/v1/webhooks/refiner/"
	if source == survey.SurveyEvent {
		path = "/v1/events/"
	}
	sent := checker.Sent{At: now(), Tenant: string(id), Source: string(source), Body: body}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://ingress.invalid"+path+string(id), bytes.NewReader(body))
	if err != nil {
		panic(err) // the path is ours
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer token-of-"+string(id))
	answer := &answer{header: make(http.Header)}
	w.ingress.ServeHTTP(answer, req)
	sent.Done, sent.Status = now(), answer.status
	var accepted struct {
		Events []struct {
			ID        string `json:"id"`
			Partition int    `json:"partition"`
			Offset    int64  `json:"offset"`
		} `json:"events"`
	}
	if answer.status == http.StatusAccepted {
		if err := json.Unmarshal(answer.body.Bytes(), &accepted); err != nil || len(accepted.Events) != 1 {
			w.violate("the ingress answered 202 with %q", answer.body.String())
		} else {
			at := accepted.Events[0]
			sent.EventID, sent.Partition, sent.Offset = at.ID, at.Partition, at.Offset
		}
	}
	w.record.sent(sent)
	return answer.status
}

// answer takes what a handler answers.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

func now() checker.Time { return time.Now().UnixNano() }
