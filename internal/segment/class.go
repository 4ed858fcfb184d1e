package segment

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Class says what an attempt's outcome means. The set is closed: its names are
// metric labels.
type Class uint8

// The classes. The zero value promises nothing.
const (
	// Canceled: the context ended before the outcome was known.
	Canceled Class = iota
	// Accepted: the receiver answered 2xx.
	Accepted
	// Transient: the same request may be accepted later.
	Transient
	// Throttled: the receiver asks for fewer requests.
	Throttled
	// Refused: the receiver refuses what was sent; if that was a batch, perhaps
	// for one call of it.
	Refused
	// TooLarge: the receiver refuses a request of this size.
	TooLarge
	// Misconfigured: the endpoint, its certificate or the write key is wrong,
	// whatever is sent. It is never the fault of an event.
	Misconfigured
	// Invalid: the batch breaks the limits of Send. Nothing was sent or, if the
	// Result says Unknown, not all in one request.
	Invalid
)

// Classes returns all classes.
func Classes() []Class {
	return []Class{Canceled, Accepted, Transient, Throttled, Refused, TooLarge, Misconfigured, Invalid}
}

// String returns the class as a metric label.
func (c Class) String() string {
	switch c {
	case Canceled:
		return "canceled"
	case Accepted:
		return "accepted"
	case Transient:
		return "transient"
	case Throttled:
		return "throttled"
	case Refused:
		return "refused"
	case TooLarge:
		return "too_large"
	case Misconfigured:
		return "misconfigured"
	case Invalid:
		return "invalid"
	default:
		return "unknown"
	}
}

// Result is the outcome of an attempt.
type Result struct {
	Class  Class
	Status int // of the answer, 0 if there was none
	// RetryAfter is the pause the receiver asked for, from MinRetryAfter to
	// MaxRetryAfter; 0 if it asked for none.
	RetryAfter time.Duration
	// Unknown is set if the receiver may have applied the calls although it is
	// not said to have accepted them.
	Unknown bool
	// Err is nil if Accepted. It holds nothing of an answer's text, of a call or
	// of the write key.
	Err error
}

// classOf is the class of an answer's status.
func classOf(status int) Class {
	switch status {
	case http.StatusRequestTimeout, // 408
		http.StatusTooEarly, // 425
		460:                 // a load balancer's: the client went away
		return Transient
	case http.StatusTooManyRequests: // 429
		return Throttled
	case http.StatusBadRequest, // 400
		http.StatusUnsupportedMediaType,        // 415
		http.StatusUnprocessableEntity,         // 422
		http.StatusRequestHeaderFieldsTooLarge: // 431
		return Refused
	case http.StatusRequestEntityTooLarge: // 413
		return TooLarge
	case http.StatusNotImplemented, // 501
		http.StatusHTTPVersionNotSupported,       // 505
		http.StatusNetworkAuthenticationRequired: // 511: a captive portal
		return Misconfigured
	}
	switch status / 100 {
	case 2:
		return Accepted
	case 5:
		return Transient
	}
	// 1xx, 3xx and the 4xx that are not named, among them 401, 403, 404, 405, 407,
	// 410, 421 and 451: what answers so is not the receiver we were to find, or
	// does not know us. No event is given up for it.
	return Misconfigured
}

// answer is the result of an attempt that was answered.
func answer(status int, header http.Header) Result {
	r := Result{Class: classOf(status), Status: status}
	if r.Class == Accepted {
		return r
	}
	r.RetryAfter = retryAfter(header, time.Now())
	r.Unknown = r.Class == Transient && status >= http.StatusInternalServerError
	r.Err = fmt.Errorf("post batch: receiver answered %d", status)
	return r
}

// failure is the result of an attempt that was not answered. written says
// whether any of the body was.
func failure(ctx context.Context, err error, written bool) Result {
	r := Result{Class: Transient, Unknown: written}
	switch {
	case ctx.Err() != nil:
		r.Class, err = Canceled, context.Cause(ctx)
	case notTrusted(err):
		r.Class = Misconfigured
	default:
		err = quotable(err)
	}
	r.Err = fmt.Errorf("post batch: %w", err)
	return r
}

// notTrusted reports whether the endpoint's certificate is not good, or what
// listens there speaks no TLS.
func notTrusted(err error) bool {
	_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	return certificate || plain
}

// dialError is an error of Options.DialContext.
type dialError struct{ error }

// Unwrap returns the dialer's error.
func (e dialError) Unwrap() error { return e.error }

// errBroken stands for an error that may quote the receiver.
var errBroken = errors.New("receiver broke the protocol")

// quotable returns err if its text is made on our side, errBroken otherwise:
// the transport's complaints about an answer that is no HTTP quote it.
func quotable(err error) error {
	if dial, ok := errors.AsType[dialError](err); ok {
		return fmt.Errorf("connect: %w", dial.error)
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
	}
	if broken, ok := errors.AsType[*net.OpError](err); ok {
		return broken
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("connection closed before the answer: %w", io.ErrUnexpectedEOF)
	}
	return errBroken
}

// Bounds of Result.RetryAfter.
const (
	MinRetryAfter = 100 * time.Millisecond
	MaxRetryAfter = 300 * time.Second
)

// retryAfter reads Retry-After (RFC 9110, 10.2.3): seconds, or a date, which is
// held against the answer's own Date, so that the clocks need not agree, or
// against now if there is none. What is neither is ignored.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if seconds, ok := parseSeconds(value); ok {
		return clampRetryAfter(seconds)
	}
	until, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		now = date
	}
	return clampRetryAfter(until.Sub(now))
}

// parseSeconds reads a run of digits, however long; what is over MaxRetryAfter
// is as good as that.
func parseSeconds(s string) (time.Duration, bool) {
	seconds := time.Duration(0)
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		seconds = min(10*seconds+time.Duration(c-'0')*time.Second, MaxRetryAfter)
	}
	return seconds, true
}

func clampRetryAfter(d time.Duration) time.Duration {
	return min(max(d, MinRetryAfter), MaxRetryAfter)
}
