package segment

import (
	"net/http"
	"time"
)

// NewOver returns a Client over another transport.
func NewOver(transport http.RoundTripper, timeout time.Duration) *Client {
	return &Client{transport: transport, timeout: timeout}
}

// RetryAfter is retryAfter.
var RetryAfter = retryAfter

// NewAttempt returns the transport of one attempt, and what says what became of it.
func NewAttempt(transport http.RoundTripper) (_ http.RoundTripper, outcome func() Result) {
	a := &attempt{transport: transport, timeout: time.Second}
	return roundTripper(func(r *http.Request) (*http.Response, error) { return a.roundTrip(r.Context(), r) }), a.outcome
}
