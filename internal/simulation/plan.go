package simulation

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/lane"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// plan is all that a seed decides before a run.
type plan struct {
	seed       uint64
	mode       Mode
	workers    int
	brokers    int
	partitions int
	limits     lane.Limits
	length     time.Duration // of the faults and of the traffic
	tenants    []tenant.Tenant
	hosts      int // that the tenants' endpoints stand on
	chains     []chain
	events     int
	faults     []fault
	broken     []int // tenants whose receivers never mend
}

// chain is what one user's sender sends, one event after another.
type chain struct {
	tenant int
	user   string
	events []event
}

// event is one that will be sent.
type event struct {
	at      time.Duration
	n       int // of its user's, from 1
	account string
	source  survey.Source
	form    form
}

// form is what sort of event it is.
type form uint8

const (
	completed form = iota
	dismissed
	partial
	anonymous
	hostile // a completed one with text that is hard to carry
)

// fault is one that will happen.
type fault struct {
	number    int // from 1, in the order of time
	kind      Kind
	at        time.Duration
	length    time.Duration
	tenant    int
	worker    int
	partition int
	amount    int // what it means is the kind's
}

// ofTenant tells whether the fault is about one tenant.
func (f *fault) ofTenant() bool {
	return slices.Contains(receiverKinds, f.kind) || f.kind == Copies || f.kind == Paused || f.kind == Rotated || f.kind == Forgotten
}

// Streams of random numbers, so that one that is used more often leaves the
// others as they are.
const (
	streamPlan = iota + 1
	streamFaults
	streamAnswers
	streamJitter
	streamFaultsAtWork
	streamForgotten
)

func (p *plan) random(stream, n int) *rand.Rand {
	return rand.New(rand.NewPCG(p.seed, uint64(stream)<<32|uint64(n)))
}

func newPlan(o Options) *plan {
	p := &plan{seed: o.Seed, mode: cmp.Or(o.Mode, Safety)}
	r := p.random(streamPlan, 0)
	// Each is drawn, given or not, so that what is given changes nothing else.
	p.workers = cmp.Or(o.Workers, between(r, 1, 4))
	tenants := cmp.Or(o.Tenants, between(r, 2, 4))
	users := cmp.Or(o.Users, between(r, 2, 5))
	p.events = cmp.Or(o.Events, between(r, 20, 60))
	p.partitions = cmp.Or(o.Partitions, between(r, 2, 3))
	p.brokers = between(r, 1, 3)
	p.limits = lane.Limits{
		RequestCalls: between(r, 4, 12), RequestBytes: between(r, 4_000, 20_000),
		WindowEvents: cmp.Or(o.Window, between(r, 8, 40)), WindowBytes: 1 << 20,
		BehindEvents: between(r, 1, 12),
	}
	p.length = time.Duration(between(r, 60, 300)) * time.Second
	p.hosts = max(1, tenants-1)
	for i := range tenants {
		p.tenants = append(p.tenants, p.newTenant(r, i))
	}
	switch p.mode {
	case Safety:
		p.addFaults(o)
	case Liveness:
		p.breakTenants(o)
	}
	p.addTraffic(r, users)
	if o.Only != nil {
		p.faults = slices.DeleteFunc(p.faults, func(f fault) bool { return !slices.Contains(o.Only, f.number) })
	}
	for _, f := range p.faults {
		if f.length == forEver {
			p.broken = append(p.broken, f.tenant)
		}
	}
	return p
}

func between(r *rand.Rand, from, to int) int { return from + r.IntN(to-from+1) }

func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }

func (p *plan) newTenant(r *rand.Rand, i int) tenant.Tenant {
	id := fmt.Sprintf("tenant-%d", i)
	t := tenant.Tenant{
		ID: tenant.ID(id), WriteKey: tenant.NewSecret("key-0-of-" + id), Endpoint: endpoint(i, p.hosts),
		Tokens: []tenant.Secret{tenant.NewSecret("token-of-" + id)}, Rules: attribution.DefaultRules(), Pairing: tenant.Strict,
	}
	t.Rules.AccountProperties = map[string]struct{}{"account_seq": {}}
	if chance(r, 25) {
		t.Rules.OrderBy = attribution.ByAccount
	}
	if chance(r, 15) {
		t.Pairing = tenant.Batch
	} else if chance(r, 15) {
		t.PairGap = time.Second
	}
	if chance(r, 20) {
		t.RateLimit = between(r, 2, 20)
	}
	return t
}

// endpoint gives each tenant one of its own; some share a host.
func endpoint(i, hosts int) string { return fmt.Sprintf("http://host-%d.invalid/%d", i%hosts, i) }

// addTraffic shares the events out among the users, some of them in bursts, and
// most of them where they meet a fault.
func (p *plan) addTraffic(r *rand.Rand, users int) {
	for t := range p.tenants {
		for u := range users {
			p.chains = append(p.chains, chain{tenant: t, user: fmt.Sprintf("user-%d", u)})
		}
	}
	for range p.events {
		number := r.IntN(len(p.chains))
		at := time.Duration(r.Int64N(int64(p.length * 8 / 10)))
		if chance(r, 30) {
			at = at.Truncate(p.length / 4)
		}
		if len(p.faults) > 0 && chance(r, 60) {
			f := p.faults[r.IntN(len(p.faults))]
			at = max(0, f.at-2*time.Second+time.Duration(r.Int64N(int64(4*time.Second+min(f.length, 20*time.Second)))))
			if f.ofTenant() && chance(r, 60) {
				number = f.tenant*users + number%users
			}
		}
		c := &p.chains[number]
		e := event{at: at, source: survey.RefinerWebhook, account: "account-" + c.user[len(c.user)-1:]}
		if chance(r, 50) {
			e.account = "account-0"
		}
		if chance(r, 10) {
			e.account = ""
		}
		if chance(r, 30) {
			e.source = survey.SurveyEvent
		}
		if chance(r, 20) {
			e.form = form(between(r, int(dismissed), int(hostile)))
			if e.source == survey.SurveyEvent && e.form != anonymous {
				e.form = hostile // canonical events are always completed ones
			}
		}
		c.events = append(c.events, e)
	}
	for i := range p.chains {
		c := &p.chains[i]
		slices.SortStableFunc(c.events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
		for n := range c.events {
			c.events[n].n = n + 1
			if p.tenants[c.tenant].Rules.OrderBy == attribution.ByAccount {
				// A user whose account changes has no order between the two.
				c.events[n].account = "account-" + c.user[len(c.user)-1:]
			}
		}
	}
}

// calls is how many calls the events of a tenant make.
func (p *plan) calls(tenant int) int {
	n := 0
	for _, c := range p.chains {
		for _, e := range c.events {
			switch {
			case c.tenant != tenant || e.form != completed && e.form != hostile:
			case e.account != "":
				n += 2
			default:
				n++
			}
		}
	}
	return n
}

func (p *plan) addFaults(o Options) {
	r := p.random(streamFaults, 0)
	n := between(r, 0, 12)
	switch {
	case o.Faults > 0:
		n = o.Faults
	case o.Faults < 0:
		n = 0
	}
	kinds := o.Kinds
	if kinds == nil {
		kinds = drawn
	}
	for range n {
		p.faults = append(p.faults, p.newFault(r, kinds[r.IntN(len(kinds))]))
	}
	if r := p.random(streamForgotten, 0); o.Kinds == nil && n > 0 && chance(r, 25) {
		p.faults = append(p.faults, p.newFault(r, Forgotten))
	}
	p.number()
}

func (p *plan) number() {
	slices.SortStableFunc(p.faults, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
	for i := range p.faults {
		p.faults[i].number = i + 1
	}
}

func (p *plan) newFault(r *rand.Rand, k Kind) fault {
	f := fault{
		kind: k, at: time.Duration(r.Int64N(int64(p.length))), length: length(r, time.Second, 2*time.Minute),
		tenant: r.IntN(len(p.tenants)), worker: r.IntN(p.workers), partition: r.IntN(p.partitions), amount: r.IntN(1000),
	}
	switch k {
	case Freezes, Isolated:
		f.length = length(r, 35*time.Second, 2*time.Minute)
	case Poison:
		// Some end before the event's budget is spent, most do not.
		f.length = length(r, time.Minute, 6*time.Minute)
	case Trimmed, TrimmedAhead, Copies, Garbage, Rotated, Forgotten, CoordinatorMoves, LeadersMove, IngressCut:
		f.length = 0
	default:
	}
	return f
}

// length is drawn so that short ones are as likely as long ones.
func length(r *rand.Rand, from, to time.Duration) time.Duration {
	d := from
	for d < to && chance(r, 85) {
		d = d * 3 / 2
	}
	return min(to, d+time.Duration(r.Int64N(int64(from))))
}

// breakTenants breaks at most half of the tenants from the first moment on.
func (p *plan) breakTenants(o Options) {
	r := p.random(streamFaults, 0)
	kinds := o.Kinds
	if kinds == nil {
		kinds = lasting
	}
	p.workers = 1
	for i := range between(r, 1, max(1, len(p.tenants)/2)) {
		f := fault{kind: kinds[r.IntN(len(kinds))], tenant: i, amount: r.IntN(1000), length: forEver}
		if f.kind == DeadHost {
			p.tenants[i].Endpoint = fmt.Sprintf("http://host-dead-%d.invalid/%d", i, i)
		}
		p.faults = append(p.faults, f)
	}
	p.number()
}

// forEver is the length of a fault that is never undone.
const forEver = time.Duration(1<<62 - 1)

// describe says what the plan is, one line for the system and one for each fault.
func (p *plan) describe() []string {
	lines := []string{fmt.Sprintf(
		"seed %d, %s: %d workers, %d brokers, %d partitions, %d tenants, %d chains, %d events, window %d, %d behind, request %d calls, %v long",
		p.seed, p.mode, p.workers, p.brokers, p.partitions, len(p.tenants), len(p.chains), p.events,
		p.limits.WindowEvents, p.limits.BehindEvents, p.limits.RequestCalls, p.length)}
	for _, t := range p.tenants {
		if t.Pairing != tenant.Strict || t.Rules.OrderBy != attribution.ByUser || t.RateLimit > 0 || t.PairGap > 0 {
			lines = append(lines, fmt.Sprintf("%s: pairing %s, order by %s, gap %v, rate limit %d",
				t.ID, t.Pairing, t.Rules.OrderBy, t.PairGap, t.RateLimit))
		}
	}
	for _, f := range p.faults {
		lines = append(lines, p.describeFault(f))
	}
	return lines
}

func (p *plan) describeFault(f fault) string {
	line := fmt.Sprintf("#%d at %v: %s", f.number, f.at.Round(time.Millisecond), f.kind)
	switch {
	case f.ofTenant():
		line += " of " + string(p.tenants[f.tenant].ID)
	case slices.Contains(workerKinds, f.kind) && f.kind != Joins:
		line += fmt.Sprintf(" worker %d", f.worker)
	case f.kind == Trimmed, f.kind == TrimmedAhead, f.kind == Garbage, f.kind == LeadersMove:
		line += fmt.Sprintf(" partition %d", f.partition)
	}
	switch f.length {
	case 0:
	case forEver:
		line += " for ever"
	default:
		line += fmt.Sprintf(" for %v", f.length.Round(time.Millisecond))
	}
	return line + fmt.Sprintf(" (%d)", f.amount)
}
