// Package app wires the parts into a process: ingress, worker, or both with the
// embedded broker, as in dev. It owns what they share, starts them in reading
// order and stops them in the reverse one. It has no rules of its own; signals
// and flags stay in cmd.
package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"refinersource/internal/attribution"
	"refinersource/internal/broker"
	"refinersource/internal/console"
	"refinersource/internal/deadletter"
	"refinersource/internal/delivery"
	"refinersource/internal/ingress"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// Times of starting and stopping.
const (
	topicsWait   = 5 * time.Second // longest pause between two looks at the topics
	stopRequests = 15 * time.Second
	stopAdmin    = 2 * time.Second
	captureIdle  = 2 * time.Minute // longer than a sender keeps its connections
)

// Options of an App. Ingress, Worker and Embedded say which roles it has.
type Options struct {
	Ingress *IngressOptions
	Worker  *WorkerOptions
	// Embedded starts a broker in this process and creates the topics; Brokers
	// is then left empty.
	Embedded *broker.Options
	// Brokers are the addresses of Kafka; TLS and Credentials are those of queue.Options.
	Brokers     []string
	TLS         *tls.Config
	Credentials *queue.Credentials
	// Topics names the topics.
	Topics queue.Topics
	// Partitions of the topics that Embedded creates; 0 is queue.DefaultPartitions.
	Partitions int
	// TenantsFile is the path of the tenants file, which is followed while it
	// changes. "" runs one tenant, DemoTenant, whose calls are captured here.
	TenantsFile string
	// Env looks up ${ENV} in the tenants file.
	Env func(string) (string, bool)
	// AdminListen is the address of the admin listener.
	AdminListen string
	// Console says what the live page shows of its own.
	Console console.Options
	// NoTenantMetrics leaves the tenant label empty.
	NoTenantMetrics bool
	Logger          *zap.Logger
}

// IngressOptions of the ingress role.
type IngressOptions struct {
	Listen string
	// MaxConnections bounds the open connections; 0 is DefaultMaxConnections.
	MaxConnections int
	// AllowNoTokens lets tenants without credentials in, as dev does.
	AllowNoTokens bool
}

// WorkerOptions of the worker role.
type WorkerOptions struct {
	Group string
	// GroupOptions sets the group's timeouts.
	GroupOptions queue.GroupOptions
	// AcceptPartitions is worker.Options.AcceptPartitions.
	AcceptPartitions int
	// Anew is worker.Options.Anew.
	Anew bool
	// NoReceipts turns receipts off; see worker.Options.Receipts.
	NoReceipts bool
	// OnCall is told of every accepted call; see worker.Options.
	OnCall func(tenant.ID, *attribution.Call)
}

// DemoTenant is the tenant of a dev without a tenants file.
const DemoTenant tenant.ID = "demo"

// DefaultSessionTimeout is that of workers that name none.
const DefaultSessionTimeout = queue.DefaultSessionTimeout

// SessionOptions are a group's timeouts that go with a session timeout: a rebalance
// waits as long for its members, and a member lets itself be heard of ten times.
func SessionOptions(session time.Duration) queue.GroupOptions {
	return queue.GroupOptions{SessionTimeout: session, HeartbeatInterval: session / 10, RebalanceTimeout: session}
}

// DefaultGroup is the consumer group of workers that name none.
const DefaultGroup = worker.DefaultGroup

// DefaultMaxConnections bounds the connections to the public listener.
const DefaultMaxConnections = 2048

// Validate reports all that is wrong.
func (o Options) Validate() error {
	var errs []error
	if o.Ingress == nil && o.Worker == nil {
		errs = append(errs, errors.New("app: give it a role: Ingress, Worker or both"))
	}
	if (o.Embedded == nil) == (len(o.Brokers) == 0) {
		errs = append(errs, errors.New("app: give it either Brokers or an Embedded one"))
	}
	if o.TenantsFile == "" && o.Embedded == nil {
		errs = append(errs, errors.New("app: TenantsFile is missing"))
	}
	return errors.Join(errs...)
}

// App is a process of one or several roles. Use New, then Run; or Start and Stop.
type App struct {
	o        Options
	log      *zap.Logger
	registry *prometheus.Registry
	feed     *console.Feed
	failed   chan error

	tenants func() *tenant.Registry
	queue   *queue.Log
	worker  atomic.Pointer[worker.Worker]
	// ready is set when every role has started; stopping from the first moment of Stop.
	ready, stopping atomic.Bool

	public, admin net.Addr

	stop    sync.Once
	stopped error
	stops   []stopper // in the order of starting
}

// stopper ends what was started, and waits for it.
type stopper struct {
	name string
	stop func() error
}

// New returns an app. Nothing is started.
func New(o Options) (*App, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	a := &App{
		o:        o,
		log:      o.Logger,
		registry: prometheus.NewRegistry(),
		feed:     console.NewFeed(console.DefaultFeedSize),
		failed:   make(chan error, 8),
	}
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return a, nil
}

// Run starts the app, works until ctx ends or a role fails, and stops it. It
// returns nil when ctx ended and everything drained.
func (a *App) Run(ctx context.Context) error {
	err := a.Start(ctx)
	switch {
	case err == nil:
		return a.Wait(ctx)
	case ctx.Err() != nil:
		return nil //nolint:nilerr // it was ended while it started
	default:
		return err
	}
}

// Wait works on after Start until ctx ends or a role fails, and stops the app.
// It returns nil when ctx ended and everything drained.
func (a *App) Wait(ctx context.Context) error {
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-a.failed:
	}
	return errors.Join(failure, a.Stop())
}

// Start starts the roles; ctx bounds the start alone. When it fails, what had
// started is stopped again.
func (a *App) Start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		a.startTenants, a.startAdmin, a.startQueue, a.startTopics, a.startWorker, a.startIngress,
	} {
		if err := step(ctx); err != nil {
			return errors.Join(err, a.Stop())
		}
	}
	a.ready.Store(true)
	return nil
}

// Stop drains: no new requests, then no new events, what is under way is
// finished and committed, then the rest. It may be called more than once.
func (a *App) Stop() error {
	a.stop.Do(func() {
		a.stopping.Store(true)
		var errs []error
		for _, s := range slices.Backward(a.stops) {
			if err := s.stop(); err != nil {
				errs = append(errs, fmt.Errorf("stop the %s: %w", s.name, err))
			}
		}
		a.stopped = errors.Join(errs...)
	})
	return a.stopped
}

// PublicAddr is the address of the public listener after Start.
func (a *App) PublicAddr() net.Addr { return a.public }

// AdminAddr is the address of the admin listener after Start.
func (a *App) AdminAddr() net.Addr { return a.admin }

// Tenants are those in force after Start.
func (a *App) Tenants() *tenant.Registry { return a.tenants() }

// Queue is the log after Start, for tests and tools in the same process.
func (a *App) Queue() *queue.Log { return a.queue }

func (a *App) onStop(name string, stop func() error) {
	a.stops = append(a.stops, stopper{name, stop})
}

// background runs f until Stop; an error that it returns before is the app's.
func (a *App) background(name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := f(ctx); err != nil {
			a.failed <- fmt.Errorf("run the %s: %w", name, err)
		}
	})
	a.onStop(name, func() error {
		cancel()
		running.Wait()
		return nil
	})
}

func (a *App) startTenants(ctx context.Context) error {
	if a.o.TenantsFile == "" {
		return a.startCapture(ctx)
	}
	file, err := tenant.OpenFile(a.o.TenantsFile, a.o.Env)
	if err != nil {
		return &ConfigError{OptionTenantsFile, err}
	}
	a.tenants = file.Current
	if a.o.Ingress != nil && !a.o.Ingress.AllowNoTokens {
		if err := file.Current().RequireCredentials(); err != nil {
			return &ConfigError{OptionTenantsFile, fmt.Errorf("%s: %w", a.o.TenantsFile, err)}
		}
	}
	reloads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "refiner_source_config_reloads_total",
		Help: "Changes of the tenants file, by what became of them: applied or refused.",
	}, []string{"result"})
	for _, result := range []string{"applied", "refused"} {
		reloads.WithLabelValues(result) // from 0, so that the first is seen as a step
	}
	a.registry.MustRegister(reloads)
	a.background("watch on the tenants file", func(ctx context.Context) error {
		return file.Watch(ctx, func(r *tenant.Registry, err error) {
			if err != nil {
				reloads.WithLabelValues("refused").Inc()
				a.log.Error("the changed tenants file is refused; the last good one stays in force", zap.Error(err))
				return
			}
			reloads.WithLabelValues("applied").Inc()
			a.log.Info("the changed tenants file is in force", zap.Int("tenants", r.Len()))
		})
	})
	return nil
}

// startCapture runs a receiver on loopback and one tenant that delivers to it.
func (a *App) startCapture(context.Context) error {
	capture := segment.NewCapture(segment.CaptureOptions{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for the capturing receiver: %w", err)
	}
	server := ingress.NewServer(capture)
	server.IdleTimeout = captureIdle
	a.serve("capturing receiver", server, l, stopAdmin)
	t := tenant.Tenant{
		ID:       DemoTenant,
		WriteKey: tenant.NewSecret("demo-write-key"),
		Endpoint: "http://" + l.Addr().String(),
		NoAuth:   true,
		Rules:    attribution.DefaultRules(),
		Pairing:  tenant.Strict,
	}
	r, err := tenant.NewRegistry(t)
	if err != nil {
		return err
	}
	a.tenants = func() *tenant.Registry { return r }
	return nil
}

func (a *App) startQueue(context.Context) error {
	o := queue.Options{Brokers: a.o.Brokers, TLS: a.o.TLS, Credentials: a.o.Credentials, Logger: a.log}
	if a.o.Embedded != nil {
		b, err := broker.Start(*a.o.Embedded)
		if err != nil {
			return err
		}
		a.onStop("embedded broker", b.Close)
		o.Brokers = b.Addrs()
	}
	var err error
	a.queue, err = queue.Open(o)
	if err != nil { // it connects to nothing, so only the options can be wrong
		return &ConfigError{OptionBrokers, err}
	}
	a.onStop("queue", func() error { a.queue.Close(); return nil })
	return nil
}

// startTopics waits for the brokers, and refuses topics that would break the
// promise (invariant 10).
func (a *App) startTopics(ctx context.Context) error {
	specs := a.o.Topics.Specs(a.o.Partitions, 0)
	if a.o.Embedded != nil {
		if err := a.queue.EnsureTopics(ctx, specs); err != nil {
			return fmt.Errorf("create the topics: %w", err)
		}
		return nil
	}
	pauses := backoff.NewExponentialBackOff(backoff.WithMaxInterval(topicsWait), backoff.WithMaxElapsedTime(0))
	return backoff.RetryNotify(func() error {
		findings, err := a.queue.CheckTopics(ctx, specs)
		if err != nil {
			return fmt.Errorf("check the topics: %w", err)
		}
		var errs []error
		for _, f := range findings {
			if f.Severity == queue.SeverityError {
				errs = append(errs, fmt.Errorf("%s: %s; %s", f.Topic, f.Detail, f.Remedy))
			} else {
				a.log.Warn("a risk in the topics", zap.String("topic", f.Topic), zap.String("detail", f.Detail), zap.String("remedy", f.Remedy))
			}
		}
		if len(errs) > 0 {
			return backoff.Permanent(fmt.Errorf("the topics are not in order: %w", errors.Join(errs...)))
		}
		return nil
	}, backoff.WithContext(pauses, ctx), func(err error, pause time.Duration) {
		a.log.Warn("wait for the brokers", zap.Error(err), zap.Duration("pause", pause))
	})
}

func (a *App) startWorker(context.Context) error {
	if a.o.Worker == nil {
		return nil
	}
	// A request must be over before the session can be, with time to spare: see
	// worker.Options.RequestTimeout.
	timeout := worker.DefaultRequestTimeout
	if session := a.o.Worker.GroupOptions.SessionTimeout; session != 0 {
		timeout = min(timeout, session*3/10)
	}
	client, err := segment.New(segment.Options{Timeout: timeout})
	if err != nil {
		return err
	}
	a.onStop("connections to receivers", func() error { client.Close(); return nil })
	letters := a.queue.Publisher(a.o.Topics.Dead(), queue.PublisherOptions{MaxRecordBytes: queue.DeadRecordBytes})
	a.onStop("publisher of dead letters", letters.Close)
	w, err := worker.New(worker.Options{
		Log:            a.queue,
		Topics:         a.o.Topics,
		Group:          a.o.Worker.Group,
		GroupOptions:   a.o.Worker.GroupOptions,
		RequestTimeout: timeout,

		AcceptPartitions: a.o.Worker.AcceptPartitions,
		Anew:             a.o.Worker.Anew,
		Receipts:         !a.o.Worker.NoReceipts,

		Tenants:         a.tenants,
		Delivery:        delivery.Options{Sender: client},
		Letters:         deadletter.NewWriter(letters, a.o.Topics.Dead()),
		Logger:          a.log,
		Registerer:      a.registry,
		NoTenantMetrics: a.o.NoTenantMetrics,
		OnCall:          a.o.Worker.OnCall,
		OnFinished:      a.observe,
	})
	if err != nil {
		return err
	}
	a.worker.Store(w)
	a.background("worker", w.Run)
	return nil
}

func (a *App) startIngress(context.Context) error {
	if a.o.Ingress == nil {
		return nil
	}
	publisher := a.queue.Publisher(a.o.Topics.Events(), queue.PublisherOptions{})
	a.onStop("publisher", publisher.Close)
	h, err := ingress.New(ingress.Options{
		Tenants:         a.tenants,
		Publisher:       publisher,
		AllowNoTokens:   a.o.Ingress.AllowNoTokens,
		Logger:          a.log,
		Registerer:      a.registry,
		NoTenantMetrics: a.o.NoTenantMetrics,
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", a.o.Ingress.Listen)
	if err != nil {
		return &ConfigError{OptionListen, fmt.Errorf("listen for events: %w", err)}
	}
	a.public = l.Addr()
	connections := a.o.Ingress.MaxConnections
	if connections == 0 {
		connections = DefaultMaxConnections
	}
	a.serve("public listener", ingress.NewServer(h), limitConnections(l, connections), stopRequests)
	return nil
}

// serve serves until Stop, then lets the requests under way finish for so long.
func (a *App) serve(name string, s *http.Server, l net.Listener, patience time.Duration) {
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			a.failed <- fmt.Errorf("serve the %s: %w", name, err)
		}
	})
	a.onStop(name, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err := s.Shutdown(ctx)
		if err != nil {
			err = errors.Join(err, s.Close())
		}
		serving.Wait()
		return err
	})
}

// observe shows a finished event on the live page. With a broker of its own it says
// of one that makes no call why: somebody may be waiting to see it.
func (a *App) observe(f worker.Finished) {
	if a.o.Embedded != nil && f.Outcome == worker.Ignored {
		a.log.Info("an event makes no call", zap.String("tenant", string(f.Tenant)), zap.String("event", f.EventID), zap.String("reason", f.Reason))
	}
	a.feed.Observe(console.Event{
		Tenant:    string(f.Tenant),
		EventID:   f.EventID,
		Source:    string(f.Source),
		Partition: f.Position.Partition,
		Offset:    int64(f.Position.Offset),
		Outcome:   string(f.Outcome),
		Reason:    f.Reason,
		Attempts:  f.Attempts,
		Calls:     f.Calls,
		Accepted:  f.Accepted,
		Finished:  f.Finished,
	})
}
