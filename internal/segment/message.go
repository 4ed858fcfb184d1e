package segment

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/segmentio/analytics-go/v3"

	"refinersource/internal/attribution"
)

// standIn is the message that stands for a batch in what analytics-go makes: the batch's
// first call by its ids and its time. The encodings of all calls take its place in the
// request (docs/decisions/0022, 0023).
func standIn(first *attribution.Call) analytics.Message {
	return analytics.Identify{
		MessageId: first.MessageID, UserId: first.UserID, AnonymousId: first.AnonymousID, Timestamp: first.Timestamp,
	}
}

// validate holds a call to the rules of analytics-go for its kind.
func validate(c *attribution.Call) error {
	switch c.Kind {
	case attribution.Identify:
		return analytics.Identify{UserId: c.UserID, AnonymousId: c.AnonymousID}.Validate()
	case attribution.Group:
		return analytics.Group{UserId: c.UserID, AnonymousId: c.AnonymousID, GroupId: c.GroupID}.Validate()
	case attribution.Track:
		return analytics.Track{UserId: c.UserID, AnonymousId: c.AnonymousID, Event: c.Event}.Validate()
	default:
		return fmt.Errorf("it is of no kind: %d", c.Kind)
	}
}

// What stands around the message in the body that analytics-go makes.
var (
	batchBegins = []byte(`,"batch":[`)
	batchEnds   = []byte(`],"context":`)
)

// errEnvelope says that analytics-go has made another request than it is known to.
var errEnvelope = errors.New("the request is not one of a batch")

// fill puts the calls' encodings in the place of the message: the envelope is
// analytics-go's, and each call the very bytes that were measured and, for its receipt,
// digested. The caller releases the batch when the request is over.
func fill(r *http.Request, calls []attribution.Call) (body *batchBody, err error) {
	defer func() { _ = r.Body.Close() }()
	made := envelopes.Get().(*bytes.Buffer)
	defer envelopes.Put(made)
	made.Reset()
	if _, err := made.ReadFrom(r.Body); err != nil {
		return nil, fmt.Errorf("read batch: %w", err)
	}
	envelope := made.Bytes()
	begins, ends := bytes.Index(envelope, batchBegins), bytes.LastIndex(envelope, batchEnds)
	if begins < 0 || ends < begins {
		return nil, errEnvelope
	}
	body = bodies.Get().(*batchBody)
	body.holds.Store(1)
	b := append(body.bytes[:0], envelope[:begins+len(batchBegins)]...)
	for i := range calls {
		if i > 0 {
			b = append(b, ',')
		}
		b = calls[i].AppendJSON(b)
	}
	body.bytes = append(b, envelope[ends:]...)
	return body, nil
}

// envelopes keeps the memory of what analytics-go made.
var envelopes = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// bodies keeps the memory of batches that are not in use.
var bodies = sync.Pool{New: func() any { return new(batchBody) }}

// batchBody is the body of a request, for as long as somebody holds it: the attempt,
// and each reader until it is closed, which can be after the answer.
type batchBody struct {
	bytes []byte
	holds atomic.Int32
}

func (b *batchBody) release() {
	if b.holds.Add(-1) == 0 && cap(b.bytes) <= 2*MaxBatchBytes {
		bodies.Put(b)
	}
}

// reader reads a batch, and notes that it was read.
type reader struct {
	bytes.Reader

	batch  *batchBody
	read   *atomic.Bool
	closed atomic.Bool
}

// reader returns a reader of the batch from its beginning.
func (b *batchBody) reader(read *atomic.Bool) io.ReadCloser {
	b.holds.Add(1)
	r := &reader{batch: b, read: read}
	r.Reset(b.bytes)
	return r
}

// Read reads, and notes it.
func (r *reader) Read(p []byte) (int, error) {
	r.read.Store(true)
	return r.Reader.Read(p)
}

// WriteTo writes what is left, and notes it.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	r.read.Store(true)
	return r.Reader.WriteTo(w)
}

// Close lets go of the batch.
func (r *reader) Close() error {
	if r.closed.CompareAndSwap(false, true) {
		r.batch.release()
	}
	return nil
}

// wellFormed reports whether a call's encoding is JSON. What Attribute made is.
func wellFormed(c *attribution.Call) bool {
	return c.Made() || jsontext.Value(c.AppendJSON(nil)).IsValid() && (len(c.Integrations) == 0 || c.Integrations.Kind() == '{')
}
