package ingress

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  prometheus.Histogram
	accepted *prometheus.CounterVec
	noTenant bool
}

func newMetrics(r prometheus.Registerer, noTenant bool) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "refiner_source_ingress_requests_total",
			Help: "Requests to the public listener, by route and status code.",
		}, []string{"route", "code"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "refiner_source_ingress_request_seconds",
			Help:    "Time from a request's header to its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "refiner_source_events_accepted_total",
			Help: "Events acknowledged by the log.",
		}, []string{"tenant", "source"}),
		noTenant: noTenant,
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.accepted} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of the ingress: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) request(route string, status int, took time.Duration) {
	code := "202"
	if status != http.StatusAccepted {
		code = strconv.Itoa(status)
	}
	m.requests.WithLabelValues(route, code).Inc()
	m.seconds.Observe(took.Seconds())
}

func (m *metrics) accept(id tenant.ID, source survey.Source, events int) {
	if m.noTenant {
		id = ""
	}
	m.accepted.WithLabelValues(string(id), string(source)).Add(float64(events))
}
