package ingress

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
)

// budget is a number of bytes of which requests take and give back some.
type budget struct{ free atomic.Int64 }

func newBudget(bytes int) *budget {
	b := new(budget)
	b.free.Store(int64(bytes))
	return b
}

// take takes n bytes, or none if there are not so many. It never waits.
func (b *budget) take(n int) bool {
	if b.free.Add(-int64(n)) >= 0 {
		return true
	}
	b.free.Add(int64(n))
	return false
}

func (b *budget) give(n int) { b.free.Add(int64(n)) }

// hold is what a request took from a budget.
type hold struct {
	budget *budget
	bytes  int
}

// reserve takes n bytes from the budget, or reports false.
func (q *request) reserve(n int, b *budget) bool {
	if !b.take(n) {
		return false
	}
	q.holds = append(q.holds, hold{b, n})
	return true
}

// shrink gives back what the body did not need.
func (q *request) shrink(n int) {
	for i := range q.holds {
		q.holds[i].budget.give(q.holds[i].bytes - n)
		q.holds[i].bytes = n
	}
}

// giveBack gives back what was taken from that budget.
func (q *request) giveBack(b *budget) {
	for i := range q.holds {
		if q.holds[i].budget == b {
			b.give(q.holds[i].bytes)
			q.holds[i].bytes = 0
		}
	}
}

// release gives everything back.
func (q *request) release() { q.shrink(0) }

// format checks the declared form of the body: JSON, which is also what a request
// without a type has, or where several events may come, one a line.
func (q *request) format() (isLines bool, p *problem) {
	for _, coding := range q.r.Header.Values("Content-Encoding") {
		if !strings.EqualFold(coding, "identity") {
			return false, newProblem(http.StatusUnsupportedMediaType, "send the body without Content-Encoding")
		}
	}
	contentType := q.r.Header.Get("Content-Type")
	if contentType == "" || contentType == "application/json" {
		return false, nil
	}
	switch mediaType, _, err := mime.ParseMediaType(contentType); {
	case err != nil:
	case mediaType == "application/json", strings.HasSuffix(mediaType, "+json"):
		return false, nil
	case mediaType == "application/x-ndjson" && q.route.batch:
		return true, nil
	}
	detail := "send application/json"
	if q.route.batch {
		detail += " or application/x-ndjson"
	}
	return false, newProblem(http.StatusUnsupportedMediaType, detail)
}

// limit is how long the body may be.
func (q *request) limit() int {
	if q.route.batch {
		return q.o.MaxBodyBytes
	}
	return q.o.MaxEventBytes
}

// body reads the body. Its bytes are reserved before: the declared length, or for
// chunks as many as may come; of a sender who is yet to be verified in the smaller
// budget too.
func (q *request) body(unverified bool) ([]byte, *problem) {
	limit := q.limit()
	length := int(min(q.r.ContentLength, int64(limit)+1))
	switch {
	case length > limit:
		return nil, q.tooLarge()
	case length == 0 && q.r.ProtoMajor == 1 && q.r.Header.Get("Content-Length") == "":
		return nil, newProblem(http.StatusLengthRequired, "send Content-Length, or chunks")
	case length == 0:
		return nil, empty()
	case length < 0:
		length = limit
	}
	if !q.reserve(length, q.inFlight) || unverified && !q.reserve(length, q.unverified) {
		return nil, overloaded()
	}
	body, err := q.read(limit)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, q.tooLarge()
	}
	if err != nil {
		q.o.Logger.Debug("body not read", zap.String("route", q.routeName), zap.Error(err))
		return nil, newProblem(http.StatusBadRequest, "the body could not be read to its end")
	}
	if len(body) == 0 {
		return nil, empty()
	}
	q.size = len(body)
	q.shrink(len(body))
	return body, nil
}

func (q *request) read(limit int) ([]byte, error) {
	if q.r.ContentLength < 0 {
		return io.ReadAll(http.MaxBytesReader(q.w, q.r.Body, int64(limit)))
	}
	body := make([]byte, q.r.ContentLength)
	_, err := io.ReadFull(q.r.Body, body)
	return body, err
}

func (q *request) tooLarge() *problem {
	return newProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("send a body of at most %d bytes", q.limit()))
}

func empty() *problem { return newProblem(http.StatusBadRequest, "the body is empty") }
