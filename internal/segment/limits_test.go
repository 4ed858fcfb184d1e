package segment_test

import (
	"context"
	"encoding/json/jsontext"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

func TestTargetThatCannotBeUsedIsMisconfiguredAndNeverAsked(t *testing.T) {
	t.Parallel()
	client := newClient(t, segment.Options{DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
		t.Errorf("dialed %s", address)
		return nil, net.ErrClosed
	}})
	key := tenant.NewSecret(writeKey)
	for name, to := range map[string]segment.Target{
		"no endpoint":   {WriteKey: key},
		"no scheme":     {Endpoint: "api.segment.io", WriteKey: key},
		"no host":       {Endpoint: "https://", WriteKey: key},
		"not HTTP":      {Endpoint: "ftp://api.segment.io", WriteKey: key},
		"not a URL":     {Endpoint: "http://a b", WriteKey: key},
		"no write key":  {Endpoint: "https://api.segment.io"},
		"control chars": {Endpoint: "https://api.segment.io\n", WriteKey: key},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, client.Send(t.Context(), to, calls(1)), segment.Result{Class: segment.Misconfigured})
		})
	}
}

func TestBatchThatBreaksTheLimitsIsNotSentAtAll(t *testing.T) {
	t.Parallel()
	large := func(n, size int) []attribution.Call {
		cs := calls(n)
		for i := range cs {
			cs[i].Traits[0].Value = jsontext.Value(`"` + strings.Repeat("x", size) + `"`)
		}
		return cs
	}
	spoil := func(f func(*attribution.Call)) []attribution.Call {
		cs := calls(3)
		f(&cs[1])
		return cs
	}
	for name, batch := range map[string][]attribution.Call{
		"no calls":                nil,
		"too many calls":          calls(segment.MaxBatchCalls + 1),
		"too many bytes":          large(17, 30_000),
		"a call of too many":      append(calls(3), large(1, segment.MaxCallBytes)...),
		"a trait that is no JSON": spoil(func(c *attribution.Call) { c.Traits[0].Value = jsontext.Value("{" + hostile) }),
		"integrations no object":  spoil(func(c *attribution.Call) { c.Integrations = jsontext.Value(`"` + hostile + `"`) }),
		"no message id":           spoil(func(c *attribution.Call) { c.MessageID = "" }),
		"no timestamp":            spoil(func(c *attribution.Call) { c.Timestamp = time.Time{} }),
		"no user":                 spoil(func(c *attribution.Call) { c.UserID = "" }),
		"a group without its id":  spoil(func(c *attribution.Call) { c.Kind = attribution.Group }),
		"a track without event":   spoil(func(c *attribution.Call) { c.Kind = attribution.Track }),
		"a call of no kind":       spoil(func(c *attribution.Call) { c.Kind = attribution.Track + 1 }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, to := serve(t, func(_ http.ResponseWriter, r *http.Request) {
				t.Errorf("a request was made, with %v", messageIDs(t, r))
			}, segment.Options{})
			check(t, client.Send(t.Context(), to, batch), segment.Result{Class: segment.Invalid})
		})
	}
}

func TestBatchAtTheLimitsIsOneRequest(t *testing.T) {
	t.Parallel()
	full := calls(16)
	payload := 0
	for i := range full {
		room := segment.MaxCallBytes
		if i == len(full)-1 {
			room = segment.MaxBatchPayload - payload - 1
		}
		for full[i].Traits[0].Value = jsontext.Value(`""`); len(full[i].AppendJSON(nil)) < room; {
			missing := room - len(full[i].AppendJSON(nil))
			full[i].Traits[0].Value = jsontext.Value(`"` + strings.Repeat("x", len(full[i].Traits[0].Value)-2+missing) + `"`)
		}
		payload += len(full[i].AppendJSON(nil)) + 1
	}
	if payload != segment.MaxBatchPayload {
		t.Fatalf("the batch has %d bytes, want %d", payload, segment.MaxBatchPayload)
	}
	for name, batch := range map[string][]attribution.Call{"bytes": full, "calls": calls(segment.MaxBatchCalls)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, to := serve(t, segment.NewCapture(segment.CaptureOptions{}).ServeHTTP, segment.Options{})
			check(t, client.Send(t.Context(), to, batch), segment.Result{Class: segment.Accepted, Status: 200})
		})
	}
}

func TestSecondRequestOfAnAttemptIsRefused(t *testing.T) {
	t.Parallel()
	sent := 0
	attempt, _ := segment.NewAttempt(roundTripper(func(*http.Request) (*http.Response, error) {
		sent++
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	}))
	for i, want := range []bool{true, false, false} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://receiver.test/v1/batch", strings.NewReader(`{"messageId":"m","batch":[],"context":null}`))
		res, err := attempt.RoundTrip(r)
		if res != nil {
			_ = res.Body.Close()
		}
		if got := err == nil; got != want {
			t.Errorf("request %d: passed %v, want %v", i+1, got, want)
		}
	}
	if sent != 1 {
		t.Errorf("%d requests were sent, want 1", sent)
	}
}

// An analytics-go whose requests look otherwise sends nothing.
func TestEnvelopeThatIsNotKnownIsInvalid(t *testing.T) {
	t.Parallel()
	for _, body := range []string{``, `{"messageId":"m","messages":[],"context":null}`, `],"context":null,"batch":[`} {
		attempt, outcome := segment.NewAttempt(roundTripper(func(*http.Request) (*http.Response, error) {
			t.Errorf("%s: a request was made", body)
			return nil, errors.New("not wanted")
		}))
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://receiver.test/v1/batch", strings.NewReader(body))
		if res, err := attempt.RoundTrip(r); err == nil {
			_ = res.Body.Close()
			t.Errorf("%s: no error", body)
		}
		check(t, outcome(), segment.Result{Class: segment.Invalid})
	}
}

func TestOptionsReportAllFaults(t *testing.T) {
	t.Parallel()
	_, err := segment.New(segment.Options{Timeout: 10 * time.Second, ResponseHeaderTimeout: -1, MaxConnsPerHost: -1})
	for _, field := range []string{"Timeout", "ResponseHeaderTimeout", "MaxConnsPerHost"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("got %v, want %s named", err, field)
		}
	}
}
