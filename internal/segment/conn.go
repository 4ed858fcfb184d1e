package segment

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"time"
)

// handshakeTimeout bounds a TLS handshake.
const handshakeTimeout = 5 * time.Second

// dialer makes connections.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// overTLS makes TLS of a dialer's connections, as net/http would.
func overTLS(dial dialer, config *tls.Config) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		plain, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		own := config.Clone()
		if own == nil {
			own = new(tls.Config)
		}
		if own.ServerName == "" {
			own.ServerName, _, _ = net.SplitHostPort(address)
		}
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		c := tls.Client(plain, own)
		if err := c.HandshakeContext(ctx); err != nil {
			_ = plain.Close()
			return nil, err
		}
		return c, nil
	}
}

// writingBodies makes a dialer's connections conns.
func writingBodies(dial dialer) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		made, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return conn{made}, nil
	}
}

// conn writes what a connection's buffer has no room for of a batch as it stands, where
// net/http would copy it through a buffer that it makes each time.
type conn struct{ net.Conn }

// ReadFrom implements io.ReaderFrom.
func (c conn) ReadFrom(from io.Reader) (int64, error) {
	if l, ok := from.(*io.LimitedReader); ok {
		if r, ok := l.R.(*reader); ok && int64(r.Len()) <= l.N {
			return r.WriteTo(c.Conn)
		}
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, from)
}
