package chaos

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"refinersource/internal/checker"
)

// stopwatch knows when each event was accepted and when it was delivered, and of
// tenants that fail every attempt. An event is known by its number within its
// tenant, which stands in its calls.
type stopwatch struct{ tenants []stopped }

// stopped is what is known of one tenant.
type stopped struct {
	mu       sync.Mutex
	marks    []mark // by the number of the event, less one
	attempts []attempt
	posted   atomic.Int32 // the last number
	follow   atomic.Bool  // keep its attempts
}

// mark is one event.
type mark struct {
	accepted, delivered int64 // 0 if it was not
	partition           int
}

// attempt is one request at the receiver.
type attempt struct {
	begun, ended int64
	number       int // of one of its events
	applied      bool
}

func newStopwatch(tenants int) *stopwatch { return &stopwatch{tenants: make([]stopped, tenants)} }

func tenantName(i int) string { return fmt.Sprintf("t%04d", i) }

// number numbers the next event of a tenant.
func (w *stopwatch) number(tenant int) int { return int(w.tenants[tenant].posted.Add(1)) }

// at is the mark of an event; the tenant is locked.
func (t *stopped) at(number int) *mark {
	for len(t.marks) < number {
		t.marks = append(t.marks, mark{partition: -1})
	}
	return &t.marks[number-1]
}

// accepted notes that an event was answered 202.
func (w *stopwatch) accepted(tenant, number, partition int, at int64) {
	t := &w.tenants[tenant]
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.at(number)
	m.accepted, m.partition = at, partition
}

// What the numbers of events stand in.
var (
	userNumber    = []byte(`"refiner_seq":`)
	accountNumber = []byte(`"refiner_account_seq":`)
	groupCall     = []byte(`"type":"group"`)
)

// numberIn is the number behind a name, 0 if there is none.
func numberIn(call, name []byte) int {
	_, rest, ok := bytes.Cut(call, name)
	if !ok {
		return 0
	}
	n := 0
	for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
		n++
	}
	v, err := strconv.Atoi(string(rest[:n]))
	if err != nil {
		return 0
	}
	return v
}

// answered takes in a request whose answer has ended.
func (w *stopwatch) answered(note *checker.Request) {
	i, err := strconv.Atoi(strings.TrimPrefix(note.Endpoint, "t"))
	if err != nil || i < 0 || i >= len(w.tenants) {
		return
	}
	t := &w.tenants[i]
	known := int(t.posted.Load())
	t.mu.Lock()
	defer t.mu.Unlock()
	last := 0
	for _, call := range note.Calls {
		number := numberIn(call, accountNumber)
		group := number > 0 && bytes.Contains(call, groupCall)
		if !group {
			number = numberIn(call, userNumber)
		}
		if number < 1 || number > known {
			continue
		}
		last = number
		if m := t.at(number); group && note.Applied > 0 && note.Status/100 == 2 && m.delivered == 0 {
			m.delivered = note.Answered
		}
	}
	if t.follow.Load() && last > 0 {
		t.attempts = append(t.attempts, attempt{begun: note.Begun, ended: time.Now().UnixNano(), number: last, applied: note.Applied > 0})
	}
}

// follow keeps the attempts of tenants from now on.
func (w *stopwatch) follow(tenants []int) {
	for _, i := range tenants {
		w.tenants[i].follow.Store(true)
	}
}

// waiting is how many events of the tenants are accepted and not delivered.
func (w *stopwatch) waiting(tenants []int) int {
	n := 0
	for _, i := range tenants {
		t := &w.tenants[i]
		t.mu.Lock()
		for k := range t.marks {
			if m := &t.marks[k]; m.accepted > 0 && m.delivered == 0 {
				n++
			}
		}
		t.mu.Unlock()
	}
	return n
}

// window is a time of the run.
type window struct{ from, to time.Time }

func (w window) has(at int64) bool { return at >= w.from.UnixNano() && at < w.to.UnixNano() }

// latencies are the times from 202 to delivery of the tenants' events that were
// accepted in the window, and how many of them were not delivered.
func (w *stopwatch) latencies(tenants []int, in window) (took []time.Duration, missing int) {
	for _, i := range tenants {
		t := &w.tenants[i]
		t.mu.Lock()
		for k := range t.marks {
			switch m := &t.marks[k]; {
			case !in.has(m.accepted):
			case m.delivered == 0:
				missing++
			default: // the answer to the sender may come after the delivery
				took = append(took, time.Duration(max(0, m.delivered-m.accepted)))
			}
		}
		t.mu.Unlock()
	}
	return took, missing
}

// place is a tenant in a partition: what is suspended.
type place struct{ tenant, partition int }

// first finds for each of the tenants' places the first attempt in the window that
// is so.
func (w *stopwatch) first(tenants []int, in window, is func(attempt) bool) map[place]attempt {
	found := make(map[place]attempt)
	for _, i := range tenants {
		t := &w.tenants[i]
		t.mu.Lock()
		for _, a := range t.attempts {
			if !in.has(a.begun) || !is(a) {
				continue
			}
			at := place{i, t.marks[a.number-1].partition}
			if before, ok := found[at]; !ok || a.ended < before.ended {
				found[at] = a
			}
		}
		t.mu.Unlock()
	}
	return found
}

// lastDelivered is when the last of the tenants' events was.
func (w *stopwatch) lastDelivered(tenants []int) time.Time {
	var last int64
	for _, i := range tenants {
		t := &w.tenants[i]
		t.mu.Lock()
		for k := range t.marks {
			last = max(last, t.marks[k].delivered)
		}
		t.mu.Unlock()
	}
	return time.Unix(0, last)
}

// Quantiles are a distribution of times.
type Quantiles struct {
	N   int           `json:"n"`
	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
	Max time.Duration `json:"max_ns"`
}

// quantiles sorts the times; each quantile is one of them, by nearest rank.
func quantiles(all []time.Duration) Quantiles {
	if len(all) == 0 {
		return Quantiles{}
	}
	slices.Sort(all)
	at := func(hundredths int) time.Duration { return all[(hundredths*len(all)+99)/100-1] }
	return Quantiles{N: len(all), P50: at(50), P99: at(99), Max: at(100)}
}

// String is the distribution for people.
func (q Quantiles) String() string {
	if q.N == 0 {
		return "none"
	}
	return fmt.Sprintf("p50 %v, p99 %v, at most %v of %d", short(q.P50), short(q.P99), short(q.Max), q.N)
}

func short(d time.Duration) time.Duration {
	if d < 10*time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}
