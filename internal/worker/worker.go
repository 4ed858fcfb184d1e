// Package worker is the loop of one member of the consumer group: fetch, decode,
// attribute, deliver in order, commit. What may be sent and what may be committed
// is decided by package lane; retries by package delivery. It owns the goroutines
// and the pace, and it is where events are logged and counted.
//
// It guarantees that a commit never passes an event that is not delivered, in
// the dead-letter topic, or ignored for a named reason (invariant 2), nor one whose
// receipt the log has not acknowledged; and that a drain leaves nothing begun behind
// the commit (invariant 7).
package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"refinersource/internal/attribution"
	"refinersource/internal/deadletter"
	"refinersource/internal/delivery"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// Defaults of Options.
const (
	DefaultGroup          = "refiner-source"
	DefaultCommitInterval = 250 * time.Millisecond
	DefaultLagInterval    = 5 * time.Second
	// DefaultRequestTimeout is the longest that one request to a receiver takes.
	DefaultRequestTimeout = 9 * time.Second
	// DefaultEventBudget is how long the receiver may fail with one event, while it
	// accepts others of the tenant, before the event is given up.
	DefaultEventBudget = 2 * time.Minute
)

// DefaultMemory is what the windows of all partitions of a worker may take together.
const DefaultMemory = 24 << 20

// minWindowBytes is what the window of a partition may take however many there are.
const minWindowBytes = 256 << 10

// DefaultLimits bound a partition: 450 kB and 2,000 calls a request, below
// Segment's 500 kB and 2,500; a window of 4,096 events and 8 MiB; of a lane that
// is behind, 512 events.
var DefaultLimits = lane.Limits{
	RequestCalls: 2000,
	RequestBytes: 450_000,
	WindowEvents: 4096,
	WindowBytes:  8 << 20,
	BehindEvents: 512,
}

// Letters writes dead letters. Write returns when the log has acknowledged the
// letter, or with an error that promises nothing.
type Letters interface {
	Write(ctx context.Context, l deadletter.Letter) (queue.Position, error)
}

// Options of a Worker. Log, Tenants, Sender and Letters are needed.
type Options struct {
	Log    *queue.Log
	Topics queue.Topics
	// Group is the consumer group's name; "" is DefaultGroup.
	Group string
	// GroupOptions sets the group's timeouts; its name and topic are set here.
	GroupOptions queue.GroupOptions
	// Tenants gives the tenants in force.
	Tenants func() *tenant.Registry
	// Delivery says how to retry; its Notify, NotifyHost, Pace, TryPace and Gate are set
	// here.
	Delivery delivery.Options
	Letters  Letters
	// Limits bound each partition; the zero value is DefaultLimits. Without
	// BehindEvents it is an eighth of the window.
	Limits lane.Limits
	// Memory bounds what the windows of all partitions take together, in bytes: each
	// has an equal share, if that is less than its limit. 0 is DefaultMemory. Events of
	// lanes that are behind take as much again.
	Memory int
	// CommitInterval is the most time between two commits; at most 300 ms, half of the
	// least that a lease is good for.
	CommitInterval time.Duration
	// RequestTimeout is the longest that one request takes, as Delivery's sender sees
	// to it; 0 is DefaultRequestTimeout. No request starts when the last acknowledged
	// commit is older than the session timeout less it.
	RequestTimeout time.Duration
	// EventBudget is how long the receiver may fail with one event, while it accepts
	// others of the tenant; 0 is DefaultEventBudget.
	EventBudget time.Duration
	// Retention tells how long the log keeps an event, 0 for ever; by default the log
	// is asked.
	Retention func(context.Context) (time.Duration, error)
	// AcceptPartitions takes a changed number of partitions for intended: if the topic
	// has so many, the worker starts although events of before the change are not
	// delivered. Their users' later events may overtake them.
	AcceptPartitions int
	// Anew says that a partition without a commit of the group begins at the start of the
	// log although receipts say that it was worked on. Without it the worker ends with
	// ErrNoCommits. Without Receipts nobody can tell.
	Anew bool
	// Replay makes it send a range of the log again; nil delivers live traffic.
	Replay *Replay
	// Receipts says that each finished event gets a receipt, which the log has before
	// a commit passes the event. While receipts cannot be written, events wait.
	Receipts bool
	// LagInterval is the time between two readings of the log's end.
	LagInterval time.Duration
	Logger      *zap.Logger
	// Registerer takes the metrics; nil registers none.
	Registerer prometheus.Registerer
	// NoTenantMetrics leaves the tenant label empty, for very many tenants.
	NoTenantMetrics bool
	// OnCall is told of every call that was accepted, an event's calls in their
	// order. It is called by several goroutines and must not block for long.
	OnCall func(tenant.ID, *attribution.Call)
	// OnFinished is told of every finished event, likewise.
	OnFinished func(Finished)
}

// Validate reports all that is wrong.
func (o Options) Validate() error {
	var errs []error
	if o.Log == nil {
		errs = append(errs, errors.New("worker: Log is missing"))
	}
	if o.Tenants == nil {
		errs = append(errs, errors.New("worker: Tenants is missing"))
	}
	if o.Letters == nil {
		errs = append(errs, errors.New("worker: Letters is missing"))
	}
	if o.CommitInterval < 0 || o.CommitInterval > leaseLeast/2 {
		errs = append(errs, fmt.Errorf("worker: CommitInterval is %v; give at most %v", o.CommitInterval, leaseLeast/2))
	}
	if session := o.GroupOptions.SessionTimeout; session != 0 && o.RequestTimeout > session/2 {
		errs = append(errs, fmt.Errorf("worker: RequestTimeout is %v; give at most half of the session timeout %v", o.RequestTimeout, session))
	}
	if o.RequestTimeout < 0 || o.EventBudget < 0 || o.AcceptPartitions < 0 || o.Memory < 0 {
		errs = append(errs, errors.New("worker: RequestTimeout, EventBudget, AcceptPartitions and Memory must not be negative"))
	}
	if o.LagInterval < 0 {
		errs = append(errs, fmt.Errorf("worker: LagInterval is %v; give a positive one", o.LagInterval))
	}
	return errors.Join(errs...)
}

// Outcome is how an event ended. The set is closed; it is the label of
// events_finished_total.
type Outcome string

// The outcomes.
const (
	Delivered Outcome = "delivered"
	Dead      Outcome = "dead"
	Ignored   Outcome = "ignored"
)

// Finished is an event that has its outcome.
type Finished struct {
	Tenant   tenant.ID
	EventID  string
	Source   survey.Source
	Position queue.Position
	Outcome  Outcome
	// Reason of an event that was not delivered: of the dead letter, or why it
	// was ignored.
	Reason   string
	Attempts int
	// Calls are those that the event makes, accepted or not; not to be changed.
	Calls              []attribution.Call
	Accepted, Finished time.Time
}

// Worker is one member of the group.
type Worker struct {
	o         Options
	log       *zap.Logger
	deliverer *delivery.Deliverer
	pace      *pacer
	metrics   *metrics
	joined    atomic.Bool
	lease     atomic.Pointer[lease] // of the generation at work
	failed    atomic.Pointer[error] // why Run ends by itself
	fail      func(error)           // ends Run
	kept      atomic.Int64          // how long the log keeps an event, in nanoseconds; 0 is for ever

	mu         sync.Mutex
	partitions map[int]*status // those assigned now

	taken taken
	named named               // rules that are in the log
	scans *semaphore.Weighted // partitions that decide what was read again
}

// New returns a worker. Run starts it.
func New(o Options) (*Worker, error) {
	if o.Group == "" {
		o.Group = DefaultGroup
	}
	if o.Limits == (lane.Limits{}) {
		o.Limits = DefaultLimits
	}
	if o.Limits.BehindEvents == 0 {
		o.Limits.BehindEvents = max(1, o.Limits.WindowEvents/8)
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.CommitInterval == 0 {
		o.CommitInterval = DefaultCommitInterval
	}
	if o.LagInterval == 0 {
		o.LagInterval = DefaultLagInterval
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = DefaultRequestTimeout
	}
	if o.EventBudget == 0 {
		o.EventBudget = DefaultEventBudget
	}
	if o.Retention == nil {
		o.Retention = func(ctx context.Context) (time.Duration, error) {
			kept, err := o.Log.Retention(ctx, o.Topics.Events())
			return max(0, kept.Time), err // queue.Unlimited is below 0
		}
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	w := &Worker{o: o, log: o.Logger, partitions: make(map[int]*status), pace: newPacer()}
	w.metrics = newMetrics(w, o.Registerer, o.NoTenantMetrics)
	o.Delivery.Notify, o.Delivery.NotifyHost = w.attempted, w.hostChanged
	o.Delivery.Pace, o.Delivery.TryPace, o.Delivery.Gate = w.pace.wait, w.pace.try, w.gate
	// The other half is for what else there is to do; and what waits meanwhile goes in
	// fewer, larger requests.
	half := max(1, runtime.GOMAXPROCS(0)/2)
	w.scans = semaphore.NewWeighted(int64(half))
	if o.Delivery.Writers == 0 {
		o.Delivery.Writers = half
	}
	var err error
	if w.deliverer, err = delivery.New(o.Delivery); err != nil {
		return nil, err
	}
	return w, nil
}

// Run works until ctx ends, then drains and leaves the group. It returns nil
// after a drain; an error if the group could not be set up, if the topic has
// another number of partitions than the group's commits know and events of before
// are not delivered, if the group's commits are gone or another installation's, or if a
// partition does not go on.
func (w *Worker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.fail = func(err error) {
		w.failed.CompareAndSwap(nil, &err)
		cancel()
	}
	o := w.o.GroupOptions
	o.ID, o.Topic = w.o.Group, w.o.Topics.Events()
	o.OnError = func(err error) {
		w.joined.Store(false)
		w.log.Warn("join the consumer group again", zap.Error(err))
	}
	group, err := w.o.Log.Group(o)
	if err != nil {
		return fmt.Errorf("set up the consumer group: %w", err)
	}
	defer w.joined.Store(false)
	if w.o.Replay != nil {
		var watching sync.WaitGroup
		watching.Go(func() { w.watchReplay(ctx, cancel) })
		defer watching.Wait()
		defer cancel()
	}
	err = group.Run(ctx, w.generation)
	if failed := w.failed.Load(); failed != nil {
		return *failed
	}
	return err
}

// gate holds an attempt back while the lease is not valid.
func (w *Worker) gate(ctx context.Context) error {
	if l := w.lease.Load(); l != nil {
		return l.wait(ctx)
	}
	return nil
}

// retention is how long the log keeps an event; 0 is for ever, or not known.
func (w *Worker) retention() time.Duration { return time.Duration(w.kept.Load()) }

// Ready reports whether the worker is a member of the group.
func (w *Worker) Ready() bool { return w.joined.Load() }

// Causes of the end of attempts.
var (
	errDrainBudget = errors.New("the drain's time is over")
	errFenced      = errors.New("the generation has ended for the group")
)

// generation works on the partitions of one generation until ctx ends or the
// group refuses its commits, drains and makes the last commit.
func (w *Worker) generation(ctx context.Context, g *queue.Generation) {
	w.metrics.generations.Inc()
	w.log.Info("joined the consumer group", zap.Int("generation", g.ID), zap.Ints("partitions", partitionsOf(g)))
	// fetching ends with ctx, or when the group has gone on without us; attempts
	// go on after it for the drain's time.
	fetching, stopFetching := context.WithCancelCause(ctx)
	attempts, stopAttempts := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopFetching(nil)
	defer stopAttempts(nil)

	if err := w.check(fetching, g); err != nil {
		switch {
		case fetching.Err() != nil:
		case errors.Is(err, ErrPartitions), errors.Is(err, ErrNoCommits), errors.Is(err, ErrInstallation):
			w.fail(err)
		default:
			w.log.Warn("begin a generation", zap.Int("generation", g.ID), zap.Error(err))
		}
		return
	}
	w.pace.setShare(len(g.Assignments), g.Partitions)
	held := &lease{most: min(leaseTime, w.sessionTimeout()-w.o.RequestTimeout)}
	w.lease.Store(held)
	commits := newCommitter(g, w.o.CommitInterval, held, w.log)
	limits := w.o.Limits
	limits.WindowBytes = min(limits.WindowBytes, max(minWindowBytes, w.o.Memory/max(1, len(g.Assignments))))
	for _, a := range g.Assignments {
		p := newPartition(w, a, limits, g.Partitions)
		p.lease.most, p.soon = held.most, commits.soon
		commits.partitions = append(commits.partitions, p)
		w.watch(p.id, p.status)
	}
	var working, committing sync.WaitGroup
	worked, stuck := make(chan struct{}), make(chan struct{})
	committing.Go(func() {
		err := commits.run(worked)
		if errors.Is(err, errStuck) {
			w.log.Error("a partition does not go on: leave the group, and end", zap.Error(err))
			w.fail(fmt.Errorf("work on the partitions: %w", err))
			close(stuck)
		}
		if err != nil {
			stopFetching(errFenced)
			stopAttempts(errFenced)
			w.log.Warn("stop working on this generation", zap.Int("generation", g.ID), zap.Error(err))
		}
	})
	committing.Go(func() {
		select {
		case <-fetching.Done():
		case <-worked:
			return
		}
		commits.drainBy.Store(new(time.Now().Add(g.DrainBudget())))
		budget := time.NewTimer(g.DrainBudget())
		defer budget.Stop()
		select {
		case <-budget.C:
			stopAttempts(errDrainBudget)
		case <-worked:
		}
	})
	// Receipts are written until the last commit, which waits for them.
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWriting()
	var writers sync.WaitGroup
	for _, p := range commits.partitions {
		working.Go(func() { p.run(fetching, attempts) })
		if p.receipts != nil {
			writers.Go(func() {
				// There is none before a commit was made (checkCommits): what makes no call
				// is finished as soon as it is read.
				if w.gate(writing) == nil {
					p.receipts.write(writing)
				}
			})
		}
	}
	working.Go(func() { w.readEnds(fetching) })
	w.joined.Store(true)
	go func() {
		working.Wait()
		close(worked)
	}()
	select {
	case <-worked:
		committing.Wait()
		stopWriting()
		writers.Wait()
	case <-stuck: // nobody can wait for it; the process has to end
	}
	for _, a := range g.Assignments {
		w.watch(a.Partition, nil)
	}
	w.log.Info("left the generation", zap.Int("generation", g.ID), zap.NamedError("cause", context.Cause(fetching)))
}

func (w *Worker) sessionTimeout() time.Duration {
	if d := w.o.GroupOptions.SessionTimeout; d != 0 {
		return d
	}
	return queue.DefaultSessionTimeout
}

// lost reports events that the log had dropped before they were delivered.
func (w *Worker) lost(log *zap.Logger, gap *queue.GapError) {
	w.metrics.lost.Add(float64(gap.To - gap.From))
	log.Error("events were deleted from the log before they were delivered",
		zap.Int64("from", int64(gap.From)), zap.Int64("to", int64(gap.To)))
}

func partitionsOf(g *queue.Generation) []int {
	ids := make([]int, len(g.Assignments))
	for i, a := range g.Assignments {
		ids[i] = a.Partition
	}
	return ids
}

// attempted counts an attempt and says so where it failed; of a long row of
// failures it says the 1st, 2nd, 4th, 8th and so on.
func (w *Worker) attempted(a delivery.Attempt) {
	w.metrics.attempted(a)
	if a.Pause == 0 || a.Number&(a.Number-1) != 0 {
		return
	}
	w.log.Warn("retry a request",
		zap.String("tenant", string(a.Tenant)),
		zap.Stringer("class", a.Result.Class),
		zap.Int("status", a.Result.Status),
		zap.Int("attempt", a.Number),
		zap.Int("calls", a.Calls),
		zap.Duration("pause", a.Pause),
		zap.Error(a.Result.Err))
}

// hostChanged says that most tenants of a receiver's host fail together, so that
// their events wait where they are, or that this is over.
func (w *Worker) hostChanged(c delivery.HostChange) {
	if c.Open {
		w.metrics.hosts.WithLabelValues(c.Host).Set(1)
		w.log.Error("most tenants of a host fail: wait for the host, and probe it", zap.String("host", c.Host),
			zap.Int("failing", c.Failing), zap.Int("active", c.Active))
		return
	}
	w.metrics.hosts.DeleteLabelValues(c.Host)
	w.log.Info("a host answers again", zap.String("host", c.Host))
}
