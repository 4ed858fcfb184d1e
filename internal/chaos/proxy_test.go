package chaos_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/chaos"
)

// pipes is a listener without a network: connect gives a client.
type pipes struct {
	clients chan net.Conn
	closed  chan struct{}
}

func newPipes() *pipes {
	return &pipes{clients: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.clients:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{Port: 1} }

func (p *pipes) connect() (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.clients <- server:
		return client, nil
	case <-p.closed:
		return nil, errors.New("connection refused")
	}
}

// world is a proxy before a server that sends back all it gets.
type world struct {
	t        *testing.T
	proxy    *chaos.Proxy
	listener *pipes // the last one
	listens  int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t}
	var err error
	w.proxy, err = chaos.NewProxy(func() (net.Listener, error) {
		w.listens++
		w.listener = newPipes()
		return w.listener, nil
	}, func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			_, _ = io.Copy(far, far)
			_ = far.Close()
		}()
		return near, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) connect() net.Conn {
	w.t.Helper()
	c, err := w.listener.connect()
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// echo sends and reads back, and returns what came and how long it took.
func echo(c net.Conn, sent []byte) ([]byte, time.Duration, error) {
	begun := time.Now()
	go func() { _, _ = c.Write(sent) }()
	got := make([]byte, len(sent))
	n, err := io.ReadFull(c, got)
	return got[:n], time.Since(begun), err
}

func TestProxyCarriesEverythingAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.proxy.Close()
		c := w.connect()
		sent := bytes.Repeat([]byte("0123456789"), 10_000)
		got, took, err := echo(c, sent)
		if err != nil || !bytes.Equal(got, sent) || took != 0 {
			t.Errorf("%d of %d bytes came back after %v: %v", len(got), len(sent), took, err)
		}
	})
}

func TestProxyDelaysEachDirection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.proxy.Close()
		w.proxy.Set(chaos.Toxics{Up: chaos.Toxic{Latency: 300 * time.Millisecond}, Down: chaos.Toxic{Latency: 200 * time.Millisecond}})
		if _, took, err := echo(w.connect(), []byte("hello")); err != nil || took != 500*time.Millisecond {
			t.Errorf("the echo took %v (%v), want 500ms", took, err)
		}
		w.proxy.Set(chaos.Toxics{Up: chaos.Toxic{Latency: time.Second, Jitter: 100 * time.Millisecond}})
		if _, took, err := echo(w.connect(), []byte("hello")); err != nil || took < 900*time.Millisecond || took > 1100*time.Millisecond {
			t.Errorf("the echo took %v (%v), want 0.9s to 1.1s", took, err)
		}
	})
}

func TestProxyBoundsTheRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.proxy.Close()
		w.proxy.Set(chaos.Toxics{Down: chaos.Toxic{Rate: 1000}})
		if _, took, err := echo(w.connect(), make([]byte, 5000)); err != nil || took != 5*time.Second {
			t.Errorf("5,000 bytes took %v (%v), want 5s", took, err)
		}
	})
}

func TestStallHoldsWhatIsUnderWayUntilItEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, toxics := range map[string]chaos.Toxics{
			"up": {Up: chaos.Toxic{Stall: true}}, "down": {Down: chaos.Toxic{Stall: true}},
		} {
			w := newWorld(t)
			w.proxy.Set(toxics)
			time.AfterFunc(time.Hour, func() { w.proxy.Set(chaos.Toxics{}) })
			if got, took, err := echo(w.connect(), []byte("hello")); err != nil || string(got) != "hello" || took != time.Hour {
				t.Errorf("%s: %q came back after %v (%v), want all of it after an hour", name, got, took, err)
			}
			w.proxy.Close()
		}
	})
}

// A request that its sender gave up must not arrive when the link is whole again.
func TestStalledBytesOfAClosedConnectionAreLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		arrived := 0
		p := newPipes()
		proxy, err := chaos.NewProxy(func() (net.Listener, error) { return p, nil }, func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				b, _ := io.ReadAll(far)
				arrived += len(b)
			}()
			return near, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		proxy.Set(chaos.Toxics{Up: chaos.Toxic{Stall: true}})
		c, err := p.connect()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		synctest.Wait()
		proxy.Set(chaos.Toxics{})
		synctest.Wait()
		proxy.Close()
		if arrived != 0 {
			t.Errorf("%d bytes arrived after their sender had closed the connection", arrived)
		}
	})
}

func TestResetAfterPassesThatManyBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			toxics chaos.Toxics
			came   int
		}{
			{chaos.Toxics{Up: chaos.Toxic{ResetAfter: 70}}, 0}, // what came of it is reset as well
			{chaos.Toxics{Down: chaos.Toxic{ResetAfter: 70}}, 70},
		} {
			w := newWorld(t)
			w.proxy.Set(c.toxics)
			got, _, err := echo(w.connect(), make([]byte, 100))
			if err == nil || len(got) < c.came || len(got) > 70 {
				t.Errorf("%+v: %d bytes came back, error %v; want %d to 70 and an error", c.toxics, len(got), err, c.came)
			}
			w.proxy.Close()
		}
	})
}

func TestCutResetsAndRefuseTakesNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.proxy.Close()
		c := w.connect()
		if err := w.proxy.Refuse(true); err != nil {
			t.Fatal(err)
		}
		if _, err := w.listener.connect(); err == nil {
			t.Error("a proxy that refuses took a connection")
		}
		if _, _, err := echo(c, []byte("still there")); err != nil {
			t.Errorf("refusing ended a connection there was: %v", err)
		}
		w.proxy.Cut()
		if _, _, err := echo(c, []byte("x")); err == nil {
			t.Error("a connection outlived the cut")
		}
		if err := w.proxy.Refuse(false); err != nil || w.listens != 2 {
			t.Fatalf("listened %d times, %v; want again", w.listens, err)
		}
		if _, _, err := echo(w.connect(), []byte("again")); err != nil {
			t.Errorf("after refusing: %v", err)
		}
	})
}
