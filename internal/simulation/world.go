package simulation

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"refinersource/internal/broker"
	"refinersource/internal/ingress"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

// group is the consumer group of the workers.
const group = "simulated"

// Bounds of virtual time. Those of the drain leave room for the longest pauses
// that the system takes by its own rules, one after another.
const (
	drainBound = 30 * time.Minute
	// livenessBound is from the last event of a well tenant, and from the start of
	// the last fault, to the moment when all of its events are done.
	livenessBound = 2 * time.Minute
	endBound      = 10 * time.Minute // of a worker that is told to end
	tidyBound     = 5 * time.Minute  // of requests of the simulation's own
)

// ports of the brokers on the bubble's own network.
var ports = []int{9092, 9093, 9094}

// world is everything in a bubble.
type world struct {
	t     T
	plan  *plan
	o     Options
	began time.Time

	network   *kfake.VirtualNetwork
	broker    *broker.Broker
	topics    queue.Topics
	log       *queue.Log // the simulation's own; nothing happens to it
	front     *link      // the ingress's network
	frontLog  *queue.Log
	events    *queue.Publisher
	direct    *queue.Publisher // past the ingress
	ingress   http.Handler
	tenants   atomic.Pointer[tenant.Registry]
	receivers *receivers
	record    *record

	mu         sync.Mutex // never held across a wait
	violations []string
	happened   int       // faults
	slots      []*member // by worker; nil while there is none
	made       int       // workers
	ending     sync.WaitGroup
}

func newWorld(t T, p *plan, o Options) *world {
	w := &world{
		t: t, plan: p, o: o, began: time.Now(), network: new(kfake.VirtualNetwork), topics: queue.Topics{Prefix: "sim."},
		record: newRecord(p), slots: make([]*member, p.workers),
	}
	w.receivers = newReceivers(p, w.record, w.happens)
	return w
}

func (w *world) elapsed() time.Duration { return time.Since(w.began) }

// happens says what happens.
func (w *world) happens(format string, args ...any) {
	w.t.Logf("%v %s", w.elapsed().Round(time.Millisecond), fmt.Sprintf(format, args...))
}

// open starts the broker, the topics and the ingress.
func (w *world) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tidyBound)
	defer cancel()
	if err := w.setTenants(w.plan.tenants); err != nil {
		return err
	}
	var err error
	if w.broker, err = broker.Start(broker.Options{Listen: w.network.Listen, Ports: ports[:w.plan.brokers]}); err != nil {
		return err
	}
	if w.log, err = w.openLog(newLink(w.network.DialContext)); err != nil {
		return err
	}
	if err := w.log.EnsureTopics(ctx, w.topics.Specs(w.plan.partitions, 0)); err != nil {
		return err
	}
	// The seed says which broker leads a partition, not the broker's own chance.
	r := w.plan.random(streamPlan, 1)
	for p := range int32(w.plan.partitions) {
		for _, topic := range []string{w.topics.Events(), w.topics.Dead()} {
			if err := w.cluster().MoveTopicPartition(topic, p, r.Int32N(int32(w.plan.brokers))); err != nil {
				return fmt.Errorf("place a partition: %w", err)
			}
		}
	}
	w.direct = w.log.Publisher(w.topics.Events(), queue.PublisherOptions{})
	w.front = newLink(w.network.DialContext)
	if w.frontLog, err = w.openLog(w.front); err != nil {
		return err
	}
	w.events = w.frontLog.Publisher(w.topics.Events(), queue.PublisherOptions{})
	w.ingress, err = ingress.New(ingress.Options{Tenants: w.tenants.Load, Publisher: w.events})
	if err != nil {
		return err
	}
	w.record.watchCommits(w)
	return nil
}

func (w *world) openLog(l *link) (*queue.Log, error) {
	return queue.Open(queue.Options{Brokers: w.broker.Addrs(), Dial: l.DialContext})
}

func (w *world) cluster() *kfake.Cluster { return w.broker.Cluster() }

func (w *world) setTenants(all []tenant.Tenant) error {
	r, err := tenant.NewRegistry(all...)
	if err != nil {
		return err
	}
	w.tenants.Store(r)
	return nil
}

// changeTenant changes one tenant in the registry.
func (w *world) changeTenant(id tenant.ID, change func(*tenant.Tenant)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []tenant.Tenant
	for t := range w.tenants.Load().All() {
		c := *t
		if c.ID == id {
			change(&c)
		}
		all = append(all, c)
	}
	if err := w.setTenants(all); err != nil {
		w.violations = append(w.violations, fmt.Sprintf("change tenant %s: %v", id, err))
	}
}

// live lets the traffic and the faults take their course.
func (w *world) live(ctx context.Context) {
	for slot := range w.slots {
		w.join(slot)
	}
	var running sync.WaitGroup
	for i := range w.plan.chains {
		running.Go(func() { w.send(ctx, i, &w.plan.chains[i]) })
	}
	for _, f := range w.plan.faults {
		running.Go(func() { w.suffer(ctx, f) })
	}
	running.Wait()
}

// settle waits until nothing is left to do, ends the workers and looks at what
// they leave.
func (w *world) settle(ctx context.Context) {
	w.happens("all is mended")
	for slot := range w.slots {
		w.join(slot)
	}
	bound, what := drainBound, "all events to be done"
	done := w.drained
	if w.plan.mode == Liveness {
		bound, what = livenessBound, "the events of the well tenants to be done"
		done = w.wellDone
	}
	if !w.until(ctx, bound, done) {
		w.violate("gave up waiting for %s: %s", what, w.standing())
	}
	w.happens("the workers end")
	for slot := range w.slots {
		if m := w.take(slot); m != nil {
			w.end(m, "drains")
		}
	}
	w.ending.Wait()
	if w.plan.mode == Safety && !w.drained() {
		w.violate("a drained system is not drained after its workers ended: %s", w.standing())
	}
	ctx, cancel := context.WithTimeout(ctx, tidyBound)
	defer cancel()
	if err := w.record.dump(ctx, w); err != nil {
		w.violate("read the log after the run: %v", err)
	}
	w.record.final(w)
}

// until waits until ok, at most so long.
func (w *world) until(ctx context.Context, bound time.Duration, ok func() bool) bool {
	for from := time.Now(); time.Since(from) < bound; {
		if ok() {
			return true
		}
		if !pause(ctx, 500*time.Millisecond) {
			return false
		}
	}
	return ok()
}

// drained reports whether the commit points stand at the ends of the log, with no
// cursor left.
func (w *world) drained() bool {
	commits := w.commits()
	for p, info := range w.cluster().PartitionInfos(w.topics.Events()) {
		c, ok := commits[int32(p)]
		if !ok && info.HighWatermark == 0 {
			continue
		}
		if !ok || c.Offset != info.HighWatermark || cursors(c.Metadata) != 0 {
			return false
		}
	}
	return true
}

func (w *world) commits() map[int32]kfake.GroupCommit {
	g := w.cluster().GroupInfo(group)
	if g == nil {
		return nil
	}
	return g.Commits[w.topics.Events()]
}

// standing says where the commit points stand.
func (w *world) standing() string {
	var text strings.Builder
	commits := w.commits()
	for p, info := range w.cluster().PartitionInfos(w.topics.Events()) {
		c := commits[int32(p)]
		fmt.Fprintf(&text, "partition %d: committed %d of %d to %d, %d cursors in %q; ", p, c.Offset, info.LogStartOffset, info.HighWatermark, cursors(c.Metadata), c.Metadata)
	}
	if g := w.cluster().GroupInfo(group); g != nil {
		fmt.Fprintf(&text, "group %s with %d members", g.State, len(g.Members))
	}
	return text.String()
}

// wellDone reports whether all calls of the well tenants have taken effect.
func (w *world) wellDone() bool {
	applied := w.record.applied()
	for i, t := range w.plan.tenants {
		if !slices.Contains(w.plan.broken, i) && applied[string(t.ID)] < w.plan.calls(i) {
			return false
		}
	}
	return true
}

// close ends everything; it may be called whatever has been opened.
func (w *world) close() {
	for slot := range w.slots {
		if m := w.take(slot); m != nil {
			w.end(m, "drains")
		}
	}
	w.ending.Wait()
	for _, p := range []*queue.Publisher{w.events, w.direct} {
		if p != nil {
			_ = p.Close() // what it had under way is recorded or not, by then
		}
	}
	for _, l := range []*queue.Log{w.frontLog, w.log} {
		if l != nil {
			l.Close()
		}
	}
	w.record.stop()
	if w.broker != nil {
		_ = w.broker.Close() // it has no data directory
	}
}
