package simulation

import (
	"context"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/checker"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

// requestTimeout is the deadline of a request, as package segment sets it.
const requestTimeout = segment.DefaultTimeout

// receivers are the other side of all workers' requests: one receiver for each
// tenant's endpoint. A request takes effect at one instant, all its calls or none.
type receivers struct {
	plan    *plan
	record  *record
	happens func(format string, args ...any)

	mu      sync.Mutex // never held across a wait
	targets map[string]*target
	applied int64
}

// target is the receiver at one endpoint.
type target struct {
	id     tenant.ID
	host   string
	random *rand.Rand
	moods  map[int]*mood // the faults that it has, by number
}

// mood is a fault at work.
type mood struct {
	fault
	since  time.Time
	victim string // message id that it is about
}

func newReceivers(p *plan, r *record, happens func(string, ...any)) *receivers {
	rs := &receivers{plan: p, record: r, happens: happens, targets: make(map[string]*target)}
	for i, t := range p.tenants {
		rs.targets[t.Endpoint] = &target{
			id: t.ID, host: hostOf(t.Endpoint), random: p.random(streamAnswers, i), moods: make(map[int]*mood),
		}
	}
	return rs
}

func hostOf(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	return u.Host
}

// begin gives the receiver of a tenant, or all of its host, a fault.
func (rs *receivers) begin(f fault) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	of := rs.targets[rs.plan.tenants[f.tenant].Endpoint]
	for _, t := range rs.targets {
		if t == of || f.kind == DeadHost && t.host == of.host {
			t.moods[f.number] = &mood{fault: f, since: time.Now()}
		}
	}
}

// end undoes it.
func (rs *receivers) end(f fault) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, t := range rs.targets {
		delete(t.moods, f.number)
	}
}

// reply is what a receiver does with a request.
type reply struct {
	unreachable bool // there is no connection
	takes       bool // the calls have effect
	status      int  // 0 is no answer
	retryAfter  int  // in seconds
	takesLong   time.Duration
	cuts        bool // ends the connection instead of answering
}

// reply decides about a request. The youngest fault decides.
func (t *target) reply(calls []attribution.Call) reply {
	usual := reply{takes: true, status: 200, takesLong: time.Duration(t.random.Int64N(int64(200 * time.Millisecond)))}
	extra := t.random.IntN(1000)
	for _, number := range slices.Backward(slices.Sorted(maps.Keys(t.moods))) {
		if r, decided := t.moods[number].reply(usual, extra, calls); decided {
			return r
		}
	}
	return usual
}

func (m *mood) reply(usual reply, extra int, calls []attribution.Call) (reply, bool) {
	refuses := func(status int) (reply, bool) {
		return reply{status: status, takesLong: usual.takesLong}, true
	}
	switch m.kind {
	case ServerErrors:
		return refuses(500 + m.amount%5%4) // 500 to 503
	case Throttled:
		r, _ := refuses(429)
		r.retryAfter = 1 + m.amount%30
		return r, true
	case NoAnswer:
		return reply{takesLong: requestTimeout * 2}, true
	case LateAnswer:
		return reply{takes: true, takesLong: requestTimeout * 2}, true
	case Reset:
		return reply{takes: true, cuts: true, takesLong: usual.takesLong}, true
	case Unauthorized:
		return refuses(401)
	case Redirected:
		return refuses(302)
	case RefusesAll:
		return refuses(400)
	case RefusesSome:
		if slices.ContainsFunc(calls, func(c attribution.Call) bool { return hash(c.MessageID)%4 == 0 }) {
			return refuses(400)
		}
	case Poison:
		if m.victim == "" {
			m.victim = calls[m.amount%len(calls)].MessageID
		}
		if slices.ContainsFunc(calls, func(c attribution.Call) bool { return c.MessageID == m.victim }) {
			return refuses(500)
		}
	case Slow:
		usual.takesLong = time.Duration(2000+extra*4) * time.Millisecond
		return usual, true
	case Flapping:
		period := time.Duration(1+m.amount%7) * time.Second
		if time.Since(m.since)/period%2 == 0 {
			return refuses(503)
		}
	case DeadHost:
		return reply{unreachable: true}, true
	case SmallBodies:
		if len(calls) > 2+m.amount%3 {
			return refuses(413)
		}
	default:
	}
	return reply{}, false
}

func hash(text string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(text))
	return h.Sum32()
}

// sender is the receivers as one worker reaches them.
type sender struct {
	to     *receivers
	link   *link
	worker string
}

var errRefused = errors.New("connection refused")

// Send makes one attempt, as segment.Client does.
func (s sender) Send(parent context.Context, to segment.Target, calls []attribution.Call) segment.Result {
	ctx, cancel := context.WithTimeout(parent, requestTimeout)
	defer cancel()
	broken := func(err error, unknown bool) segment.Result {
		if parent.Err() != nil {
			return segment.Result{Class: segment.Canceled, Unknown: unknown, Err: context.Cause(parent)}
		}
		return segment.Result{Class: segment.Transient, Unknown: unknown, Err: err}
	}
	way := time.Millisecond * time.Duration(1+hash(calls[0].MessageID)%10)
	if err := s.link.pass(ctx); err != nil {
		return broken(err, false)
	}
	if !pause(ctx, way) {
		return broken(ctx.Err(), false)
	}
	if err := s.link.pass(ctx); err != nil {
		return broken(err, true)
	}
	entry, r := s.to.take(s.worker, to, calls)
	if r.unreachable {
		return broken(errRefused, false)
	}
	if !pause(ctx, r.takesLong) {
		return broken(ctx.Err(), true)
	}
	if r.cuts {
		return broken(errLost, true)
	}
	s.to.record.answered(entry, r)
	if !pause(ctx, way) {
		return broken(ctx.Err(), true)
	}
	if err := s.link.pass(ctx); err != nil {
		return broken(err, true)
	}
	return result(r)
}

// take lets the receiver at the endpoint decide about a request, and take it.
func (rs *receivers) take(worker string, to segment.Target, calls []attribution.Call) (*checker.Request, reply) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := reply{status: 404}
	if t := rs.targets[to.Endpoint]; t != nil {
		r = t.reply(calls)
		// It knows the keys of its own tenant alone.
		if !strings.HasSuffix(to.WriteKey.Reveal(), "-of-"+string(t.id)) {
			r = reply{status: 401}
		}
	}
	if r.unreachable {
		return nil, r
	}
	entry := &checker.Request{Begun: now(), Endpoint: to.Endpoint, WriteKey: to.WriteKey.Reveal(), Worker: worker}
	for i := range calls {
		entry.Calls = append(entry.Calls, []byte(jsontext.Value(calls[i].AppendJSON(nil))))
	}
	if r.takes {
		rs.applied++
		entry.Applied = rs.applied
	}
	rs.record.request(entry)
	rs.happens("%s to %s: %s: status %d, taken as %d", worker, to.Endpoint, briefly(calls), r.status, entry.Applied)
	return entry, r
}

// briefly names the calls of a request.
func briefly(calls []attribution.Call) string {
	names := make([]string, len(calls))
	for i := range calls {
		c := &calls[i]
		names[i] = fmt.Sprintf("%v %s %s %s", c.Kind, c.UserID, c.Timestamp.Format("04:05.000"), c.MessageID[:min(4, len(c.MessageID))])
	}
	return strings.Join(names, ", ")
}

// result is what package segment makes of an answer.
func result(r reply) segment.Result {
	out := segment.Result{Status: r.status, RetryAfter: time.Duration(r.retryAfter) * time.Second}
	switch {
	case r.status == 200:
		out.Class = segment.Accepted
		return out
	case r.status == 429:
		out.Class = segment.Throttled
	case r.status == 400:
		out.Class = segment.Refused
	case r.status == 413:
		out.Class = segment.TooLarge
	case r.status/100 == 5 && r.status != 501:
		out.Class, out.Unknown = segment.Transient, true
	default:
		out.Class = segment.Misconfigured
	}
	out.Err = errors.New("receiver answered " + strconv.Itoa(r.status))
	return out
}
