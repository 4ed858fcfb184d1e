package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"refinersource/internal/checker"
)

// injector does to the system what a schedule says, and writes down when.
type injector struct {
	*installation

	receiver *Receiver
	load     *Load
	begun    time.Time // of the load
	goOn     bool      // also when the load has ended

	mu           sync.Mutex
	faults       []checker.Fault
	problems     []string // what went wrong that no checker sees
	terminations []time.Duration
	kills        []kill
	unsettled    int // broker faults under way
	lastBroker   time.Time
	refusing     int // topics that take no records
	lastRefusal  time.Time
	trimming     sync.Mutex
	trimmed      trimmed // what was deleted from the log
}

// kill is the end of a worker, and what it had.
type kill struct {
	at         time.Time
	partitions []int
}

// run carries out all injections: those of one track one after another. It
// returns when the last is undone.
func (j *injector) run(ctx context.Context, all []Injection) {
	byTrack := make(map[string][]Injection)
	for _, in := range all {
		byTrack[in.Track] = append(byTrack[in.Track], in)
	}
	var running sync.WaitGroup
	for _, list := range byTrack {
		running.Go(func() {
			var calm time.Time // until when the next one waits if the last took longer than planned
			for _, in := range list {
				if !pause(ctx, max(time.Until(calm), time.Until(j.begun.Add(in.At)))) || j.load.done() && !j.goOn {
					return
				}
				j.inject(ctx, in)
				track, _, _ := strings.Cut(in.Track, "-")
				calm = time.Now().Add(gaps[track][0])
				if slices.Contains(leavers, in.Fault) && !j.goOn {
					calm = calm.Add(j.session)
				}
			}
		})
	}
	running.Wait()
}

// inject carries out one injection and writes it down.
func (j *injector) inject(ctx context.Context, in Injection) {
	f := checker.Fault{At: time.Now().UnixNano(), Fault: in.Fault, Tenants: in.Tenants, Params: map[string]string{"for": in.For.String()}}
	if in.Mode != "" {
		f.Params["mode"] = in.Mode
	}
	j.logger("%-7s %-4s %s %v %s", "begin", in.Fault, in.Mode, in.For.Round(100*time.Millisecond), strings.Join(in.Tenants, " "))
	err := j.strike(ctx, in, &f)
	f.Until = time.Now().UnixNano()
	j.mu.Lock()
	j.faults = append(j.faults, f)
	j.mu.Unlock()
	switch begun := time.Unix(0, f.At); {
	case err == nil || ctx.Err() != nil:
	case j.brokersStruck(begun):
		j.logger("%s could not be done in full, since brokers are down: %v", in.Fault, err)
	default:
		j.problem("%s: %v", in.Fault, err)
	}
	j.logger("%-7s %-4s %s", "end", in.Fault, f.Target)
}

func (j *injector) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	j.logger("PROBLEM %s", text)
	j.mu.Lock()
	j.problems = append(j.problems, text)
	j.mu.Unlock()
}

// refusedTopics is the exit code of a worker or an ingress that does not take the
// topics as it finds them, and so of one that starts while F17, F19 or F37 has
// changed them.
const refusedTopics = 1

// ended says how a process ended by itself.
func (j *injector) ended(name string, code int) {
	if code == refusedTopics && j.recordsRefused() {
		j.logger("%s does not take the topics as they are, and is started again", name)
		return
	}
	j.problem("%s ended by itself with exit code %d; see its log", name, code)
}

// keep starts again what ended by itself, as an orchestrator does, until ctx ends.
func (j *injector) keep(ctx context.Context) {
	for pause(ctx, time.Second) {
		for _, m := range j.workers {
			p := m.running()
			code, fell := p.fell()
			if !fell {
				continue
			}
			j.ended(p.Name, code)
			if err := j.startWorker(m); err != nil {
				j.problem("%v", err)
			}
		}
		if code, fell := j.front().fell(); fell {
			j.ended("the ingress", code)
			if err := j.startIngress(); err != nil {
				j.problem("%v", err)
			}
		}
	}
}

// strike does what an injection says, waits, and undoes it.
func (j *injector) strike(ctx context.Context, in Injection, f *checker.Fault) error {
	r := rand.New(rand.NewPCG(in.Seed, 1))
	m := j.workers[in.Target%len(j.workers)]
	switch in.Fault {
	case "F1", "F2":
		return j.killWorkers(ctx, in, m, f)
	case "F3":
		return j.restart(ctx, in, f)
	case "F4", "F5", "F45":
		return j.freeze(ctx, in, m, f)
	case "F6":
		f.Target = workerName(m.index)
		return j.links(ctx, in, []int{workerClient(m.index)}, j.cluster.Brokers, func() Toxics {
			return Toxics{Up: Toxic{Stall: true}, Down: Toxic{Stall: true}}
		})
	case "F7", "F24", "F26", "F27":
		if len(in.Tenants) > 0 {
			return j.fail(ctx, in)
		}
		return j.sink(ctx, in, m, f)
	case "F8":
		f.Target = "ingress"
		j.front().kill()
		pause(ctx, in.For)
		return j.startIngress()
	case "F9":
		return j.crash(ctx, in, []target{j.frontTarget()}, f)
	case "F10", "F11", "F12", "F13", "F14":
		return j.killBrokers(ctx, in, f)
	case "F39":
		return j.fillDisk(ctx, in, f)
	case "F15":
		return j.crashWorker(ctx, in, m, r, f)
	case "F16":
		return j.loseCommitAnswers(ctx, in, m, f)
	case "F19":
		return j.failProduce(ctx, in, f)
	case "F38":
		return j.trim(ctx, in, r, f)
	case "F40", "F41", "F43":
		return j.starve(ctx, in, m, f)
	case "F42":
		return j.spin(ctx, in)
	case "F48":
		return j.restartBrokers(ctx, in, f)
	case "F20":
		return j.storm(ctx, in, r)
	case "F54":
		return j.stranger(ctx, in, f)
	case "F46":
		f.Target = workerName(m.index)
		b := j.cluster.Brokers[r.IntN(len(j.cluster.Brokers))]
		t := Toxics{Up: Toxic{Stall: true}}
		if r.IntN(2) == 0 {
			t = Toxics{Down: Toxic{Stall: true}}
		}
		return j.links(ctx, in, []int{workerClient(m.index)}, []*Broker{b}, func() Toxics { return t })
	case "F47":
		var all []int
		for i := range j.cluster.clients {
			all = append(all, i)
		}
		return j.links(ctx, in, all, j.cluster.Brokers, func() Toxics {
			d := time.Duration(25+r.IntN(225)) * time.Millisecond
			return Toxics{Up: Toxic{Latency: d, Jitter: d / 2}, Down: Toxic{Latency: d, Jitter: d / 2}}
		})
	case "F31":
		j.load.poison.Store(&in.Mode)
		pause(ctx, in.For)
		return nil
	case "F36":
		return j.rawRecords(ctx, r)
	case "F33":
		return j.rotate(ctx, in)
	case "F51":
		return j.forget(ctx, in, r)
	case "F17":
		f.Target = "commits"
		if in.Mode == "idle" { // nobody's commit stays behind, and nobody leaves
			f.Effects = []checker.Effect{checker.Harmless}
		}
		return j.refuseRecords(ctx, in, offsetsTopic)
	case "F37":
		f.Target = "dead letters"
		return j.refuseRecords(ctx, in, j.dead())
	case "F52":
		j.load.hotUser.Store(true)
		pause(ctx, in.For)
		j.load.hotUser.Store(false)
		return nil
	default:
		return j.fail(ctx, in)
	}
}

// fail makes the receiver fail tenants.
func (j *injector) fail(ctx context.Context, in Injection) error {
	for i, id := range in.Tenants {
		name := in.Mode
		if name == "mixed" {
			name = mixed[(i+int(in.Seed%uint64(len(mixed))))%len(mixed)]
		}
		m, err := mode(name)
		if err != nil {
			return err
		}
		j.receiver.treat([]string{id}, m)
	}
	pause(ctx, in.For)
	j.receiver.treat(in.Tenants, nil)
	return nil
}

// forget fails a tenant, and has it forget some of its busiest users meanwhile: what waits
// of them is not to be sent when the tenant goes on.
func (j *injector) forget(ctx context.Context, in Injection, r *rand.Rand) error {
	m, err := mode(in.Mode)
	if err != nil {
		return err
	}
	j.receiver.treat(in.Tenants, m)
	defer j.receiver.treat(in.Tenants, nil)
	pause(ctx, in.For/2)
	for _, id := range in.Tenants {
		var users []string
		for range 10 {
			users = append(users, fmt.Sprintf("u%d", r.IntN(2*j.load.o.Senders))) // of each sender the two busiest
		}
		j.fleet.forget(id, users)
	}
	if err := j.fleet.write(); err != nil {
		return err
	}
	pause(ctx, in.For/2)
	return nil
}

// rotate gives tenants new write keys: at the receiver at once, in the files when
// somebody has noticed.
func (j *injector) rotate(ctx context.Context, in Injection) error {
	for _, id := range in.Tenants {
		j.fleet.rotate(id)
	}
	pause(ctx, in.For)
	err := j.fleet.write()
	for _, id := range in.Tenants {
		j.fleet.retire(id)
	}
	return err
}

func (j *injector) killWorkers(ctx context.Context, in Injection, m *member, f *checker.Fault) error {
	victims := []*member{m}
	f.Target = workerName(m.index)
	if in.Fault == "F2" {
		victims, f.Target = j.workers, "all workers"
	}
	var had []int
	for _, v := range victims {
		had = append(had, v.partitions(ctx)...)
	}
	at := time.Now()
	for _, v := range victims {
		v.running().signal(sigKill)
	}
	for _, v := range victims {
		<-v.running().done
	}
	j.mu.Lock()
	j.kills = append(j.kills, kill{at, had})
	j.mu.Unlock()
	pause(ctx, in.For)
	for _, v := range victims {
		if err := j.startWorker(v); err != nil {
			return err
		}
	}
	return nil
}

// drainPatience is how long a worker may take to drain.
const drainPatience = 60 * time.Second

// restart ends each worker in turn as a roll-out does, and starts it again.
func (j *injector) restart(ctx context.Context, in Injection, f *checker.Fault) error {
	f.Target = "each worker in turn"
	for _, m := range j.workers {
		if err := j.replace(ctx, m); err != nil {
			return err
		}
		if !pause(ctx, in.For/time.Duration(len(j.workers))) {
			return nil
		}
	}
	return nil
}

// terminate ends a worker as a roll-out does, and notes how long it took.
func (j *injector) terminate(m *member) error {
	took, err := j.endInOrder(m.running())
	if err != nil || took == 0 {
		return err
	}
	j.mu.Lock()
	j.terminations = append(j.terminations, took)
	j.mu.Unlock()
	return nil
}

// endInOrder ends a process with SIGTERM and demands exit code 0, unless brokers
// are away or it does not take the topics as they are. One that ended by itself is
// not our matter here.
func (j *injector) endInOrder(p *Process) (time.Duration, error) {
	if p.ended() {
		return 0, nil
	}
	begun := time.Now()
	took, err := p.terminate(drainPatience)
	if err == nil || j.brokersStruck(begun) || p.cmd.ProcessState.ExitCode() == refusedTopics && j.recordsRefused() {
		return took, nil
	}
	return took, err
}

// replace ends a worker as a roll-out does and starts it again, as the argument of
// a command if one is given.
func (j *injector) replace(ctx context.Context, m *member, within ...string) error {
	if err := j.terminate(m); err != nil {
		return err
	}
	if err := j.startWorker(m, within...); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_ = await(ready, "the worker", 200*time.Millisecond, func(ctx context.Context) bool { return isReady(ctx, m.admin) })
	return nil
}

// brokersStruck reports whether a broker was struck since then or shortly before.
func (j *injector) brokersStruck(since time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.unsettled > 0 || j.lastBroker.After(since.Add(-30*time.Second))
}

// freeze stops workers for a while: for less than their session, or for more.
func (j *injector) freeze(ctx context.Context, in Injection, m *member, f *checker.Fault) error {
	victims, d := []*member{m}, in.For
	f.Target = workerName(m.index)
	switch in.Fault {
	case "F4":
		d = min(d, j.session/2)
	case "F45":
		victims, f.Target = j.workers, "all workers"
	}
	for _, v := range victims {
		v.running().signal(sigStop)
	}
	pause(ctx, d)
	for _, v := range victims {
		v.running().signal(sigCont)
	}
	return nil
}

// links breaks the links of clients to brokers.
func (j *injector) links(ctx context.Context, in Injection, clients []int, brokers []*Broker, toxics func() Toxics) error {
	for _, b := range brokers {
		for _, c := range clients {
			b.proxies[c].Set(toxics())
		}
	}
	pause(ctx, in.For)
	for _, b := range brokers {
		for _, c := range clients {
			b.proxies[c].Set(Toxics{})
		}
	}
	return nil
}

// sink breaks the links of a worker, or of all, to the receiver.
func (j *injector) sink(ctx context.Context, in Injection, m *member, f *checker.Fault) error {
	f.Target = workerName(m.index)
	victims := []*Proxy{j.sinks[m.index]}
	toxics, refuse := Toxics{Up: Toxic{Stall: true}, Down: Toxic{Stall: true}}, false
	switch in.Fault {
	case "F24":
		f.Target, victims, toxics, refuse = "receiver", j.sinks, Toxics{}, true
	case "F26":
		toxics = Toxics{Down: Toxic{ResetAfter: 1}}
	case "F27":
		toxics = Toxics{Up: Toxic{ResetAfter: 3000}}
	}
	var errs []error
	for _, p := range victims {
		p.Set(toxics)
		if refuse {
			errs = append(errs, p.Refuse(true))
			p.Cut()
		}
	}
	pause(ctx, in.For)
	for _, p := range victims {
		p.Set(Toxics{})
		errs = append(errs, p.Refuse(false))
	}
	return errors.Join(errs...)
}

// storm makes a member join and leave the group, again and again.
func (j *injector) storm(ctx context.Context, in Injection, r *rand.Rand) error {
	until := time.Now().Add(in.For)
	var seeds []string
	for _, b := range j.cluster.Brokers {
		seeds = append(seeds, b.direct)
	}
	for time.Now().Before(until) && ctx.Err() == nil {
		stay := time.Duration(1000+r.IntN(2000)) * time.Millisecond
		c, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumerGroup(j.group), kgo.ConsumeTopics(j.events()),
			kgo.Balancers(kgo.RangeBalancer(), kgo.RoundRobinBalancer()), kgo.DisableAutoCommit(), kgo.FetchMaxBytes(64<<10), kgo.FetchMaxPartitionBytes(16<<10),
			kgo.SessionTimeout(10*time.Second), kgo.RebalanceTimeout(30*time.Second), kgo.HeartbeatInterval(500*time.Millisecond))
		if err != nil {
			return fmt.Errorf("join the group: %w", err)
		}
		pause(ctx, stay)
		leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		_ = c.LeaveGroupContext(leave)
		cancel()
		c.Close()
		pause(ctx, stay)
	}
	return nil
}

// stranger starts a worker of another installation in the group, for which all of it
// looks alike but the tenants' endpoints and keys: it has to end by itself. Where the
// group does not come to give it partitions, it is ended.
func (j *injector) stranger(ctx context.Context, in Injection, f *checker.Fault) error {
	f.Target = "stranger"
	file, err := j.fleet.writeStrangers()
	if err != nil {
		return err
	}
	direct := make([]string, len(j.cluster.Brokers))
	for i, b := range j.cluster.Brokers {
		direct[i] = b.direct
	}
	p, err := j.procs.start("stranger", slices.Concat([]string{
		j.binary, "worker", "--brokers", strings.Join(direct, ","), "--topic-prefix", j.prefix, "--group", j.group, "--tenants", file,
		"--admin-listen", "127.0.0.1:0",
	}, j.flags)...)
	if err != nil {
		return err
	}
	limit := time.NewTimer(in.For)
	defer limit.Stop()
	select {
	case <-p.done:
	case <-limit.C:
	case <-ctx.Done():
	}
	if code, fell := p.fell(); fell && code != 1 {
		return fmt.Errorf("the stranger ended with code %d, want 1", code)
	} else if fell {
		return nil
	}
	_, err = p.terminate(drainPatience)
	return err
}

// rawRecords puts records into the log that no ingress would: they must become
// dead letters or be ignored, once, and hold up nothing.
func (j *injector) rawRecords(ctx context.Context, r *rand.Rand) error {
	header := func(tenant, source string) []kgo.RecordHeader {
		return []kgo.RecordHeader{
			{Key: "tenant", Value: []byte(tenant)},
			{Key: "source", Value: []byte(source)},
			{Key: "event-id", Value: []byte("raw-" + strconv.Itoa(r.IntN(1<<30)))},
			{Key: "received-at", Value: time.Now().UTC().AppendFormat(nil, time.RFC3339Nano)},
		}
	}
	known := fmt.Sprintf("t%04d", r.IntN(4))
	large := make([]byte, 900<<10)
	for i := range large {
		large[i] = byte(r.Uint32())
	}
	records := []*kgo.Record{
		{Value: []byte("garbage"), Headers: header(known, webhookSource)},
		{Value: []byte("{"), Headers: header(known, canonicalSource)},
		{Value: nil, Headers: header(known, webhookSource)},
		{Value: []byte(`{"response":[]}`), Headers: header(known, "unknown-source")},
		{Value: []byte(`{}`), Headers: header("nobody", webhookSource)},
		{Value: []byte{0xff, 0x00, 0xfe}},
		{Value: large, Headers: header(known, webhookSource)},
		{Value: []byte(strings.Repeat("[", 10_000)), Headers: header(known, canonicalSource)},
	}
	bounds, err := j.cluster.bounds(ctx, j.events())
	if err != nil {
		return err
	}
	for i, record := range records {
		record.Topic, record.Partition = j.events(), int32(r.IntN(len(bounds)))
		record.Key = []byte(known + "/raw-" + strconv.Itoa(i))
	}
	produce, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := j.cluster.Admin.ProduceSync(produce, records...).FirstErr(); err != nil {
		return fmt.Errorf("produce raw records: %w", err)
	}
	return nil
}

// refuseRecords makes a topic take no records for a while: no dead letters, or no
// commits. Nothing is as small as what it still takes.
func (j *injector) refuseRecords(ctx context.Context, in Injection, topic string) error {
	j.mu.Lock()
	j.refusing++
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		j.refusing--
		j.lastRefusal = time.Now()
		j.mu.Unlock()
	}()
	undo, err := j.cluster.configure(ctx, topic, "max.message.bytes", "10")
	if err != nil {
		return err
	}
	pause(ctx, in.For)
	// Brokers may be down: it is tried until it is undone.
	var last error
	err = await(ctx, "the topic's setting to be undone", time.Second, func(ctx context.Context) bool {
		last = undo(ctx)
		return last == nil
	})
	return errors.Join(err, last)
}

// recordsRefused reports whether a topic takes no records, or did not a moment ago.
func (j *injector) recordsRefused() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.refusing > 0 || time.Since(j.lastRefusal) < 10*time.Second
}

// history is what was done, in the order in which it began.
func (j *injector) history() []checker.Fault {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := slices.Clone(j.faults)
	slices.SortStableFunc(all, func(a, b checker.Fault) int { return int(a.At - b.At) })
	return all
}
