// Package segment delivers calls to Segment, or to any server of the same
// /v1/batch protocol, through analytics-go, of which it is the only importer.
// It makes one attempt and says what became of it; whether and when to make
// another is the business of package delivery. Capture is the receiver of dev
// and of the tests.
//
// It guarantees: an attempt is at most one POST that carries all calls in their
// order, or none of them; it ends within Options.Timeout; a Result is Accepted
// only if the receiver itself answered 2xx (and did not deny it, with
// Target.StrictBody); the write key is in the request's
// Authorization header and nowhere else (invariant 5).
package segment

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/segmentio/analytics-go/v3"

	"refinersource/internal/attribution"
	"refinersource/internal/tenant"
)

// Segment's limits of a request (docs/mapping.md, Calls).
const (
	MaxBatchCalls = 2_500
	MaxBatchBytes = 500_000 // of the whole body
	MaxCallBytes  = attribution.MaxCallBytes
)

// MaxBatchPayload bounds the calls of a batch: the sum of their sizes and one
// byte for each. The rest of MaxBatchBytes is for what is around them.
const MaxBatchPayload = MaxBatchBytes - 1_000

// Defaults of Options.
const (
	DefaultTimeout         = 9 * time.Second
	DefaultMaxConnsPerHost = 256
)

// maxIdleConns bounds the idle connections to all hosts.
const maxIdleConns = 1_024

// writeBuffer is what a connection keeps to write from. A request that fits is one write;
// of one that does not, the rest is another.
const writeBuffer = 16 << 10

// maxTimeout is the deadline that analytics-go sets itself and that cannot be
// changed. Ours has to come first, since what ends by theirs has no class.
const maxTimeout = 10 * time.Second

// Options of a Client. The zero value is useful.
type Options struct {
	// Timeout bounds an attempt from its start to the end of the answer's body.
	// Less than 10 s; default DefaultTimeout.
	Timeout time.Duration
	// ResponseHeaderTimeout bounds the wait for the answer after the request was
	// written. Default: only Timeout does.
	ResponseHeaderTimeout time.Duration
	// MaxConnsPerHost bounds the connections to one host, busy or idle. An
	// attempt waits for a free one within its Timeout. Default
	// DefaultMaxConnsPerHost.
	MaxConnsPerHost int
	// MaxIdleConnsPerHost bounds the idle ones among them. Default: all.
	MaxIdleConnsPerHost int
	// DialContext makes the connections. Default: a net.Dialer.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is cloned. Default: the system's roots.
	TLS *tls.Config
}

// Validate reports all that is wrong.
func (o Options) Validate() error {
	var errs []error
	if o.Timeout < 0 || o.Timeout >= maxTimeout {
		errs = append(errs, fmt.Errorf("segment: Timeout must be from 0 to less than %v, not %v", maxTimeout, o.Timeout))
	}
	if o.ResponseHeaderTimeout < 0 {
		errs = append(errs, errors.New("segment: ResponseHeaderTimeout must not be negative"))
	}
	if o.MaxConnsPerHost < 0 || o.MaxIdleConnsPerHost < 0 {
		errs = append(errs, errors.New("segment: MaxConnsPerHost and MaxIdleConnsPerHost must not be negative"))
	}
	return errors.Join(errs...)
}

// Target is where an attempt goes and under which credential.
type Target struct {
	Endpoint string // scheme://host[:port][/path], no trailing slash
	WriteKey tenant.Secret
	// StrictBody is for receivers that answer 2xx and say in the body that they
	// did not accept: one whose body is a JSON object with success: false is
	// Refused. A body that is no JSON, is over 8 KiB or breaks off says nothing: the
	// status is the contract.
	StrictBody bool
	// Written is called when the request has been written, or cannot be, or waits for a new
	// connection first; more often than once, too. It must not block. nil is not called.
	Written func()
}

// check reports why the target cannot be used. Without a check an empty
// endpoint would be Segment's own to analytics-go.
func (t Target) check() error {
	u, err := url.Parse(t.Endpoint)
	switch {
	case err != nil:
		return errors.New("endpoint is not a URL")
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return errors.New("endpoint is not http://host or https://host")
	case t.WriteKey.IsZero():
		return errors.New("write key is empty")
	}
	return nil
}

// Client makes attempts over one pool of connections. It is safe for concurrent
// use. It speaks HTTP/1.1 only, so that no tenant's stream waits for another's,
// and heeds no proxy of the environment.
type Client struct {
	transport http.RoundTripper
	timeout   time.Duration
}

// New returns a Client. It makes no connection.
func New(o Options) (*Client, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxConnsPerHost == 0 {
		o.MaxConnsPerHost = DefaultMaxConnsPerHost
	}
	if o.MaxIdleConnsPerHost == 0 {
		o.MaxIdleConnsPerHost = o.MaxConnsPerHost
	}
	if o.DialContext == nil {
		o.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if told, ok := ctx.Value(toldKey{}).(func()); ok {
			told() // the request waits for its connection
		}
		made, err := o.DialContext(ctx, network, address)
		if err != nil {
			return nil, dialError{err}
		}
		return made, nil
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &Client{
		transport: &http.Transport{
			DialContext:            writingBodies(dial),
			DialTLSContext:         writingBodies(overTLS(dial, o.TLS)),
			Protocols:              protocols,
			DisableCompression:     true, // no answer is worth unpacking
			MaxConnsPerHost:        o.MaxConnsPerHost,
			MaxIdleConnsPerHost:    o.MaxIdleConnsPerHost,
			MaxIdleConns:           maxIdleConns,
			WriteBufferSize:        writeBuffer,
			IdleConnTimeout:        90 * time.Second,
			ResponseHeaderTimeout:  o.ResponseHeaderTimeout,
			MaxResponseHeaderBytes: 64 << 10,
		},
		timeout: o.Timeout,
	}, nil
}

// Close closes the idle connections. Attempts under way are the caller's to
// wait for.
func (c *Client) Close() {
	(&http.Client{Transport: c.transport}).CloseIdleConnections()
}

// Send makes one attempt: one POST of all calls in their order, under the
// target's write key. It returns when the answer is there, when the Timeout is
// over or soon after ctx ended.
//
// The caller keeps a batch within MaxBatchCalls and MaxBatchPayload, and every
// call within MaxCallBytes and with a message id and a timestamp. Otherwise, and
// if analytics-go would refuse a call, nothing is sent and the class is Invalid. A
// target that cannot be used is Misconfigured, without a request either.
//
// One analytics.Client makes one attempt. By its own rules it would send a batch
// in several requests at once, retry whatever the answer and follow redirects;
// with a batch of one message, which stands for all calls, no flush by time, and its
// Close right after, it has one request to make, and attempt sees to the rest.
func (c *Client) Send(ctx context.Context, to Target, calls []attribution.Call) Result {
	if ctx.Err() != nil {
		return Result{Class: Canceled, Err: fmt.Errorf("post batch: %w", context.Cause(ctx))}
	}
	if err := to.check(); err != nil {
		return Result{Class: Misconfigured, Err: fmt.Errorf("check target: %w", err)}
	}
	if err := checkBatch(calls); err != nil {
		return Result{Class: Invalid, Err: fmt.Errorf("check batch: %w", err)}
	}
	a := &attempt{transport: c.transport, timeout: c.timeout, calls: calls, strict: to.StrictBody, told: to.Written}
	defer a.tell()
	client, err := analytics.NewWithConfig(to.WriteKey.Reveal(), analytics.Config{
		Endpoint:   to.Endpoint,
		BatchSize:  1,
		Interval:   time.Hour,
		RetryAfter: func(int) time.Duration { return time.Hour },
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return a.roundTrip(ctx, r)
		}),
		Logger: discard{},
	})
	if err != nil {
		return Result{Class: Invalid, Err: fmt.Errorf("open upload: %w", err)}
	}
	// Close returns when the upload is over, and makes its first failure its last.
	if err := errors.Join(client.Enqueue(standIn(&calls[0])), client.Close()); err != nil {
		return Result{Class: Invalid, Err: fmt.Errorf("upload: %w", err)}
	}
	return a.outcome()
}

// checkBatch holds the calls to Segment's limits and refuses what analytics-go
// would fill in by itself, since it would differ from attempt to attempt
// (invariant 6).
func checkBatch(calls []attribution.Call) error {
	if len(calls) == 0 || len(calls) > MaxBatchCalls {
		return fmt.Errorf("%d calls are not from 1 to %d", len(calls), MaxBatchCalls)
	}
	payload := 0
	for i := range calls {
		if calls[i].MessageID == "" || calls[i].Timestamp.IsZero() {
			return fmt.Errorf("call %d has no message id or no timestamp", i)
		}
		if err := validate(&calls[i]); err != nil {
			return fmt.Errorf("call %d: %w", i, err)
		}
		if !wellFormed(&calls[i]) {
			return fmt.Errorf("call %d is no JSON", i)
		}
		if calls[i].Size() > MaxCallBytes {
			return fmt.Errorf("call %d has %d bytes, over %d", i, calls[i].Size(), MaxCallBytes)
		}
		payload += calls[i].Size() + 1
	}
	if payload > MaxBatchPayload {
		return fmt.Errorf("%d bytes of calls are over %d", payload, MaxBatchPayload)
	}
	return nil
}
