package worker

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"refinersource/internal/attribution"
	"refinersource/internal/delivery"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

// metrics are the worker's figures. Their names are public.
type metrics struct {
	finished    *prometheus.CounterVec
	notes       *prometheus.CounterVec
	attempts    *prometheus.CounterVec
	delivery    prometheus.Histogram
	endToEnd    prometheus.Histogram
	generations prometheus.Counter
	lost        prometheus.Counter
	hosts       *prometheus.GaugeVec
	receipts    prometheus.Counter
	noTenant    bool
}

func newMetrics(w *Worker, reg prometheus.Registerer, noTenant bool) *metrics {
	seconds := prometheus.ExponentialBuckets(0.001, 2, 20) // 1 ms to 9 min
	m := &metrics{
		finished: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "refiner_source_events_finished_total",
			Help: "Events that have their outcome: delivered, dead or ignored.",
		}, []string{"tenant", "outcome"}),
		notes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "refiner_source_mapping_notes_total",
			Help: "What the mapping left out, renamed or replaced: withheld, unnamed, name_collision, future_timestamp or unreadable_time.",
		}, []string{"tenant", "note"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "refiner_source_delivery_attempts_total",
			Help: "Requests to receivers, by the class of the answer.",
		}, []string{"tenant", "class"}),
		delivery: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "refiner_source_delivery_seconds",
			Help:    "Time of one request to a receiver.",
			Buckets: seconds,
		}),
		endToEnd: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "refiner_source_end_to_end_seconds",
			Help:    "Time from the acceptance of an event to its delivery.",
			Buckets: seconds,
		}),
		generations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "refiner_source_generation_changes_total",
			Help: "Generations of the consumer group that this worker has worked in.",
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "refiner_source_lost_events_total",
			Help: "Events that the log had deleted before they were delivered; the log line names their offsets.",
		}),
		hosts: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "refiner_source_host_waiting",
			Help: "1 while the tenants of a receiver's host wait for it, since most of them fail.",
		}, []string{"host"}),
		receipts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "refiner_source_receipts_written_total",
			Help: "Receipts that the log has acknowledged.",
		}),
		noTenant: noTenant,
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "refiner_source_receipts_waiting",
		Help: "Receipts that the log has not acknowledged yet; no commit passes their events.",
	}, w.receiptsWaiting)
	if reg != nil {
		reg.MustRegister(m.finished, m.notes, m.attempts, m.delivery, m.endToEnd, m.generations, m.lost, m.hosts, m.receipts, waiting, lagCollector{w})
	}
	return m
}

func (m *metrics) label(id tenant.ID) string {
	if m.noTenant {
		return ""
	}
	return string(id)
}

func (m *metrics) attempted(a delivery.Attempt) {
	m.attempts.WithLabelValues(m.label(a.Tenant), a.Result.Class.String()).Inc()
	m.delivery.Observe(a.Took.Seconds())
}

// finishedEvent counts an event; what was put back after it had been given up was
// accepted long before, and says nothing of how long delivery takes.
func (m *metrics) finishedEvent(f Finished, n *attribution.Notes, redriven bool) {
	m.finished.WithLabelValues(m.label(f.Tenant), string(f.Outcome)).Inc()
	if f.Outcome == Delivered && !redriven {
		m.endToEnd.Observe(f.Finished.Sub(f.Accepted).Seconds())
	}
	m.note(f.Tenant, "withheld", len(n.WithheldNoAccount))
	m.note(f.Tenant, "unnamed", n.Unnamed)
	m.note(f.Tenant, "name_collision", n.NameCollisions)
	if n.FutureTimestamp {
		m.note(f.Tenant, "future_timestamp", 1)
	}
	if n.UnreadableTime {
		m.note(f.Tenant, "unreadable_time", 1)
	}
}

func (m *metrics) note(id tenant.ID, note string, n int) {
	if n > 0 {
		m.notes.WithLabelValues(m.label(id), note).Add(float64(n))
	}
}

// status is what a partition tells of itself; written by its goroutines, read by
// anyone.
type status struct {
	committed atomic.Int64
	end       atomic.Int64
	window    atomic.Int64
	suspended atomic.Pointer[[]Suspended]
	receipts  atomic.Int64 // that are not acknowledged
	oldest    atomic.Int64 // when the event at the commit point was accepted, Unix nanoseconds; 0 if none is known
}

func newStatus() *status {
	s := new(status)
	s.suspended.Store(new([]Suspended))
	return s
}

// raiseEnd moves the known end of the log up; two readers learn of it.
func (s *status) raiseEnd(to int64) {
	for {
		end := s.end.Load()
		if to <= end || s.end.CompareAndSwap(end, to) {
			return
		}
	}
}

// Lag is how far a partition is behind.
type Lag struct {
	Partition      int
	Committed, End queue.Offset
	InFlight       int           // events fetched and not finished
	Age            time.Duration // of the oldest event that is fetched and not finished
}

// Lags returns the lag of the partitions assigned now, in their order.
func (w *Worker) Lags() []Lag {
	w.mu.Lock()
	lags := make([]Lag, 0, len(w.partitions))
	for id, s := range w.partitions {
		l := Lag{
			Partition: id,
			Committed: queue.Offset(s.committed.Load()),
			InFlight:  int(s.window.Load()),
		}
		l.End = max(l.Committed, queue.Offset(s.end.Load()))
		if oldest := s.oldest.Load(); oldest != 0 {
			l.Age = max(0, time.Since(time.Unix(0, oldest)))
		}
		lags = append(lags, l)
	}
	w.mu.Unlock()
	slices.SortFunc(lags, func(a, b Lag) int { return cmp.Compare(a.Partition, b.Partition) })
	return lags
}

// Suspended is a tenant whose deliveries in a partition wait at its cursor.
type Suspended struct {
	Tenant    tenant.ID
	Partition int
	Cause     string // unavailable, throttled, misconfigured, refusing, paused or letters
	Since     time.Time
	// Oldest is when its first unfinished event was written to the log; zero if that
	// is not known yet.
	Oldest time.Time
}

// Suspended returns the tenants that are suspended now in the partitions assigned,
// by tenant and partition.
func (w *Worker) Suspended() []Suspended {
	w.mu.Lock()
	var all []Suspended
	for _, s := range w.partitions {
		all = append(all, *s.suspended.Load()...)
	}
	w.mu.Unlock()
	slices.SortFunc(all, func(a, b Suspended) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Partition, b.Partition))
	})
	return all
}

// receiptsWaiting is how many receipts of the partitions assigned now are not
// acknowledged.
func (w *Worker) receiptsWaiting() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := int64(0)
	for _, s := range w.partitions {
		n += s.receipts.Load()
	}
	return float64(n)
}

// watch keeps the status of a partition while it is assigned; nil ends it.
func (w *Worker) watch(partition int, s *status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s == nil {
		delete(w.partitions, partition)
		return
	}
	w.partitions[partition] = s
}

// readEnds reads the end of the log again and again until ctx ends: a partition
// whose window is full does not fetch, and would not see how far it is behind.
func (w *Worker) readEnds(ctx context.Context) {
	tick := time.NewTicker(w.o.LagInterval)
	defer tick.Stop()
	for {
		if kept, err := w.o.Retention(ctx); err == nil {
			w.kept.Store(int64(kept))
		} else if ctx.Err() == nil {
			w.log.Warn("read the topic's retention", zap.Error(err))
		}
		bounds, err := w.o.Log.Bounds(ctx, w.o.Topics.Events())
		if err != nil && ctx.Err() == nil {
			w.log.Warn("read the ends of the log", zap.Error(err))
		}
		w.mu.Lock()
		for id, b := range bounds {
			if s := w.partitions[id]; s != nil {
				s.raiseEnd(int64(b.End))
			}
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lagCollector turns Lags into metrics when they are asked for.
type lagCollector struct{ w *Worker }

var (
	lagEvents = prometheus.NewDesc("refiner_source_lag_events",
		"Events from the commit point to the end of the log.", []string{"partition"}, nil)
	lagSeconds = prometheus.NewDesc("refiner_source_lag_seconds",
		"Age of the oldest event that is fetched and not finished.", []string{"partition"}, nil)
	suspendedTenants = prometheus.NewDesc("refiner_source_suspended_tenants",
		"Tenants whose deliveries wait at a cursor.", []string{"partition"}, nil)
	suspendedBacklog = prometheus.NewDesc("refiner_source_suspended_backlog_seconds",
		"Age of the oldest event that a suspended tenant has not been sent.", []string{"tenant"}, nil)
	retentionMargin = prometheus.NewDesc("refiner_source_retention_margin_seconds",
		"Time until the log's retention drops an event that a suspended tenant has not been sent; within the last tenth it becomes a dead letter.", []string{"tenant"}, nil)
	inFlight = prometheus.NewDesc("refiner_source_in_flight_events",
		"Events that are fetched and not finished.", []string{"partition"}, nil)
)

// Describe names the metrics.
func (c lagCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- lagEvents
	ch <- lagSeconds
	ch <- inFlight
	ch <- suspendedTenants
	ch <- suspendedBacklog
	ch <- retentionMargin
}

// Collect reads them.
func (c lagCollector) Collect(ch chan<- prometheus.Metric) {
	waiting := make(map[int]int)
	ages := make(map[string]time.Duration)
	for _, s := range c.w.Suspended() {
		waiting[s.Partition]++
		if !s.Oldest.IsZero() {
			label := c.w.metrics.label(s.Tenant)
			ages[label] = max(ages[label], time.Since(s.Oldest))
		}
	}
	for _, l := range c.w.Lags() {
		id := strconv.Itoa(l.Partition)
		ch <- prometheus.MustNewConstMetric(lagEvents, prometheus.GaugeValue, float64(l.End-l.Committed), id)
		ch <- prometheus.MustNewConstMetric(lagSeconds, prometheus.GaugeValue, l.Age.Seconds(), id)
		ch <- prometheus.MustNewConstMetric(inFlight, prometheus.GaugeValue, float64(l.InFlight), id)
		ch <- prometheus.MustNewConstMetric(suspendedTenants, prometheus.GaugeValue, float64(waiting[l.Partition]), id)
	}
	retention := c.w.retention()
	for label, age := range ages {
		ch <- prometheus.MustNewConstMetric(suspendedBacklog, prometheus.GaugeValue, age.Seconds(), label)
		if retention > 0 {
			ch <- prometheus.MustNewConstMetric(retentionMargin, prometheus.GaugeValue, (retention - age).Seconds(), label)
		}
	}
}
