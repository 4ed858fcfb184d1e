package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"refinersource/internal/console"
)

const readyTimeout = 2 * time.Second

// startAdmin serves health, metrics, profiles and the live page. It starts
// before the brokers are reached, so that /readyz can say what it waits for.
func (a *App) startAdmin(context.Context) error {
	o := a.o.Console
	o.Feed = a.feed
	if a.o.Worker != nil {
		o.Lag = a.lags
	}
	page, err := console.New(o)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{Registry: a.registry}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/", page)
	l, err := net.Listen("tcp", a.o.AdminListen)
	if err != nil {
		return &ConfigError{OptionAdminListen, fmt.Errorf("listen for the admin: %w", err)}
	}
	a.admin = l.Addr()
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	server.RegisterOnShutdown(a.feed.Close)
	a.serve("admin listener", server, l, stopAdmin)
	return nil
}

// readyz answers 200 when the process can do its job: brokers reached, topics
// in order, group joined; 503 and what is missing otherwise.
func (a *App) readyz(w http.ResponseWriter, r *http.Request) {
	if err := a.readiness(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ok")
}

func (a *App) readiness(ctx context.Context) error {
	switch {
	case a.stopping.Load():
		return errors.New("stopping")
	case !a.ready.Load():
		return errors.New("starting: the brokers or the topics are not in order yet")
	}
	if w := a.worker.Load(); w != nil && !w.Ready() {
		return errors.New("the worker has not joined the consumer group")
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := a.queue.Ping(ctx); err != nil {
		return errors.New("the brokers do not answer")
	}
	return nil
}

func (a *App) lags() []console.PartitionLag {
	w := a.worker.Load()
	if w == nil {
		return nil
	}
	var lags []console.PartitionLag
	for _, l := range w.Lags() {
		lags = append(lags, console.PartitionLag{
			Partition:  l.Partition,
			Committed:  int64(l.Committed),
			End:        int64(l.End),
			LagSeconds: l.Age.Seconds(),
		})
	}
	return lags
}

// limitConnections bounds the open connections of a listener: more wait in the
// kernel's queue.
func limitConnections(l net.Listener, n int) net.Listener { return netutil.LimitListener(l, n) }
