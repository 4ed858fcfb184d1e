package queue_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"refinersource/internal/queue"
)

// guarded is a cluster that asks who speaks to it.
func guarded(t *testing.T, opts ...kfake.Opt) []string {
	t.Helper()
	c, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1), kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "refiner", "secret-plain"),
		kfake.Superuser("SCRAM-SHA-256", "refiner", "secret-scram-sha-256"),
		kfake.Superuser("SCRAM-SHA-512", "refiner", "secret-scram-sha-512"),
	)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()
}

func TestCredentialsOpenEveryConnection(t *testing.T) {
	t.Parallel()
	for _, mechanism := range queue.Mechanisms() {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			l := open(t, queue.Options{Brokers: guarded(t), Credentials: &queue.Credentials{
				Mechanism: mechanism, User: "refiner", Password: func() (string, error) { return "secret-" + mechanism, nil },
			}})
			useAll(t, l)
		})
	}
}

// A password that is not accepted may be about to be changed, here or at the brokers: it is
// asked for again for each connection, and the log is only unavailable meanwhile.
func TestPasswordThatIsChangedIsUsedWithoutARestart(t *testing.T) {
	t.Parallel()
	for _, mechanism := range queue.Mechanisms() {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			var password atomic.Value
			password.Store("of-yesterday")
			l := open(t, queue.Options{Brokers: guarded(t), Credentials: &queue.Credentials{
				Mechanism: mechanism, User: "refiner", Password: func() (string, error) { return password.Load().(string), nil },
			}})
			err := l.Ping(t.Context())
			if !errors.Is(err, queue.ErrUnavailable) || errors.Is(err, queue.ErrRefused) {
				t.Errorf("ping with a password of yesterday: %v, want %v", err, queue.ErrUnavailable)
			}
			if err != nil && strings.Contains(err.Error(), "yesterday") {
				t.Errorf("the error shows the password: %v", err)
			}
			password.Store("secret-" + mechanism)
			useAll(t, l)
		})
	}
}

func TestPasswordThatCannotBeReadIsSaid(t *testing.T) {
	t.Parallel()
	gone := errors.New("the file is gone")
	l := open(t, queue.Options{Brokers: guarded(t), Credentials: &queue.Credentials{
		Mechanism: queue.Plain, User: "refiner", Password: func() (string, error) { return "", gone },
	}})
	if err := l.Ping(t.Context()); !errors.Is(err, gone) || !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("ping: %v, want %v, and that the log is unavailable", err, gone)
	}
}

// Over TLS, with a certificate of ours that the brokers demand.
func TestBrokersThatSpeakTLS(t *testing.T) {
	t.Parallel()
	// Its certificate is for 127.0.0.1, and its own authority.
	https := httptest.NewTLSServer(nil)
	t.Cleanup(https.Close)
	certificate, authority := https.TLS.Certificates[0], x509.NewCertPool()
	authority.AddCert(https.Certificate())
	addrs := guarded(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAnyClientCert}))
	credentials := &queue.Credentials{Mechanism: queue.Plain, User: "refiner", Password: func() (string, error) { return "secret-plain", nil }}
	own := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	useAll(t, open(t, queue.Options{Brokers: addrs, Credentials: credentials, TLS: &tls.Config{RootCAs: authority, GetClientCertificate: own}}))
	for name, config := range map[string]*tls.Config{
		"plain text":                nil,
		"an authority of others":    {GetClientCertificate: own},
		"no certificate of our own": {RootCAs: authority},
	} {
		l := open(t, queue.Options{Brokers: addrs, Credentials: credentials, TLS: config})
		if err := l.Ping(t.Context()); !errors.Is(err, queue.ErrUnavailable) {
			t.Errorf("%s: %v, want %v", name, err, queue.ErrUnavailable)
		}
	}
}

func TestCredentialsReportTheirFaults(t *testing.T) {
	t.Parallel()
	_, err := queue.Open(queue.Options{Brokers: []string{"a:1"}, Credentials: &queue.Credentials{Mechanism: "gssapi"}})
	for _, want := range []string{`"gssapi"`, "scram-sha-512", "a user and a password"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to name %s", err, want)
		}
	}
}

func open(t *testing.T, o queue.Options) *queue.Log {
	t.Helper()
	l, err := queue.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// useAll uses each kind of connection: requests, a publisher, a reader, a group's member.
func useAll(t *testing.T, l *queue.Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const topic = "guarded"
	if err := l.EnsureTopics(ctx, []queue.TopicSpec{{Name: topic, Partitions: 1}}); err != nil {
		t.Fatal(err)
	}
	p := l.Publisher(topic, queue.PublisherOptions{})
	if _, err := p.Publish(ctx, queue.Record{Value: []byte("one")}); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	b, err := l.Reader(topic, 0, 0, queue.ReaderOptions{}).Next(ctx)
	if err != nil || len(b.Records) != 1 {
		t.Fatalf("read %d records: %v", len(b.Records), err)
	}
	g, err := l.Group(queue.GroupOptions{ID: "g", Topic: topic, OnError: func(err error) { t.Log(err) }})
	if err != nil {
		t.Fatal(err)
	}
	member, leave := context.WithCancel(ctx)
	defer leave()
	joined := false
	if err := g.Run(member, func(_ context.Context, g *queue.Generation) {
		joined = len(g.Assignments) == 1
		leave()
	}); err != nil || !joined {
		t.Errorf("joined: %v, %v", joined, err)
	}
}
