package segment

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"refinersource/internal/attribution"
)

// maxAnswerBytes bounds what is read of an answer's body. But for StrictBody it
// says nothing that the status does not; reading it to its end lets the connection
// be reused.
const maxAnswerBytes = 8 << 10

// errIncomplete stops a request that would not carry exactly the calls of its
// attempt.
var errIncomplete = errors.New("request does not carry the whole batch")

// attempt is one request: through a roundTripper, the transport of its
// analytics.Client. analytics-go calls it from goroutines that have ended when Close of
// its client returns.
type attempt struct {
	transport http.RoundTripper
	timeout   time.Duration
	calls     []attribution.Call
	strict    bool   // the body of a 2xx answer is read too
	told      func() // Target.Written

	requests atomic.Int32
	result   Result // of the one request
}

// tell calls Target.Written, if it was not called yet or is not to be called at all.
func (a *attempt) tell() {
	if a.told != nil {
		a.told()
	}
}

// roundTrip makes the attempt's request. Only a 2xx is a response to
// analytics-go; all else is an error, so that it follows no redirect and reads
// no body.
func (a *attempt) roundTrip(ctx context.Context, r *http.Request) (*http.Response, error) {
	if a.requests.Add(1) > 1 {
		_ = r.Body.Close()
		return nil, errIncomplete
	}
	batch, err := fill(r, a.calls)
	if err != nil {
		a.result = Result{Class: Invalid, Err: fmt.Errorf("post batch: %w", err)}
		return nil, err
	}
	defer batch.release()
	deadline, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	var written atomic.Bool
	if a.told != nil {
		deadline = context.WithValue(deadline, toldKey{}, a.told)
		deadline = httptrace.WithClientTrace(deadline, &httptrace.ClientTrace{
			WroteRequest: func(httptrace.WroteRequestInfo) { a.told() },
		})
	}
	res, err := a.transport.RoundTrip(outgoing(deadline, r, batch, &written))
	if err != nil {
		a.result = failure(ctx, err, written.Load())
		return nil, a.result.Err
	}
	defer func() { _ = res.Body.Close() }()
	a.result = answer(res.StatusCode, res.Header)
	switch {
	case res.StatusCode < http.StatusOK: // after 101 the body is the connection itself
	case a.strict && a.result.Class == Accepted && denies(res.Body):
		a.result.Class, a.result.Err = Refused, errDenied
	default:
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswerBytes))
	}
	if a.result.Class != Accepted {
		return nil, a.result.Err
	}
	return &http.Response{
		Status: res.Status, StatusCode: res.StatusCode,
		Proto: res.Proto, ProtoMajor: res.ProtoMajor, ProtoMinor: res.ProtoMinor,
		Header: res.Header, Body: http.NoBody, Request: r,
	}, nil
}

// toldKey is where the context of a request has Target.Written.
type toldKey struct{}

// errDenied stands for a 2xx answer whose body says that it is none.
var errDenied = errors.New("post batch: receiver answered 2xx with success: false")

// denies reads the body of a 2xx answer and reports whether it says that the
// calls were not accepted.
func denies(body io.Reader) bool {
	text, err := io.ReadAll(io.LimitReader(body, maxAnswerBytes+1))
	if err != nil || len(text) > maxAnswerBytes {
		return false
	}
	var said struct {
		Success *bool `json:"success"`
	}
	err = json.Unmarshal(text, &said, jsontext.AllowInvalidUTF8(true))
	return err == nil && said.Success != nil && !*said.Success
}

// outgoing is r with the batch and under our context, without the cancellation of
// analytics-go's http.Client; written is set when the first byte of the body is taken to be
// written.
func outgoing(ctx context.Context, r *http.Request, batch *batchBody, written *atomic.Bool) *http.Request {
	out := (&http.Request{
		Method: r.Method, URL: r.URL, Host: r.Host, Header: r.Header,
		Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
		Body: batch.reader(written), ContentLength: int64(len(batch.bytes)),
	}).WithContext(ctx)
	// The transport asks for the body again only if a reused connection was
	// closed before it took a byte.
	out.GetBody = func() (io.ReadCloser, error) { return batch.reader(written), nil }
	return out
}

// outcome is what became of the attempt, once its client is closed. Anything but
// one request for the one message is no success, whatever was answered.
func (a *attempt) outcome() Result {
	requests := a.requests.Load()
	if requests != 1 {
		return Result{Class: Invalid, Unknown: requests > 0, Err: fmt.Errorf("post batch: %w", errIncomplete)}
	}
	return a.result
}

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls f.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// discard is a logger that drops all: analytics-go logs whole calls and answers.
type discard struct{}

// Logf drops it.
func (discard) Logf(string, ...any) {}

// Errorf drops it.
func (discard) Errorf(string, ...any) {}
