// Package ingress is the public HTTP front: it authenticates, bounds and splits
// requests, and publishes each event's raw bytes. It owns the routes, answers and
// credentials of the public listener. It does not decode answers, name traits or
// know Segment, and it keeps nothing: what it has not answered 202 was not
// promised, and what it has is acknowledged by the log (invariant 1, honest 202).
package ingress

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"refinersource/internal/queue"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// Defaults of Options.
const (
	DefaultMaxBodyBytes     = 1 << 20
	DefaultMaxEventBytes    = 256 << 10
	DefaultMaxBatchEvents   = 1000
	DefaultMaxInFlightBytes = 64 << 20
	DefaultPublishTimeout   = 10 * time.Second
)

// Publisher appends a record to the log and returns its position when all in-sync
// replicas have it. It tries again until ctx ends and is safe for concurrent use.
// An error that matches queue.ErrTooLarge is the record's; any other is the log's,
// and the record may be in it nevertheless. *queue.Publisher is one.
type Publisher interface {
	Publish(ctx context.Context, r queue.Record) (queue.Position, error)
}

// Options of a Handler. Tenants and Publisher are required; the zero value of all
// else is good.
type Options struct {
	// Tenants returns those in force; it is called once a request.
	Tenants   func() *tenant.Registry
	Publisher Publisher
	// Logger gets one debug line a request, and what fails. It never gets a query,
	// a body or a credential.
	Logger     *zap.Logger
	Registerer prometheus.Registerer // of the metrics; nil drops them
	// NoTenantMetrics leaves the tenant label empty.
	NoTenantMetrics bool

	// MaxBodyBytes bounds a request's body, MaxEventBytes one event and
	// MaxBatchEvents the events of a request.
	MaxBodyBytes   int
	MaxEventBytes  int
	MaxBatchEvents int
	// MaxInFlightBytes bounds the bodies that are being received and published.
	// What is over it is answered 503 at once.
	MaxInFlightBytes int
	// PublishTimeout bounds how long a request's events wait for the log.
	PublishTimeout time.Duration
	// AllowNoTokens lets everybody send for tenants without credentials, as dev does.
	AllowNoTokens bool
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&o.MaxBodyBytes, DefaultMaxBodyBytes},
		{&o.MaxEventBytes, DefaultMaxEventBytes},
		{&o.MaxBatchEvents, DefaultMaxBatchEvents},
		{&o.MaxInFlightBytes, DefaultMaxInFlightBytes},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if o.PublishTimeout == 0 {
		o.PublishTimeout = DefaultPublishTimeout
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	return o
}

// Validate reports all that is wrong.
func (o Options) Validate() error {
	var errs []error
	if o.Tenants == nil {
		errs = append(errs, errors.New("ingress: Tenants is missing"))
	}
	if o.Publisher == nil {
		errs = append(errs, errors.New("ingress: Publisher is missing"))
	}
	o = o.withDefaults()
	if o.MaxEventBytes < 0 || o.MaxBodyBytes < o.MaxEventBytes || o.MaxInFlightBytes < o.MaxBodyBytes {
		errs = append(errs, fmt.Errorf("ingress: want 0 < MaxEventBytes %d <= MaxBodyBytes %d <= MaxInFlightBytes %d",
			o.MaxEventBytes, o.MaxBodyBytes, o.MaxInFlightBytes))
	}
	if o.MaxBatchEvents < 0 {
		errs = append(errs, fmt.Errorf("ingress: MaxBatchEvents %d is negative", o.MaxBatchEvents))
	}
	if o.PublishTimeout < 0 {
		errs = append(errs, fmt.Errorf("ingress: PublishTimeout %v is negative", o.PublishTimeout))
	}
	return errors.Join(errs...)
}

// Handler answers the public listener's requests. It is safe for concurrent use.
type Handler struct {
	o       Options
	metrics *metrics
	// inFlight has room for the bodies of all requests, unverified for those whose
	// sender is known only when the body has been read: strangers cannot take more.
	inFlight, unverified *budget
	deadlines            *deadlines // of publishing
	quotas               *quotas
}

// New returns a handler. It fails with tenant.Faults if there is a tenant for whom
// nobody could send, unless AllowNoTokens. A tenant that comes without credentials
// later is answered 401.
func New(o Options) (*Handler, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	if !o.AllowNoTokens {
		if err := o.Tenants().RequireCredentials(); err != nil {
			return nil, fmt.Errorf("check the tenants' credentials: %w", err)
		}
	}
	m, err := newMetrics(o.Registerer, o.NoTenantMetrics)
	if err != nil {
		return nil, err
	}
	return &Handler{
		o:          o,
		metrics:    m,
		inFlight:   newBudget(o.MaxInFlightBytes),
		unverified: newBudget(max(o.MaxInFlightBytes/4, o.MaxBodyBytes)),
		deadlines:  &deadlines{timeout: o.PublishTimeout},
		quotas:     newQuotas(o.MaxBatchEvents),
	}, nil
}

// route is where events of one source are sent; the tenant's id follows prefix.
type route struct {
	name   string // in metrics and logs
	prefix string
	source survey.Source
	batch  bool // several events may come at once
}

const otherRoute = "other"

var routes = [...]route{
	{name: "/v1/webhooks/refiner/{tenant}", prefix: "/v1/webhooks/refiner/", source: survey.RefinerWebhook},
	{name: "/v1/events/{tenant}", prefix: "/v1/events/", source: survey.SurveyEvent, batch: true},
}

// findRoute returns the route of a path and the tenant it names. There are no
// redirects to cleaner paths: they would repeat the query, and with it ?token=.
func findRoute(path string) (route, tenant.ID, bool) {
	for _, r := range routes {
		if id, ok := strings.CutPrefix(path, r.prefix); ok && id != "" && !strings.Contains(id, "/") {
			return r, tenant.ID(id), true
		}
	}
	return route{}, "", false
}

// ServeHTTP answers 202 when every accepted event is acknowledged by the log, or
// else with a problem (RFC 9457).
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req := &request{Handler: h, w: w, r: r, received: time.Now().UTC(), routeName: otherRoute}
	req.holds = req.ownHolds[:0]
	defer req.release()
	answer, problem := req.serve()
	status := http.StatusAccepted
	if problem != nil {
		status = problem.Status
		problem.write(w)
	} else {
		answer.write(w)
	}
	took := time.Since(req.received)
	h.metrics.request(req.routeName, status, took)
	if log := h.o.Logger.Check(zap.DebugLevel, "request answered"); log != nil {
		log.Write(zap.String("route", req.routeName), zap.String("tenant", req.tenantLabel()), zap.Int("status", status),
			zap.Int("bytes", req.size), zap.Duration("took", took))
	}
}

// request is one request under way.
type request struct {
	*Handler
	w        http.ResponseWriter
	r        *http.Request
	received time.Time

	route     route
	routeName string
	tenant    *tenant.Tenant // nil until it is known that the sender may send for it
	size      int            // of the body, as far as known
	holds     []hold         // what to give back when it is answered

	// Room for what nearly every request has one or two of.
	ownHolds    [2]hold
	ownEvent    event
	ownList     [1]*event
	ownAnswer   receipt
	ownAccepted [1]acceptedEvent
}

// tenantLabel is the tenant for logs: not what a stranger wrote into the path.
func (q *request) tenantLabel() string {
	if q.tenant == nil {
		return ""
	}
	return string(q.tenant.ID)
}

func (q *request) serve() (*receipt, *problem) {
	var id tenant.ID
	var found bool
	if q.route, id, found = findRoute(q.r.URL.Path); !found {
		return nil, newProblem(http.StatusNotFound, "there is nothing here")
	}
	q.routeName = q.route.name
	if q.r.Method != http.MethodPost {
		return nil, &problem{Status: http.StatusMethodNotAllowed, Detail: "send POST", allow: http.MethodPost}
	}
	t, _ := q.o.Tenants().Get(id)
	verify, p := q.authenticate(t)
	if p != nil {
		return nil, p
	}
	isLines, p := q.format()
	if p != nil {
		return nil, p
	}
	body, p := q.body(verify != nil)
	if p != nil {
		return nil, p
	}
	if verify != nil {
		if !verify(body) {
			return nil, unauthorized()
		}
		q.giveBack(q.unverified)
	}
	q.tenant = t
	events, isBatch, p := q.split(body, isLines)
	if p != nil {
		return nil, p
	}
	if wait := q.quotas.take(t, len(events), q.received); wait > 0 {
		return nil, overQuota(t, wait)
	}
	q.publish(events)
	return q.conclude(events, isBatch)
}
