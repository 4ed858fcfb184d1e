package segment_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

func TestEveryStatusHasItsClass(t *testing.T) {
	t.Parallel()
	named := map[int]segment.Class{
		400: segment.Refused, 415: segment.Refused, 422: segment.Refused, 431: segment.Refused,
		408: segment.Transient, 425: segment.Transient, 460: segment.Transient,
		413: segment.TooLarge,
		429: segment.Throttled,
		501: segment.Misconfigured, 505: segment.Misconfigured, 511: segment.Misconfigured,
	}
	// 401, 403, 404, 405, 407, 410, 421 and 451 are of the hundred's class.
	hundreds := map[int]segment.Class{
		1: segment.Misconfigured, 2: segment.Accepted, 3: segment.Misconfigured, 4: segment.Misconfigured, 5: segment.Transient,
	}
	for status := 100; status <= 599; status++ {
		want := segment.Result{Class: hundreds[status/100], Status: status}
		if class, ok := named[status]; ok {
			want.Class = class
		}
		// Only a failure on the receiver's side leaves open what it did.
		want.Unknown = want.Class == segment.Transient && status >= 500
		client := segment.NewOver(roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Body: http.NoBody}, nil
		}), time.Second)
		to := segment.Target{Endpoint: "http://receiver.test", WriteKey: tenant.NewSecret(writeKey)}
		check(t, client.Send(t.Context(), to, calls(1)), want)
	}
}

func TestClassesHaveDistinctLabels(t *testing.T) {
	t.Parallel()
	seen := map[string]segment.Class{}
	for _, c := range segment.Classes() {
		if other, ok := seen[c.String()]; ok || c.String() == segment.Class(255).String() {
			t.Errorf("classes %d and %d are both %q", c, other, c)
		}
		seen[c.String()] = c
	}
	if next := segment.Class(len(segment.Classes())); next.String() != segment.Class(255).String() {
		t.Errorf("class %q is missing in Classes", next)
	}
}

// An attempt that was not answered is Transient but for certificates; its
// outcome is unknown once the receiver may have read the calls.
func TestAttemptWithoutAnswer(t *testing.T) {
	t.Parallel()
	fails := func(err error) segment.Options {
		return segment.Options{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, err }}
	}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for name, tt := range map[string]struct {
		options  segment.Options
		want     segment.Result
		wantText error
	}{
		"connection refused": {fails(refused), segment.Result{Class: segment.Transient}, syscall.ECONNREFUSED},
		"no such host": {
			fails(&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}),
			segment.Result{Class: segment.Transient},
			nil,
		},
		"no route":         {fails(syscall.EHOSTUNREACH), segment.Result{Class: segment.Transient}, syscall.EHOSTUNREACH},
		"dialer's own":     {fails(errForbidden), segment.Result{Class: segment.Transient}, errForbidden},
		"closed at once":   {pipe(func(c net.Conn) { _ = c.Close() }), segment.Result{Class: segment.Transient}, nil},
		"closed after it":  {pipe(afterRequest("")), segment.Result{Class: segment.Transient, Unknown: true}, io.ErrUnexpectedEOF},
		"no HTTP":          {pipe(afterRequest(hostile + "\r\n\r\n")), segment.Result{Class: segment.Transient, Unknown: true}, nil},
		"half a header":    {pipe(afterRequest("HTTP/1.1 200 OK\r\nX: " + hostile)), segment.Result{Class: segment.Transient, Unknown: true}, nil},
		"endless header":   {pipe(afterRequest("HTTP/1.1 200 OK\r\nX: " + string(make([]byte, 1<<20)))), segment.Result{Class: segment.Transient, Unknown: true}, nil},
		"protocol switch":  {pipe(afterRequest("HTTP/1.1 101 Switching Protocols\r\n\r\n" + hostile)), segment.Result{Class: segment.Misconfigured, Status: 101}, nil},
		"status of naught": {pipe(afterRequest("HTTP/1.1 000 Nothing\r\n\r\n")), segment.Result{Class: segment.Misconfigured}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newClient(t, tt.options)
			to := segment.Target{Endpoint: "http://receiver.test", WriteKey: tenant.NewSecret(writeKey)}
			got := client.Send(t.Context(), to, calls(1))
			if name == "closed at once" {
				got.Unknown = false // whether the request was begun is a race
			}
			check(t, got, tt.want)
			if tt.wantText != nil && !errors.Is(got.Err, tt.wantText) {
				t.Errorf("error %v is not %v", got.Err, tt.wantText)
			}
		})
	}
}

var errForbidden = errors.New("address is not allowed")

// pipe connects to a server that does that with every connection.
func pipe(serve func(net.Conn)) segment.Options {
	return segment.Options{DialContext: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go serve(theirs) // ends when the client closes its side
		return ours, nil
	}}
}

// afterRequest reads one request, writes the answer and closes the connection.
func afterRequest(answer string) func(net.Conn) {
	return func(c net.Conn) {
		defer func() { _ = c.Close() }()
		request, err := http.ReadRequest(bufio.NewReader(c))
		if err == nil {
			_, _ = io.Copy(io.Discard, request.Body)
			_, _ = io.WriteString(c, answer)
		}
	}
}

func TestEndpointThatIsNotTrustedIsMisconfigured(t *testing.T) {
	t.Parallel()
	ignore := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was made") })
	secure := httptest.NewUnstartedServer(ignore)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	plain := httptest.NewUnstartedServer(ignore)
	plain.Config.ErrorLog = log.New(io.Discard, "", 0)
	plain.Start()
	t.Cleanup(plain.Close)
	trusted := x509.NewCertPool()
	trusted.AddCert(secure.Certificate())
	to := func(s *httptest.Server) segment.Target {
		return segment.Target{Endpoint: "https://" + s.Listener.Addr().String(), WriteKey: tenant.NewSecret(writeKey)}
	}
	want := segment.Result{Class: segment.Misconfigured}
	t.Run("unknown authority", func(t *testing.T) {
		check(t, newClient(t, segment.Options{}).Send(t.Context(), to(secure), calls(1)), want)
	})
	t.Run("another host's certificate", func(t *testing.T) {
		client := newClient(t, segment.Options{TLS: &tls.Config{RootCAs: trusted, ServerName: "elsewhere.test"}})
		check(t, client.Send(t.Context(), to(secure), calls(1)), want)
	})
	t.Run("no TLS", func(t *testing.T) {
		check(t, newClient(t, segment.Options{}).Send(t.Context(), to(plain), calls(1)), want)
	})
}

func TestTrustedEndpointIsSpokenToInHTTP1(t *testing.T) {
	t.Parallel()
	protocol := make(chan string, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { protocol <- r.Proto }))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	trusted := x509.NewCertPool()
	trusted.AddCert(server.Certificate())
	client := newClient(t, segment.Options{TLS: &tls.Config{RootCAs: trusted}})
	got := client.Send(t.Context(), segment.Target{Endpoint: server.URL, WriteKey: tenant.NewSecret(writeKey)}, calls(1))
	check(t, got, segment.Result{Class: segment.Accepted, Status: 200})
	if p := <-protocol; p != "HTTP/1.1" {
		t.Errorf("got %s, want HTTP/1.1", p)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 10, 12, 2, 5, 55, 0, time.UTC)
	const date = "Mon, 12 Oct 2026 02:00:00 GMT"
	for name, tt := range map[string]struct {
		retryAfter, date string
		want             time.Duration
	}{
		"none":                       {"", "", 0},
		"seconds":                    {"3", "", 3 * time.Second},
		"seconds with space":         {" 3 ", "", 3 * time.Second},
		"none at all is the least":   {"0", "", segment.MinRetryAfter},
		"the most":                   {"300", "", 300 * time.Second},
		"over the most":              {"301", "", segment.MaxRetryAfter},
		"a billion":                  {"1000000000", "", segment.MaxRetryAfter},
		"more than a number holds":   {"99999999999999999999999999", "", segment.MaxRetryAfter},
		"one second, wrapped around": {"36028797018963969", "", segment.MaxRetryAfter}, // 1 + 2⁶⁴/512
		"leading zeros":              {"0000000000000000000000000002", "", 2 * time.Second},
		"negative":                   {"-1", "", 0},
		"fraction":                   {"1.5", "", 0},
		"signed":                     {"+1", "", 0},
		"garbage":                    {"soon", "", 0},
		"date":                       {"Mon, 12 Oct 2026 02:06:00 GMT", "", 5 * time.Second},
		"date by its own clock":      {"Mon, 12 Oct 2026 02:00:07 GMT", date, 7 * time.Second},
		"date by a broken clock":     {"Mon, 12 Oct 2026 02:06:00 GMT", "now", 5 * time.Second},
		"date in old form":           {"Monday, 12-Oct-26 02:06:00 GMT", "", 5 * time.Second},
		"date in the past":           {"Mon, 12 Oct 2026 02:00:00 GMT", "", segment.MinRetryAfter},
		"date far off":               {"Mon, 12 Oct 2099 02:00:00 GMT", "", segment.MaxRetryAfter},
	} {
		header := http.Header{}
		header.Set("Retry-After", tt.retryAfter)
		header.Set("Date", tt.date)
		if got := segment.RetryAfter(header, now); got != tt.want {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
	}
}

func TestRetryAfterIsReadFromEveryRefusal(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]segment.Result{
		429: {Class: segment.Throttled, Status: 429, RetryAfter: 2 * time.Second},
		503: {Class: segment.Transient, Status: 503, RetryAfter: 2 * time.Second, Unknown: true},
		200: {Class: segment.Accepted, Status: 200},
	} {
		client, to := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(status)
		}, segment.Options{})
		check(t, client.Send(t.Context(), to, calls(1)), want)
	}
}

// FuzzRetryAfter: never panics; the result is 0 or within its bounds.
func FuzzRetryAfter(f *testing.F) {
	f.Add("3", "")
	f.Add("Mon, 12 Oct 2026 02:06:00 GMT", "Mon, 12 Oct 2026 02:00:00 GMT")
	f.Add("9223372036854775808", "x")
	f.Fuzz(func(t *testing.T, retryAfter, date string) {
		header := http.Header{"Retry-After": {retryAfter}, "Date": {date}}
		got := segment.RetryAfter(header, time.Date(2026, 10, 12, 2, 5, 55, 0, time.UTC))
		if got != 0 && (got < segment.MinRetryAfter || got > segment.MaxRetryAfter) {
			t.Errorf("got %v", got)
		}
	})
}
