package ingress

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"net/http"
	"strconv"
	"time"

	"refinersource/internal/queue"
)

// How long senders are asked to wait before they try again.
const (
	retryOverloaded  = 1 * time.Second
	retryUnavailable = 5 * time.Second
)

// receipt is the body of a 202.
type receipt struct {
	Accepted int             `json:"accepted"`
	Ignored  int             `json:"ignored"`
	Events   []acceptedEvent `json:"events"`
	Rejected []rejection     `json:"rejected,omitempty"`
}

// acceptedEvent is an event that stands in the log.
type acceptedEvent struct {
	ID        string       `json:"id"`
	Partition int          `json:"partition"`
	Offset    queue.Offset `json:"offset"`
}

// rejection is an event that was not accepted. Retry tells one that may be sent
// again as it is from one that is at fault itself.
type rejection struct {
	Index   int    `json:"index"`
	Detail  string `json:"detail"`
	Pointer string `json:"pointer,omitzero"`
	Retry   bool   `json:"retry,omitzero"`

	status int // the answer's, if this were its only event
}

func (a *receipt) write(w http.ResponseWriter) {
	writeHeader(w, http.StatusAccepted, typeJSON)
	// An error is the connection's: nobody is there to be told.
	_, _ = w.Write(a.appendJSON(make([]byte, 0, 256)))
}

// appendJSON appends the receipt as its tags say. Every accepted request needs it, and
// a general encoder takes several microseconds.
func (a *receipt) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"accepted":`...)
	dst = strconv.AppendInt(dst, int64(a.Accepted), 10)
	dst = append(dst, `,"ignored":`...)
	dst = strconv.AppendInt(dst, int64(a.Ignored), 10)
	dst = append(dst, `,"events":[`...)
	for i, e := range a.Events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"id":`...)
		dst = appendText(dst, e.ID)
		dst = append(dst, `,"partition":`...)
		dst = strconv.AppendInt(dst, int64(e.Partition), 10)
		dst = append(dst, `,"offset":`...)
		dst = strconv.AppendInt(dst, int64(e.Offset), 10)
		dst = append(dst, '}')
	}
	dst = append(dst, ']')
	if len(a.Rejected) > 0 {
		dst = append(dst, `,"rejected":`...)
		dst = appendAny(dst, a.Rejected)
	}
	return append(dst, '}')
}

// appendText appends a text that a sender gave as a JSON string.
func appendText(dst []byte, text string) []byte {
	for i := range len(text) {
		switch c := text[i]; {
		case c < ' ', c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			return appendAny(dst, text)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, text...)
	return append(dst, '"')
}

func appendAny(dst []byte, v any) []byte {
	// These types cannot fail to have a JSON form.
	text, _ := json.Marshal(v, jsontext.AllowInvalidUTF8(true), jsontext.EscapeForHTML(true))
	return append(dst, text...)
}

// problem is the body of any other answer, an RFC 9457 problem of the type
// about:blank: the status says it all. It never repeats what was sent.
type problem struct {
	Type     string      `json:"type"`
	Title    string      `json:"title"`
	Status   int         `json:"status"`
	Detail   string      `json:"detail"`
	Pointer  string      `json:"pointer,omitzero"`
	Rejected []rejection `json:"rejected,omitempty"`

	retryAfter time.Duration // header Retry-After, if not 0
	allow      string        // header Allow, if not ""
}

func newProblem(status int, detail string) *problem { return &problem{Status: status, Detail: detail} }

// unauthorized is the same whatever is wrong: no credentials, wrong ones, a stale
// signature, no such tenant.
func unauthorized() *problem {
	return newProblem(http.StatusUnauthorized, "no such tenant, or no valid credentials for it")
}

func overloaded() *problem {
	return &problem{Status: http.StatusServiceUnavailable, Detail: "too many bytes are under way; send it again", retryAfter: retryOverloaded}
}

func (p *problem) write(w http.ResponseWriter) {
	p.Type, p.Title = "about:blank", http.StatusText(p.Status)
	h := w.Header()
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(p.retryAfter/time.Second)))
	}
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	writeHeader(w, p.Status, typeProblem)
	_, _ = w.Write(appendAny(nil, p))
}

// Values of headers, made once; nobody changes them.
var (
	typeJSON    = []string{"application/json"}
	typeProblem = []string{"application/problem+json"}
	noStore     = []string{"no-store"}
	noSniff     = []string{"nosniff"}
)

func writeHeader(w http.ResponseWriter, status int, mediaType []string) {
	h := w.Header()
	h["Content-Type"] = mediaType
	h["Cache-Control"] = noStore
	h["X-Content-Type-Options"] = noSniff
	w.WriteHeader(status)
}
