package ingress_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/ingress"
)

// serve serves with the settings of NewServer until the test ends.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.Config = ingress.NewServer(h)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// exchange writes bytes to a connection and returns the status of the answer and
// whether the connection was closed after it.
func exchange(t *testing.T, address, request string) (status int, closed bool) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Close
}

// TestRequestsOnTheWire has what the server or its reading of a body decides.
func TestRequestsOnTheWire(t *testing.T) {
	t.Parallel()
	const line = "POST " + webhookPath + " HTTP/1.1\r\n"
	const head = line + "Host: x\r\nX-Refiner-Token: " + token + "\r\n"
	const object = `{"remote_id":"user-17"}`
	const chunked = "Transfer-Encoding: chunked\r\n\r\n17\r\n" + object + "\r\n0\r\n\r\n"
	for name, c := range map[string]struct {
		request string
		status  int
		closed  bool
		want    []string // in the log
	}{
		"length":                {head + "Content-Length: 23\r\n\r\n" + object, 202, false, []string{object}},
		"chunks":                {head + chunked, 202, false, []string{object}},
		"a sender who hangs up": {head + "Content-Length: 23\r\nConnection: close\r\n\r\n" + object, 202, true, []string{object}},
		"neither":               {head + "\r\n", 411, false, nil},
		"length 0":              {head + "Content-Length: 0\r\n\r\n", 400, false, nil},
		"no chunk":              {head + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, false, nil},
		"half the body":         {head + "Content-Length: 23\r\n\r\n" + object[:10], 400, false, nil},
		"bad chunk size":        {head + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, true, nil},
		"chunks over the bound": {head + "Transfer-Encoding: chunked\r\n\r\n40001\r\n" + strings.Repeat("x", 0x40001) + "\r\n0\r\n\r\n", 413, true, nil},
		"length over the bound": {head + "Content-Length: 99999999\r\n\r\n", 413, true, nil},
		"length and chunks": {head + "Content-Length: 5\r\n" + chunked, 202, false, // chunks win, as net/http has it
			[]string{object}},
		"two lengths":            {head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxxx", 400, true, nil},
		"length with a sign":     {head + "Content-Length: +5\r\n\r\nxxxxx", 400, true, nil},
		"unknown coding":         {head + "Transfer-Encoding: xchunked\r\n\r\n", 501, true, nil},
		"carriage return inside": {head + "X: a\rb\r\n\r\n", 400, true, nil},
		"no host":                {line + "\r\n", 400, true, nil},
		"header of 64 KiB":       {head + "Webhook-Signature: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", 431, true, nil},
		"junk as host":           {line + "Host: ]<>\r\nX-Refiner-Token: " + token + "\r\n\r\n", 400, true, nil},
		"absolute URI":           {strings.Replace(head, "POST ", "POST http://other.example", 1) + "Content-Length: 23\r\n\r\n" + object, 202, false, []string{object}},
		"401 before the body":    {line + "Host: x\r\nExpect: 100-continue\r\nContent-Length: 23\r\n\r\n", 401, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &fakeLog{}
			status, closed := exchange(t, serve(t, newHandler(t, log, ingress.Options{})), c.request)
			if status != c.status || closed != c.closed {
				t.Errorf("got %d, closed %v, want %d, %v", status, closed, c.status, c.closed)
			}
			if diff := cmp.Diff(c.want, log.values(), cmp.Transformer("nil", func(s []string) int { return len(s) })); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		})
	}
}

func TestServerBoundsSlowSenders(t *testing.T) {
	t.Parallel()
	s := ingress.NewServer(http.NotFoundHandler())
	got := []time.Duration{s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout, s.IdleTimeout}
	want := []time.Duration{5 * time.Second, 15 * time.Second, 30 * time.Second, 60 * time.Second}
	if diff := cmp.Diff(want, got); diff != "" || s.MaxHeaderBytes != 16<<10 {
		t.Errorf("header bytes %d, times (-want +got):\n%s", s.MaxHeaderBytes, diff)
	}
	if s.ReadTimeout+ingress.DefaultPublishTimeout >= s.WriteTimeout {
		t.Error("an answer may come too late to be written")
	}
}
