package segment_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

// target is where pipe leads.
func target() segment.Target {
	return segment.Target{Endpoint: "http://receiver.test", WriteKey: tenant.NewSecret(writeKey)}
}

// gzipped is n zero bytes, packed.
func gzipped(n int) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(make([]byte, n))
	_ = w.Close()
	return b.String()
}

// Each answer stands as it comes over the wire; the connection is closed after it.
func TestAnswersOnTheWire(t *testing.T) {
	t.Parallel()
	accepted := segment.Result{Class: segment.Accepted, Status: 200}
	unknown := segment.Result{Class: segment.Transient, Unknown: true}
	const early = "HTTP/1.1 103 Early Hints\r\nLink: </" + hostile + ">\r\n\r\n"
	for name, tt := range map[string]struct {
		answer string
		want   segment.Result
	}{
		"no body":                       {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", accepted},
		"HTTP/1.0":                      {"HTTP/1.0 200 OK\r\n\r\nok", accepted},
		"no reason":                     {"HTTP/1.1 200\r\n\r\n", accepted},
		"201":                           {"HTTP/1.1 201 Created\r\n\r\n", segment.Result{Class: segment.Accepted, Status: 201}},
		"204":                           {"HTTP/1.1 204 No Content\r\n\r\n", segment.Result{Class: segment.Accepted, Status: 204}},
		"body cut off":                  {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"success\"", accepted},
		"chunk cut off":                 {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nx", accepted},
		"broken chunk":                  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + hostile + "\r\n", accepted},
		"gzip that is none":             {"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + hostile, accepted},
		"gzip bomb":                     {"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzipped(4<<20), accepted},
		"gzip bomb, refused":            {"HTTP/1.1 400 No\r\nContent-Encoding: gzip\r\n\r\n" + gzipped(4<<20), segment.Result{Class: segment.Refused, Status: 400}},
		"continue before":               {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", accepted},
		"a few hints before":            {strings.Repeat(early, 3) + "HTTP/1.1 200 OK\r\n\r\n", accepted},
		"a flood of hints":              {strings.Repeat(early, 2_000) + "HTTP/1.1 200 OK\r\n\r\n", unknown},
		"a flood of continues":          {strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 2_000), unknown},
		"hints and no more":             {early, unknown},
		"redirect to nowhere":           {"HTTP/1.1 302 Found\r\n\r\n", segment.Result{Class: segment.Misconfigured, Status: 302}},
		"redirect to another host":      {"HTTP/1.1 308 Moved\r\nLocation: http://elsewhere.test/\r\n\r\n", segment.Result{Class: segment.Misconfigured, Status: 308}},
		"no status":                     {"HTTP/1.1 \r\n\r\n", unknown},
		"status of letters":             {"HTTP/1.1 abc Hm\r\n\r\n", unknown},
		"negative status":               {"HTTP/1.1 -20 Hm\r\n\r\n", unknown},
		"no version":                    {"200 OK\r\n\r\n", unknown},
		"another version":               {"HTTP/3.9 200 OK\r\n\r\n", accepted},
		"empty lines":                   {"\r\n\r\n\r\n", unknown},
		"header without colon":          {"HTTP/1.1 200 OK\r\n" + hostile + "\r\n\r\n", unknown},
		"two lengths":                   {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", unknown},
		"length of letters":             {"HTTP/1.1 200 OK\r\nContent-Length: " + hostile + "\r\n\r\n", unknown},
		"unknown encoding":              {"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + hostile + "\r\n\r\n", unknown},
		"header of zero bytes":          {"HTTP/1.1 200 OK\r\nX: \x00\x00\r\n\r\n", unknown},
		"HTTP/2":                        {"\x00\x00\x12\x04\x00\x00\x00\x00\x00", unknown},
		"GOAWAY":                        {"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", unknown},
		"unavailable, later":            {"HTTP/1.1 503 No\r\nRetry-After: 3\r\n\r\n", segment.Result{Class: segment.Transient, Status: 503, Unknown: true, RetryAfter: 3 * time.Second}},
		"throttled, now":                {"HTTP/1.1 429 No\r\nRetry-After: 0\r\n\r\n", segment.Result{Class: segment.Throttled, Status: 429, RetryAfter: 100 * time.Millisecond}},
		"throttled for ever":            {"HTTP/1.1 429 No\r\nRetry-After: 1000000000\r\n\r\n", segment.Result{Class: segment.Throttled, Status: 429, RetryAfter: 300 * time.Second}},
		"throttled for less than none":  {"HTTP/1.1 429 No\r\nRetry-After: -1\r\n\r\n", segment.Result{Class: segment.Throttled, Status: 429}},
		"throttled, it does not say":    {"HTTP/1.1 429 No\r\nRetry-After: " + hostile + "\r\n\r\n", segment.Result{Class: segment.Throttled, Status: 429}},
		"throttled until a past date":   {"HTTP/1.1 429 No\r\nRetry-After: Mon, 12 Oct 2015 02:00:00 GMT\r\n\r\n", segment.Result{Class: segment.Throttled, Status: 429, RetryAfter: 100 * time.Millisecond}},
		"throttled until a future date": {"HTTP/1.1 429 No\r\nRetry-After: Mon, 12 Oct 2099 02:00:00 GMT\r\n\r\n", segment.Result{Class: segment.Throttled, Status: 429, RetryAfter: 300 * time.Second}},
		"throttled, twice over":         {"HTTP/1.1 429 No\r\nRetry-After: 3\r\nRetry-After: 200\r\n\r\n", segment.Result{Class: segment.Throttled, Status: 429, RetryAfter: 3 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newClient(t, pipe(afterRequest(tt.answer)))
			check(t, client.Send(t.Context(), target(), calls(2)), tt.want)
		})
	}
}

// What drips, or hangs, has the attempt's Timeout and no longer, and its
// outcome is unknown once the request has gone out.
func TestAnswersThatHangOnTheWire(t *testing.T) {
	t.Parallel()
	hang := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) } // until the client closes it
	for name, tt := range map[string]struct {
		serve func(net.Conn)
		tls   bool
		want  segment.Result
		took  time.Duration
	}{
		"a header that drips": {
			serve: func(c net.Conn) {
				request, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, request.Body)
				for _, err = io.WriteString(c, "HTTP/1.1 200 OK\r\nX: "); err == nil; _, err = io.WriteString(c, "x") {
					time.Sleep(time.Second)
				}
			},
			want: segment.Result{Class: segment.Transient, Unknown: true},
			took: 9 * time.Second,
		},
		"hints that drip": {
			serve: func(c net.Conn) {
				request, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, request.Body)
				for err == nil {
					time.Sleep(time.Second)
					_, err = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n")
				}
			},
			want: segment.Result{Class: segment.Transient, Unknown: true},
		},
		"a request that is not read to its end": {
			serve: func(c net.Conn) { _, _ = io.CopyN(io.Discard, c, 300); time.Sleep(time.Hour) },
			want:  segment.Result{Class: segment.Transient, Unknown: true},
			took:  9 * time.Second,
		},
		"a handshake that does not come": {
			serve: hang, tls: true,
			want: segment.Result{Class: segment.Transient},
			took: 5 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				to := target()
				if tt.tls {
					to.Endpoint = "https://receiver.test"
				}
				client := newClient(t, pipe(tt.serve))
				start := time.Now()
				check(t, client.Send(t.Context(), to, calls(3)), tt.want)
				if took := time.Since(start); took > 9*time.Second || tt.took != 0 && took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				time.Sleep(2 * time.Hour) // the server ends too
			})
		})
	}
}

func TestStrictBody(t *testing.T) {
	t.Parallel()
	accepted := segment.Result{Class: segment.Accepted, Status: 200}
	denied := segment.Result{Class: segment.Refused, Status: 200}
	long := strings.Repeat(" ", 8<<10)
	for name, tt := range map[string]struct {
		status int
		body   string
		want   segment.Result
	}{
		"success":              {200, `{"success": true}`, accepted},
		"no success":           {200, `{"success": false}`, denied},
		"and why":              {200, ` {"errors":[{"index":1,"why":"` + hostile + `"}],"success":false} ` + "\n", denied},
		"and why, not UTF-8":   {200, `{"why":"` + "\xff" + `","success":false}`, denied},
		"nothing":              {200, ``, accepted},
		"text":                 {200, hostile, accepted},
		"of no type":           {200, `{"success":"false"}`, accepted},
		"null":                 {200, `{"success":null}`, accepted},
		"another case":         {200, `{"Success":false}`, accepted},
		"deeper":               {200, `{"batch":{"success":false}}`, accepted},
		"in a list":            {200, `[{"success":false}]`, accepted},
		"cut off":              {200, `{"success":false`, accepted},
		"more behind it":       {200, `{"success":false}{"success":true}`, accepted},
		"yes and no":           {200, `{"success":false,"success":true}`, accepted},
		"at the bound":         {200, `{"success":false}` + long[17:], denied},
		"over the bound":       {200, `{"success":false}` + long[16:], accepted},
		"refused by status":    {400, `{"success":true}`, segment.Result{Class: segment.Refused, Status: 400}},
		"down, and no success": {503, `{"success":false}`, segment.Result{Class: segment.Transient, Status: 503, Unknown: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, to := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			}, segment.Options{})
			to.StrictBody = true
			check(t, client.Send(t.Context(), to, calls(2)), tt.want)
			if to.StrictBody = false; tt.status == 200 {
				check(t, client.Send(t.Context(), to, calls(2)), accepted)
			}
		})
	}
	t.Run("broken off", func(t *testing.T) {
		t.Parallel()
		client := newClient(t, pipe(afterRequest("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"success\":false}")))
		to := target()
		to.StrictBody = true
		check(t, client.Send(t.Context(), to, calls(2)), accepted)
	})
	t.Run("that does not end", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			client, to := serve(t, drip(http.StatusOK), segment.Options{})
			to.StrictBody = true
			start := time.Now()
			check(t, client.Send(t.Context(), to, calls(2)), accepted)
			if took := time.Since(start); took != segment.DefaultTimeout {
				t.Errorf("took %v, want %v", took, segment.DefaultTimeout)
			}
		})
	})
}

// resolver answers every DNS query with that code, or not at all if it is nil,
// until ctx ends.
func resolver(ctx context.Context, code *byte) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		ours, theirs := net.Pipe() // no packets, so that each message has its length before it
		context.AfterFunc(ctx, func() { _ = theirs.Close() })
		go func() {
			defer func() { _ = theirs.Close() }()
			var length uint16
			for binary.Read(theirs, binary.BigEndian, &length) == nil {
				message := make([]byte, length)
				if _, err := io.ReadFull(theirs, message); err != nil {
					return
				}
				if code == nil {
					continue
				}
				message[2] |= 0x80 // it is an answer
				message[3] = message[3]&0xf0 | *code
				if _, err := theirs.Write(append(binary.BigEndian.AppendUint16(nil, length), message...)); err != nil {
					return
				}
			}
		}()
		return ours, nil
	}}
}

// Not in virtual time: the resolver of the standard library shares its state with
// all of the process.
func TestNameThatIsNotResolved(t *testing.T) {
	t.Parallel()
	servfail, nxdomain := byte(2), byte(3)
	for name, code := range map[string]*byte{"no such name": &nxdomain, "the server fails": &servfail, "no answer": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := segment.Options{DialContext: (&net.Dialer{Resolver: resolver(t.Context(), code)}).DialContext}
			if code == nil {
				o.Timeout = 50 * time.Millisecond
			}
			check(t, newClient(t, o).Send(t.Context(), target(), calls(1)), segment.Result{Class: segment.Transient})
		})
	}
}

// certificate is one for receiver.test, signed by itself, that is good from and
// until.
func certificate(t *testing.T, from, until time.Time) (tls.Certificate, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"receiver.test"}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, parsed
}

func TestCertificatesThatAreNotGood(t *testing.T) {
	t.Parallel()
	now, day := time.Now(), 24*time.Hour
	misconfigured := segment.Result{Class: segment.Misconfigured}
	for name, tt := range map[string]struct {
		from, until time.Time
		host        string
		trusted     bool
		want        segment.Result
	}{
		"good":         {now.Add(-day), now.Add(day), "receiver.test", true, segment.Result{Class: segment.Accepted, Status: 200}},
		"expired":      {now.Add(-2 * day), now.Add(-day), "receiver.test", true, misconfigured},
		"not yet good": {now.Add(day), now.Add(2 * day), "receiver.test", true, misconfigured},
		"self-signed":  {now.Add(-day), now.Add(day), "receiver.test", false, misconfigured},
		"another host": {now.Add(-day), now.Add(day), "another.test", true, misconfigured},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, parsed := certificate(t, tt.from, tt.until)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				if tt.want.Class != segment.Accepted {
					t.Error("a request was made")
				}
			}))
			server.TLS = &tls.Config{Certificates: []tls.Certificate{ours}}
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.StartTLS()
			t.Cleanup(server.Close)
			roots := x509.NewCertPool()
			if tt.trusted {
				roots.AddCert(parsed)
			}
			client := newClient(t, segment.Options{
				TLS: &tls.Config{RootCAs: roots},
				DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
				},
			})
			to := segment.Target{Endpoint: fmt.Sprintf("https://%s", tt.host), WriteKey: tenant.NewSecret(writeKey)}
			check(t, client.Send(t.Context(), to, calls(1)), tt.want)
		})
	}
}
