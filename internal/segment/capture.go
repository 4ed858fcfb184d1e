package segment

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"refinersource/internal/tenant"
)

// DefaultKeep is how many calls a Capture keeps.
const DefaultKeep = 1_000

// CaptureOptions are the options of a Capture. The zero value is useful.
type CaptureOptions struct {
	// Keep bounds the calls that Calls returns. Default DefaultKeep.
	Keep int
	// OnCall is told of every accepted call, before its request is answered:
	// those of a request one after another and in their order, those of two
	// requests never mixed. It must not call the Capture.
	OnCall func(Captured)
	// Answer scripts the answer to a request that is in order. It may block, and
	// is called from the goroutines of the requests. Default: 200.
	Answer func(*http.Request, Batch) Answer
}

// Captured is one accepted call. Encoded as JSON it is one line of what the
// capture command prints.
type Captured struct {
	ReceivedAt time.Time     `json:"received_at"`
	WriteKey   tenant.Secret `json:"write_key"` // as received
	Type       string        `json:"type"`
	UserID     string        `json:"-"`
	GroupID    string        `json:"-"` // of a group call
	MessageID  string        `json:"-"`
	// Call is the call as received, byte for byte.
	Call jsontext.Value `json:"call"`
}

// Batch is what one request holds.
type Batch struct {
	WriteKey tenant.Secret
	Calls    []Captured
}

// Answer is an answer of a Capture. The zero value is 200. The calls are
// accepted if the status is 2xx.
type Answer struct {
	Status     int
	RetryAfter string // the header's value
	// Accept accepts the calls whatever the status.
	Accept bool
	// Cut closes the connection instead of answering.
	Cut bool
}

// Capture is a receiver that keeps calls instead of sending them on: POST
// /v1/batch, /v1/identify, /v1/group and /v1/track. Use NewCapture.
//
// It refuses what Segment refuses (400: no JSON, over Segment's sizes), what
// Segment accepts and then drops (400: no user, a group without its id, too
// many calls), and requests without a write key (401). A batch is
// accepted as a whole or not at all.
type Capture struct {
	o   CaptureOptions
	mux http.ServeMux

	mu   sync.Mutex
	ring []Captured
	next int // where the next call goes once the ring is full
}

// NewCapture returns a Capture.
func NewCapture(o CaptureOptions) *Capture {
	if o.Keep <= 0 {
		o.Keep = DefaultKeep
	}
	if o.OnCall == nil {
		o.OnCall = func(Captured) {}
	}
	if o.Answer == nil {
		o.Answer = func(*http.Request, Batch) Answer { return Answer{} }
	}
	c := &Capture{o: o}
	c.mux.HandleFunc("POST /v1/batch", func(w http.ResponseWriter, r *http.Request) {
		c.receive(w, r, MaxBatchBytes, splitBatch)
	})
	for _, kind := range []string{"identify", "group", "track"} {
		c.mux.HandleFunc("POST /v1/"+kind, func(w http.ResponseWriter, r *http.Request) {
			c.receive(w, r, MaxCallBytes, func(body []byte) ([]Captured, error) {
				call, err := decodeCall(body, kind)
				return []Captured{call}, err
			})
		})
	}
	return c
}

// ServeHTTP answers as Segment does.
func (c *Capture) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.mux.ServeHTTP(w, r) }

// Calls returns the last accepted calls, the oldest first.
func (c *Capture) Calls() []Captured {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := make([]Captured, 0, len(c.ring))
	calls = append(calls, c.ring[c.next:]...)
	return append(calls, c.ring[:c.next]...)
}

// receive answers a request of at most limit bytes, of which split makes calls.
func (c *Capture) receive(w http.ResponseWriter, r *http.Request, limit int64, split func([]byte) ([]Captured, error)) {
	key, ok := writeKey(r)
	if !ok {
		reply(w, http.StatusUnauthorized, "no write key")
		return
	}
	body, err := readAll(w, r, limit)
	if err != nil {
		reply(w, http.StatusBadRequest, err.Error())
		return
	}
	calls, err := split(body)
	if err != nil {
		reply(w, http.StatusBadRequest, err.Error())
		return
	}
	now := time.Now().UTC()
	for i := range calls {
		calls[i].ReceivedAt, calls[i].WriteKey = now, key
	}
	a := c.o.Answer(r, Batch{WriteKey: key, Calls: calls})
	if a.Status == 0 {
		a.Status = http.StatusOK
	}
	success := a.Status/100 == 2
	if success || a.Accept {
		c.accept(calls)
	}
	if a.Cut {
		panic(http.ErrAbortHandler)
	}
	if a.RetryAfter != "" {
		w.Header().Set("Retry-After", a.RetryAfter)
	}
	if success {
		reply(w, a.Status, "")
		return
	}
	reply(w, a.Status, http.StatusText(a.Status))
}

func (c *Capture) accept(calls []Captured) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range calls {
		if len(c.ring) < c.o.Keep {
			c.ring = append(c.ring, call)
		} else {
			c.ring[c.next] = call
			c.next = (c.next + 1) % c.o.Keep
		}
		c.o.OnCall(call)
	}
}

// writeKey is the user name of the Basic credentials; the password is empty, so
// that what stands before the last colon is the key, colons in it or not.
func writeKey(r *http.Request) (tenant.Secret, bool) {
	user, password, _ := r.BasicAuth()
	key := tenant.NewSecret(strings.TrimSuffix(user+":"+password, ":"))
	return key, !key.IsZero()
}

func readAll(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	var body jsontext.Value
	err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, limit), &body)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, fmt.Errorf("body is over %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return nil, errors.New("body is not JSON")
	}
	return body, nil
}

// splitBatch returns the calls of a batch request.
func splitBatch(body []byte) ([]Captured, error) {
	var request struct {
		Batch []jsontext.Value `json:"batch"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, errors.New("body is not an object with the array batch")
	}
	if n := len(request.Batch); n == 0 || n > MaxBatchCalls {
		return nil, fmt.Errorf("%d calls are not from 1 to %d", n, MaxBatchCalls)
	}
	calls := make([]Captured, len(request.Batch))
	for i, raw := range request.Batch {
		call, err := decodeCall(raw, "")
		if err != nil {
			return nil, fmt.Errorf("call %d: %w", i, err)
		}
		calls[i] = call
	}
	return calls, nil
}

// decodeCall returns one call; kind is its type where the route says it.
func decodeCall(raw []byte, kind string) (Captured, error) {
	if len(raw) > MaxCallBytes {
		return Captured{}, fmt.Errorf("it is over %d bytes", MaxCallBytes)
	}
	var fields struct {
		Type        string `json:"type"`
		MessageID   string `json:"messageId"`
		UserID      string `json:"userId"`
		AnonymousID string `json:"anonymousId"`
		GroupID     string `json:"groupId"`
	}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return Captured{}, errors.New("it is not an object with strings for its type and ids")
	}
	if kind == "" {
		kind = fields.Type
	}
	switch {
	case kind == "":
		return Captured{}, errors.New("it has no type")
	case fields.UserID == "" && fields.AnonymousID == "":
		return Captured{}, errors.New("it has no userId and no anonymousId")
	case kind == "group" && fields.GroupID == "":
		return Captured{}, errors.New("it has no groupId")
	}
	return Captured{
		Type: kind, UserID: fields.UserID, GroupID: fields.GroupID, MessageID: fields.MessageID, Call: raw,
	}, nil
}

// reply answers in Segment's form; fault is empty for a success.
func reply(w http.ResponseWriter, status int, fault string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, struct {
		Success bool   `json:"success"`
		Message string `json:"message,omitzero"`
	}{fault == "", fault})
}
