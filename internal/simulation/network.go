package simulation

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// link is a process's network: it can be cut for a moment or for good, and it can
// stand still.
type link struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu    sync.Mutex // never held across a wait
	lost  bool
	still chan struct{} // not nil while it stands still; closed when it goes on
	open  map[*conn]struct{}
}

var errLost = errors.New("the network is lost")

func newLink(dial func(ctx context.Context, network, address string) (net.Conn, error)) *link {
	return &link{dial: dial, open: make(map[*conn]struct{})}
}

// DialContext connects, when the network does not stand still.
func (l *link) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if err := l.pass(ctx); err != nil {
		return nil, err
	}
	inner, err := l.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, link: l, closed: make(chan struct{})}
	l.mu.Lock()
	lost := l.lost
	if !lost {
		l.open[c] = struct{}{}
	}
	l.mu.Unlock()
	if lost {
		_ = inner.Close()
		return nil, errLost
	}
	return c, nil
}

// pass waits while the network stands still. It fails when it is lost, or ctx ends.
func (l *link) pass(ctx context.Context) error {
	for {
		lost, still := l.state()
		switch {
		case lost:
			return errLost
		case still == nil:
			return nil
		}
		select {
		case <-still:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *link) state() (lost bool, still chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost, l.still
}

// cut ends all connections; with forGood there are no others.
func (l *link) cut(forGood bool) {
	l.mu.Lock()
	l.lost = l.lost || forGood
	if forGood && l.still != nil {
		close(l.still)
		l.still = nil
	}
	open := make([]*conn, 0, len(l.open))
	for c := range l.open {
		open = append(open, c)
	}
	l.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

// freeze makes the network stand still.
func (l *link) freeze() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.still == nil && !l.lost {
		l.still = make(chan struct{})
	}
}

// thaw makes it go on.
func (l *link) thaw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.still != nil {
		close(l.still)
		l.still = nil
	}
}

// conn is a connection of a link. What comes in while the link stands still is
// kept for later; what is to go out waits.
type conn struct {
	net.Conn
	link   *link
	once   sync.Once
	closed chan struct{}

	mu          sync.Mutex
	read, write deadline
	kept        []byte // read, and not yet handed on
	keptErr     error
}

// deadline is a time, and a channel that is closed when it changes.
type deadline struct {
	at      time.Time
	changed chan struct{}
}

func (d *deadline) set(at time.Time) {
	if d.changed != nil {
		close(d.changed)
	}
	d.at, d.changed = at, make(chan struct{})
}

// timeoutError is what a passed deadline gives.
type timeoutError struct{}

func (timeoutError) Error() string { return "i/o timeout" }

// Timeout implements net.Error.
func (timeoutError) Timeout() bool { return true }

// Temporary implements net.Error.
func (timeoutError) Temporary() bool { return true }

// wait waits while the link stands still, until the deadline or the end of the
// connection.
func (c *conn) wait(d *deadline) error {
	for {
		lost, still := c.link.state()
		if lost {
			return errLost
		}
		if still == nil {
			return nil
		}
		c.mu.Lock()
		if d.changed == nil {
			d.changed = make(chan struct{})
		}
		at, changed := d.at, d.changed
		c.mu.Unlock()
		if err := waitUntil(at, still, changed, c.closed); err != nil {
			return err
		}
	}
}

func waitUntil(at time.Time, still, changed, closed chan struct{}) error {
	var passed <-chan time.Time
	if !at.IsZero() {
		timer := time.NewTimer(time.Until(at))
		defer timer.Stop()
		passed = timer.C
	}
	select {
	case <-still:
	case <-changed:
	case <-closed:
		return net.ErrClosed
	case <-passed:
		return timeoutError{}
	}
	return nil
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	c.mu.Lock()
	waiting := len(c.kept) > 0 || c.keptErr != nil
	c.mu.Unlock()
	if !waiting {
		n, err := c.Conn.Read(b)
		if _, still := c.link.state(); still == nil {
			return n, err
		}
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() && n == 0 {
			return 0, err
		}
		c.mu.Lock()
		c.kept, c.keptErr = append(c.kept, b[:n]...), err
		c.mu.Unlock()
	}
	if err := c.wait(&c.read); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := copy(b, c.kept)
	if c.kept = c.kept[n:]; len(c.kept) > 0 {
		return n, nil
	}
	err := c.keptErr
	c.keptErr = nil
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if err := c.wait(&c.write); err != nil {
		return 0, err
	}
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// linger is how long the broker's side of a closed connection stays open: longer
// than any of the group's timeouts.
const linger = 2 * time.Minute

// Close implements net.Conn. The broker's side stays open for a while, and what
// it writes is dropped: kfake starts a member's session when the answer to its
// joining was written, so that one whose connection ended before would stay in
// the group for ever. In Kafka the session runs whatever becomes of connections.
func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.link.mu.Lock()
		delete(c.link.open, c)
		c.link.mu.Unlock()
		// Whoever is in a read or a write wakes up, and finds it closed.
		_ = c.Conn.SetDeadline(time.Unix(1, 0))
		_ = c.Conn.SetDeadline(time.Time{})
		go func() {
			timer := time.AfterFunc(linger, func() { _ = c.Conn.Close() })
			defer timer.Stop()
			_, _ = io.Copy(io.Discard, c.Conn) // it ends with the broker at the latest
			_ = c.Conn.Close()
		}()
	})
	return nil
}

func (c *conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(at time.Time) error {
	c.mu.Lock()
	c.read.set(at)
	c.write.set(at)
	c.mu.Unlock()
	if c.isClosed() {
		return net.ErrClosed
	}
	return c.Conn.SetDeadline(at)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(at time.Time) error {
	c.mu.Lock()
	c.read.set(at)
	c.mu.Unlock()
	if c.isClosed() {
		return net.ErrClosed
	}
	return c.Conn.SetReadDeadline(at)
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(at time.Time) error {
	c.mu.Lock()
	c.write.set(at)
	c.mu.Unlock()
	if c.isClosed() {
		return net.ErrClosed
	}
	return c.Conn.SetWriteDeadline(at)
}
