// Package refiner reads responses from Refiner's REST API and puts them into the
// log as if they had come by webhook. It owns that API: its addresses, paging,
// limits and errors. What a response means is package survey's, and the record's
// key and headers are package ingress's.
//
// It guarantees: responses come into the log in the order in which Refiner received
// them, and State never passes one that is not acknowledged by the log.
package refiner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/time/rate"

	"refinersource/internal/tenant"
)

// Defaults of ClientOptions.
const (
	DefaultBaseURL    = "https://api.refiner.io/v1"
	DefaultRate       = 2
	DefaultPageLength = 100
	DefaultPatience   = 10 * time.Minute
)

const (
	requestTimeout = time.Minute
	maxPageBytes   = 64 << 20
	firstPause     = 500 * time.Millisecond
	longestPause   = time.Minute
)

// ClientOptions are what a Client needs. Key is required; the zero value of all
// else is good.
type ClientOptions struct {
	BaseURL    string // "" is DefaultBaseURL; plain HTTP is for loopback alone
	Key        tenant.Secret
	Rate       float64       // requests a second; 0 is DefaultRate
	PageLength int           // responses a page; 0 is DefaultPageLength
	Patience   time.Duration // how long one page is tried for; 0 is DefaultPatience
	// OnRetry is told each error after which a page is asked for again, and the pause
	// before it. nil drops it.
	OnRetry   func(err error, pause time.Duration)
	Transport http.RoundTripper // nil is net/http's
}

// Validate reports all faults of the options at once.
func (o ClientOptions) Validate() error {
	_, err := o.base()
	errs := []error{err}
	if o.Key.IsZero() {
		errs = append(errs, errors.New("the API key is empty: give Refiner's, from the project's settings"))
	} else if strings.ContainsFunc(o.Key.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		errs = append(errs, errors.New("the API key holds a blank, or what is no ASCII: copy it again"))
	}
	if !(o.Rate >= 0 && o.Rate <= 1000) {
		errs = append(errs, fmt.Errorf("rate %v: want requests a second, up to 1000", o.Rate))
	}
	if o.PageLength < 0 {
		errs = append(errs, fmt.Errorf("page length %d is negative", o.PageLength))
	}
	if o.Patience < 0 {
		errs = append(errs, fmt.Errorf("patience %v is negative", o.Patience))
	}
	return errors.Join(errs...)
}

func (o ClientOptions) base() (*url.URL, error) {
	if o.BaseURL == "" {
		o.BaseURL = DefaultBaseURL
	}
	u, err := url.Parse(o.BaseURL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("base URL: want one as %s", DefaultBaseURL)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("base URL: want no user, query or fragment, as %s", DefaultBaseURL)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, errors.New("base URL: plain HTTP would show the API key to the network: give https")
	}
	return u.JoinPath("responses"), nil
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// Client asks for responses. It is safe for concurrent use; its requests together
// keep to the rate.
type Client struct {
	o       ClientOptions
	address *url.URL
	http    *http.Client
	limit   *rate.Limiter
}

// NewClient returns a client. It connects to nothing yet.
func NewClient(o ClientOptions) (*Client, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	if o.PageLength == 0 {
		o.PageLength = DefaultPageLength
	}
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	if o.OnRetry == nil {
		o.OnRetry = func(error, time.Duration) {}
	}
	address, _ := o.base() // it is valid
	return &Client{
		o:       o,
		address: address,
		http: &http.Client{
			Transport: o.Transport,
			Timeout:   requestTimeout,
			// The key is for one address.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		limit: rate.NewLimiter(rate.Limit(o.Rate), 1),
	}, nil
}

// Close gives up idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Query says which responses are wanted: those whose last data Refiner received
// from the day From up to the day before To.
type Query struct {
	From, To time.Time
	Partials bool // those that are not completed, too
}

// Page returns one page of the responses; the cursor is that of the page before, ""
// for the first. What may pass by waiting is tried again, after exponential pauses
// that are never shorter than the server's Retry-After, for as long as the client's
// patience.
func (c *Client) Page(ctx context.Context, q Query, cursor string) (Page, error) {
	deadline := time.Now().Add(c.o.Patience)
	pauses := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(firstPause), backoff.WithMaxInterval(longestPause), backoff.WithMaxElapsedTime(0))
	for {
		page, err := c.page(ctx, q, cursor)
		failure, ok := errors.AsType[*transientError](err)
		if !ok {
			return page, err
		}
		pause := max(pauses.NextBackOff(), failure.after)
		if time.Now().Add(pause).After(deadline) {
			return Page{}, fmt.Errorf("%w; it was tried for %v, and the next try would be in %v: try again later",
				failure.err, c.o.Patience, pause.Round(time.Second))
		}
		c.o.OnRetry(failure.err, pause)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return Page{}, ctx.Err()
		case <-timer.C:
		}
	}
}

// transientError is one that may pass by waiting.
type transientError struct {
	err   error
	after time.Duration // what the server asked for; 0 if it did not
}

func (e *transientError) Error() string { return e.err.Error() }
func (e *transientError) Unwrap() error { return e.err }

func (c *Client) page(ctx context.Context, q Query, cursor string) (Page, error) {
	if err := c.limit.Wait(ctx); err != nil {
		return Page{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.query(q, cursor), http.NoBody)
	if err != nil {
		return Page{}, fmt.Errorf("ask for responses: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.o.Key.Reveal())
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "refiner-source")
	res, err := c.http.Do(req)
	if err != nil {
		return Page{}, unanswered(ctx, err)
	}
	defer func() { _ = res.Body.Close() }() // only read from
	if err := c.refused(res); err != nil {
		_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection can be used again
		return Page{}, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxPageBytes+1))
	switch {
	case err != nil:
		return Page{}, unanswered(ctx, err)
	case len(body) > maxPageBytes:
		return Page{}, fmt.Errorf("a page of responses is over %d bytes: ask for shorter pages with --page-length", maxPageBytes)
	}
	return parsePage(body, cursor == "")
}

func (c *Client) query(q Query, cursor string) string {
	include := "completed"
	if q.Partials {
		include = "all"
	}
	values := url.Values{
		"date_range_start": {q.From.Format(time.DateOnly)},
		"date_range_end":   {q.To.Format(time.DateOnly)},
		"include":          {include},
		"with_attributes":  {"1"},
		"page_length":      {strconv.Itoa(c.o.PageLength)},
	}
	if cursor != "" {
		values.Set("page_cursor", cursor)
	}
	u := *c.address
	u.RawQuery = values.Encode()
	return u.String()
}

// unanswered is an error of the connection, without the address and its cursor.
func unanswered(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return &transientError{err: fmt.Errorf("ask for responses: %w", err)}
}

// refused classifies the answer's status. A body may hold what people wrote, so it
// is never shown.
func (c *Client) refused(res *http.Response) error {
	fail := func(remedy string) error {
		return fmt.Errorf("%s answers %d: %s", c.address.Redacted(), res.StatusCode, remedy)
	}
	switch code := res.StatusCode; {
	case code == http.StatusOK:
		return nil
	case code == http.StatusTooManyRequests:
		return &transientError{fail("it has had too many requests: lower --rate"), retryAfter(res.Header)}
	case code >= 500, code == http.StatusRequestTimeout:
		return &transientError{fail("it fails"), retryAfter(res.Header)}
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return fail("it refuses the key: check --api-key; it must be of the project, and may read responses")
	case code == http.StatusNotFound:
		return fail("there is no such address: check --base-url")
	case code >= 300 && code < 400:
		return fail("it redirects, and the key goes nowhere else: give the new address as --base-url")
	default:
		return fail("it refuses the request: check --base-url, --since, --until and --page-length")
	}
}

// retryAfter is what the server asks for, in seconds or as a time; 0 if it does not.
func retryAfter(h http.Header) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}
