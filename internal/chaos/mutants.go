package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"refinersource/internal/checker"
)

// Mutant is the service with a fault of the kind that the checker exists for. It
// must be caught: at least one violation of one of the rules.
type Mutant struct {
	Name, Why string
	Edits     []Edit
	Scenario  string
	Rules     []checker.Rule
}

// scenario is a short run that gives a kind of mutant the occasion to do wrong.
type scenario struct {
	o       Options
	plan    []Injection
	lenient bool          // the receiver takes any key
	copies  bool          // senders post some events twice
	latency time.Duration // of every answer
}

// scenarios are by name. All run on one broker.
var scenarios = map[string]scenario{
	// Nothing happens.
	"calm": {o: Options{Duration: 8 * time.Second, Events: 2400}},
	// Nothing happens, and a wrong key is taken.
	"keys": {o: Options{Duration: 6 * time.Second, Events: 1500}, lenient: true},
	// Senders post some events twice, at once and later.
	"copies": {o: Options{Duration: 8 * time.Second, Events: 2400}, copies: true},
	// Workers are rolled while answers take their time, so that events queue up.
	"restart": {
		o:       Options{Duration: 16 * time.Second, Events: 3200},
		plan:    []Injection{{At: 3 * time.Second, For: 3 * time.Second, Fault: "F3", Track: "workers"}},
		latency: 100 * time.Millisecond,
	},
	// A worker is killed, and comes again.
	"kill": {
		o:    Options{Duration: 12 * time.Second, Events: 4800},
		plan: []Injection{{At: 5 * time.Second, For: time.Second, Fault: "F1", Track: "workers"}},
	},
	// Tenants fail in several ways, and recover.
	"failing": {
		o: Options{Duration: 25 * time.Second, Events: 6000},
		plan: []Injection{
			{At: 2 * time.Second, For: 12 * time.Second, Fault: "F23", Mode: "401", Track: "receiver", Tenants: []string{"t0000", "t0004"}},
			{At: 2 * time.Second, For: 14 * time.Second, Fault: "F22", Mode: "500", Track: "receiver-2", Tenants: []string{"t0001", "t0002"}},
			{At: 2 * time.Second, For: 12 * time.Second, Fault: "F25", Mode: "flap", Track: "events", Tenants: []string{"t0005", "t0006"}},
		},
	},
	// A tenant fails, and the worker that holds its cursor is killed, then another
	// is ended in order.
	"suspended": {
		o: Options{Duration: 40 * time.Second, Events: 8000},
		plan: []Injection{
			{At: 2 * time.Second, For: 30 * time.Second, Fault: "F22", Mode: "500", Track: "receiver", Tenants: []string{"t0000", "t0001", "t0002", "t0004"}},
			{At: 14 * time.Second, For: time.Second, Fault: "F1", Track: "workers"},
			{At: 30 * time.Second, For: 2 * time.Second, Fault: "F3", Track: "workers"},
		},
	},
	// Dead letters cannot be written for a while, then a worker is killed.
	"letters": {
		o: Options{Duration: 20 * time.Second, Events: 3000},
		plan: []Injection{
			{At: 2 * time.Second, For: 14 * time.Second, Fault: "F37", Track: "brokers"},
			{At: 4 * time.Second, Fault: "F36", Track: "events"},
			{At: 4 * time.Second, For: time.Second, Fault: "F31", Mode: "400", Track: "events"},
			{At: 11 * time.Second, For: time.Second, Fault: "F1", Track: "workers"},
		},
	},
	// A worker stands still for longer than its session, and goes on.
	"frozen": {
		o: Options{Duration: 45 * time.Second, Events: 12_000},
		plan: []Injection{
			{At: 4 * time.Second, For: 27 * time.Second, Fault: "F5", Track: "workers"},
			{At: 2 * time.Second, For: 40 * time.Second, Fault: "F28", Mode: "slow", Track: "receiver", Tenants: []string{"t0000", "t0001", "t0002", "t0004"}},
		},
	},
	// A worker loses Kafka for longer than its session, and has the receiver still,
	// and work for it: some tenants are slow.
	"cut": {
		o: Options{Duration: 35 * time.Second, Events: 9000, Fence: 4 * time.Second},
		plan: []Injection{
			{At: 6 * time.Second, For: 27 * time.Second, Fault: "F6", Track: "workers"},
			{At: 2 * time.Second, For: 32 * time.Second, Fault: "F28", Mode: "slow", Track: "receiver", Tenants: []string{"t0000", "t0001", "t0002", "t0004"}},
		},
	},
	// Commits are refused for longer than a worker may go on without; workers are
	// rolled when they are taken again.
	"refused": {
		o: Options{Duration: 22 * time.Second, Events: 6600, Fence: 4 * time.Second},
		plan: []Injection{
			{At: 4 * time.Second, For: 16 * time.Second, Fault: "F17", Mode: "idle", Track: "brokers"},
			{At: 24 * time.Second, For: 2 * time.Second, Fault: "F3", Track: "workers"},
		},
	},
	// Members join and leave, and workers are rolled.
	"storm": {
		o: Options{Duration: 40 * time.Second, Events: 8000},
		plan: []Injection{
			{At: 3 * time.Second, For: 30 * time.Second, Fault: "F20", Track: "workers"},
			{At: 10 * time.Second, For: 10 * time.Second, Fault: "F3", Track: "events"},
		},
	},
}

// MutantsOptions say which mutants are tried, and where.
type MutantsOptions struct {
	Root, Dir string
	Only      []string // names of mutants; all without
	Binary    string   // of the service as it is; "" builds it
	Session   time.Duration
	Progress  func(string)
}

// Verdict is what came of one mutant, or of the service as it is in a scenario.
type Verdict struct {
	Mutant   string               `json:"mutant,omitempty"` // "" is the service as it is
	Scenario string               `json:"scenario"`
	Counts   map[checker.Rule]int `json:"counts"`
	First    string               `json:"first,omitempty"`
	OK       bool                 `json:"ok"`
	Problem  string               `json:"problem,omitempty"`
}

// String is the verdict as one line.
func (v Verdict) String() string {
	var found []string
	for _, rule := range checker.Rules() {
		if n := v.Counts[rule]; n > 0 {
			found = append(found, fmt.Sprintf("%v×%d", rule, n))
		}
	}
	what := v.Mutant
	if what == "" {
		what = "(the service as it is)"
	}
	outcome := map[bool]string{true: "ok    ", false: "FAILED"}[v.OK]
	return strings.TrimSpace(fmt.Sprintf("%s %-28s %-10s %s %s %s", outcome, what, v.Scenario, strings.Join(found, " "), v.First, v.Problem))
}

// RunMutants builds each mutant and runs it in its scenario, and the service as it
// is in each of these. Every mutant must be caught, and the service must not.
func RunMutants(ctx context.Context, o MutantsOptions) ([]Verdict, error) {
	chosen := Mutants()
	if len(o.Only) > 0 {
		chosen = slices.DeleteFunc(chosen, func(m Mutant) bool { return !slices.Contains(o.Only, m.Name) })
		if len(chosen) != len(o.Only) {
			return nil, fmt.Errorf("of %s only %d are mutants", strings.Join(o.Only, ", "), len(chosen))
		}
	}
	if err := makeEmpty(o.Dir); err != nil {
		return nil, err
	}
	// All mutants must fit the source before anything is started.
	overlays := make(map[string]string)
	var stale []error
	for _, m := range chosen {
		dir := filepath.Join(o.Dir, m.Name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make the mutant's directory: %w", err)
		}
		overlay, err := writeOverlay(o.Root, dir, m.Edits)
		if err != nil {
			stale = append(stale, fmt.Errorf("mutant %s: %w", m.Name, err))
		}
		overlays[m.Name] = overlay
	}
	if err := errors.Join(stale...); err != nil {
		return nil, err
	}
	binary := o.Binary
	if binary == "" {
		binary = filepath.Join(o.Dir, "refiner-source")
		if err := Build(ctx, o.Root, binary, ""); err != nil {
			return nil, err
		}
	}
	procs, err := newSupervisor(filepath.Join(o.Dir, "logs"))
	if err != nil {
		return nil, err
	}
	defer procs.close()
	free := newPorts()
	cluster, err := startCluster(ctx, procs, free, o.Root, o.Dir, 1, clientNames(mutantWorkers))
	if cluster != nil {
		defer cluster.close()
	}
	if err != nil {
		return nil, fmt.Errorf("start Kafka: %w", err)
	}
	var verdicts []Verdict
	add := func(v Verdict) {
		verdicts = append(verdicts, v)
		o.Progress(v.String())
	}
	tried := make(map[string]bool)
	for _, m := range chosen {
		if !tried[m.Scenario] {
			tried[m.Scenario] = true
			v := tryScenario(ctx, o, m.Scenario, "", binary, procs, free, cluster)
			v.OK = v.Problem == "" && len(v.Counts) == 0
			add(v)
		}
		mutated := filepath.Join(o.Dir, m.Name, "refiner-source")
		v := Verdict{Mutant: m.Name, Scenario: m.Scenario}
		if err := Build(ctx, o.Root, mutated, overlays[m.Name]); err != nil {
			v.Problem = err.Error()
		} else {
			v = tryScenario(ctx, o, m.Scenario, m.Name, mutated, procs, free, cluster)
			_ = os.Remove(mutated)
			v.OK = slices.ContainsFunc(m.Rules, func(r checker.Rule) bool { return v.Counts[r] > 0 })
		}
		add(v)
		if ctx.Err() != nil {
			return verdicts, context.Cause(ctx)
		}
	}
	return verdicts, nil
}

const (
	mutantWorkers = 2
	mutantDrain   = 60 * time.Second
)

// tryScenario runs a binary in a scenario. A mutant may hang or fall over: what
// matters is what the checker says of it.
func tryScenario(ctx context.Context, mo MutantsOptions, name, mutant, binary string, procs *supervisor, free *ports, cluster *Cluster) Verdict {
	v := Verdict{Mutant: mutant, Scenario: name}
	s := scenarios[name]
	o := s.o
	o.Root, o.Binary, o.Session = mo.Root, binary, mo.Session
	o.Dir = filepath.Join(mo.Dir, strings.Trim(mutant+"-in-"+name, "-"))
	o.Seed, o.Tenants, o.Active, o.Users, o.Senders = 1, 16, 8, 4, 8
	o.Brokers, o.Workers, o.Partitions, o.Faults, o.Drain = 1, mutantWorkers, 6, "none", mutantDrain
	if mutant == "" {
		o.Drain = 5 * time.Minute
	}
	o.plan, o.lenient, o.NoCopies, o.latency = s.plan, s.lenient, !s.copies, s.latency
	o.Batch = 1 // what shows a mistake is the rate and the place of each event
	o = o.withDefaults()
	if err := makeEmpty(o.Dir); err != nil {
		v.Problem = err.Error()
		return v
	}
	logs := procs.logs
	procs.logs = filepath.Join(o.Dir, "logs")
	defer func() { procs.logs = logs }()
	if err := os.MkdirAll(procs.logs, 0o755); err != nil {
		v.Problem = err.Error()
		return v
	}
	report, err := runOn(ctx, o, procs, free, cluster)
	if err != nil {
		v.Problem = err.Error()
		return v
	}
	v.Counts = report.Check.Counts
	if len(report.Check.Violations) > 0 {
		v.First = "first: " + report.Check.Violations[0].Text
	}
	v.Problem = strings.Join(report.Problems, "; ")
	return v
}
