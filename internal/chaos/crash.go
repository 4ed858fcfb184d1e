package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"refinersource/internal/checker"
)

// moment is a point in the work of a process that its links show.
type moment struct {
	sink   bool // on the link to the receiver; else on those to the brokers
	sight  Sight
	passes bool // what shows it goes on before the process is struck
}

// workerMoments are those at which F15 kills a worker.
var workerMoments = []string{
	"after_fetch", "before_http", "during_http", "after_http_before_state", "after_state_before_commit",
	"before_commit", "mid_commit", "after_commit", "before_dlq", "mid_dlq", "after_dlq_before_commit",
}

// moments are by the names of F15 (a worker) and F9 (the ingress). A worker
// produces nothing but dead letters, and the ingress nothing but events.
var moments = map[string]moment{
	"after_fetch":               {sight: Sight{API: apiFetch, Size: 1000}, passes: true}, // with events
	"before_http":               {sight: Sight{API: NoAPI, Up: true}, sink: true},
	"during_http":               {sight: Sight{API: NoAPI, Up: true}, sink: true, passes: true},
	"after_http_before_state":   {sight: Sight{API: NoAPI}, sink: true},
	"after_state_before_commit": {sight: Sight{API: NoAPI}, sink: true, passes: true},
	"before_commit":             {sight: Sight{API: apiOffsetCommit, Up: true}},
	"mid_commit":                {sight: Sight{API: apiOffsetCommit}},
	"after_commit":              {sight: Sight{API: apiOffsetCommit}, passes: true},
	"before_dlq":                {sight: Sight{API: apiProduce, Up: true}},
	"mid_dlq":                   {sight: Sight{API: apiProduce}},
	"after_dlq_before_commit":   {sight: Sight{API: apiProduce}, passes: true},

	"before_ack": {sight: Sight{API: apiProduce, Up: true}, passes: true}, // the broker has it
	"after_ack":  {sight: Sight{API: apiProduce}},                         // it is acknowledged, and nobody knows
	"after_202":  {sight: Sight{API: apiProduce}, passes: true},           // right before or behind the answer
}

func (m moment) is(s Sight) bool {
	return s.API == m.sight.API && s.Up == m.sight.Up && s.Size >= m.sight.Size
}

// target is a process that can be struck, and the links that show what it does.
type target struct {
	name    string
	process func() *Process
	brokers []*Proxy
	sink    *Proxy
	start   func() error
}

func (j *injector) brokerLinks(client int) []*Proxy {
	var all []*Proxy
	for _, b := range j.cluster.Brokers {
		all = append(all, b.proxies[client])
	}
	return all
}

func (j *injector) frontTarget() target {
	return target{name: "ingress", process: j.front, brokers: j.brokerLinks(ingressClient), start: func() error { return j.startIngress() }}
}

func (j *injector) workerTarget(m *member) target {
	return target{
		name: workerName(m.index), process: m.running, brokers: j.brokerLinks(workerClient(m.index)), sink: j.sinks[m.index],
		start: func() error { return j.startWorker(m) },
	}
}

// momentPatience is how long a moment is waited for. Some do not come: a worker
// without partitions sends nothing.
const momentPatience = 20 * time.Second

// crashWorker kills a worker at a moment: the one that is drawn, or whoever writes
// a dead letter first, for which there is occasion then.
func (j *injector) crashWorker(ctx context.Context, in Injection, m *member, r *rand.Rand, f *checker.Fault) error {
	if moments[in.Mode].sight.API != apiProduce {
		return j.crash(ctx, in, []target{j.workerTarget(m)}, f)
	}
	var all []target
	for _, m := range j.workers {
		all = append(all, j.workerTarget(m))
	}
	var occasion sync.WaitGroup
	var err error
	occasion.Go(func() {
		if pause(ctx, time.Second) {
			err = j.rawRecords(ctx, r)
		}
	})
	struck := j.crash(ctx, in, all, f)
	occasion.Wait()
	if err != nil {
		return err
	}
	return struck
}

// crash ends the first of some processes that comes to a moment with SIGKILL, and
// starts it again. The moment is found from outside, by what its links carry: what
// is not to go on is held until the process has ended.
func (j *injector) crash(ctx context.Context, in Injection, targets []target, f *checker.Fault) error {
	what, ok := moments[in.Mode]
	if !ok {
		return fmt.Errorf("there is no moment %q", in.Mode)
	}
	struck := make(chan target, 1)
	var once sync.Once
	for _, at := range targets {
		watch := func(s Sight) (bool, func()) {
			if !what.is(s) {
				return false, nil
			}
			first := false
			once.Do(func() { first = true })
			if !first {
				return false, nil
			}
			kill := func() {
				at.process().kill()
				struck <- at
			}
			if what.passes {
				return false, kill
			}
			kill()
			return true, nil
		}
		at.watch(what, watch)
		defer at.watch(what, nil)
	}
	var victim target
	timer := time.NewTimer(momentPatience)
	defer timer.Stop()
	select {
	case victim = <-struck:
	case <-timer.C:
	case <-ctx.Done():
	}
	missed := false
	once.Do(func() { missed = true })
	if missed {
		f.Effects = []checker.Effect{checker.Harmless}
		f.Params["missed"] = "true"
		j.logger("%s %s: the moment did not come", in.Fault, in.Mode)
		return nil
	}
	if victim.name == "" {
		victim = <-struck
	}
	// What it does not know began before the end of the process, by as much as the
	// bytes took.
	f.At, f.Target = max(f.At, time.Now().Add(-time.Second).UnixNano()), victim.name
	pause(ctx, in.For)
	return victim.start()
}

func (p *target) watch(what moment, w Watch) {
	if what.sink {
		p.sink.Watch(w)
		return
	}
	for _, link := range p.brokers {
		link.Watch(w)
	}
}

// loseAnswers loses answers to requests of a kind, the first alone or all, for a
// while, and cuts the connections on which they come: what was asked for is done,
// and whoever asked does not know. It returns how many were lost.
func loseAnswers(ctx context.Context, links []*Proxy, api int16, all bool, d time.Duration) int {
	var mu sync.Mutex
	lost := 0
	for _, link := range links {
		link.Watch(func(s Sight) (bool, func()) {
			if s.Up || s.API != api {
				return false, nil
			}
			mu.Lock()
			defer mu.Unlock()
			if lost > 0 && !all {
				return false, nil
			}
			lost++
			return true, nil
		})
	}
	pause(ctx, d)
	for _, link := range links {
		link.Watch(nil)
	}
	mu.Lock()
	defer mu.Unlock()
	return lost
}

// loseCommitAnswers lets a worker commit and not know it. With one answer lost
// nothing comes again but what follows from a new generation.
func (j *injector) loseCommitAnswers(ctx context.Context, in Injection, m *member, f *checker.Fault) error {
	f.Target = workerName(m.index)
	if in.Mode == "once" {
		f.Effects = []checker.Effect{checker.Restart}
	}
	n := loseAnswers(ctx, j.brokerLinks(workerClient(m.index)), apiOffsetCommit, in.Mode == "all", in.For)
	f.Params["lost"] = fmt.Sprint(n)
	return nil
}

// failProduce makes the ingress fail to put events into the log, or to know that
// it has.
func (j *injector) failProduce(ctx context.Context, in Injection, f *checker.Fault) error {
	f.Target = "events"
	if in.Mode == "too-large" {
		return j.refuseRecords(ctx, in, j.events())
	}
	n := loseAnswers(ctx, j.brokerLinks(ingressClient), apiProduce, true, in.For)
	f.Params["lost"] = fmt.Sprint(n)
	return nil
}
