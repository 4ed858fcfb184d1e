package checker

import (
	"fmt"
	"time"
)

// Options of Check. The zero value is what a run of the service with its default
// settings needs.
type Options struct {
	// MaxPerRule bounds the violations that are reported of each rule; all are
	// counted. 0 is 20.
	MaxPerRule int
	// ClockSlack is how much later than a commit something may have ended that the
	// commit takes for ended: Kafka's times are in milliseconds. 0 is 1 ms.
	ClockSlack time.Duration
	// Deadline is that of a request: an answer that took longer may not have been
	// waited for. 0 is 8 s.
	Deadline time.Duration
	// Settle is how long after a fault its consequences may go on: a takeover
	// after the session's end, what is sent again then. 0 is 5 min.
	Settle time.Duration
	// ForgetGrace is how long after the tenants file began to say so a respondent may be
	// heard of yet: it is read within 10 s, and a request takes its time. 0 is 20 s.
	ForgetGrace time.Duration
	// KeyGrace is how long a key may be seen after it was replaced. 0 is 10 s.
	KeyGrace time.Duration
	// LibraryVersion is the version that calls must tell in context.library; "" is any.
	LibraryVersion string
	// CopyWindow is how many records a second copy of an event may come behind the
	// one before and must still be dropped. Beyond, it may be delivered again.
	// 0 is 1,000; -1 is none.
	CopyWindow int64
	// MaxRepeats is the share of calls that may have been applied again without need,
	// 0.01 for one in a hundred: but for the first time after a request whose outcome
	// its sender could not know. 0 does not bound it: in a short run every fault is many.
	MaxRepeats float64
	// ProbeMax is how many requests a lane may make in ProbeWindow while its
	// tenant does not take any, from ProbeAfter on after the first that failed.
	// 0 does not bound it.
	ProbeMax    int
	ProbeWindow time.Duration // 0 is 1 min
	ProbeAfter  time.Duration // 0 is 30 s
	// Fence is how long after its last commit that was made a worker may begin
	// requests, where requests for commits were seen. 0 does not bound it.
	Fence time.Duration
	// MaxLatencyRatio bounds the healthy tenants' p99 during the faults to so many
	// times that from before, or LatencyGrace more, whichever is greater. 0 does
	// not bound it.
	MaxLatencyRatio float64
	LatencyGrace    time.Duration // 0 is 100 ms
}

func (o *Options) setDefaults() {
	def(&o.MaxPerRule, 20)
	def(&o.ClockSlack, time.Millisecond)
	def(&o.Deadline, 8*time.Second)
	def(&o.Settle, 5*time.Minute)
	def(&o.KeyGrace, 10*time.Second)
	def(&o.ForgetGrace, 20*time.Second)
	def(&o.CopyWindow, 1000)
	def(&o.ProbeWindow, time.Minute)
	def(&o.ProbeAfter, 30*time.Second)
	def(&o.LatencyGrace, 100*time.Millisecond)
}

func def[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Rule is a rule of the promise. Its number is that of docs/proof.md.
type Rule int

// The rules.
const (
	// Recorded is no rule of the service: the history cannot be what happened, or
	// has something that the checker does not know.
	Recorded Rule = 0
	// Durable: every 202 is in the log, bytes equal, at the position answered.
	Durable Rule = 1
	// Phantom: every call comes from an event in the log and is what the rules give.
	Phantom Rule = 2
	// Complete: every event ends delivered, dead-lettered or ignored, or is held by
	// a cursor or the commit while its tenant fails.
	Complete Rule = 3
	// Pair: a group is sent only when its identify has been accepted.
	Pair Rule = 4
	// Keys: a tenant's calls go to its endpoint, under its key.
	Keys Rule = 5
	// Order: per user, identify, group, identify, group; a call comes again only
	// with a cause, and then the sequence goes on from there.
	Order Rule = 6
	// Convergence: what the receiver ends with is what the log says.
	Convergence Rule = 7
	// Commits: none passes an unfinished event that no cursor holds, none goes back,
	// none is of an old generation, and a worker whose commits are not made sends nothing.
	Commits Rule = 8
	// DeadLetters: each is justified by the rules or by an answer.
	DeadLetters Rule = 9
	// Forgotten: nothing is sent of a respondent who is to be forgotten.
	Forgotten Rule = 10
	// Duplicates: none without faults, none in a rolling restart, few otherwise.
	Duplicates Rule = 11
	// Isolation: healthy tenants do not notice the others' trouble.
	Isolation Rule = 12
	// Determinism: one message id, one call, byte for byte.
	Determinism Rule = 14
	// Politeness: nothing before Retry-After is over, no more probes than agreed.
	Politeness Rule = 16
	// Cursors: metadata can be read, and no cursor is dropped.
	Cursors Rule = 17
)

// Rules are all rules, in order.
func Rules() []Rule {
	return []Rule{
		Recorded, Durable, Phantom, Complete, Pair, Keys, Order, Convergence, Commits,
		DeadLetters, Forgotten, Duplicates, Isolation, Determinism, Politeness, Cursors,
	}
}

var ruleNames = map[Rule]string{
	Recorded: "recorded", Durable: "durable", Phantom: "phantom", Complete: "complete", Pair: "pair", Keys: "keys",
	Order: "order", Convergence: "convergence", Commits: "commits", DeadLetters: "dead_letters", Forgotten: "forgotten", Duplicates: "duplicates",
	Isolation: "isolation", Determinism: "determinism", Politeness: "politeness", Cursors: "cursors",
}

// String returns the rule's name.
func (r Rule) String() string {
	if name, ok := ruleNames[r]; ok {
		return name
	}
	return fmt.Sprintf("rule %d", int(r))
}

// MarshalText returns the rule's name.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a rule's name.
func (r *Rule) UnmarshalText(text []byte) error {
	for rule, name := range ruleNames {
		if name == string(text) {
			*r = rule
			return nil
		}
	}
	return fmt.Errorf("unknown rule %q", text)
}

// Check verifies a history. It takes time and memory in proportion to its
// length, and changes nothing in it.
func Check(h *History, o Options) Report {
	o.setDefaults()
	c := &checking{h: h, o: o, report: Report{Counts: make(map[Rule]int)}, faults: indexFaults(h.Faults)}
	c.setApart()
	if c.index() {
		c.sent()
		c.letters()
		c.generations()
		c.received()
		c.commits()
		c.final()
	}
	return c.report
}

// checking is the state of one Check. The large tables hold numbers, no pointers.
type checking struct {
	h      *History
	o      Options
	report Report
	faults faultIndex

	tenants  []tenantState
	tenantOf map[string]int32
	// Events whose tenant header is missing, or names no tenant of the tenants file,
	// have a lane as well: strangers gives the headers' texts numbers below -1.
	strangers map[string]int32
	tagged    map[tag]int32 // tenants and strangers

	parts  map[int]*partition
	lanes  []lane
	laneOf map[laneID]int32
	apart  map[tagged][]tag // the keys that some commit sets apart

	events []event
	calls  []call
	callOf map[uuid]int32

	keys     []key
	keyCalls []int32 // of every key, its calls in the order of the log

	traits []folded
	again  map[int32][]lateCopy // calls that late copies may bring again

	dead     []letter
	evidence map[int32]*evidence // of the events with a letter
	failing  map[int32][]int32   // of a tenant, the events with a letter that have failed alone
	commitOf map[int]*committed
	held     map[int]position

	late     map[lateness]int64 // the requests that they were
	made     map[string][]Time  // when each worker asked for commits that were made, in order
	requests int64
	applied  int64
	seen     []int32 // the calls of a request
	buf      []byte

	differing []differing
}

type tenantState struct {
	*Tenant
	rules  *rules
	tag    tag
	failed bool // a request of it was not taken
}

// partition is one of the topic's.
type partition struct {
	start  int64   // what retention left
	end    int64   // behind the last record
	events []int32 // in the order of their offsets
}

type laneID struct {
	partition int
	tenant    int32 // or stranger
}

// lane is a partition's part of a tenant.
type lane struct {
	laneID
	name   string // what the tenant header says
	tag    tag
	events []int32
	// strands are the parts of it that may be lanes of their own: the first has
	// what never is.
	strands []strand

	notBefore Time // by the last Retry-After
	asked     Time // when that was answered
	failing   Time // since when no request was taken
	probes    []Time
}

type fate uint8

const (
	makesCalls fate = iota
	isIgnored
	isDead
	isCopy
)

// event is a record of the log and what became of it.
type event struct {
	offset    int64
	body      [16]byte // of the SHA-256
	accepted  Time
	delivered Time // when its last call was accepted
	partition int32
	tenant    int32 // -1 if unknown: then its lane has the name
	lane      int32
	inLane    int32
	key       int32 // -1 if none
	first     int32 // of its calls
	calls     uint16
	left      uint16 // calls that were not accepted yet
	fate      fate
	source    uint8
	reason    uint8 // index of reasons
	letter    bool
	forgotten bool // it is to be, from its tenant's ForgottenAt on
	letterAt  Time
}

// call is a call that the rules give, and what became of it.
type call struct {
	want     [16]byte // hash of its canonical text
	raw      [16]byte // hash of the bytes that came first; zero if none did
	event    int32
	seq      int32 // in its key
	request  int32 // that applied it last, counted from 1; 0 if none did
	last     int32 // that applied it last in its turn
	traits   uint32
	begun    Time // of that request
	answered Time
	accepted Time // when a 2xx was answered first
	nTraits  uint16
	kind     uint8
	unknown  bool // the last application's answer may not have come
	lost     bool // nor, as far as is known of its worker, can it be said to have come
	spent    bool // a repeat for that is counted
}

// key is what is kept in order: a user, or an account.
type key struct {
	partition int32
	tenant    int32
	start     int32 // in keyCalls
	calls     int32
	next      int32 // the call that must come next
	high      int32 // behind the furthest that was applied
	fault     int32 // the cause of what came again of it last, counted from 1; 0 if none
	inverted  bool  // what was applied last is not in the order of the log
}

// lateCopy is a copy in the log that may be delivered, and that like any event may come
// again after a takeover.
type lateCopy struct {
	event int32
	came  Time
	used  Time // when a request was taken for its delivery first; 0 if none was
}

// folded is a trait of a call, as a fold over one key's calls needs it: hashes
// of whose it is and of its value.
type folded struct {
	of    uint32
	value uint32
}

// Violation is a breach of a rule.
type Violation struct {
	Rule      Rule   `json:"rule"`
	Tenant    string `json:"tenant,omitempty"`
	User      string `json:"user,omitempty"` // what the log is kept in order by: the record's key
	Event     string `json:"event,omitempty"`
	Partition int    `json:"partition"`
	Offset    int64  `json:"offset"` // -1 if it is about no event
	At        Time   `json:"at,omitempty"`
	Text      string `json:"text"`
}

// String returns the violation as a sentence.
func (v Violation) String() string {
	s := v.Rule.String() + ": " + v.Text
	if v.Offset >= 0 {
		s += fmt.Sprintf(" (event at %d/%d", v.Partition, v.Offset)
		if v.Tenant != "" {
			s += ", tenant " + v.Tenant
		}
		s += ")"
	} else if v.Tenant != "" {
		s += " (tenant " + v.Tenant + ")"
	}
	return s
}

// breach notes a violation that is about no event.
func (c *checking) breach(r Rule, at Time, format string, args ...any) {
	c.note(Violation{Rule: r, Offset: -1, At: at}, format, args...)
}

// breachOf notes a violation that is about an event.
func (c *checking) breachOf(r Rule, e int32, at Time, format string, args ...any) {
	ev := &c.events[e]
	v := Violation{Rule: r, Partition: int(ev.partition), Offset: ev.offset, At: at}
	v.Tenant = c.lanes[ev.lane].name
	c.note(v, format, args...)
}

func (c *checking) note(v Violation, format string, args ...any) {
	if c.report.Counts[v.Rule]++; c.report.Counts[v.Rule] <= c.o.MaxPerRule {
		v.Text = fmt.Sprintf(format, args...)
		c.report.Violations = append(c.report.Violations, v)
	}
}
