package segment_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"refinersource/internal/attribution"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// writeKey and hostile must not show in any error.
const (
	writeKey = "canary-write-key"
	hostile  = "ann@example.com"
)

// serve returns a Client whose every connection leads to a server with that
// handler, in memory, and a target there.
func serve(t *testing.T, handler http.HandlerFunc, o segment.Options) (*segment.Client, segment.Target) {
	t.Helper()
	server := httptest.NewTestServer(t, handler)
	o.DialContext = server.Client().Transport.(*http.Transport).DialContext
	return newClient(t, o), segment.Target{Endpoint: "http://receiver.test", WriteKey: tenant.NewSecret(writeKey)}
}

func newClient(t *testing.T, o segment.Options) *segment.Client {
	t.Helper()
	client, err := segment.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// calls returns n identifies with the message ids m-0, m-1, ….
func calls(n int) []attribution.Call {
	cs := make([]attribution.Call, n)
	for i := range cs {
		cs[i] = attribution.Call{
			Kind:      attribution.Identify,
			MessageID: fmt.Sprint("m-", i),
			UserID:    fmt.Sprint("user-", i),
			Timestamp: time.Date(2026, 10, 12, 2, 5, 55, 0, time.UTC),
			Traits:    []attribution.Trait{{Name: "refiner_role", Value: jsontext.Value(`"CEO"`)}},
			Library:   "1.0.0",
		}
	}
	return cs
}

// messageIDs reads a batch request.
func messageIDs(t *testing.T, r *http.Request) []string {
	t.Helper()
	var request struct {
		Batch []struct {
			MessageID string `json:"messageId"`
		} `json:"batch"`
	}
	if err := json.UnmarshalRead(r.Body, &request); err != nil {
		t.Error(err)
	}
	var ids []string
	for _, m := range request.Batch {
		ids = append(ids, m.MessageID)
	}
	return ids
}

// check compares all of a Result but its error, which it searches for secrets.
func check(t *testing.T, got, want segment.Result) {
	t.Helper()
	if (got.Err == nil) != (want.Class == segment.Accepted) {
		t.Errorf("class %v with error %v", got.Class, got.Err)
	}
	if got.Err != nil && (strings.Contains(got.Err.Error(), writeKey) || strings.Contains(got.Err.Error(), hostile)) {
		t.Errorf("error shows what it must not: %v", got.Err)
	}
	got.Err = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("result (-want +got)\n%s", diff)
	}
}

func TestAttemptIsOnePostOfAllCallsInTheirOrder(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 100, 101, 250, 251, 2000} {
		for status, class := range map[int]segment.Class{
			200: segment.Accepted, 400: segment.Refused, 413: segment.TooLarge, 429: segment.Throttled, 500: segment.Transient,
		} {
			t.Run(fmt.Sprintf("%d calls answered %d", n, status), func(t *testing.T) {
				t.Parallel()
				var posts [][]string
				client, to := serve(t, func(w http.ResponseWriter, r *http.Request) {
					if r.Method != http.MethodPost || r.URL.Path != "/v1/batch" {
						t.Errorf("got %s %s", r.Method, r.URL)
					}
					posts = append(posts, messageIDs(t, r))
					http.Error(w, hostile, status)
				}, segment.Options{})
				got := client.Send(t.Context(), to, calls(n))
				check(t, got, segment.Result{Class: class, Status: status, Unknown: status == 500})
				var want []string
				for _, c := range calls(n) {
					want = append(want, c.MessageID)
				}
				if diff := cmp.Diff([][]string{want}, posts); diff != "" {
					t.Errorf("posts (-want +got)\n%s", diff)
				}
			})
		}
	}
}

// What one attempt was made of stays out of the next.
func TestEachAttemptHasAnEnvelopeOfItsOwn(t *testing.T) {
	t.Parallel()
	var bodies []string
	client, to := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		bodies = append(bodies, string(body))
	}, segment.Options{})
	seen := make(map[string]bool)
	for n := range 10 {
		if got := client.Send(t.Context(), to, calls(n+1)); got.Class != segment.Accepted {
			t.Fatalf("attempt %d: %+v", n, got)
		}
		var batch struct {
			MessageID string           `json:"messageId"`
			Batch     []jsontext.Value `json:"batch"`
		}
		if err := json.Unmarshal([]byte(bodies[n]), &batch); err != nil {
			t.Fatal(err)
		}
		if seen[batch.MessageID] || len(batch.Batch) != n+1 {
			t.Errorf("attempt %d: the batch's id %s and %d calls, want an id of its own and %d calls", n, batch.MessageID, len(batch.Batch), n+1)
		}
		seen[batch.MessageID] = true
	}
}

func TestAttemptEndsWithinItsTimeout(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		options segment.Options
		want    segment.Result
		took    time.Duration
	}{
		"an answer just in time": {
			handler: func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(8900 * time.Millisecond)
				w.WriteHeader(http.StatusOK)
			},
			want: segment.Result{Class: segment.Accepted, Status: 200},
			took: 8900 * time.Millisecond,
		},
		"no answer": {
			handler: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			want:    segment.Result{Class: segment.Transient, Unknown: true},
			took:    9 * time.Second,
		},
		"no answer, shorter timeout": {
			handler: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			options: segment.Options{Timeout: 3 * time.Second},
			want:    segment.Result{Class: segment.Transient, Unknown: true},
			took:    3 * time.Second,
		},
		"no header of an answer": {
			handler: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			options: segment.Options{ResponseHeaderTimeout: time.Second},
			want:    segment.Result{Class: segment.Transient, Unknown: true},
			took:    time.Second,
		},
		"accepted, with a body that does not end": {
			handler: drip(http.StatusOK),
			want:    segment.Result{Class: segment.Accepted, Status: 200},
			took:    9 * time.Second,
		},
		"a protocol switched to": {
			handler: func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = conn.Close() }()
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
				_, _ = io.Copy(io.Discard, conn) // until the client closes it
			},
			want: segment.Result{Class: segment.Misconfigured, Status: 101},
		},
		"refused, with a body that does not end": {
			handler: drip(http.StatusBadRequest),
			want:    segment.Result{Class: segment.Refused, Status: 400},
			took:    9 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, to := serve(t, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					tt.handler(w, r)
				}, tt.options)
				start := time.Now()
				got := client.Send(t.Context(), to, calls(3))
				check(t, got, tt.want)
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
			})
		})
	}
}

// drip answers the status and then one byte a second.
func drip(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Second)
		}
	}
}

func TestAcceptedIsWhatTheStatusSays(t *testing.T) {
	t.Parallel()
	client, to := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}, segment.Options{})
	check(t, client.Send(t.Context(), to, calls(1)), segment.Result{Class: segment.Accepted, Status: 200})
}

func TestRedirectIsNeitherFollowedNorASuccess(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		var requests atomic.Int32
		client, to := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if requests.Add(1) == 1 {
				http.Redirect(w, r, "/elsewhere", status)
			}
		}, segment.Options{})
		check(t, client.Send(t.Context(), to, calls(1)), segment.Result{Class: segment.Misconfigured, Status: status})
		if got := requests.Load(); got != 1 {
			t.Errorf("%d: %d requests, want 1", status, got)
		}
	}
}

func TestAnswersBodyIsBounded(t *testing.T) {
	t.Parallel()
	const whole = 256 << 20
	for status, want := range map[int]segment.Result{
		200: {Class: segment.Accepted, Status: 200},
		400: {Class: segment.Refused, Status: 400},
	} {
		cutOff := make(chan bool, 1)
		client, to := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
			chunk := make([]byte, 64<<10)
			for range whole / len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					cutOff <- true
					return
				}
			}
			cutOff <- false
		}, segment.Options{})
		check(t, client.Send(t.Context(), to, calls(1)), want)
		// How much stands in buffers when the connection is closed is not ours to say.
		if !<-cutOff {
			t.Errorf("%d: all %d bytes of the body were taken", status, whole)
		}
	}
}

func TestAttemptsShareConnections(t *testing.T) {
	t.Parallel()
	server := httptest.NewTestServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, strings.Repeat("x", 2<<10), http.StatusServiceUnavailable)
	}))
	dial := server.Client().Transport.(*http.Transport).DialContext
	var dials atomic.Int32
	client := newClient(t, segment.Options{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return dial(ctx, network, address)
	}})
	for range 20 {
		client.Send(t.Context(), segment.Target{Endpoint: server.URL, WriteKey: tenant.NewSecret(writeKey)}, calls(2))
	}
	if got := dials.Load(); got != 1 {
		t.Errorf("%d connections for 20 attempts, want 1", got)
	}
}

// writeCounter counts the writes of a connection.
type writeCounter struct {
	net.Conn

	writes *atomic.Int32
}

func (c writeCounter) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func TestLargeBatchIsWrittenAsItStands(t *testing.T) {
	t.Parallel()
	var writes atomic.Int32
	capture := segment.NewCapture(segment.CaptureOptions{Keep: segment.MaxBatchCalls})
	server := httptest.NewTestServer(t, capture)
	dial := server.Client().Transport.(*http.Transport).DialContext
	client := newClient(t, segment.Options{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		made, err := dial(ctx, network, address)
		return writeCounter{made, &writes}, err
	}})
	sent := calls(2000)
	check(t, client.Send(t.Context(), segment.Target{Endpoint: server.URL, WriteKey: tenant.NewSecret(writeKey)}, sent), segment.Result{Class: segment.Accepted, Status: 200})
	if got := writes.Load(); got != 2 {
		t.Errorf("%d writes for a batch of 2,000 calls, want its beginning and the rest", got)
	}
	for i, c := range capture.Calls() {
		if want := string(sent[i].AppendJSON(nil)); string(c.Call) != want {
			t.Fatalf("call %d arrived as %s, want %s", i, c.Call, want)
		}
	}
}

// Over TLS too: net/http hands over what is left of the body at once, and makes no buffer
// of 32 kB to copy it through.
func TestLargeBatchIsWrittenAsItStandsOverTLS(t *testing.T) {
	t.Parallel()
	capture := segment.NewCapture(segment.CaptureOptions{Keep: segment.MaxBatchCalls})
	server := httptest.NewTLSServer(capture)
	t.Cleanup(server.Close)
	trusted := x509.NewCertPool()
	trusted.AddCert(server.Certificate())
	client := newClient(t, segment.Options{TLS: &tls.Config{RootCAs: trusted}})
	sent := calls(2000)
	check(t, client.Send(t.Context(), segment.Target{Endpoint: server.URL, WriteKey: tenant.NewSecret(writeKey)}, sent), segment.Result{Class: segment.Accepted, Status: 200})
	for i, c := range capture.Calls() {
		if want := string(sent[i].AppendJSON(nil)); string(c.Call) != want {
			t.Fatalf("call %d arrived as %s, want %s", i, c.Call, want)
		}
	}
}

// Who waits for a connection takes no processor from others, and says so.
func TestWrittenIsToldBeforeAConnectionIsMade(t *testing.T) {
	t.Parallel()
	told := make(chan struct{})
	client := newClient(t, segment.Options{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		select {
		case <-told:
			return nil, errors.New("refused")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}})
	to := segment.Target{Endpoint: "http://receiver.test", WriteKey: tenant.NewSecret(writeKey)}
	to.Written = sync.OnceFunc(func() { close(told) })
	if r := client.Send(t.Context(), to, calls(1)); r.Class != segment.Transient || !strings.Contains(r.Err.Error(), "refused") {
		t.Errorf("%+v, want it refused", r)
	}
}

func TestWriteKeysNeverMix(t *testing.T) {
	t.Parallel()
	client, to := serve(t, segment.NewCapture(segment.CaptureOptions{
		Answer: func(_ *http.Request, b segment.Batch) segment.Answer {
			for _, c := range b.Calls {
				if want := "user-of-" + b.WriteKey.Reveal(); c.UserID != want {
					t.Errorf("got a call of %s, want %s", c.UserID, want)
				}
			}
			return segment.Answer{}
		},
	}).ServeHTTP, segment.Options{MaxConnsPerHost: 4})
	var attempts sync.WaitGroup
	for i := range 16 {
		attempts.Go(func() {
			key := fmt.Sprint("key-", i)
			cs := calls(10)
			for j := range cs {
				cs[j].UserID = "user-of-" + key
			}
			for range 10 {
				check(t, client.Send(t.Context(), segment.Target{Endpoint: to.Endpoint, WriteKey: tenant.NewSecret(key)}, cs),
					segment.Result{Class: segment.Accepted, Status: 200})
			}
		})
	}
	attempts.Wait()
}

func TestContextThatEndsCancelsTheAttempt(t *testing.T) {
	t.Parallel()
	stop := errors.New("drained")

	t.Run("before it", func(t *testing.T) {
		t.Parallel()
		client, to := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was made") }, segment.Options{})
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(stop)
		got := client.Send(ctx, to, calls(1))
		check(t, got, segment.Result{Class: segment.Canceled})
		if !errors.Is(got.Err, stop) {
			t.Errorf("got %v, want %v", got.Err, stop)
		}
	})
	t.Run("while it waits for the answer", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		client, to := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			cancel(stop)
			<-r.Context().Done()
		}, segment.Options{})
		got := client.Send(ctx, to, calls(1))
		check(t, got, segment.Result{Class: segment.Canceled, Unknown: true})
		if !errors.Is(got.Err, stop) {
			t.Errorf("got %v, want %v", got.Err, stop)
		}
	})
	t.Run("while it connects", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		client := newClient(t, segment.Options{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			cancel(stop)
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		got := client.Send(ctx, segment.Target{Endpoint: "http://receiver.test", WriteKey: tenant.NewSecret(writeKey)}, calls(1))
		check(t, got, segment.Result{Class: segment.Canceled})
	})
	t.Run("while it reads the body of an answer", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		client, to := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
			cancel(stop)
			<-r.Context().Done()
		}, segment.Options{})
		got := client.Send(ctx, to, calls(1))
		// The header may have come before the context ended, or not.
		if got.Class != segment.Accepted && (got.Class != segment.Canceled || !got.Unknown) {
			t.Errorf("got %+v", got)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
