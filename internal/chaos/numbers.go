package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"refinersource/internal/checker"
)

// NumbersOptions of RunNumbers. Root is needed; all else has a default.
type NumbersOptions struct {
	Root, Binary, Dir string // as in Options
	Seed              uint64
	Only              []string // names of parts: see NumbersParts; without any all

	Tenants, Active int     // configured; with live load
	Failing         int     // of the active, in percent
	Rate            float64 // live events a second
	Ratio           float64 // what the healthy tenants' p99 may grow by
	Senders         int
	Warm            time.Duration // before the baseline
	Baseline        time.Duration
	Trouble         time.Duration // how long the failing fail
	Recovering      int           // tenants
	Waiting         int           // events of each
	Suspended       int           // tenants at once
	Variants        int           // of bad input

	Brokers, Workers, Partitions int
	Session, Drain               time.Duration
	Progress                     func(string)
}

// The parts of RunNumbers, each with rows of its own.
const (
	tenantsPart   = "tenants"
	failingPart   = "failing"
	recoveryPart  = "recovery"
	suspendedPart = "suspended"
	badPart       = "bad-input"
)

// NumbersParts are the parts, in their order.
func NumbersParts() []string {
	return []string{tenantsPart, failingPart, recoveryPart, suspendedPart, badPart}
}

// badTenants are those that get bad input.
const badTenants = 8

func (o NumbersOptions) withDefaults() NumbersOptions {
	def(&o.Tenants, 5000)
	def(&o.Active, 1000)
	def(&o.Failing, 10)
	def(&o.Rate, 200)
	def(&o.Ratio, 1.5)
	def(&o.Senders, 48)
	def(&o.Warm, 10*time.Second)
	def(&o.Baseline, 40*time.Second)
	def(&o.Trouble, time.Minute)
	def(&o.Recovering, 100)
	def(&o.Waiting, 1000)
	def(&o.Suspended, 1000)
	def(&o.Variants, 5000)
	def(&o.Brokers, 1)
	def(&o.Workers, 2)
	def(&o.Partitions, 12)
	def(&o.Session, defaultSession)
	def(&o.Drain, 5*time.Minute)
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return o
}

func (o NumbersOptions) validate() error {
	var errs []error
	for _, name := range o.Only {
		if !slices.Contains(NumbersParts(), name) {
			errs = append(errs, fmt.Errorf("there is no part %q: want some of %s", name, strings.Join(NumbersParts(), ", ")))
		}
	}
	if need := o.Active + o.Recovering + o.Suspended + badTenants; o.Tenants < need {
		errs = append(errs, fmt.Errorf("%d tenants are too few: the active, the recovering, the suspended and %d more need %d", o.Tenants, badTenants, need))
	}
	if o.Failing < 1 || o.Failing > 50 || o.Rate <= 0 || o.Ratio < 1 {
		errs = append(errs, errors.New("want 1 to 50 percent that fail, a positive rate and a ratio of at least 1"))
	}
	if len(o.failing()) < 1 {
		errs = append(errs, fmt.Errorf("%d percent of %d active tenants are none", o.Failing, o.Active))
	}
	return errors.Join(errs...)
}

func (o NumbersOptions) does(part string) bool {
	return len(o.Only) == 0 || slices.Contains(o.Only, part)
}

// Tenants by their part in the run: the active, some of which fail, and three
// ranges behind them.
func (o NumbersOptions) failing() []int {
	var all []int
	for i := range o.Active {
		if i*o.Failing%100 < o.Failing {
			all = append(all, i)
		}
	}
	return all
}

func (o NumbersOptions) healthy() []int {
	failing := o.failing()
	return slices.DeleteFunc(span(0, o.Active), func(i int) bool { return slices.Contains(failing, i) })
}

func (o NumbersOptions) recovering() []int { return span(o.Active, o.Recovering) }

func (o NumbersOptions) suspended() []int { return span(o.Active+o.Recovering, o.Suspended) }

func (o NumbersOptions) bad() []int { return span(o.Active+o.Recovering+o.Suspended, badTenants) }

func span(from, n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = from + i
	}
	return all
}

// numbers is a measurement under way.
type numbers struct {
	*run
	o     NumbersOptions
	watch *stopwatch
	live  *live
	tags  map[cursorTag]int
	busy  float64 // share of the machine during the baseline, -1 if not known

	baseline  window
	trouble   trouble
	recovery  recovery
	suspended suspended
	bad       bad
}

// RunNumbers measures the numbers that docs/proof.md asks for in one run, and
// has the run's history checked. The error says that it could not be made.
func RunNumbers(ctx context.Context, o NumbersOptions) (*NumbersReport, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := makeEmpty(o.Dir); err != nil {
		return nil, err
	}
	procs, err := newSupervisor(filepath.Join(o.Dir, "logs"))
	if err != nil {
		return nil, err
	}
	defer procs.close()
	if o.Binary == "" {
		o.Binary = filepath.Join(o.Dir, "refiner-source")
		if err := Build(ctx, o.Root, o.Binary, ""); err != nil {
			return nil, err
		}
	}
	free := newPorts()
	cluster, err := startCluster(ctx, procs, free, o.Root, o.Dir, o.Brokers, clientNames(o.Workers))
	if cluster != nil {
		defer cluster.close()
	}
	if err != nil {
		return nil, fmt.Errorf("start Kafka: %w", err)
	}
	n := newNumbers(o)
	if err := os.MkdirAll(n.history, 0o755); err != nil {
		return nil, fmt.Errorf("make the history's directory: %w", err)
	}
	defer n.close()
	for _, phase := range []struct {
		name  string
		limit time.Duration
		do    func(context.Context) error
	}{
		{"set up", 5 * time.Minute, func(ctx context.Context) error { return n.prepare(ctx, procs, free, cluster) }},
		{"measure", o.Warm + o.Baseline + o.Trouble + 30*time.Minute, n.measure},
		{"drain", o.Drain + time.Minute, n.drain},
		{"end the service", 5 * time.Minute, n.end},
		{"dump", 15 * time.Minute, n.dump},
	} {
		since := time.Now()
		limited, cancel := context.WithTimeoutCause(ctx, phase.limit, fmt.Errorf("%s hung for %v", phase.name, phase.limit))
		err := phase.do(limited)
		cancel()
		if err != nil {
			n.dumpGoroutines()
			return nil, fmt.Errorf("%s: %w", phase.name, err)
		}
		n.run.o.say("%s: done in %v", phase.name, time.Since(since).Round(time.Second))
	}
	check, err := CheckDir(o.Dir, checker.Options{})
	if err != nil {
		return nil, err
	}
	report, err := n.report(check)
	if err != nil {
		return nil, err
	}
	report.Took = time.Since(begun)
	return report, report.write(o.Dir)
}

func newNumbers(o NumbersOptions) *numbers {
	n := &numbers{o: o, watch: newStopwatch(o.Tenants), tags: make(map[cursorTag]int, o.Tenants), busy: -1}
	for i := range o.Tenants {
		n.tags[cursorTagOf(tenantName(i))] = i
	}
	n.run = &run{
		o: Options{
			Root: o.Root, Binary: o.Binary, Dir: o.Dir, Seed: o.Seed, Tenants: o.Tenants, Active: o.Active, Brokers: o.Brokers, Workers: o.Workers,
			Partitions: o.Partitions, Faults: "none", Session: o.Session, Drain: o.Drain, Progress: o.Progress, Senders: o.Senders,
		}.withDefaults(),
		history: HistoryDir(o.Dir), failing: []string{},
	}
	return n
}

// prepare starts the service, and the clock of every event.
func (n *numbers) prepare(ctx context.Context, procs *supervisor, free *ports, cluster *Cluster) error {
	if err := n.setUp(ctx, procs, free, cluster); err != nil {
		return err
	}
	n.receiver.listen(n.watch.answered)
	n.load = newLoad(LoadOptions{Senders: n.o.Senders}, n.listen, n.fleet, n.sent)
	n.injector = &injector{installation: n.installation, receiver: n.receiver, load: n.load, begun: time.Now(), goOn: true}
	return nil
}

// measure goes through the parts under one steady load.
func (n *numbers) measure(ctx context.Context) error {
	begun := time.Now()
	keeping, stop := context.WithCancel(ctx)
	var keep sync.WaitGroup
	keep.Go(func() { n.injector.keep(keeping) })
	defer keep.Wait()
	defer stop()
	if n.o.does(tenantsPart) || n.o.does(failingPart) || n.o.does(recoveryPart) || n.o.does(suspendedPart) {
		n.live = n.startLive(ctx)
		defer n.live.stop()
		if err := n.measureBaseline(ctx); err != nil {
			return err
		}
	}
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{
		{failingPart, n.measureFailing},
		{recoveryPart, n.measureRecovery},
		{suspendedPart, n.measureSuspended},
		{badPart, n.measureBad},
	} {
		if !n.o.does(part.name) {
			continue
		}
		since := time.Now()
		if err := part.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		n.logger("%s: measured in %v", part.name, time.Since(since).Round(time.Second))
	}
	if n.live != nil {
		n.live.stop()
	}
	n.took.load = time.Since(begun)
	return context.Cause(ctx)
}

func (n *numbers) measureBaseline(ctx context.Context) error {
	// Every active tenant has had an event before.
	warm := max(n.o.Warm, time.Duration(float64(n.o.Active)/n.o.Rate*float64(time.Second)))
	if !pause(ctx, warm) {
		return context.Cause(ctx)
	}
	before, known := processorTimes()
	n.baseline.from = time.Now()
	if !pause(ctx, n.o.Baseline) {
		return context.Cause(ctx)
	}
	n.baseline.to = time.Now()
	if after, ok := processorTimes(); ok && known {
		n.busy = before.busyUntil(after)
	}
	n.logger("baseline: measured; the machine was %.0f %% busy", 100*n.busy)
	return nil
}

// trouble is a time in which tenants fail.
type trouble struct {
	window
	tenants []int
	modes   map[int]string
}

// fail makes tenants fail, each in the next of the ways, and keeps their attempts.
func (n *numbers) fail(tenants []int, ways []string) (trouble, error) {
	t := trouble{tenants: tenants, modes: make(map[int]string, len(tenants))}
	n.watch.follow(tenants)
	t.from = time.Now()
	for i, tenant := range tenants {
		name := ways[i%len(ways)]
		m, err := mode(name)
		if err != nil {
			return t, err
		}
		t.modes[tenant] = name
		n.receiver.treat([]string{tenantName(tenant)}, m)
	}
	return t, nil
}

// mend makes them well again, at once.
func (n *numbers) mend(t *trouble) {
	names := make([]string, len(t.tenants))
	for i, tenant := range t.tenants {
		names[i] = tenantName(tenant)
	}
	n.receiver.treat(names, nil)
	t.to = time.Now()
	n.injector.mu.Lock()
	defer n.injector.mu.Unlock()
	n.injector.faults = append(n.injector.faults, checker.Fault{
		At: t.from.UnixNano(), Until: t.to.UnixNano(), Fault: "F23", Tenants: names,
	})
}
