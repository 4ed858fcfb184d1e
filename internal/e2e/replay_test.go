package e2e_test

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// number is that of an environment variable, or the default.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number above 0", name, text)
	}
	return n
}

// TestKilledReplayIsCompleteAndInOrder kills a replay again and again while live
// traffic goes on. It takes about half a minute for each time, since a killed member's
// session has to end. In full size:
//
//	E2E_KILLS=10 E2E_REPLAY_EVENTS=200000 scripts/kafka run-with 1 -- go test -count=1 -v -timeout 30m -run TestKilledReplay ./internal/e2e
func TestKilledReplayIsCompleteAndInOrder(t *testing.T) {
	kills := number(t, "E2E_KILLS", 2)
	const tenants, before, of = 20, 1, 4 // each user's first event is not in the range
	s := newSystem(t, tenants)
	l := &load{tenants: tenants, users: number(t, "E2E_REPLAY_EVENTS", 20_000) / of, each: before}
	l.send(t.Context(), s.ingress)
	from := time.Now()
	l.sendRounds(t.Context(), s.ingress, before+1, of)
	to := time.Now()
	s.receiver.await(t, 2*l.users*of, patience)

	r := &killedReplay{system: s, random: rand.New(rand.NewPCG(42, 42)), tenants: tenantsFile(t, tenants, s.receiver.address(t, 1))}
	live, stop := context.WithCancel(t.Context())
	var traffic sync.WaitGroup
	traffic.Go(func() { l.trickle(live, t.Context(), s.ingress) })
	begun := time.Now()
	args := []string{"--from", from.Format(time.RFC3339Nano), "--to", to.Format(time.RFC3339Nano), "--yes"}
	want := 2 * l.users * (of - before)
	for n := range kills {
		r.start(n, args...)
		// At a moment at which the replay cannot be over yet.
		r.calls += 1 + r.random.IntN(want/(kills+1))
		s.receiver.awaitVia(t, 1, r.calls, patience)
		r.running.kill()
		r.calls = s.receiver.countVia(1)
		args = nil // its id is all that it needs
	}
	r.start(kills, args...)
	r.running.wait(5 * time.Minute)
	t.Logf("the replay took %v and was killed %d times; it sent %d calls, and the range has %d", time.Since(begun), kills, s.receiver.countVia(1), want)
	stop()
	traffic.Wait()
	total := 0
	for _, at := range l.positions {
		total += len(at)
	}
	s.receiver.await(t, 2*total, patience)
	s.settle()

	l.checkFinal(t, s.receiver)
	l.checkReplayed(t, s.receiver, before, of, r.starts)
}

// killedReplay is a replay that is started again and again.
type killedReplay struct {
	*system

	random  *rand.Rand
	tenants string
	running *process
	calls   int
	starts  []int // how many calls the receiver had accepted at each start
}

func (r *killedReplay) start(n int, args ...string) {
	r.t.Helper()
	r.receiver.mu.Lock()
	r.starts = append(r.starts, len(r.receiver.accepted))
	r.receiver.mu.Unlock()
	args = append([]string{
		"replay", "--brokers", r.brokers, "--topic-prefix", r.prefix, "--tenants", r.tenants, "--group", r.group, "--id", "killed",
	}, args...)
	r.running = launch(r.t, "replay-"+strconv.Itoa(n), args...)
}

// trickle posts one more event of one user after another until live ends.
func (l *load) trickle(live, ctx context.Context, ingress string) {
	client := newClient()
	defer client.CloseIdleConnections()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for u := 0; live.Err() == nil; u = (u + 1) % l.users {
		l.mu.Lock()
		seq := len(l.positions[l.person(u)]) + 1
		l.mu.Unlock()
		l.post(ctx, client, ingress, u, seq)
		<-tick.C
	}
}

// checkFinal holds what the receiver is left with to the log: the last identify and
// group of each user are of his last event.
func (l *load) checkFinal(t *testing.T, r *receiver) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(l.refused) > 0 || len(r.faults) > 0 {
		t.Fatalf("%d of the events were not answered 202: %.3q; faults at the receiver: %.3q", len(l.refused), l.refused, r.faults)
	}
	type last struct{ identify, group int }
	final := make(map[person]last)
	for _, c := range r.accepted {
		who := l.owner(c)
		f := final[who]
		if c.Type == "identify" {
			f.identify = c.seq
		} else {
			f.group = c.seq
		}
		final[who] = f
	}
	old := 0
	for who, at := range l.positions {
		if want := (last{len(at), len(at)}); final[who] != want {
			if old++; old <= 10 {
				t.Errorf("%v is left with %+v, want %+v", who, final[who], want)
			}
		}
	}
	t.Logf("%d of %d users are left with the last value of the log", len(l.positions)-old, len(l.positions))
}

// checkReplayed holds what came to the replay's address to its promise: for each user
// all events of the range, identify before group, in order; who took over from a killed
// one may take a user's row up again once. starts are the numbers of the calls at which
// each began.
func (l *load) checkReplayed(t *testing.T, r *receiver, before, of int, starts []int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(map[person]int)   // index of the call that must come next, from the range's first
	tookUp := make(map[person]int) // the owner that last took the row up again
	repeated, groups, violations, owner := 0, 0, 0, 0
	violation := func(format string, args ...any) {
		if violations++; violations <= 10 {
			t.Errorf(format, args...)
		}
	}
	for i, c := range r.accepted {
		if owner+1 < len(starts) && i >= starts[owner+1] {
			owner++
		}
		if c.via != 1 {
			continue
		}
		who, k := l.owner(c), 2*(c.seq-before-1)
		if c.Type == "group" {
			k++
		}
		switch {
		case k == next[who]:
		case k < 0 || k > next[who]:
			violation("call %d: %s %d of %v came after %d calls: out of order, or one is missing", i, c.Type, c.seq, who, next[who])
			continue
		case owner == 0 || tookUp[who] == owner:
			violation("call %d: %s %d of %v came again, and nobody has taken over", i, c.Type, c.seq, who)
		default:
			tookUp[who] = owner
			if c.Type == "group" {
				groups++
			}
		}
		if k < next[who] {
			repeated++
		}
		next[who] = k + 1
	}
	for who := range l.positions {
		if next[who] < 2*(of-before) || next[who]%2 != 0 {
			violation("%v was sent %d calls again, want at least %d, and pairs", who, next[who], 2*(of-before))
		}
	}
	if violations > 10 {
		t.Errorf("and %d violations more", violations-10)
	}
	t.Logf("%d times a user's row was taken up again, %d of them at a group whose identify a cursor knew to be accepted", repeated, groups)
}

// owner is whose call it is.
func (l *load) owner(c call) person { return person{keyTenant(c.tenant), c.UserID} }
