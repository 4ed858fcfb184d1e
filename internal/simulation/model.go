package simulation

import (
	"math"
	"time"
)

// Model says how fast the system can be, from what it is given: a few lines of
// queueing theory, held to the real worker in virtual time by its test, so that
// docs/scaling.md can be trusted where no machine is large enough to measure.
//
// It knows these limits, each in events a second:
//
//   - Processor: an event costs so much processor time, and a request so much.
//   - Pairs: a user's events go one after another, each a round trip for its
//     identify and one for its group.
//   - Lanes: a lane has one request under way, of so many calls.
//   - Window: a partition holds so many events in memory (Little's law: as many
//     leave in the time that one stays). Lanes whose events stay for longer than
//     Passed are passed, and up to a window more is theirs.
//   - Receiver: a tenant may be sent so many calls a second.
//
// It takes users and tenants for equally busy. A user or tenant with more than a
// fair share has its own limit, Pairs or Receiver for one, and waits for itself.
type Model struct {
	Arrival float64 // events a second, of all tenants
	Tenants int
	Users   int // of each tenant, who have events at the time
	// Failing are those of the tenants whose receivers take nothing. The limits are
	// of the events of the others, which wait for them for Passed, once.
	Failing   int
	Latency   time.Duration // of a receiver's answer
	RateLimit float64       // calls a second of a tenant; 0 is none

	Partitions   int
	Window       int // events that are not finished, in memory of each partition
	RequestCalls int // the most in a request
	Workers      int
	Slots        int // requests under way of a worker; 0 does not bound them

	Cores      float64       // of each worker; 0 leaves the processor out
	EventCPU   time.Duration // of an event, without its requests
	RequestCPU time.Duration
	Carried    float64 // calls in a request while the processor is the limit
}

// Limits are the events a second that each part allows by itself; +Inf where it
// sets none.
type Limits struct {
	Processor, Pairs, Lanes, Window, Receiver float64
}

// callsOfPair is how many calls an event makes, and how many round trips: identify
// and group.
const callsOfPair = 2

// Passed is how long a lane holds up others at most, where its events fill the window,
// or the commit: then a cursor passes it. From there on it costs them nothing.
const Passed = time.Second

func (m Model) well() float64 { return float64(m.Tenants - m.Failing) }

// trip is how long a request takes with its wait for a slot. Tenants that wait for
// one take along what has come meanwhile.
func (m Model) trip() float64 {
	stretched := 1.0
	if m.Slots > 0 {
		stretched = max(1, m.well()/float64(m.Slots))
	}
	return m.Latency.Seconds() * stretched
}

// stay is how long an event is under way, in seconds, when so many of all are:
// two round trips, and before them half of one if its lane is busy with others.
func (m Model) stay(underWay float64) float64 {
	others := max(0, underWay/m.well()-1) / float64(m.Partitions)
	busy := 1 - math.Exp(-others)
	return m.trip() * (callsOfPair + busy/2)
}

// longest is how many times as long as the mean an event stays at most: answers take
// from half to one and a half of the latency.
const longest = 1.5

// window is how many events a partition holds in memory. None is passed where the
// longest stay is Passed, and all are where the mean is.
func (m Model) window() float64 {
	w := float64(m.Window)
	mean := m.stay(float64(m.Partitions)*w) / Passed.Seconds()
	return w * (1 + min(1, max(0, (longest*mean-1)/(longest-1))))
}

// users are all that have events, at the tenants that are well.
func (m Model) users() float64 { return m.well() * float64(m.Users) }

// Limits returns what each part allows.
func (m Model) Limits() Limits {
	held := float64(m.Partitions) * m.window()
	l := Limits{Processor: math.Inf(1), Receiver: math.Inf(1)}
	if m.Cores > 0 {
		event := m.EventCPU.Seconds() + m.RequestCPU.Seconds()*callsOfPair/max(1, m.Carried)
		l.Processor = float64(m.Workers) * m.Cores / event
	}
	if m.RateLimit > 0 {
		l.Receiver = m.well() * m.RateLimit / callsOfPair
	}
	l.Pairs = m.users() / m.stay(m.users())
	lanes := m.well() * float64(min(m.Partitions, m.Users))
	l.Lanes = lanes * float64(m.RequestCalls) / callsOfPair / m.trip()
	l.Window = held / m.stay(held)
	return l
}

// Capacity is how many events a second the system sustains. That is the least of
// the limits; but users and window limit each other: where the window holds several
// events of a user, all but the first wait in it.
func (m Model) Capacity() float64 {
	l := m.Limits()
	// As many users as so many events drawn at random have.
	users := m.users() / float64(m.Partitions)
	moving := float64(m.Partitions) * users * (1 - math.Pow(1-1/max(1, users), m.window()))
	return min(l.Processor, l.Lanes, l.Receiver, moving/m.stay(moving))
}

// Utilisation is the part of the capacity that is used; from 1 on the lag grows.
func (m Model) Utilisation() float64 { return m.Arrival / m.Capacity() }

// Delivery is how long an event takes that meets no backlog.
func (m Model) Delivery() time.Duration {
	return seconds(m.stay(m.Arrival * callsOfPair * m.trip()))
}

// Drain is how long it takes until a backlog is gone, while events go on to come.
func (m Model) Drain(backlog int) time.Duration {
	return seconds(float64(backlog) / (m.Capacity() - m.Arrival))
}

// Wait is how long the events of a burst take, with those before them: the mean, and
// of 99 in 100 at most.
func (m Model) Wait(burst int) (mean, p99 time.Duration) {
	last := float64(burst) / m.Capacity()
	return m.Delivery() + seconds(last/2), m.Delivery() + seconds(last*0.99)
}

// seconds is a duration; the longest for what never ends.
func seconds(s float64) time.Duration {
	if s < 0 || s > math.MaxInt64/1e9 {
		return math.MaxInt64
	}
	return time.Duration(s * float64(time.Second))
}
