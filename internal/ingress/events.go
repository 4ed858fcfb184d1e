package ingress

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"net/http"

	"refinersource/internal/queue"
	"refinersource/internal/survey"
)

// event is one event of a request.
type event struct {
	index int
	raw   []byte // exactly as it was sent
	head  survey.Head
	fault *survey.Fault // why it will be a dead letter

	rejected *rejection     // why it is not accepted
	position queue.Position // where it stands if it is
}

// split finds the events in the body; isBatch tells a list of events from an event.
func (q *request) split(body []byte, isLines bool) (list []*event, isBatch bool, p *problem) {
	var raws [][]byte
	switch {
	case isLines:
		raws = splitLines(body)
	case q.route.batch && isArray(body):
		var err error
		if raws, err = splitArray(body); err != nil {
			return nil, true, newProblem(http.StatusBadRequest, err.Error())
		}
	default:
		q.ownEvent = event{raw: body}
		q.ownList[0] = &q.ownEvent
		q.peek(&q.ownEvent)
		return q.ownList[:], false, nil
	}
	switch n := len(raws); {
	case n == 0:
		return nil, true, newProblem(http.StatusBadRequest, "the body has no event")
	case n > q.o.MaxBatchEvents:
		return nil, true, newProblem(http.StatusRequestEntityTooLarge,
			fmt.Sprintf("send at most %d events in a request", q.o.MaxBatchEvents))
	}
	list = make([]*event, len(raws))
	for i, raw := range raws {
		list[i] = &event{index: i, raw: raw}
		q.peek(list[i])
	}
	return list, true, nil
}

// peek reads who the event is about, and rejects what can never be a completion
// where its sender can be told. Refiner's webhook sends again whatever is rejected,
// so of its events only those are that are none; the worker makes the others dead
// letters.
func (q *request) peek(e *event) {
	if len(e.raw) > q.o.MaxEventBytes {
		e.rejected = &rejection{
			Index: e.index, status: http.StatusRequestEntityTooLarge,
			Detail: fmt.Sprintf("send an event of at most %d bytes", q.o.MaxEventBytes),
		}
		return
	}
	var err error
	e.head, err = survey.Peek(q.route.source, e.raw)
	e.fault, _ = errors.AsType[*survey.Fault](err)
	if e.fault != nil && (q.route.batch || e.fault.Reason == survey.Undecodable) {
		e.rejected = &rejection{
			Index: e.index, status: http.StatusBadRequest,
			Detail: e.fault.Detail, Pointer: e.fault.Pointer,
		}
	}
}

// isIgnored reports whether the event makes no call by the tenant's rules.
func (q *request) isIgnored(e *event) bool {
	rules := &q.tenant.Rules
	switch e.head.Ignored {
	case survey.NotIgnored:
	case survey.Partial:
		if !rules.Partials {
			return true
		}
	case survey.Anonymous:
		if !rules.EmitAnonymous {
			return true
		}
	default:
		return true
	}
	return e.fault == nil && (e.head.UserID == "" && !rules.EmitAnonymous || rules.Forgets(e.head.UserID, e.head.AnonymousID))
}

// isArray reports whether the body's value is a JSON array, if it is one at all.
func isArray(body []byte) bool {
	body = bytes.TrimLeft(body, " \t\r\n")
	return len(body) > 0 && body[0] == '['
}

// splitLines returns the lines that are not blank, without white space around.
func splitLines(body []byte) [][]byte {
	var raws [][]byte
	for line := range bytes.SplitSeq(body, []byte("\n")) {
		if line = bytes.Trim(line, " \t\r"); len(line) > 0 {
			raws = append(raws, line)
		}
	}
	return raws
}

// splitArray returns the elements of a JSON array, as they stand in body. Its
// errors never show the body.
func splitArray(body []byte) ([][]byte, error) {
	// As lenient as survey is about what is inside an element.
	d := jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	malformed := func() error { return fmt.Errorf("the body is no JSON array: see byte %d", d.InputOffset()) }
	if _, err := d.ReadToken(); err != nil {
		return nil, malformed()
	}
	var raws [][]byte
	for d.PeekKind() != ']' {
		v, err := d.ReadValue()
		if err != nil {
			return nil, malformed()
		}
		end := int(d.InputOffset())
		raws = append(raws, body[end-len(v):end:end])
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, malformed()
	}
	if rest := bytes.Trim(body[d.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, malformed()
	}
	return raws, nil
}
