package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/pprof/profile"

	"refinersource/internal/queue"
)

func join(brokers []string) string { return strings.Join(brokers, ",") }

// system is a program that empties the log into a receiver.
type system struct {
	name   string
	raw    bool // it posts whole events
	strict bool // it sends a group only when its identify was accepted
	start  func(ctx context.Context, at *place) (*process, error)
}

// place is where a system runs: what it reads and what it sends to.
type place struct {
	dir      string
	brokers  []string
	prefix   string
	group    string
	tenants  string // its file
	endpoint string
	admin    string // where a worker tells of itself
}

func (p *place) topic() string { return queue.Topics{Prefix: p.prefix}.Events() }

// programs are the built programs, by name.
type programs map[string]string

// build builds the programs that are measured with the Go that runs this one. The
// worker is built in its own module, with the versions and the profile that are shipped.
func build(ctx context.Context, dir string, names ...string) (programs, error) {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "refinersource", "refinersource/bench")
	var said strings.Builder
	list.Stderr = &said
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("find the sources (run this in the directory bench): %w: %s", err, said.String())
	}
	roots := strings.Fields(string(out))
	if len(roots) != 2 {
		return nil, errors.New("find the sources: run this in the directory bench")
	}
	sources := map[string][]string{ // the module, then the package and what else go build is told
		"refiner-source": {roots[0], "-pgo=cmd/refiner-source/release.pgo", "./cmd/refiner-source"},
		"floor":          {roots[1], "./floor"},
		"bare":           {roots[1], "./bare"},
		"bento":          {filepath.Join(roots[1], "bento"), "."},
	}
	built := programs{"bento.yaml": filepath.Join(roots[1], "bento", "bento.yaml")}
	for _, name := range names {
		source := sources[name]
		path := filepath.Join(dir, name)
		cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"build", "-o", path}, source[1:])...)
		cmd.Dir = source[0]
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w: %s", name, err, out)
		}
		built[name] = path
	}
	return built, nil
}

// anew has a worker with receipts begin at the start of a log of which those of another
// group have written receipts.
var anew = []string{"--from", "earliest"}

// workerSystem is the worker of a refiner-source binary.
func workerSystem(name, binary string, strict bool, args ...string) system {
	return system{name: name, strict: strict, start: func(ctx context.Context, at *place) (*process, error) {
		all := slices.Concat([]string{
			"worker", "--brokers", join(at.brokers), "--topic-prefix", at.prefix, "--group", at.group,
			"--tenants", at.tenants, "--admin-listen", at.admin,
		}, args)
		return start(ctx, at.dir, binary, all...)
	}}
}

func floorSystem(binary string) system {
	return system{name: "floor", raw: true, start: func(ctx context.Context, at *place) (*process, error) {
		return start(ctx, at.dir, binary, "-brokers", join(at.brokers), "-topic", at.topic(), "-group", at.group, "-endpoint", at.endpoint)
	}}
}

// bentoSystem is Bento with the configuration in bento/bento.yaml.
func bentoSystem(binary, config string, partitions, batch int) system {
	return system{name: "bento", start: func(ctx context.Context, at *place) (*process, error) {
		text, err := os.ReadFile(config)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		filled := strings.NewReplacer(
			"${BROKERS}", join(at.brokers), "${TOPIC}", at.topic(), "${GROUP}", at.group, "${ENDPOINT}", at.endpoint,
			"${THREADS}", fmt.Sprint(partitions), "${BATCH}", fmt.Sprint(batch),
		).Replace(string(text))
		path := filepath.Join(at.dir, "bento-filled.yaml")
		if err := os.WriteFile(path, []byte(filled), 0o600); err != nil {
			return nil, fmt.Errorf("write configuration: %w", err)
		}
		return start(ctx, at.dir, binary, "-c", path)
	}}
}

// result is what one run of a system came to.
type result struct {
	System     string        `json:"system"`
	Delay      time.Duration `json:"delay_ns"`
	Run        int           `json:"run"`
	Events     int           `json:"events"`
	Workers    int           `json:"workers,omitempty"` // of scaling, as are the partitions
	Partitions int           `json:"partitions,omitempty"`
	Rate       float64       `json:"events_per_second,omitempty"` // from the first request to the last call
	CPU        float64       `json:"cpu_us_per_event,omitempty"`  // of the process, from its start to its end
	PeakRSS    int64         `json:"peak_rss_bytes,omitempty"`    //
	Requests   int64         `json:"requests,omitempty"`          //
	P50        float64       `json:"latency_p50_ms,omitempty"`    // accepted to delivered
	P99        float64       `json:"latency_p99_ms,omitempty"`    //
	Found      violations    `json:"violations"`                  //
	Behind     int64         `json:"uncommitted_events"`          // of a process that ended
	Failure    string        `json:"failure,omitempty"`
}

// failed tells whether the run broke the promise, or did not end well.
func (r *result) failed() bool { return r.Failure != "" || r.Found.sum() > 0 || r.Behind != 0 }

// bench is what all runs share.
type bench struct {
	cluster    *cluster
	dir        string
	load       *load
	configured int // tenants in the file
	pairing    string
	stalled    time.Duration // how long nothing may come
	profiling  bool
	profiles   []*profile.Profile
}

// scene is a receiver and a place for one run.
func (b *bench) scene(ctx context.Context, s *system, prefix string, l *load, delay time.Duration) (*receiver, *place, error) {
	r := newReceiver(l, s.raw, s.strict, delay)
	if err := r.listen(ctx); err != nil {
		return nil, nil, err
	}
	tenants, err := writeTenants(b.dir, max(b.configured, l.tenants), r.url, b.pairing)
	if err != nil {
		r.close()
		return nil, nil, err
	}
	return r, &place{
		dir: b.dir, brokers: b.cluster.brokers, prefix: prefix, group: b.cluster.group(),
		tenants: tenants, endpoint: r.url, admin: "127.0.0.1:0",
	}, nil
}

// drain has the system empty a log that is full when it starts.
func (b *bench) drain(ctx context.Context, s *system, prefix string, delay time.Duration) (result, error) {
	out := result{System: s.name, Delay: delay, Events: b.load.events()}
	r, at, err := b.scene(ctx, s, prefix, b.load, delay)
	if err != nil {
		return out, err
	}
	defer r.close()
	if b.profiling {
		if at.admin, err = freeAddress(ctx); err != nil {
			return out, err
		}
	}
	p, err := s.start(ctx, at)
	if err != nil {
		return out, err
	}
	running := until(ctx, p)
	profiled := func() error { return nil }
	if b.profiling {
		profiled = b.profile(running, at.admin)
	}
	err = errors.Join(r.await(running, b.load.events(), b.stalled), profiled())
	b.finish(ctx, &out, r, at, err, p)
	out.CPU /= float64(b.load.events())
	if took := r.ended.Sub(r.begun); took > 0 {
		out.Rate = float64(b.load.events()) / took.Seconds()
	}
	return out, ctx.Err()
}

// paced has the system deliver events as they come: first some that warm it up,
// then a number a second, of which it tells the latency.
func (b *bench) paced(ctx context.Context, s *system, l *load, rate, warm, partitions int, delay time.Duration) (result, error) {
	out := result{System: s.name, Delay: delay, Events: l.events()}
	prefix, err := b.cluster.topics(ctx, partitions)
	if err != nil {
		return out, err
	}
	r, at, err := b.scene(ctx, s, prefix, l, delay)
	if err != nil {
		return out, err
	}
	defer r.close()
	r.timed()
	records, err := newRecords(l, at.tenants)
	if err != nil {
		return out, err
	}
	if err := b.cluster.fill(ctx, at.topic(), records, 0, warm); err != nil {
		return out, err
	}
	p, err := s.start(ctx, at)
	if err != nil {
		return out, err
	}
	running := until(ctx, p)
	err = r.await(running, warm, b.stalled)
	if err == nil {
		err = b.cluster.pace(running, at.topic(), records, warm, l.events(), rate, func(i int, at time.Time) {
			r.sent[l.slot(int(l.user[i]), int(l.seq[i]))].Store(at.UnixNano())
		})
	}
	if err == nil {
		err = r.await(running, l.events(), b.stalled)
	}
	b.finish(ctx, &out, r, at, err, p)
	out.CPU = 0 // mostly of waiting
	var took []time.Duration
	for i := warm; i < l.events(); i++ {
		took = append(took, r.latency[l.slot(int(l.user[i]), int(l.seq[i]))])
	}
	slices.Sort(took)
	out.P50, out.P99 = milliseconds(quantile(took, 0.5)), milliseconds(quantile(took, 0.99))
	return out, errors.Join(ctx.Err(), b.cluster.drop(ctx, prefix))
}

// finish ends the processes, so that what they might still send has come, and
// judges. Their processor time is that of all, their memory that of the largest.
func (b *bench) finish(ctx context.Context, out *result, r *receiver, at *place, err error, all ...*process) {
	used, ended := make([]usage, len(all)), make([]error, len(all))
	var stopping sync.WaitGroup
	for i, p := range all {
		stopping.Go(func() { used[i], ended[i] = p.stop() })
	}
	stopping.Wait()
	for _, u := range used {
		out.CPU += float64(u.CPU.Microseconds())
		out.PeakRSS = max(out.PeakRSS, u.PeakRSS)
	}
	var example string
	out.Found, example = r.verdict()
	out.Requests = r.requests
	behind, listed := b.cluster.uncommitted(ctx, at.group, at.topic())
	out.Behind = behind
	if example != "" {
		err = errors.Join(err, errors.New(example))
	}
	if err := errors.Join(err, errors.Join(ended...), listed); err != nil {
		out.Failure = err.Error()
	}
}

// errEnded is of a process that ended by itself.
var errEnded = errors.New("the process ended")

// until is ctx that ends with the first of the processes too.
func until(ctx context.Context, all ...*process) context.Context {
	running, cancel := context.WithCancelCause(ctx)
	first := make(chan struct{}, len(all))
	for _, p := range all {
		go func() {
			select {
			case <-p.ended:
			case <-ctx.Done():
			}
			first <- struct{}{}
		}()
	}
	go func() {
		<-first
		cancel(errEnded)
	}()
	return running
}

// quantile of sorted durations.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
