package ingress_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/ingress"
	"refinersource/internal/queue"
)

// pipes is a listener whose connections are pipes, so that they can be in a bubble.
type pipes struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newPipes() *pipes { return &pipes{accepted: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accepted:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.accepted <- server
	return client
}

// TestSlowSendersTakeABoundedNumberOfBytes: of 512 connections that each announce the
// largest event and send one byte of it, so many get memory as MaxInFlightBytes has
// room for, the others are refused at once, and when the time for reading is over all
// is given back.
func TestSlowSendersTakeABoundedNumberOfBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const connections = 512
		h := newHandler(t, &fakeLog{}, ingress.Options{})
		var entered, underWay atomic.Int64
		listener := newPipes()
		server := ingress.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			entered.Add(1)
			underWay.Add(1)
			defer underWay.Add(-1)
			h.ServeHTTP(w, r)
		}))
		var serving sync.WaitGroup
		serving.Go(func() {
			if err := server.Serve(listener); err != http.ErrServerClosed {
				t.Error(err)
			}
		})
		for range connections {
			c := listener.dial()
			serving.Go(func() {
				defer func() { _ = c.Close() }()
				_, _ = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nX-Refiner-Token: %s\r\nContent-Length: %d\r\n\r\n{",
					webhookPath, token, ingress.DefaultMaxEventBytes)
				_, _ = io.Copy(io.Discard, c)
			})
		}
		synctest.Wait()
		const room = ingress.DefaultMaxInFlightBytes / ingress.DefaultMaxEventBytes
		if entered.Load() != connections || underWay.Load() != room {
			t.Errorf("%d requests came and %d have memory, want %d and %d", entered.Load(), underWay.Load(), connections, room)
		}
		if w := post(t, h, webhookPath, webhook); w.Code != http.StatusServiceUnavailable {
			t.Errorf("one more request: got %d, want 503", w.Code)
		}
		time.Sleep(server.ReadTimeout + time.Second)
		synctest.Wait()
		if underWay.Load() != 0 {
			t.Errorf("%d requests have memory after the time for reading", underWay.Load())
		}
		if w := post(t, h, webhookPath, webhook); w.Code != http.StatusAccepted {
			t.Errorf("a request after that: got %d, want 202", w.Code)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		serving.Wait()
	})
}

// TestEachRequestHasItsTimeForTheLog although those of one moment share a deadline.
func TestEachRequestHasItsTimeForTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const timeout = 10 * time.Second
		stuck := &fakeLog{before: func(ctx context.Context, _ queue.Record) error {
			<-ctx.Done()
			return queue.ErrUnavailable
		}}
		h := newHandler(t, stuck, ingress.Options{PublishTimeout: timeout})
		var requests sync.WaitGroup
		for range 40 {
			requests.Go(func() {
				start := time.Now()
				w := post(t, h, webhookPath, webhook)
				if took := time.Since(start); w.Code != http.StatusServiceUnavailable || took > timeout || took < timeout*99/100 {
					t.Errorf("got %d after %v, want 503 after %v or up to a hundredth less", w.Code, took, timeout)
				}
			})
			time.Sleep(33 * time.Millisecond)
		}
		requests.Wait()
	})
}
