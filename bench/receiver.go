package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fastjson"
)

// violations are what breaks the promise. A run that has any has failed.
type violations struct {
	// Order counts calls that came after a later one of their user, and calls whose
	// predecessor had not been accepted when they came.
	Order      int `json:"order"`
	Duplicates int `json:"duplicates"`
	Lost       int `json:"lost"`
	// Wrong counts what was never sent so: another tenant's key, another user,
	// other traits, a request that is none.
	Wrong int `json:"wrong"`
}

func (v violations) sum() int { return v.Order + v.Duplicates + v.Lost + v.Wrong }

// receiver is a server of Segment's protocol that holds what comes to the load.
// It is cheap, since it shares the machine with what is measured: of each call it
// reads who, which and what kind, and of one in a thousand all.
type receiver struct {
	load   *load
	delay  time.Duration
	raw    bool // whole events come, not pairs of calls
	strict bool // a group may come only after its identify was answered
	server *http.Server
	url    string

	mu       sync.Mutex
	arrived  []uint64 // a bit for each call
	highest  []int32  // of each user: one more than the highest call that came
	accepted []int32  // and that was accepted
	in       []int64  // of each user: the request that its highest call came in
	found    violations
	example  string // of the first violation
	requests int64
	calls    int64
	fresh    int64 // calls that are no duplicates, accepted
	reached  *sync.Cond
	begun    time.Time // of the first request
	ended    time.Time // of the last call that was missing

	// sent is when each event was accepted, by its slot, in Unix nanoseconds.
	sent    []atomic.Int64
	latency []time.Duration // from there to the last of its calls being accepted; by slot
}

// checkedInFull is of how many calls one is read in full.
const checkedInFull = 1000

func newReceiver(l *load, raw, strict bool, delay time.Duration) *receiver {
	r := &receiver{
		load: l, delay: delay, raw: raw, strict: strict,
		highest: make([]int32, l.users), accepted: make([]int32, l.users), in: make([]int64, l.users),
	}
	r.arrived = make([]uint64, (l.events()*r.perEvent()+63)/64)
	r.reached = sync.NewCond(&r.mu)
	return r
}

// timed makes the receiver keep how long each event took.
func (r *receiver) timed() {
	r.sent = make([]atomic.Int64, r.load.events())
	r.latency = make([]time.Duration, r.load.events())
}

// listen serves on a free port until close.
func (r *receiver) listen(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	r.url = "http://" + l.Addr().String()
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	go func() { _ = r.server.Serve(l) }()
	return nil
}

func (r *receiver) close() { _ = r.server.Close() }

// perEvent is how many calls an event makes.
func (r *receiver) perEvent() int {
	if r.raw {
		return 1
	}
	return 2
}

// call is one call, or one raw event.
type call struct {
	user  int
	index int32 // among its user's: two for each event, the identify first
}

var (
	parsers fastjson.ParserPool
	buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}
)

// ServeHTTP implements http.Handler.
func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	buffer := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buffer)
	buffer.Reset()
	if _, err := buffer.ReadFrom(q.Body); err != nil {
		return // the sender broke off: nobody was answered
	}
	key, _, _ := q.BasicAuth()
	p := parsers.Get()
	defer parsers.Put(p)
	calls, err := r.read(p, buffer.Bytes(), key)
	if err != nil || q.Method != http.MethodPost || q.URL.Path != "/v1/batch" {
		r.wrong(fmt.Sprintf("%s %s: %v", q.Method, q.URL.Path, err))
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.arrive(calls)
	if r.delay > 0 {
		<-time.After(r.delay)
	}
	r.accept(calls)
	_, _ = io.WriteString(w, `{"success":true}`)
}

// read reads who and which the calls of a request are.
func (r *receiver) read(p *fastjson.Parser, body []byte, key string) ([]call, error) {
	if r.raw {
		return r.readRaw(p, body)
	}
	request, err := p.ParseBytes(body)
	if err != nil {
		return nil, err
	}
	batch := request.GetArray("batch")
	calls := make([]call, 0, len(batch))
	for _, v := range batch {
		var seq, kind int
		switch string(v.GetStringBytes("type")) {
		case "identify":
			seq = v.GetInt("traits", "refiner_survey_number")
		case "group":
			seq, kind = v.GetInt("traits", "refiner_surveys"), 1
		default:
			return nil, fmt.Errorf("call is a %q", v.GetStringBytes("type"))
		}
		user, err := r.known(v.GetStringBytes("userId"), seq)
		if err != nil {
			return nil, err
		}
		if key != writeKey(r.load.tenantOf(user)) {
			return nil, fmt.Errorf("user %d under the key %q", user, key)
		}
		c := call{user: user, index: int32(2*(seq-1) + kind)}
		if (user+int(c.index))%checkedInFull == checkedInFull-1 {
			if err := r.readFull(v, user, seq, kind); err != nil {
				return nil, err
			}
		}
		calls = append(calls, c)
	}
	return calls, nil
}

// readRaw reads events, one a line.
func (r *receiver) readRaw(p *fastjson.Parser, body []byte) ([]call, error) {
	var calls []call
	for line := range bytes.Lines(body) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		v, err := p.ParseBytes(line)
		if err != nil {
			return nil, err
		}
		seq := v.GetInt("response", "data", "survey_number")
		user, err := r.known(v.GetStringBytes("remote_id"), seq)
		if err != nil {
			return nil, err
		}
		if (user+seq)%checkedInFull == 0 && !bytes.Equal(line, r.load.appendEvent(nil, user, seq)) {
			return nil, fmt.Errorf("event %d of user %d has other bytes", seq, user)
		}
		calls = append(calls, call{user: user, index: int32(seq - 1)})
	}
	return calls, nil
}

// known returns the user if the load has a seq-th event of it.
func (r *receiver) known(id []byte, seq int) (int, error) {
	number, ok := strings.CutPrefix(string(id), "user-")
	user, err := strconv.Atoi(number)
	if !ok || err != nil || user < 0 || user >= r.load.users || seq < 1 || seq > r.load.of(user) {
		return 0, fmt.Errorf("no event %d of %q was sent", seq, id)
	}
	return user, nil
}

// readFull holds a whole call to the event it was made of.
func (r *receiver) readFull(v *fastjson.Value, user, seq, kind int) error {
	var event struct {
		Email   string
		Account struct {
			ID         string `json:"remote_id"`
			Attributes map[string]any
		}
		Response struct {
			CompletedAt time.Time `json:"completed_at"`
			Data        map[string]any
		}
	}
	if err := json.Unmarshal(r.load.appendEvent(nil, user, seq), &event); err != nil {
		return fmt.Errorf("decode event: %w", err)
	}
	want := make(map[string]any)
	for name, value := range event.Response.Data {
		if _, ofAccount := event.Account.Attributes[name]; !ofAccount {
			want["refiner_"+name] = value
		}
	}
	want["refiner_email"] = event.Email
	if kind == 1 {
		clear(want)
		for name, value := range event.Account.Attributes {
			if answer, ok := event.Response.Data[name]; ok {
				value = answer
			}
			if value != nil {
				want["refiner_"+name] = value
			}
		}
	}
	var got struct {
		MessageID, GroupID string
		Timestamp          time.Time
		Traits             map[string]any
	}
	if err := json.Unmarshal(v.MarshalTo(nil), &got); err != nil {
		return fmt.Errorf("decode call: %w", err)
	}
	switch {
	case got.MessageID == "", !got.Timestamp.Equal(event.Response.CompletedAt), kind == 1 && got.GroupID != event.Account.ID:
		return fmt.Errorf("call of event %d of user %d has no message id, another time or another group", seq, user)
	case !reflect.DeepEqual(got.Traits, want):
		return fmt.Errorf("traits of event %d of user %d are %v, want %v", seq, user, got.Traits, want)
	}
	return nil
}

// arrive holds the calls of one request to those that came before.
func (r *receiver) arrive(calls []call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.requests == 0 {
		r.begun = time.Now()
	}
	r.requests++
	r.calls += int64(len(calls))
	for i := range calls {
		c := &calls[i]
		bit := r.bit(c)
		switch seen := r.arrived[bit/64]&(1<<(bit%64)) != 0; {
		case seen:
			r.violate(&r.found.Duplicates, "came again", c)
			c.user = -1
			continue
		case c.index < r.highest[c.user]:
			r.violate(&r.found.Order, "came after a later one", c)
		case c.index > r.accepted[c.user] && (r.strict || r.in[c.user] != r.requests || r.highest[c.user] < c.index):
			r.violate(&r.found.Order, "came before the one before it was accepted", c)
		}
		r.arrived[bit/64] |= 1 << (bit % 64)
		if c.index >= r.highest[c.user] {
			r.highest[c.user], r.in[c.user] = c.index+1, r.requests
		}
	}
}

// accept notes that a request is about to be answered.
func (r *receiver) accept(calls []call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, c := range calls {
		if c.user < 0 {
			continue
		}
		r.fresh++
		r.accepted[c.user] = max(r.accepted[c.user], c.index+1)
		if r.latency != nil && (int(c.index)+1)%r.perEvent() == 0 {
			slot := r.load.slot(c.user, int(c.index)/r.perEvent()+1)
			r.latency[slot] = now.Sub(time.Unix(0, r.sent[slot].Load()))
		}
	}
	r.ended = now
	r.reached.Broadcast()
}

// bit numbers a call among all.
func (r *receiver) bit(c *call) int { return int(r.load.first[c.user])*r.perEvent() + int(c.index) }

func (r *receiver) violate(count *int, what string, c *call) {
	if *count++; r.example == "" {
		r.example = fmt.Sprintf("call %d of user %d %s", c.index, c.user, what)
	}
}

func (r *receiver) wrong(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	if r.found.Wrong++; r.example == "" {
		r.example = what
	}
}

// await waits until the calls of so many events were accepted. It gives up when
// nothing new has come for the time of patience, or when ctx ends.
func (r *receiver) await(ctx context.Context, events int, patience time.Duration) error {
	woken := context.AfterFunc(ctx, r.wake)
	defer woken()
	stalled := time.AfterFunc(patience, r.wake)
	defer stalled.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	want := int64(events * r.perEvent())
	last, since := r.fresh, time.Now()
	for r.fresh < want {
		if r.fresh > last {
			last, since = r.fresh, time.Now()
			stalled.Reset(patience)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d of %d calls came: %w", r.fresh, want, context.Cause(ctx))
		}
		if time.Since(since) >= patience {
			return fmt.Errorf("%d of %d calls came, and none for %v", r.fresh, want, patience)
		}
		r.reached.Wait()
	}
	return nil
}

// acceptedSoFar is how many calls were accepted by now.
func (r *receiver) acceptedSoFar() (calls int64, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fresh, time.Now()
}

func (r *receiver) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reached.Broadcast()
}

// verdict is what was found when nothing comes any more, and an example.
func (r *receiver) verdict() (violations, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := r.found
	found.Lost = r.load.events()*r.perEvent() - int(r.fresh)
	if found.Lost > 0 && r.example == "" {
		r.example = fmt.Sprintf("%d calls never came", found.Lost)
	}
	return found, r.example
}
