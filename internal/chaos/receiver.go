package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"refinersource/internal/checker"
)

// Receiver is a server of Segment's protocol that fails as it is told to, and
// writes down every request. It has a listener for each worker, so that it knows
// who sent what.
type Receiver struct {
	fleet   *Fleet
	out     *lines
	servers []*http.Server
	addrs   []string

	// Set before the first request:
	lenient bool          // it takes any key
	latency time.Duration // of every answer; 0 is a few milliseconds
	mu      sync.Mutex
	rand    *rand.Rand
	modes   map[string]*treatment // by tenant
	poison  bool                  // requests with a poison event that is never digested fail
	applied int64
	pending []*noted
	counts  Counts
	// recovering are tenants that are treated well again, since when, until their
	// first accepted request; recoveries is how long that took.
	recovering map[string]time.Time
	recoveries []time.Duration

	told atomic.Pointer[func(*checker.Request)]
}

// Counts are what a receiver has seen.
type Counts struct {
	Requests, Accepted int
	Calls              int // accepted
	Statuses           map[int]int
}

// treatment is a mode in force.
type treatment struct {
	mode  Mode
	begun time.Time
	n     int
}

// noted is a request on its way into the history, where it stands in the order of
// the decisions.
type noted struct {
	line []byte
	done bool
	err  error
}

func newReceiver(ctx context.Context, fleet *Fleet, workers int, seed uint64, out *lines) (*Receiver, error) {
	r := &Receiver{
		fleet: fleet, out: out, rand: rand.New(rand.NewPCG(seed, 3)), modes: make(map[string]*treatment), poison: true,
		counts: Counts{Statuses: make(map[int]int)}, recovering: make(map[string]time.Time),
	}
	for i := range workers {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		worker := workerName(i)
		s := &http.Server{
			Handler:           http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.serve(w, q, worker) }),
			ReadHeaderTimeout: 30 * time.Second,
			ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // what breaks is broken on purpose
		}
		r.servers, r.addrs = append(r.servers, s), append(r.addrs, l.Addr().String())
		go func() { _ = s.Serve(l) }()
	}
	return r, nil
}

func (r *Receiver) close() {
	for _, s := range r.servers {
		_ = s.Close()
	}
}

// listen makes f be told of each request when its answer has ended.
func (r *Receiver) listen(f func(*checker.Request)) { r.told.Store(&f) }

// treat makes tenants be treated so from now on; nil treats them well.
func (r *Receiver) treat(tenants []string, m Mode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range tenants {
		if m == nil {
			delete(r.modes, id)
			r.recovering[id] = time.Now()
		} else {
			delete(r.recovering, id)
			r.modes[id] = &treatment{mode: m, begun: time.Now()}
		}
	}
}

// heal treats everybody well, and digests what was poison. Events that it refuses
// with 400 it refuses for ever.
func (r *Receiver) heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.modes)
	r.poison = false
}

func (r *Receiver) figures() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts
	c.Statuses = maps.Clone(c.Statuses)
	return c
}

// recovered returns how long tenants that were failing took from the end of that
// to their first accepted request.
func (r *Receiver) recovered() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.recoveries)
}

// What makes an event poison, as it stands in a call.
var (
	poison400 = []byte(`"refiner_poison":"400"`)
	poison500 = []byte(`"refiner_poison":"500"`)
)

func (r *Receiver) serve(w http.ResponseWriter, q *http.Request, worker string) {
	note := checker.Request{Begun: time.Now().UnixNano(), Worker: worker, Calls: []json.RawMessage{}}
	var tenant string
	tenant, _, _ = strings.Cut(strings.TrimPrefix(q.URL.Path, "/"), "/")
	note.Endpoint = tenant
	note.WriteKey, _, _ = q.BasicAuth()
	body, err := io.ReadAll(io.LimitReader(q.Body, 4<<20))
	var batch struct {
		Batch []json.RawMessage `json:"batch"`
	}
	var answer Answer
	switch {
	case err != nil:
		answer = Answer{End: Reset}
	case q.Method != http.MethodPost || q.URL.Path != "/"+tenant+"/v1/batch":
		answer = refuse(http.StatusNotFound)
	case json.Unmarshal(body, &batch) != nil:
		answer = refuse(http.StatusBadRequest)
	default:
		note.Calls = batch.Batch
	}
	held := r.decide(q.Context(), tenant, body, &note, &answer)
	// A receiver takes a moment, so that lanes have something to batch.
	pause := max(answer.Delay, r.latency)
	if pause == 0 {
		pause = time.Duration(2+rand.IntN(15)) * time.Millisecond
	}
	select {
	case <-time.After(pause):
	case <-q.Context().Done():
	}
	respond(w, q, &note, &answer)
	if f := r.told.Load(); f != nil {
		(*f)(&note)
	}
	r.file(held, &note)
}

// decide says what becomes of a request, at one instant for all of them.
func (r *Receiver) decide(ctx context.Context, tenant string, body []byte, note *checker.Request, answer *Answer) *noted {
	valid := r.fleet.validKey(tenant, note.WriteKey)
	bad400, bad500 := bytes.Contains(body, poison400), bytes.Contains(body, poison500)
	r.mu.Lock()
	defer r.mu.Unlock()
	if answer.Status == 0 && answer.End == Whole {
		*answer = accept()
		if t := r.modes[tenant]; t != nil {
			*answer = t.mode(r.rand, time.Since(t.begun), t.n)
			t.n++
		}
		switch {
		case !answer.Apply:
		case !valid && !r.lenient:
			*answer = refuse(http.StatusUnauthorized)
		case bad400:
			*answer = refuse(http.StatusBadRequest)
		case bad500 && r.poison:
			*answer = refuse(http.StatusInternalServerError)
		case ctx.Err() != nil: // nobody waits for it any more
			*answer = Answer{End: Reset}
		}
	}
	if answer.Apply {
		r.applied++
		note.Applied = r.applied
		r.counts.Accepted++
		r.counts.Calls += len(note.Calls)
		if since, ok := r.recovering[tenant]; ok {
			r.recoveries = append(r.recoveries, time.Since(since))
			delete(r.recovering, tenant)
		}
	}
	r.counts.Requests++
	r.counts.Statuses[answer.Status]++
	held := new(noted)
	r.pending = append(r.pending, held)
	return held
}

// file writes what is known in full, in the order of the decisions.
func (r *Receiver) file(held *noted, note *checker.Request) {
	line, err := json.Marshal(note)
	r.mu.Lock()
	defer r.mu.Unlock()
	held.line, held.err, held.done = append(line, '\n'), err, true
	r.flush()
}

func (r *Receiver) flush() {
	n := 0
	for n < len(r.pending) && r.pending[n].done {
		r.out.raw(r.pending[n].line, r.pending[n].err)
		n++
	}
	r.pending = slices.Delete(r.pending, 0, n)
}

// settled reports whether every request is in the history.
func (r *Receiver) settled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pending) == 0
}

// lorisPace is the time between two bytes of a slow answer.
const lorisPace = time.Second

// respond carries out an answer and notes how far it came.
func respond(w http.ResponseWriter, q *http.Request, note *checker.Request, a *Answer) {
	note.RetryAfter = a.Header.Get("Retry-After")
	note.Answered = time.Now().UnixNano()
	if a.End == Whole {
		note.Status = a.Status
		maps.Copy(w.Header(), a.Header)
		w.WriteHeader(a.Status)
		_, err := io.WriteString(w, a.Body)
		err = errors.Join(err, http.NewResponseController(w).Flush())
		note.SentAnswer = err == nil && q.Context().Err() == nil
		return
	}
	if a.End == Silence {
		select {
		case <-q.Context().Done():
		case <-time.After(time.Minute):
		}
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		note.Answered = 0
		return
	}
	defer reset(conn)
	switch a.End {
	case Loris:
		note.Status = a.Status
		for _, b := range []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n") {
			_, err := conn.Write([]byte{b})
			if err != nil {
				return
			}
			time.Sleep(lorisPace) //nolint:forbidigo // it is slow on purpose
		}
	case HalfBody:
		note.Status = a.Status
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d OK\r\nContent-Length: 100\r\n\r\n{\"succ", a.Status)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(-1) // what was written arrives
			_ = tcp.CloseWrite()
			_, _ = io.Copy(io.Discard, tcp)
		}
	case Garbage:
		_, _ = io.WriteString(conn, a.Body)
	default:
		note.Answered = 0
	}
}

func workerName(i int) string { return fmt.Sprintf("worker-%d", i+1) }
