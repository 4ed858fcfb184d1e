package chaos

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// listed is a case of the list of bad inputs: bytes as they go over the wire, and
// the answers that are right; 0 is a connection that was closed without any.
type listed struct {
	name   string
	pieces []string // with a second between two
	end    bool     // nothing more comes: the side is closed
	right  []int
	event  string // what stands in the log if it was accepted
}

// Answers that are right for what is a sender's fault.
var refusals = []int{400, 401, 408, 411, 413, 415, 431}

// listedCases are the cases that a client library does not send. All others of the
// list are classes of variants.
func listedCases(tenant string, good func() []byte) []listed {
	token := "Authorization: Bearer token-of-" + tenant + "\r\n"
	head := func(method, path, headers string) string {
		return method + " " + path + " HTTP/1.1\r\nHost: ingress\r\n" + headers
	}
	path := webhookRoute + tenant
	kind := "Content-Type: application/json\r\n"
	whole := func(headers string, body []byte) string {
		return head("POST", path, headers) + kind + "Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + string(body)
	}
	chunks := func(body []byte) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body) }
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(make([]byte, 64<<20)) // into memory
	_ = z.Close()
	one := func(name string, right []int, raw string) listed {
		return listed{name: name, right: right, pieces: []string{raw}}
	}
	taken := func(name string, right []int, form func(body []byte) string) listed {
		body := good()
		return listed{name: name, right: right, pieces: []string{form(body)}, event: string(body)}
	}
	all := []listed{
		one("1 no credentials", []int{401}, whole("", good())),
		one("2 wrong token, same length", []int{401}, whole("Authorization: Bearer "+strings.Repeat("x", len("token-of-"+tenant))+"\r\n", good())),
		one("2 wrong token, other length", []int{401}, whole("Authorization: Bearer x\r\n", good())),
		one("3 unknown tenant", []int{401}, strings.Replace(whole(token, good()), path, webhookRoute+"nobody", 1)),
		one("5 stale signature", []int{401}, whole("Webhook-Id: a\r\nWebhook-Timestamp: 1\r\nWebhook-Signature: v1,AAAA\r\n", good())),
		one("8 signature of 64 KiB", []int{401, 431, 0}, whole("Webhook-Id: a\r\nWebhook-Timestamp: 1\r\nWebhook-Signature: v1,"+strings.Repeat("A", 64<<10)+"\r\n", good())),
		one("9 GET", []int{405}, head("GET", path, token)+"\r\n"),
		one("9 TRACE", []int{405}, head("TRACE", path, token)+"\r\n"),
		one("10 wrong type", []int{415}, strings.Replace(whole(token, good()), kind, "Content-Type: text/plain\r\n", 1)),
		one("11 empty", []int{400, 411}, whole(token, nil)),
		one("12 one byte too many, declared", []int{413}, head("POST", path, token)+kind+"Content-Length: "+strconv.Itoa(maxEvent+1)+"\r\n\r\n"),
		one("13 chunks beyond the limit", []int{413, 0}, head("POST", path, token)+kind+"Transfer-Encoding: chunked\r\n\r\n"+chunks(bytes.Repeat([]byte(" "), maxEvent+1))),
		one("17 two lengths", []int{400}, head("POST", path, token)+kind+"Content-Length: 3\r\nContent-Length: 4\r\n\r\n{}{}"),
		one("17 length +5", []int{400}, head("POST", path, token)+kind+"Content-Length: +5\r\n\r\n{}{}x"),
		one("17 bad chunk size", []int{400}, head("POST", path, token)+kind+"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
		one("17 CR in a header", []int{400}, head("POST", path, "X-A: b\rc\r\n"+token)+kind+"Content-Length: 2\r\n\r\n{}"),
		one("17 no host", []int{400}, "POST "+path+" HTTP/1.1\r\n"+token+kind+"Content-Length: 2\r\n\r\n{}"),
		one("17 unknown transfer encoding", []int{501, 400}, head("POST", path, token)+kind+"Transfer-Encoding: xchunked\r\n\r\n"),
		taken("17 length and chunks", []int{202, 400}, func(body []byte) string {
			return head("POST", path, token) + kind + "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(body)
		}),
		one("18 gzip bomb", []int{415}, head("POST", path, token)+kind+"Content-Encoding: gzip\r\nContent-Length: "+strconv.Itoa(zipped.Len())+"\r\n\r\n"+zipped.String()),
		one("19 depth 100,000", []int{400}, whole(token, bytes.Repeat([]byte("["), 100_000))),
		one("20 trailing garbage", []int{400}, whole(token, append(good(), "{}"...))),
		one("21 top-level array", []int{400}, whole(token, []byte("[]"))),
		one("21 top-level string", []int{400}, whole(token, []byte(`"a"`))),
		one("21 top-level null", []int{400}, whole(token, []byte("null"))),
		one("35 no such path", []int{404}, head("POST", "//v1/../x", token)+"Content-Length: 2\r\n\r\n{}"),
		one("35 absolute URI of another host", []int{404, 400, 401}, head("POST", "http://other.example/v1/nothing", token)+"Content-Length: 2\r\n\r\n{}"),
		one("35 junk host", []int{400}, "POST "+path+" HTTP/1.1\r\nHost: a b<>\r\n"+token+"Content-Length: 2\r\n\r\n{}"),
		one("35 no HTTP at all", []int{400, 0}, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
		one("35 HTTP/3.7", []int{505, 400}, "POST / HTTP/3.7\r\nHost: a\r\n\r\n"),
		{name: "14 half a body, then the end", right: append([]int{0}, refusals...), end: true, pieces: []string{head("POST", path, token) + kind + "Content-Length: 5000\r\n\r\n{\"a\":"}},
		{name: "14 half a body, then nothing", right: append([]int{0}, refusals...), pieces: []string{head("POST", path, token) + kind + "Content-Length: 5000\r\n\r\n{\"a\":"}},
		taken("35 good", []int{202}, func(body []byte) string { return whole(token, body) }),
	}
	for i := range 4 { // the ingress closes what is slow: 5 s for a header, 15 s for a body
		slow := listed{name: fmt.Sprintf("15 slow header %d", i), right: append([]int{0}, refusals...)}
		slow.pieces = append(strings.Split(strings.Repeat("P@O@S@T@", 3), "@"), slow.pieces...)
		all = append(all, slow)
		slow = listed{name: fmt.Sprintf("16 slow body %d", i), right: append([]int{0}, refusals...), pieces: []string{head("POST", path, token) + kind + "Content-Length: 100\r\n\r\n"}}
		for range 20 {
			slow.pieces = append(slow.pieces, "{")
		}
		all = append(all, slow)
	}
	return all
}

// postList4g sends the cases of the list, those that are slow beside the others.
func (n *numbers) postList4g(ctx context.Context) {
	next := n.o.Variants + warmRounds*len(makers)
	tenant := tenantName(n.o.bad()[0])
	cases := listedCases(tenant, func() []byte {
		m := making{variant: &variant{}, i: next, r: seeded(n.o.Seed, next)}
		next++
		return m.good(m.i)
	})
	n.bad.list = len(cases)
	var running sync.WaitGroup
	for i := range cases {
		c := &cases[i]
		send := func() {
			at := time.Now().UnixNano()
			status, got := c.send(ctx, n.listen)
			if ctx.Err() != nil {
				return
			}
			n.noteAnswer(c.name, at, status, got, tenant, webhookSource, [][]byte{[]byte(c.event)})
			if !slices.Contains(c.right, status) {
				n.bad.fault("%s: %d, want one of %v", c.name, status, c.right)
			}
		}
		if len(c.pieces) > 1 || c.event == "" && !c.end && strings.Contains(c.name, "nothing") {
			running.Go(send)
			continue
		}
		send()
	}
	running.Wait()
}

// send writes the bytes and reads the answer.
func (c *listed) send(ctx context.Context, to string) (int, receipt) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		return -1, receipt{}
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(badPatience))
	var writing sync.WaitGroup
	defer writing.Wait()
	ended := make(chan struct{})
	defer close(ended)
	writing.Go(func() {
		for i, piece := range c.pieces {
			if i > 0 {
				timer := time.NewTimer(time.Second)
				select {
				case <-timer.C:
				case <-ended:
					timer.Stop()
					return
				case <-ctx.Done():
					timer.Stop()
					_ = conn.Close()
					return
				}
			}
			if _, err := conn.Write([]byte(piece)); err != nil {
				return
			}
		}
		if tcp, ok := conn.(*net.TCPConn); ok && c.end {
			_ = tcp.CloseWrite()
		}
	})
	method, _, _ := strings.Cut(c.pieces[0], " ")
	answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return 0, receipt{}
	}
	defer func() { _ = answer.Body.Close() }()
	status, got, err := readReceipt(answer)
	if err != nil {
		return 0, receipt{}
	}
	return status, got
}
