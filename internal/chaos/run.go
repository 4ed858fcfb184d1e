// Package chaos runs the service as it is run in earnest — real Kafka brokers, an
// ingress, workers, each a process of its own — under load and under faults, and
// writes down what was sent, what came, what was committed and what was done to
// it, for package checker. It knows the service from outside alone: its command
// line, its HTTP routes and its topics.
//
// A run's faults are drawn from its seed: same seed, same schedule. What the
// machine makes of it differs from run to run. On a slow machine a run takes
// longer; it does not fail.
package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"refinersource/internal/checker"
)

// Options of a run. Root is needed; all else has a default.
type Options struct {
	Root   string // of the module: what is built, and where scripts/kafka is
	Binary string // of the service; "" builds it
	Dir    string // of the history, the logs and the brokers' data; it must not exist, or be empty

	Seed     uint64
	Duration time.Duration // over which the events are shared out
	MaxLoad  time.Duration // when sending ends, though events are left; 0 is long after Duration
	Events   int
	Tenants  int
	Active   int // tenants that have nine in ten of the events
	Users    int // of an active tenant, for each sender
	Senders  int
	Batch    int // the most events of a batch, which one request in twelve is; 1 is none

	Brokers, Workers, Partitions int
	// Faults: safety is all of them at random, then everything heals; liveness
	// breaks a third for good, and the rest must drain; none; or names, such as
	// F1,F10.
	Faults  string
	Long    bool          // with faults that take long
	Session time.Duration // of the consumer group, where the worker has a flag for it
	Drain   time.Duration // how long the end may take
	// MaxRepeats is the share of calls that may come again without need, as that of
	// checker.Options; 0 does not bound it.
	MaxRepeats float64
	// Fence is how long after its last commit a worker may begin requests; 0 is 8 s, for
	// a machine that is busy.
	Fence time.Duration
	// Progress is told what happens; nil drops it.
	Progress func(string)

	// NoCopies: senders post no event twice on purpose.
	NoCopies bool

	plan    []Injection   // in place of a schedule
	lenient bool          // the receiver takes any key
	latency time.Duration // of every answer; 0 is a few milliseconds
}

func (o Options) withDefaults() Options {
	def(&o.Duration, 8*time.Minute)
	def(&o.MaxLoad, 3*o.Duration+time.Minute)
	def(&o.Events, 200_000)
	def(&o.Tenants, 1000)
	def(&o.Active, 80)
	def(&o.Users, 20)
	def(&o.Senders, 32)
	def(&o.Batch, 12)
	def(&o.Brokers, 3)
	def(&o.Workers, 3)
	def(&o.Partitions, 12)
	def(&o.Faults, "safety")
	def(&o.Session, 12*time.Second)
	def(&o.Drain, 15*time.Minute)
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return o
}

func def[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// HistoryDir is where in a run's directory its history is.
func HistoryDir(dir string) string { return filepath.Join(dir, "history") }

// Run makes a run, and ends everything that it started. The error says that it
// could not be made; what it found is in the Report.
func Run(ctx context.Context, o Options) (*Report, error) {
	o = o.withDefaults()
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
	begun := time.Now()
	free := newPorts()
	cluster, err := startCluster(ctx, procs, free, o.Root, o.Dir, o.Brokers, clientNames(o.Workers))
	if cluster != nil {
		defer cluster.close()
	}
	if err != nil {
		return nil, fmt.Errorf("start Kafka: %w", err)
	}
	o.say("%d brokers serve after %v", o.Brokers, time.Since(begun).Round(time.Second))
	return runOn(ctx, o, procs, free, cluster)
}

// Build builds the service; overlay, if not "", replaces some of its files.
func Build(ctx context.Context, root, binary, overlay string) error {
	args := []string{"build", "-o", binary}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	build := exec.CommandContext(ctx, "go", append(args, "./cmd/refiner-source")...)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the service: %w\n%s", err, out)
	}
	return nil
}

func makeEmpty(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the run's directory: %w", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the run's directory: %w", err)
	}
	if len(left) > 0 {
		return fmt.Errorf("%s is not empty; name a directory for this run alone", dir)
	}
	return nil
}

func (o *Options) say(format string, args ...any) { o.Progress(fmt.Sprintf(format, args...)) }

// runOn makes a run on brokers that serve.
func runOn(ctx context.Context, o Options, procs *supervisor, free *ports, cluster *Cluster) (*Report, error) {
	r := &run{o: o, history: HistoryDir(o.Dir), failing: []string{}}
	if err := os.MkdirAll(r.history, 0o755); err != nil {
		return nil, fmt.Errorf("make the history's directory: %w", err)
	}
	defer r.close()
	for _, phase := range []struct {
		name  string
		limit time.Duration
		do    func(context.Context) error
	}{
		{"set up", 5 * time.Minute, func(ctx context.Context) error { return r.setUp(ctx, procs, free, cluster) }},
		{"load and faults", o.MaxLoad + o.Duration + 10*time.Minute, r.strain},
		{"heal", 5 * time.Minute, r.heal},
		{"drain", o.Drain + time.Minute, r.drain},
		{"end the service", 5 * time.Minute, r.end},
		{"dump", 30 * time.Minute, r.dump},
	} {
		begun := time.Now()
		limited, cancel := context.WithTimeoutCause(ctx, phase.limit, fmt.Errorf("%s hung for %v", phase.name, phase.limit))
		err := phase.do(limited)
		cancel()
		if err != nil {
			r.dumpGoroutines()
			return nil, fmt.Errorf("%s: %w", phase.name, err)
		}
		o.say("%s: done in %v", phase.name, time.Since(begun).Round(time.Second))
	}
	report := r.report()
	o.say("check the history")
	var err error
	if report.Check, err = CheckDir(o.Dir, checker.Options{MaxRepeats: o.MaxRepeats, Fence: o.Fence}); err != nil {
		return nil, err
	}
	return report, report.write(o.Dir)
}

// CheckDir checks a recorded history again.
func CheckDir(dir string, o checker.Options) (checker.Report, error) {
	h, err := checker.Load(os.DirFS(HistoryDir(dir)))
	if err != nil {
		return checker.Report{}, fmt.Errorf("load the history: %w", err)
	}
	o.ProbeMax, o.ProbeWindow, o.ProbeAfter, o.Fence = probeMax, probeWindow, probeAfter, cmp.Or(o.Fence, fence)
	return checker.Check(h, o), nil
}

// How often a tenant that takes nothing is asked, of one partition. Its first
// requests are the budget of a lane: three within 5 s, and those in halves. Then it
// is suspended, and probed after a random part of 1 s, 2 s, 4 s, … 5 min, never less
// than 1 s. What begins again at 1 s is a worker that takes over, so that in a storm
// of rebalances there may be one a second; else there are eight at most. An event that
// fails while others pass is sent again after 1 s to 30 s, each by itself. In 114
// faults there were never more than 11. A worker that makes no pause asks four times a
// second. That the pause grows is not seen by this bound.
const (
	probeMax    = 25
	probeWindow = 20 * time.Second
	probeAfter  = 5 * time.Second
)

// fence is Options.Fence: a worker has a lease of 0.6 to 1.5 s, and its session takes 12 s.
const fence = 8 * time.Second

// run is a run under way.
type run struct {
	o       Options
	history string
	begun   time.Time

	*installation

	receiver       *Receiver
	load           *Load
	injector       *injector
	planned        []Injection
	failing        []string // tenants that are not healed
	sent, received *lines
	asked          *commitRecorder
	took           struct{ load, drain time.Duration }
	letters, log   int
	commits        []checker.Commit // without metadata
}

func (r *run) setUp(ctx context.Context, procs *supervisor, free *ports, cluster *Cluster) (err error) {
	o := r.o
	r.begun = time.Now()
	name := fmt.Sprintf("chaos-%d-%d", o.Seed, r.begun.UnixNano())
	r.installation = &installation{
		binary: o.Binary, procs: procs, cluster: cluster, fleet: newFleet(o.Tenants, o.Dir), prefix: name + ".", group: name,
		logger: func(format string, args ...any) {
			o.say("%6.1fs %s", time.Since(r.begun).Seconds(), fmt.Sprintf(format, args...))
		},
	}
	if r.sent, err = createLines(r.history, checker.SentFile); err != nil {
		return err
	}
	if r.received, err = createLines(r.history, checker.ReceivedFile); err != nil {
		return err
	}
	if r.asked, err = newCommitRecorder(r.history, r.group, r.events()); err != nil {
		return err
	}
	r.recordCommits(r.asked)
	if r.receiver, err = newReceiver(ctx, r.fleet, o.Workers, o.Seed, r.received); err != nil {
		return err
	}
	r.receiver.lenient, r.receiver.latency = o.lenient, o.latency
	for i, addr := range r.receiver.addrs {
		sink, err := listenProxy(free, addr)
		if err != nil {
			return err
		}
		r.sinks = append(r.sinks, sink)
		r.fleet.endpoints = append(r.fleet.endpoints, "http://"+sink.Addr())
		admin, err := free.take()
		if err != nil {
			return err
		}
		r.workers = append(r.workers, &member{index: i, admin: admin})
	}
	for _, address := range []*string{&r.listen, &r.ingressAdmin} {
		if *address, err = free.take(); err != nil {
			return err
		}
	}
	if err := r.takeSession(ctx, o.Session); err != nil {
		return err
	}
	if r.planned, err = Schedule(ScheduleOptions{
		Seed: o.Seed, Duration: o.Duration, Active: min(o.Active, o.Tenants), Brokers: o.Brokers, Faults: o.Faults, Long: o.Long, Session: r.session,
	}); err != nil {
		return err
	}
	if o.plan != nil {
		r.planned = o.plan
	}
	if err := errors.Join(r.fleet.write(), r.ensureTopics(ctx, o.Partitions), r.startIngress()); err != nil {
		return err
	}
	for _, m := range r.workers {
		if err := r.startWorker(m); err != nil {
			return err
		}
	}
	return r.awaitReady(ctx)
}

// strain sends the load and strikes, until all is sent and every fault undone.
func (r *run) strain(ctx context.Context) error {
	o := r.o
	r.load = newLoad(LoadOptions{
		Events: o.Events, Over: o.Duration, Senders: o.Senders, Tenants: o.Tenants, Active: o.Active, Users: o.Users, Seed: o.Seed, NoCopies: o.NoCopies, Batch: o.Batch,
	}, r.listen, r.fleet, r.sent)
	begun := time.Now()
	r.injector = &injector{installation: r.installation, receiver: r.receiver, load: r.load, begun: begun, goOn: o.plan != nil}
	var both sync.WaitGroup
	both.Go(func() {
		r.load.run(ctx)
		r.took.load = time.Since(begun)
	})
	both.Go(func() {
		if o.Faults == "liveness" {
			r.breakForGood(ctx)
			return
		}
		r.injector.run(ctx, r.planned)
	})
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { r.watch(watching, 15*time.Second) })
	watch.Go(func() { r.injector.keep(watching) })
	limit := time.AfterFunc(o.MaxLoad, r.load.stop)
	both.Wait()
	limit.Stop()
	stop()
	watch.Wait()
	return context.Cause(ctx)
}

// watch says now and then how things stand.
func (r *run) watch(ctx context.Context, every time.Duration) {
	for pause(ctx, every) {
		counts := r.receiver.figures()
		r.logger("%d events accepted, %d given up; %d calls accepted", r.load.Accepted.Load(), r.load.GivenUp.Load(), counts.Calls)
	}
}

// breakForGood fails a third of the tenants, all workers but one, and one of
// three brokers, and never undoes it.
func (r *run) breakForGood(ctx context.Context) {
	if !pause(ctx, r.o.Duration/4) {
		return
	}
	j := r.injector
	now := time.Now().UnixNano()
	until := now + int64(24*time.Hour)
	for i := range min(r.o.Active, r.o.Tenants) {
		if i%3 != 0 {
			continue
		}
		id := r.fleet.tenants[i].ID
		name := mixed[i/3%len(mixed)]
		if name == "slow" || name == "lost-silent" { // these let something through
			name = "500"
		}
		m, err := mode(name)
		if err != nil {
			j.problem("%v", err)
			continue
		}
		r.receiver.treat([]string{id}, m)
		r.failing = append(r.failing, id)
	}
	j.faults = append(j.faults, checker.Fault{At: now, Until: until, Fault: "F23", Tenants: slices.Clone(r.failing)})
	for _, m := range r.workers[1:] {
		m.running().signal(sigStop)
		j.faults = append(j.faults, checker.Fault{At: now, Until: until, Fault: "F5", Target: workerName(m.index)})
	}
	if n := len(r.cluster.Brokers); n >= 3 {
		r.cluster.kill(r.cluster.Brokers[n-1])
		j.faults = append(j.faults, checker.Fault{At: now, Until: until, Fault: "F10", Target: fmt.Sprintf("broker-%d", n)})
	}
	r.logger("broken for good: %d tenants, %d workers and a broker", len(r.failing), len(r.workers)-1)
}

func (r *run) heal(ctx context.Context) error {
	if r.o.Faults == "liveness" {
		return nil
	}
	r.receiver.heal()
	if err := r.installation.heal(ctx); err != nil {
		return err
	}
	return r.awaitReady(ctx)
}

// drain waits until everything is committed and nobody waits at a cursor. If that
// does not come, the run goes on: the checker says what is missing.
func (r *run) drain(ctx context.Context) error {
	begun := time.Now()
	limited, cancel := context.WithTimeout(ctx, r.o.Drain)
	defer cancel()
	keeping, stop := context.WithCancel(ctx)
	var keep sync.WaitGroup
	keep.Go(func() { r.injector.keep(keeping) })
	defer keep.Wait()
	defer stop()
	var lag int64
	var cursors int
	var last error
	told := time.Now()
	err := await(limited, "the lag to be 0 and no cursor left", time.Second, func(ctx context.Context) bool {
		l, c, err := r.cluster.lag(ctx, r.group, r.events())
		if last = err; err == nil {
			lag, cursors = l, c
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			r.logger("draining: lag %d, %d cursors, %v", lag, cursors, last)
		}
		return last == nil && lag == 0 && (cursors == 0 || len(r.failing) > 0)
	})
	r.took.drain = time.Since(begun)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		stop()
		r.injector.problem("drain hung after %v: lag %d, %d cursors, last error %v; the workers' goroutines are in their logs", r.o.Drain, lag, cursors, last)
		r.dumpGoroutines()
	}
	return nil
}

// dumpGoroutines ends the workers and the ingress with SIGQUIT.
func (r *run) dumpGoroutines() {
	if r.installation == nil {
		return
	}
	all := []*Process{r.front()}
	for _, m := range r.workers {
		all = append(all, m.running())
	}
	for _, p := range all {
		if p != nil {
			p.dump()
		}
	}
}

// end ends the service as a roll-out does: exit code 0 of everybody.
func (r *run) end(context.Context) error {
	var ending sync.WaitGroup
	for i, m := range r.workers {
		p := m.running()
		if r.o.Faults == "liveness" && i > 0 {
			p.kill() // it stands still; it must not go on now
			continue
		}
		if p.ended() {
			continue
		}
		ending.Go(func() {
			took, err := p.terminate(drainPatience)
			if err != nil {
				r.injector.problem("%v", err)
			}
			r.logger("%s drained and left in %v", p.Name, took.Round(time.Millisecond))
		})
	}
	ending.Go(func() {
		if _, err := r.front().terminate(drainPatience); err != nil {
			r.injector.problem("%v", err)
		}
	})
	ending.Wait()
	return nil
}

// dump writes what is left of the history.
func (r *run) dump(ctx context.Context) error {
	if err := await(ctx, "the last answers", 100*time.Millisecond, func(context.Context) bool { return r.receiver.settled() }); err != nil {
		return err
	}
	r.recordCommits(nil)
	if err := r.asked.close(); err != nil {
		r.injector.problem("the requests for commits: %v", err)
	}
	bounds, err := r.cluster.bounds(ctx, r.events())
	if err != nil {
		return err
	}
	positions, err := r.cluster.positions(ctx, r.group, r.events(), len(bounds))
	if err != nil {
		return err
	}
	final := checker.Final{At: time.Now().UnixNano(), Positions: positions, Failing: r.failing}
	if r.log, err = r.cluster.dumpLog(ctx, r.events(), r.history, &r.injector.trimmed); err != nil {
		return err
	}
	if r.letters, err = r.cluster.dumpLetters(ctx, r.dead(), r.history); err != nil {
		return err
	}
	err = r.cluster.dumpCommits(ctx, r.group, r.events(), r.history, func(c checker.Commit) {
		c.Metadata = ""
		r.commits = append(r.commits, c)
	})
	return errors.Join(
		err, r.sent.close(), r.received.close(),
		writeAll(r.history, checker.TenantsFile, r.fleet.history()),
		writeAll(r.history, checker.BoundsFile, bounds),
		writeAll(r.history, checker.FaultsFile, r.injector.history()),
		writeAll(r.history, checker.FinalFile, []checker.Final{final}),
	)
}

// recordCommits has what workers ask the brokers to commit written down.
func (r *run) recordCommits(commits *commitRecorder) {
	for i := range r.o.Workers {
		for _, b := range r.cluster.Brokers {
			b.proxies[workerClient(i)].record(commits, workerName(i))
		}
	}
}

func (r *run) close() {
	if r.asked != nil {
		r.recordCommits(nil)
		_ = r.asked.close()
	}
	if r.receiver != nil {
		r.receiver.close()
	}
	if r.installation != nil {
		for _, p := range r.sinks {
			p.Close()
		}
		if p := r.front(); p != nil && !p.ended() {
			p.kill()
		}
		for _, m := range r.workers {
			if p := m.running(); p != nil && !p.ended() {
				p.kill()
			}
		}
	}
	for _, l := range []*lines{r.sent, r.received} {
		if l != nil {
			_ = l.close()
		}
	}
}
