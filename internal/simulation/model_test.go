package simulation_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"refinersource/internal/attribution"
	"refinersource/internal/broker"
	"refinersource/internal/deadletter"
	"refinersource/internal/delivery"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/simulation"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// modelBound is how far the model may be from the real worker.
const modelBound = 0.25

// held holds what the model says to what the worker did.
func held(t *testing.T, what string, model, worker float64) {
	t.Helper()
	off := worker/model - 1
	t.Logf("%s: model %.3g, worker %.3g, %+.0f %%", what, model, worker, 100*off)
	if off < -modelBound || off > modelBound {
		t.Errorf("%s: the worker is %.0f %% off the model, want at most %.0f", what, 100*off, 100*modelBound)
	}
}

// usual is limited by its window, as a worker with default options is.
func usual(latency time.Duration) simulation.Model {
	return simulation.Model{
		Tenants: 20, Users: 50, Partitions: 4, Window: 60, RequestCalls: 2000, Workers: 1, Slots: delivery.DefaultSlots,
		Latency: latency,
	}
}

// The rate at which a backlog is delivered is that of the model, whatever limits it.
// In virtual time the processor costs nothing.
func TestModelKnowsWhatLimitsTheWorker(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		latency time.Duration
		change  func(*simulation.Model)
	}{
		"window, 20 ms":         {20 * time.Millisecond, nil},
		"window, 100 ms":        {100 * time.Millisecond, nil},
		"window, 500 ms":        {500 * time.Millisecond, nil},
		"window, 12 partitions": {100 * time.Millisecond, func(m *simulation.Model) { m.Partitions = 12 }},
		"window, 2 workers":     {100 * time.Millisecond, func(m *simulation.Model) { m.Workers = 2 }},
		"window, few users":     {100 * time.Millisecond, func(m *simulation.Model) { m.Users = 10 }},
		"pairs":                 {100 * time.Millisecond, func(m *simulation.Model) { m.Users, m.Window = 2, 2000 }},
		"lanes":                 {100 * time.Millisecond, func(m *simulation.Model) { m.Tenants, m.Users, m.RequestCalls, m.Window = 2, 200, 10, 2000 }},
		"receiver":              {100 * time.Millisecond, func(m *simulation.Model) { m.Tenants, m.RateLimit, m.Window = 4, 50, 2000 }},
		"slots":                 {100 * time.Millisecond, func(m *simulation.Model) { m.Slots = 8 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := usual(c.latency)
			if c.change != nil {
				c.change(&m)
			}
			inBubble(t, m, func(t *testing.T, r *rig) {
				const events = 1000
				r.publish(events)
				r.await(events)
				held(t, "events/s", m.Capacity(), r.rate())
			})
		})
	}
}

// After a burst, the backlog is gone and its events are delivered when the model says.
// Of receivers at which events stay for longer than Passed it knows the rate, and of
// their bursts only that they take up to half as long again.
func TestModelKnowsHowLongABurstTakes(t *testing.T) {
	t.Parallel()
	const burst = 2000
	for _, latency := range []time.Duration{20 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond} {
		t.Run(latency.String(), func(t *testing.T) {
			t.Parallel()
			m := usual(latency)
			m.Arrival = m.Capacity() / 2
			inBubble(t, m, func(t *testing.T, r *rig) {
				arriving, stop := context.WithCancel(t.Context())
				var sending sync.WaitGroup
				sending.Go(func() { r.arrive(arriving, m.Arrival) })
				defer sending.Wait()
				defer stop()
				time.Sleep(20 * latency)
				held(t, "delivery without a backlog, seconds", m.Delivery().Seconds(), r.quantile(0, 0.5).Seconds())
				var gone, p99 []time.Duration
				for range 3 { // one burst alone has its luck
					began := time.Since(r.began)
					r.publish(burst)
					// The last of it is lost in the noise of what goes on to come.
					for float64(r.backlog()) > m.Arrival*m.Delivery().Seconds()+burst/10 {
						time.Sleep(latency / 10)
					}
					gone = append(gone, time.Since(r.began)-began)
					p99 = append(p99, r.quantile(began, 0.99))
					time.Sleep(m.Drain(burst))
				}
				held(t, "nine tenths of the backlog gone after, seconds", m.Drain(burst*9/10).Seconds(), median(gone))
				_, last := m.Wait(burst)
				held(t, "p99 from the burst on, seconds", last.Seconds(), median(p99))
			})
		})
	}
}

// A tenth of the tenants fails, and their events fill the window: the others have the
// model's rate, and their backlog is delivered as if there were no others, but for the
// time until these are passed.
func TestModelKnowsWhatFailingTenantsCostOthers(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]time.Duration{"answer 503": 0, "do not answer": segment.DefaultTimeout} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := usual(100 * time.Millisecond)
			m.Failing = 2
			inBubble(t, m, func(t *testing.T, r *rig) {
				r.fails = fails
				const events = 2000
				well := events * (m.Tenants - m.Failing) / m.Tenants
				began := time.Since(r.began)
				r.publish(events)
				r.await(well)
				held(t, "the others' backlog gone after, seconds",
					(m.Drain(well) + simulation.Passed).Seconds(), (time.Since(r.began) - began).Seconds())
			})
		})
	}
}

func median(of []time.Duration) float64 {
	slices.Sort(of)
	return of[len(of)/2].Seconds()
}

// A receiver that was slow for a while, so that cursors passed all lanes, is caught up
// with at the rate that the model knows: many lanes with few events each take no longer
// for being behind.
func TestModelKnowsTheRateOfLanesThatWerePassed(t *testing.T) {
	t.Parallel()
	m := usual(100 * time.Millisecond)
	m.Tenants, m.Users = 100, 100
	inBubble(t, m, func(t *testing.T, r *rig) {
		const events = 6000
		r.slow = time.Since(r.began) + 2*slowAnswer
		r.publish(events)
		r.await(events)
		held(t, "events/s", m.Capacity(), r.rate())
	})
}

// slowAnswer is long enough for a lane to be passed.
const slowAnswer = simulation.Passed * 3 / 2

// inBubble runs a test in virtual time, with workers that have joined.
func inBubble(t *testing.T, m simulation.Model, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, m)
		defer r.close()
		r.join()
		test(t, r)
	})
}

// rig is a broker, workers and receivers in virtual time, as a model has them.
type rig struct {
	t       *testing.T
	model   simulation.Model
	network *kfake.VirtualNetwork
	broker  *broker.Broker
	topics  queue.Topics
	log     *queue.Log
	events  *queue.Publisher
	tenants *tenant.Registry
	began   time.Time
	ended   []func()
	slow    time.Duration // until then since began, answers take slowAnswer
	fails   time.Duration // how long a receiver takes to fail; 0 is as long as to answer

	mu     sync.Mutex // never held across a wait
	random *rand.Rand
	sent   map[string]time.Duration // when an event came, by what its group's traits say
	made   int
	done   []delivered
}

// delivered is an event that was.
type delivered struct{ came, went time.Duration }

func newRig(t *testing.T, m simulation.Model) *rig {
	r := &rig{
		t: t, model: m, network: new(kfake.VirtualNetwork), topics: queue.Topics{Prefix: "model."}, began: time.Now(),
		random: rand.New(rand.NewPCG(1, 2)), sent: make(map[string]time.Duration),
	}
	var err error
	if r.broker, err = broker.Start(broker.Options{Listen: r.network.Listen}); err != nil {
		t.Fatal(err)
	}
	r.log = r.open()
	if err := r.log.EnsureTopics(t.Context(), r.topics.Specs(m.Partitions, 1)); err != nil {
		t.Fatal(err)
	}
	r.events = r.log.Publisher(r.topics.Events(), queue.PublisherOptions{})
	var all []tenant.Tenant
	for i := range m.Tenants {
		all = append(all, tenant.Tenant{
			ID: tenant.ID(fmt.Sprintf("tenant-%d", i)), WriteKey: tenant.NewSecret(fmt.Sprint(i)), Endpoint: "http://receiver.invalid",
			Rules: attribution.DefaultRules(), Pairing: tenant.Strict, RateLimit: int(m.RateLimit),
		})
		all[i].Rules.AccountProperties = map[string]struct{}{"number": {}}
	}
	if r.tenants, err = tenant.NewRegistry(all...); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) open() *queue.Log {
	log, err := queue.Open(queue.Options{Brokers: r.broker.Addrs(), Dial: r.network.DialContext})
	if err != nil {
		r.t.Fatal(err)
	}
	return log
}

// close ends the workers, then the broker.
func (r *rig) close() {
	for _, end := range r.ended {
		end()
	}
	_ = r.events.Close()
	r.log.Close()
	_ = r.broker.Close()
}

// join starts the workers and waits until all have joined.
func (r *rig) join() {
	m := r.model
	for range m.Workers {
		log := r.open()
		letters := log.Publisher(r.topics.Dead(), queue.PublisherOptions{})
		w, err := worker.New(worker.Options{
			Log: log, Topics: r.topics, Tenants: func() *tenant.Registry { return r.tenants },
			Letters: deadletter.NewWriter(letters, r.topics.Dead()), Receipts: true, Memory: 1 << 30,
			Delivery: delivery.Options{Sender: r, Slots: m.Slots},
			Limits: lane.Limits{
				RequestCalls: m.RequestCalls, RequestBytes: 450_000,
				WindowEvents: 1 << 20, WindowBytes: r.windowBytes(), BehindEvents: 512,
			},
		})
		if err != nil {
			r.t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		r.ended = append(r.ended, func() {
			stop()
			if err := <-ended; err != nil {
				r.t.Errorf("Run returned %v, want nil", err)
			}
			_ = letters.Close()
			log.Close()
		})
		for !w.Ready() {
			time.Sleep(time.Second)
		}
	}
	if m.Workers > 1 {
		time.Sleep(time.Minute) // until all have their share
	}
}

// windowBytes makes a worker hold as many events as the model says, on average: it
// overruns by up to an eighth.
func (r *rig) windowBytes() int {
	value := r.event(0, 0, 1000)
	c, err := survey.Decode(survey.RefinerWebhook, value)
	if err != nil {
		r.t.Fatal(err)
	}
	first, _ := r.tenants.Get("tenant-0")
	made, err := attribution.Attribute(c, &first.Rules, "tenant-0", time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	inMemory := eventBytes + len(value)
	for i := range made.Calls {
		inMemory += 2 * made.Calls[i].Size()
	}
	return int(float64(r.model.Window*inMemory) / (1 + 1./16))
}

// eventBytes is that of package worker.
const eventBytes = 640

func (r *rig) event(tenant, user, number int) []byte {
	return fmt.Appendf(nil, `{"remote_id":"user-%[2]d","account":{"remote_id":"acc","attributes":{"number":0}},`+
		`"response":{"uuid":"r-%[1]d-%[3]d","completed_at":"2026-10-12T02:00:00.000000Z","data":{"why":"It does what it says.","number":%[3]d}}}`,
		tenant, user, number)
}

// publish puts events of users drawn at random into the log, at once, but in batches
// that are small beside the window.
func (r *rig) publish(n int) {
	for ; n > 0; n -= batch {
		r.publishBatch(min(n, batch))
	}
}

const batch = 40

func (r *rig) publishBatch(n int) {
	var publishing sync.WaitGroup
	for range n {
		r.mu.Lock()
		r.made++
		number, owner, user := r.made, r.made%r.model.Tenants, r.random.IntN(r.model.Users)
		r.sent[fmt.Sprint(number)] = time.Since(r.began)
		r.mu.Unlock()
		id := fmt.Sprintf("tenant-%d", owner)
		publishing.Go(func() {
			_, err := r.events.Publish(r.t.Context(), queue.Record{
				Key: fmt.Appendf(nil, "%s/user-%d", id, user), Value: r.event(owner, user, number),
				Headers: []queue.Header{
					{Key: queue.HeaderTenant, Value: []byte(id)},
					{Key: queue.HeaderSource, Value: []byte(survey.RefinerWebhook)},
					{Key: queue.HeaderReceivedAt, Value: []byte(time.Now().UTC().Format(time.RFC3339Nano))},
				},
			})
			if err != nil {
				r.t.Error(err)
			}
		})
	}
	publishing.Wait()
}

// arrive publishes so many events a second until ctx ends.
func (r *rig) arrive(ctx context.Context, rate float64) {
	began, sent := time.Now(), 0
	for ctx.Err() == nil {
		due := int(time.Since(began).Seconds() * rate)
		r.publish(due - sent)
		sent = due
		time.Sleep(10 * time.Millisecond)
	}
}

// Send is the receivers: they take from half to one and a half of the latency.
func (r *rig) Send(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
	if to.Written != nil {
		to.Written()
	}
	var owner int
	_, err := fmt.Sscan(to.WriteKey.Reveal(), &owner)
	fails := err != nil || owner < r.model.Failing
	r.mu.Lock()
	takes := time.Duration((0.5 + r.random.Float64()) * float64(r.model.Latency))
	r.mu.Unlock()
	if time.Since(r.began) < r.slow {
		takes = slowAnswer
	}
	if fails && r.fails > 0 {
		takes = r.fails
	}
	select {
	case <-ctx.Done():
		return segment.Result{Class: segment.Canceled, Err: ctx.Err()}
	case <-time.After(takes):
	}
	switch {
	case fails && r.fails > 0:
		return segment.Result{Class: segment.Transient, Unknown: true, Err: context.DeadlineExceeded}
	case fails:
		return segment.Result{Class: segment.Transient, Status: 503}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range calls {
		for _, trait := range calls[i].Traits {
			if calls[i].Kind == attribution.Group && strings.HasSuffix(string(trait.Name), "number") {
				r.done = append(r.done, delivered{came: r.sent[string(trait.Value)], went: time.Since(r.began)})
			}
		}
	}
	return segment.Result{Class: segment.Accepted, Status: 200}
}

// await waits until so many events are delivered.
func (r *rig) await(n int) {
	r.t.Helper()
	for range 100_000 {
		r.mu.Lock()
		done := len(r.done)
		r.mu.Unlock()
		if done >= n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("gave up waiting for %d events", n)
}

// rate is that of the middle: without the start, and the end when the window is no
// longer full.
func (r *rig) rate() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	from, to := len(r.done)*2/10, len(r.done)*8/10
	return float64(to-from) / (r.done[to].went - r.done[from].went).Seconds()
}

func (r *rig) backlog() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.made - len(r.done)
}

// quantile is that of how long the events took that came from a moment on.
func (r *rig) quantile(from time.Duration, q float64) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var took []time.Duration
	for _, d := range r.done {
		if d.came >= from {
			took = append(took, d.went-d.came)
		}
	}
	slices.Sort(took)
	return took[int(q*float64(len(took)))]
}
