package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"refinersource/internal/queue"
)

// patience is how long nothing may arrive before a test gives up. It is longer
// than a session of the group, after which a killed worker's partitions move.
const patience = 90 * time.Second

// system is an installation on real Kafka: topics of its own, an ingress, two
// workers, and a receiver outside them.
type system struct {
	t        *testing.T
	brokers  string
	reached  string // the brokers' addresses for the processes
	prefix   string
	group    string
	tenants  string
	ingress  string
	front    *process
	workers  []*process
	receiver *receiver
}

func newSystem(t *testing.T, tenants int) *system {
	t.Helper()
	return newSystemAt(t, brokers(t), tenants)
}

// newSystemAt is an installation whose processes reach the brokers there.
func newSystemAt(t *testing.T, reached string, tenants int) *system {
	t.Helper()
	s := &system{t: t, brokers: brokers(t), reached: reached, receiver: newReceiver(t)}
	id := strconv.FormatInt(time.Now().UnixNano(), 36)
	s.prefix, s.group = "e2e-"+id+".", "e2e-"+id
	s.tenants = tenantsFile(t, tenants, s.receiver.server.URL)
	output(t, "topics", "ensure", "--brokers", s.reached, "--topic-prefix", s.prefix, "--partitions", "12", "--replication", "1")
	s.ingress = freeAddr(t)
	s.front = start(t, "ingress", "ingress", "--brokers", s.reached, "--topic-prefix", s.prefix, "--tenants", s.tenants, "--listen", s.ingress)
	s.addWorker()
	s.addWorker()
	return s
}

func (s *system) addWorker() {
	s.workers = append(s.workers, start(s.t, fmt.Sprintf("worker-%d", len(s.workers)+1),
		"worker", "--brokers", s.reached, "--topic-prefix", s.prefix, "--tenants", s.tenants, "--group", s.group))
}

func (s *system) open() *queue.Log {
	s.t.Helper()
	log, err := queue.Open(queue.Options{Brokers: strings.Split(s.brokers, ",")})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(log.Close)
	return log
}

func (s *system) topics() queue.Topics { return queue.Topics{Prefix: s.prefix} }

// committed returns the group's commit points.
func (s *system) committed(log *queue.Log) map[int]int64 {
	s.t.Helper()
	c, err := log.Committed(s.t.Context(), s.group, s.topics().Events())
	if err != nil {
		s.t.Fatal(err)
	}
	points := make(map[int]int64, len(c))
	for p, o := range c {
		points[p] = int64(o.Offset)
	}
	return points
}

// lag returns the group's lag as Kafka's own tool counts it.
func (s *system) lag() (lag int, table string) {
	s.t.Helper()
	out := tool(s.t, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server", s.brokers, "--describe", "--group", s.group)
	rows := 0
	for line := range strings.Lines(out) {
		f := strings.Fields(line) // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG …
		if len(f) > 5 && f[0] == s.group {
			n, err := strconv.Atoi(f[5])
			if err != nil {
				continue // a partition without a commit has none: it has no events
			}
			rows, lag = rows+1, lag+n
		}
	}
	if rows == 0 {
		s.t.Fatalf("ConsumerGroupCommand names no partition of the group:\n%s", out)
	}
	return lag, out
}

// tool runs one of Kafka's own tools to its end and returns what it printed.
func tool(t *testing.T, class string, args ...string) string {
	t.Helper()
	script, err := filepath.Abs("../../scripts/kafka")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(script, append([]string{"tool", class}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", class, err, out)
	}
	return string(out)
}

// settle waits until the workers' last commits are in: at most an interval.
func (s *system) settle() {
	s.t.Helper()
	log := s.open()
	ctx, cancel := context.WithTimeout(s.t.Context(), 15*time.Second)
	defer cancel()
	poll(ctx, s.t, "the commits to reach the end of the log", func() bool {
		bounds, err := log.Bounds(ctx, s.topics().Events())
		if err != nil {
			return false
		}
		points := s.committed(log)
		for p, b := range bounds {
			if b.End > 0 && points[p] != int64(b.End) {
				return false
			}
		}
		return true
	})
	lag, table := s.lag()
	if lag != 0 {
		s.t.Errorf("the group's lag is %d, want 0", lag)
	}
	s.t.Logf("the group by Kafka's own tool:\n%s", table)
}

// figures says what was measured.
func (s *system) figures(l *load, begun time.Time, repeated int) {
	s.receiver.mu.Lock()
	defer s.receiver.mu.Unlock()
	took := time.Since(begun)
	n := l.users * l.each
	s.t.Logf("%d events of %d tenants and %d users in %.1fs: %.0f events/s; %d calls in %d requests; %d came again",
		n, l.tenants, l.users, took.Seconds(), float64(n)/took.Seconds(), len(s.receiver.accepted), s.receiver.requests, repeated)
}

func TestAllEventsArriveInOrderAndOnce(t *testing.T) {
	s := newSystem(t, 50)
	l := &load{tenants: 50, users: 5000, each: 4}
	begun := time.Now()
	l.send(t.Context(), s.ingress)
	s.receiver.await(t, 2*l.users*l.each, patience)
	repeated := l.check(t, s.receiver, never)
	s.figures(l, begun, repeated)
	s.settle()
	for _, w := range s.workers {
		t.Logf("%s drained and left in %v", w.name, w.terminate())
	}
	s.front.terminate()
}

func TestTerminatedWorkerHandsOverWithoutARepeat(t *testing.T) {
	s := newSystem(t, 50)
	l := &load{tenants: 50, users: 5000, each: 4}
	begun := time.Now()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		l.send(t.Context(), s.ingress)
	}()
	s.receiver.await(t, l.users, patience)
	t.Logf("worker-1 drained and left in %v, after %d calls", s.workers[0].terminate(), s.receiver.count())
	s.receiver.await(t, 2*l.users, patience)
	s.addWorker() // a rebalance in the middle as well
	<-sent
	s.receiver.await(t, 2*l.users*l.each, patience)
	repeated := l.check(t, s.receiver, never)
	s.figures(l, begun, repeated)
	s.settle()
}

func TestKilledWorkerRepeatsOnlyFromTheCommit(t *testing.T) {
	s := newSystem(t, 50)
	log := s.open()
	l := &load{tenants: 50, users: 5000, each: 4}
	begun := time.Now()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		l.send(t.Context(), s.ingress)
	}()
	s.receiver.await(t, 2*l.users, patience)
	// The commit points are read after the kill: nobody else commits for the killed
	// worker's partitions before they are taken over.
	lost := s.workers[0].partitions()
	s.workers[0].kill()
	points := s.committed(log)
	before := s.receiver.count()
	<-sent
	s.receiver.await(t, 2*l.users*l.each, patience)
	repeated := l.check(t, s.receiver, func(at position) bool {
		return slices.Contains(lost, at.partition) && at.offset >= points[at.partition]
	})
	t.Logf("worker-1 was killed after %d calls; it had the partitions %v", before, lost)
	s.figures(l, begun, repeated)
	s.settle()
}

func TestTroubleAtTheReceiverKeepsTheOrderAndBuriesOnlyTheGuilty(t *testing.T) {
	s := newSystem(t, 4)
	l := &load{tenants: 4, users: 200, each: 5}
	guilty := person{tenantID(0), "user-0"} // its second event
	failed, throttled, requests := 0, 0, 0
	var refused []int                          // calls in each request that was answered 400
	s.receiver.latency = 50 * time.Millisecond // so that lanes have something to batch
	s.receiver.script(func(calls []call) (int, http.Header) {
		requests++
		switch {
		case requests <= 20:
			failed++
			return http.StatusInternalServerError, nil
		case requests <= 40:
			throttled++
			return http.StatusTooManyRequests, http.Header{"Retry-After": {"2"}}
		}
		for _, c := range calls {
			if c.UserID == guilty.user && c.Type == "identify" && c.Traits.UserSeq == 2 {
				refused = append(refused, len(calls))
				return http.StatusBadRequest, nil
			}
		}
		return 0, nil
	})
	begun := time.Now()
	l.send(t.Context(), s.ingress)
	s.receiver.await(t, 2*l.users*l.each-2, patience)

	// The guilty event makes no calls; the rest of its user's goes on in order.
	// The checker numbers a user's calls without a hole, so the event is taken out.
	l.positions[guilty] = slices.Delete(l.positions[guilty], 1, 2)
	s.receiver.mu.Lock()
	for i, c := range s.receiver.accepted {
		if c.UserID == guilty.user && c.seq > 1 {
			s.receiver.accepted[i].seq--
		}
	}
	s.receiver.mu.Unlock()
	repeated := l.check(t, s.receiver, never)
	s.figures(l, begun, repeated)
	t.Logf("%d answers 500, %d answers 429, then 400 to requests of %v calls", failed, throttled, refused)
	if len(refused) < 2 || refused[0] < 2 || refused[len(refused)-1] != 1 {
		t.Errorf("400 to requests of %v calls, want a batch first and the guilty event alone last", refused)
	}
	s.settle()

	dead := s.dead()
	if len(dead) != 1 {
		t.Fatalf("%d dead letters, want 1: %+v", len(dead), dead)
	}
	want := letter{Tenant: guilty.tenant, EventID: "r-user-0-2", Reason: "rejected", Stage: "identify"}
	if dead[0] != want {
		t.Errorf("dead letter %+v, want %+v", dead[0], want)
	}
}

// letter is what a test reads of a dead letter.
type letter struct {
	Tenant  string `json:"tenant"`
	EventID string `json:"event_id"`
	Reason  string `json:"reason"`
	Stage   string `json:"stage"`
}

// dead reads the dead-letter topic.
func (s *system) dead() []letter {
	s.t.Helper()
	log := s.open()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	bounds, err := log.Bounds(ctx, s.topics().Dead())
	if err != nil {
		s.t.Fatal(err)
	}
	var letters []letter
	for p, b := range bounds {
		r := log.Reader(s.topics().Dead(), p, b.Start, queue.ReaderOptions{})
		for next := b.Start; next < b.End; {
			batch, err := r.Next(ctx)
			if err != nil {
				s.t.Fatal(err)
			}
			for _, record := range batch.Records {
				var l letter
				if err := json.Unmarshal(record.Value, &l); err != nil {
					s.t.Fatal(err)
				}
				letters, next = append(letters, l), record.Offset+1
			}
		}
	}
	return letters
}
