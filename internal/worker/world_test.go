package worker_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"refinersource/internal/attribution"
	"refinersource/internal/broker"
	"refinersource/internal/deadletter"
	"refinersource/internal/delivery"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const partitions = 3

// world is a broker, a receiver and tenants, in virtual time.
type world struct {
	t        *testing.T
	network  *kfake.VirtualNetwork
	broker   *broker.Broker
	addrs    []string
	log      *queue.Log // the test's own
	events   *queue.Publisher
	topics   queue.Topics
	receiver *receiver
	tenants  *tenant.Registry
	sent     map[person][]queue.Position // of each user's events
}

type person struct {
	tenant tenant.ID
	user   string
}

// inBubble runs a test against a broker in virtual time: what takes minutes of a
// session or a backoff is over at once, and nothing is left running.
func inBubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, network: new(kfake.VirtualNetwork), topics: queue.Topics{Prefix: "test."},
			receiver: &receiver{random: rand.New(rand.NewPCG(1, 2))}, sent: make(map[person][]queue.Position),
		}
		var err error
		if w.broker, err = broker.Start(broker.Options{Listen: w.network.Listen}); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = w.broker.Close() }()
		w.addrs = w.broker.Addrs()
		w.log = w.open(w.network.DialContext)
		defer w.log.Close()
		if err := w.log.EnsureTopics(t.Context(), w.topics.Specs(partitions, 1)); err != nil {
			t.Fatal(err)
		}
		w.events = w.log.Publisher(w.topics.Events(), queue.PublisherOptions{})
		defer func() { _ = w.events.Close() }()
		var all []tenant.Tenant
		for _, id := range []tenant.ID{"acme", "beta", "gamma"} {
			all = append(all, tenant.Tenant{
				ID: id, WriteKey: tenant.NewSecret("key-of-" + string(id)), Endpoint: "http://receiver.invalid",
				Rules: attribution.DefaultRules(), Pairing: tenant.Strict,
			})
		}
		if w.tenants, err = tenant.NewRegistry(all...); err != nil {
			t.Fatal(err)
		}
		test(t, w)
	})
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

func (w *world) open(dial dialer) *queue.Log {
	w.t.Helper()
	log, err := queue.Open(queue.Options{Brokers: w.addrs, Dial: dial})
	if err != nil {
		w.t.Fatal(err)
	}
	return log
}

// member is a worker of the group.
type member struct {
	w       *world
	worker  *worker.Worker
	cut     *cuttable
	log     *queue.Log
	letters *queue.Publisher
	stop    context.CancelFunc
	ended   chan error

	mu       sync.Mutex
	finished []worker.Finished
}

// join starts a worker, and returns when it has joined.
func (w *world) join(change ...func(*worker.Options)) *member {
	w.t.Helper()
	m := w.start(change...)
	w.until("the worker to join", m.worker.Ready)
	return m
}

// start starts a worker.
func (w *world) start(change ...func(*worker.Options)) *member {
	w.t.Helper()
	m := &member{w: w, cut: &cuttable{dial: w.network.DialContext}, ended: make(chan error, 1)}
	m.log = w.open(m.cut.DialContext)
	m.letters = m.log.Publisher(w.topics.Dead(), queue.PublisherOptions{MaxRecordBytes: queue.DeadRecordBytes})
	o := worker.Options{
		Log: m.log, Topics: w.topics, Group: "group",
		Tenants:  func() *tenant.Registry { return w.tenants },
		Delivery: delivery.Options{Sender: sender{m}, MinBackoff: time.Second, MaxBackoff: 10 * time.Second},
		Letters:  deadletter.NewWriter(m.letters, w.topics.Dead()),
		Receipts: true,
		OnFinished: func(f worker.Finished) {
			m.mu.Lock()
			m.finished = append(m.finished, f)
			m.mu.Unlock()
		},
	}
	for _, c := range change {
		c(&o)
	}
	var err error
	if m.worker, err = worker.New(o); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	go func() { m.ended <- m.worker.Run(ctx) }()
	return m
}

// terminate lets the worker drain and leave, as SIGTERM does.
func (m *member) terminate() {
	m.w.t.Helper()
	m.stop()
	if err := <-m.ended; err != nil {
		m.w.t.Errorf("Run returned %v after a drain, want nil", err)
	}
	if err := m.letters.Close(); err != nil {
		m.w.t.Error(err)
	}
	m.log.Close()
}

// crash takes the worker out as kill -9 does: nothing of it goes out any more.
// Call bury at the end of the test.
func (m *member) crash() { m.cut.close() }

// bury ends what is left of a crashed worker.
func (m *member) bury() {
	m.stop()
	if err := <-m.ended; err != nil {
		m.w.t.Errorf("Run returned %v, want nil", err)
	}
	_ = m.letters.Close()
	m.log.Close()
}

// cuttable is a network that can be lost for good.
type cuttable struct {
	dial dialer
	mu   sync.Mutex
	lost bool
	open []net.Conn
}

var errLost = errors.New("the network is lost")

func (c *cuttable) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c.mu.Lock()
	lost := c.lost
	c.mu.Unlock()
	if lost {
		return nil, errLost
	}
	conn, err := c.dial(ctx, network, address)
	if err == nil {
		c.mu.Lock()
		c.open = append(c.open, conn)
		c.mu.Unlock()
	}
	return conn, err
}

func (c *cuttable) close() {
	c.mu.Lock()
	c.lost = true
	open := c.open
	c.mu.Unlock()
	for _, conn := range open {
		_ = conn.Close()
	}
}

func (c *cuttable) isLost() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// until lets virtual time pass until ok.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for range 100_000 {
		synctest.Wait()
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	w.t.Fatalf("gave up waiting for %s", what)
}

// event is the user's seq-th survey as Refiner sends it. The account carries the
// number too, so that a group call tells whose it is.
func event(user string, seq int) []byte {
	return fmt.Appendf(nil, `{"remote_id":%[1]q,"account":{"remote_id":"acc-%[1]s","attributes":{"account_seq":0}},`+
		`"response":{"uuid":"r-%[1]s-%[2]d","completed_at":"2026-10-12T02:00:%02[2]d.000000Z","data":{"seq":%[2]d,"account_seq":%[2]d}}}`, user, seq)
}

// publish appends the next event of a user to the log.
func (w *world) publish(id tenant.ID, user string) queue.Position {
	w.t.Helper()
	who := person{id, user}
	at := w.publishRaw(id, user, survey.RefinerWebhook, event(user, len(w.sent[who])+1))
	w.sent[who] = append(w.sent[who], at)
	return at
}

func (w *world) publishRaw(id tenant.ID, user string, source survey.Source, value []byte) queue.Position {
	w.t.Helper()
	at, err := w.events.Publish(w.t.Context(), queue.Record{
		Key:   []byte(string(id) + "/" + user),
		Value: value,
		Headers: []queue.Header{
			{Key: queue.HeaderTenant, Value: []byte(id)},
			{Key: queue.HeaderSource, Value: []byte(source)},
			{Key: queue.HeaderReceivedAt, Value: []byte(time.Now().UTC().Format(time.RFC3339Nano))},
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return at
}

// publishAll appends each events of so many users of every tenant.
func (w *world) publishAll(users, each int) {
	w.t.Helper()
	for range each {
		for u := range users {
			for t := range w.tenants.All() {
				w.publish(t.ID, fmt.Sprintf("user-%d", u))
			}
		}
	}
}

// lag is the number of events from the group's commit points to the log's ends.
func (w *world) lag() int64 {
	w.t.Helper()
	bounds, err := w.log.Bounds(w.t.Context(), w.topics.Events())
	if err != nil {
		w.t.Fatal(err)
	}
	var lag int64
	committed := w.committed()
	for p, b := range bounds {
		lag += int64(b.End - max(b.Start, committed[p]))
	}
	return lag
}

// settled reports whether the group has nothing left: no lag, and no tenant whose
// events a cursor holds.
func (w *world) settled() bool { return w.lag() == 0 && len(w.allCursors()) == 0 }

// allCursors are those of the group's commits.
func (w *world) allCursors() []lane.Cursor {
	w.t.Helper()
	c, err := w.log.Committed(w.t.Context(), "group", w.topics.Events())
	if err != nil {
		w.t.Fatal(err)
	}
	var all []lane.Cursor
	for _, at := range c {
		m, err := lane.Decode(at.Metadata)
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, m.Cursors...)
	}
	return all
}

// cursors are those of one tenant, in all partitions.
func (w *world) cursors(id tenant.ID) []lane.Cursor {
	w.t.Helper()
	return slices.DeleteFunc(w.allCursors(), func(c lane.Cursor) bool { return c.Tag != lane.TagOf(string(id)) })
}

func (w *world) committed() map[int]queue.Offset {
	w.t.Helper()
	c, err := w.log.Committed(w.t.Context(), "group", w.topics.Events())
	if err != nil {
		w.t.Fatal(err)
	}
	points := make(map[int]queue.Offset)
	for p, at := range c {
		points[p] = at.Offset
	}
	return points
}

// letters returns the dead letters in the log.
func (w *world) letters() []deadletter.Letter {
	w.t.Helper()
	bounds, err := w.log.Bounds(w.t.Context(), w.topics.Dead())
	if err != nil {
		w.t.Fatal(err)
	}
	var letters []deadletter.Letter
	for p, b := range bounds {
		r := w.log.Reader(w.topics.Dead(), p, b.Start, queue.ReaderOptions{})
		for r.Offset() < b.End {
			batch, err := r.Next(w.t.Context())
			if err != nil {
				w.t.Fatal(err)
			}
			for _, rec := range batch.Records {
				l, err := deadletter.Decode(rec.Value)
				if err != nil {
					w.t.Fatal(err)
				}
				letters = append(letters, l)
			}
		}
	}
	return letters
}

// accepted is a call that the receiver has accepted.
type accepted struct {
	who       person
	kind      attribution.Kind
	seq       string
	messageID string
	body      string
	at        time.Time
}

// receiver is the other side of every worker's requests.
type receiver struct {
	mu       sync.Mutex
	random   *rand.Rand
	got      []accepted
	requests int
	// answer scripts the answer; the zero Result accepts.
	answer func(id tenant.ID, calls []attribution.Call) segment.Result
	// latency of a request; the default is up to 50 ms.
	latency func(id tenant.ID) time.Duration
}

// sender is the receiver as one worker reaches it.
type sender struct{ m *member }

func (s sender) Send(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
	r := s.m.w.receiver
	if s.m.cut.isLost() {
		return segment.Result{Class: segment.Transient, Err: errLost}
	}
	id := tenant.ID(strings.TrimPrefix(to.WriteKey.Reveal(), "key-of-"))
	r.mu.Lock()
	r.requests++
	pause := time.Duration(r.random.Int64N(int64(50 * time.Millisecond)))
	if r.latency != nil {
		pause = r.latency(id)
	}
	r.mu.Unlock()
	// Half of it goes before the receiver has the request, half after.
	if !sleep(ctx, pause/2) {
		return segment.Result{Class: segment.Canceled, Err: ctx.Err()}
	}
	result := r.receive(id, calls)
	if !sleep(ctx, pause/2) {
		return segment.Result{Class: segment.Canceled, Unknown: true, Err: ctx.Err()}
	}
	if s.m.cut.isLost() {
		return segment.Result{Class: segment.Transient, Unknown: true, Err: errLost}
	}
	return result
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (r *receiver) receive(id tenant.ID, calls []attribution.Call) segment.Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answer != nil {
		if result := r.answer(id, calls); result.Class != segment.Canceled {
			return result
		}
	}
	for i := range calls {
		c := &calls[i]
		a := accepted{who: person{id, c.UserID}, kind: c.Kind, messageID: c.MessageID, body: string(c.AppendJSON(nil)), at: time.Now()}
		for _, trait := range c.Traits {
			if trait.Name == "refiner_seq" || trait.Name == "refiner_account_seq" {
				a.seq = string(trait.Value)
			}
		}
		r.got = append(r.got, a)
	}
	return segment.Result{Class: segment.Accepted, Status: 200}
}

// sent is the number of requests.
func (r *receiver) sent() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

// count is the number of accepted calls.
func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// verify holds what arrived to the promise: for each user identify 1, group 1,
// identify 2 and so on, all of them but those that skipped says. Where mayRepeat
// says so of an event, the row may be taken up again at its identify, and then goes
// on in order, with the same bytes. It returns how often that was.
func (w *world) verify(mayRepeat repeats, skipped ...string) (again int) {
	w.t.Helper()
	r := w.receiver
	r.mu.Lock()
	defer r.mu.Unlock()
	row := make(map[person][]string)
	positions := make(map[string]queue.Position)
	for who, sent := range w.sent {
		for i, at := range sent {
			for _, kind := range []attribution.Kind{attribution.Identify, attribution.Group} {
				name := callName(who, kind, fmt.Sprint(i+1))
				if positions[name] = at; !slices.Contains(skipped, name) {
					row[who] = append(row[who], name)
				}
			}
		}
	}
	next := make(map[person]int)
	bodies := make(map[string]string)
	for i, a := range r.got {
		name := callName(a.who, a.kind, a.seq)
		k := slices.Index(row[a.who], name)
		switch {
		case k == next[a.who]:
			next[a.who]++
		case k >= 0 && k < next[a.who] && mayRepeat(a.who.tenant, positions[name], a.kind):
			again++
			next[a.who] = k + 1
		default:
			w.t.Errorf("call %d is %s; %v has had %d of %v", i, name, a.who, next[a.who], row[a.who])
			return again
		}
		if body, seen := bodies[a.messageID]; seen && body != a.body {
			w.t.Errorf("message id %s came with other bytes:\n%s\n%s", a.messageID, body, a.body)
		}
		bodies[a.messageID] = a.body
	}
	for who, names := range row {
		if next[who] != len(names) {
			w.t.Errorf("%v has had %d calls, want %d", who, next[who], len(names))
		}
	}
	return again
}

// repeats says whether the row of a user may be taken up again at a call.
type repeats func(tenant.ID, queue.Position, attribution.Kind) bool

// never allows no call to come again.
func never(tenant.ID, queue.Position, attribution.Kind) bool { return false }

// fromCommits allows what lies behind the commits of this moment: from the commit
// point on at an identify, and from the tenant's cursor on.
func (w *world) fromCommits() repeats {
	w.t.Helper()
	all, err := w.log.Committed(w.t.Context(), "group", w.topics.Events())
	if err != nil {
		w.t.Fatal(err)
	}
	return func(id tenant.ID, at queue.Position, kind attribution.Kind) bool {
		c := all[at.Partition]
		m, err := lane.Decode(c.Metadata)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, cursor := range m.Cursors {
			if cursor.Tag == lane.TagOf(string(id)) && lane.Offset(at.Offset) >= cursor.From {
				return true
			}
		}
		return at.Offset >= c.Offset && kind == attribution.Identify
	}
}

func callName(who person, kind attribution.Kind, seq string) string {
	return fmt.Sprintf("%s/%s:%v:%s", who.tenant, who.user, kind, seq)
}

// small are limits under which windows fill and batches are cut.
func small(o *worker.Options) {
	o.Limits = lane.Limits{RequestCalls: 7, RequestBytes: 10_000, WindowEvents: 40, WindowBytes: 1 << 20, BehindEvents: 10}
}
