package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Toxic is what is wrong with one direction of a link; the zero value is
// nothing.
type Toxic struct {
	// Stall lets nothing through. What was under way goes on when the stall ends,
	// as TCP sends it again; on a connection that its sender has closed meanwhile
	// it is lost, so that no request arrives long after its sender gave it up.
	Stall bool
	// Latency, give or take Jitter, is added to everything.
	Latency, Jitter time.Duration
	// Rate bounds the bytes a second; 0 does not.
	Rate int
	// ResetAfter resets each new connection after that many bytes; 0 does not.
	ResetAfter int64
}

// Toxics is what is wrong with a link: Up from the client to the server, Down
// back.
type Toxics struct{ Up, Down Toxic }

// Proxy is a link between clients and one server, which can be broken in many
// ways while it is in use.
type Proxy struct {
	listen  func() (net.Listener, error)
	dial    func(context.Context) (net.Conn, error)
	addr    string
	running sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while it refuses
	toxics   Toxics
	changed  chan struct{} // closed when the toxics change
	watch    Watch
	commits  *commitRecorder // who writes requests for commits down, and whose they are
	client   string
	kafka    bool // it understands Kafka's protocol
	pairs    map[*pair]struct{}
	closed   bool
}

// NewProxy serves clients that come to what listen gives, each over a connection
// that dial makes. After a time of refusing it listens again, and at the same
// address. Close ends it.
func NewProxy(listen func() (net.Listener, error), dial func(context.Context) (net.Conn, error)) (*Proxy, error) {
	p := &Proxy{listen: listen, dial: dial, changed: make(chan struct{}), pairs: make(map[*pair]struct{})}
	return p, p.Refuse(false)
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.addr }

// Set changes what is wrong with the link, also for connections there are.
func (p *Proxy) Set(t Toxics) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.toxics = t
	close(p.changed)
	p.changed = make(chan struct{})
}

// Refuse makes new connections fail as if nobody listened, or no longer.
func (p *Proxy) Refuse(refuse bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
	case refuse && p.listener != nil:
		_ = p.listener.Close()
		p.listener = nil
	case !refuse && p.listener == nil:
		l, err := p.listen()
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		p.listener, p.addr = l, l.Addr().String()
		p.running.Go(func() { p.serve(l) })
	}
	return nil
}

// Cut resets all connections there are.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pairs {
		c.abort()
	}
}

// Close ends the proxy and returns when its goroutines have.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	if p.listener != nil {
		_ = p.listener.Close()
	}
	p.mu.Unlock()
	p.Cut()
	p.running.Wait()
}

func (p *Proxy) state() (Toxics, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.toxics, p.changed
}

func (p *Proxy) serve(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.link(client) })
	}
}

// link connects a client to the server until either is done.
func (p *Proxy) link(client net.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	server, err := p.dial(ctx)
	cancel()
	if err != nil {
		reset(client)
		return
	}
	c := &pair{proxy: p, client: client, server: server, done: make(chan struct{})}
	p.mu.Lock()
	closed := p.closed
	if p.kafka {
		c.asked = newAsked()
	}
	p.pairs[c] = struct{}{}
	p.mu.Unlock()
	if closed {
		c.abort()
	}
	var both sync.WaitGroup
	both.Go(func() { c.pipe(client, server, true) })
	both.Go(func() { c.pipe(server, client, false) })
	both.Wait()
	c.abort()
	if c.asked != nil {
		c.asked.end()
	}
	p.mu.Lock()
	delete(p.pairs, c)
	p.mu.Unlock()
}

// pair is a client's connection and the one to the server.
type pair struct {
	proxy          *Proxy
	client, server net.Conn
	asked          *asked // nil where it is not Kafka's protocol
	once           sync.Once
	done           chan struct{}
}

// abort resets both connections.
func (c *pair) abort() {
	c.once.Do(func() {
		close(c.done)
		reset(c.client)
		reset(c.server)
	})
}

// piece is what was read at once, and when it is to be written.
type piece struct {
	data []byte
	due  time.Time
}

// Bounds of what a direction holds: pieces × bytes.
const (
	pieces     = 64
	pieceBytes = 16 << 10
)

// pipe carries one direction until its source is closed or the pair is over.
func (c *pair) pipe(from, to net.Conn, up bool) {
	side := func(t Toxics) Toxic {
		if up {
			return t.Up
		}
		return t.Down
	}
	var seen frames
	held := make(chan piece, pieces)
	eof := make(chan struct{}) // closed when the source is
	c.proxy.running.Go(func() {
		defer close(held)
		defer close(eof)
		for {
			data := make([]byte, pieceBytes)
			n, err := from.Read(data)
			if n > 0 {
				state, _ := c.proxy.state()
				t := side(state)
				delay := t.Latency
				if t.Jitter > 0 {
					delay += rand.N(2*t.Jitter) - t.Jitter
				}
				select {
				case held <- piece{data[:n], time.Now().Add(delay)}:
				case <-c.done:
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					c.abort()
				}
				return
			}
		}
	})
	written := int64(0)
	for p := range held {
		if !c.wait(time.Until(p.due)) || !c.pass(eof, side) {
			c.abort()
			break
		}
		state, _ := c.proxy.state()
		t := side(state)
		if t.Rate > 0 && !c.wait(time.Duration(len(p.data))*time.Second/time.Duration(t.Rate)) {
			break
		}
		passes, cut, after := c.sighted(up, &seen, p.data)
		p.data = p.data[:passes]
		if t.ResetAfter > 0 && written+int64(len(p.data)) >= t.ResetAfter {
			p.data, cut = p.data[:max(0, t.ResetAfter-written)], true
		}
		var err error
		if len(p.data) > 0 {
			var n int
			n, err = to.Write(p.data)
			written += int64(n)
		}
		for _, do := range after {
			do()
		}
		if err != nil || cut {
			c.abort()
			break
		}
	}
	for range held { // until the reader has ended
		continue
	}
	select {
	case <-c.done:
	default:
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		} else {
			c.abort()
		}
	}
}

// pass waits while the direction is stalled. It reports false when nothing is to
// be sent any more.
func (c *pair) pass(eof <-chan struct{}, side func(Toxics) Toxic) bool {
	for {
		state, changed := c.proxy.state()
		if !side(state).Stall {
			return true
		}
		select {
		case <-changed:
		case <-eof:
			return false
		case <-c.done:
			return false
		}
	}
}

// wait waits, and reports false when the pair is over.
func (c *pair) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.done:
		return false
	}
}

// reset closes a connection without the usual farewell.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
