package checker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/checker"
	"refinersource/internal/lane"
)

// What the promise allows for must not be reported, and must be counted under
// its cause.
func TestWhatThePromiseAllowsForIsNoBreach(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		of    func(testing.TB) *world
		do    func(w *world)
		o     checker.Options
		count func(r *checker.Report) int
		want  int
	}{
		{"an answer of 500 after it was applied", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, answer{status: 500, applied: true}, e.calls[0])
			w.deliver(e)
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Unknown }, 1},
		{"an answer that took too long", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			r := w.request(e.tenant, taken, e.calls[0])
			r.Answered += 9 * second
			w.pass(9 * second)
			w.deliver(e)
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Unknown }, 1},
		{"an answer that the network lost", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.now + second, Fault: "F26", Tenants: []string{"acme"}})
			w.request(e.tenant, taken, e.calls[0])
			w.deliver(e)
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Unknown }, 1},
		{"an answer that was on its way when the network lost it", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, taken, e.calls[0]).Worker = "worker-1"
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.pass(20 * millisecond), Until: w.now + second, Fault: "F26", Target: "worker-1"})
			w.deliver(e)
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Unavoidable }, 1},
		{"nothing is sent of who is to be forgotten", calm, func(w *world) {
			w.event("acme", "u7", "e", 1)
			w.forget("acme", "u7")
			w.event("acme", "u7", "f", 1)
			w.deliver(w.event("acme", "u8", "g", 1))
			w.commitAll()
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Forgotten }, 2},
		{"no group is sent of who is to be forgotten since the identify", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, taken, e.calls[0])
			w.forget("acme", "u7")
			w.commitAll()
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Forgotten }, 1},
		{"others of an account go on without who is to be forgotten", calm, func(w *world) {
			w.event("corp", "u7", "e", 1)
			w.forget("corp", "u7")
			w.deliver(w.event("corp", "u8", "f", 1))
			w.commitAll()
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Forgotten }, 1},
		{"what is to be forgotten goes until the file is read", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.forget("acme", "u7")
			w.pass(15 * second)
			w.deliver(e)
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Forgotten }, 0},
		{"what is to be forgotten comes late from a worker that stood still", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.forget("acme", "u7")
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.pass(30 * second), Fault: "F4", Target: "worker-1"})
			w.request(e.tenant, taken, e.calls[0]).Worker = "worker-1"
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Forgotten }, 1},
		{"a whole batch in doubt", calm, func(w *world) {
			e := w.event("bolt", "u7", "e", 1)
			w.request(e.tenant, answer{applied: true}, e.calls...)
			w.deliver(e)
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Unknown + r.Repeats.Continued }, 2},
		{"a request that came in after the next attempt", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			begun := w.pass(millisecond)
			w.deliver(e)
			w.request(e.tenant, answer{status: 200, applied: true}, e.calls[0]).Begun = begun
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Late }, 1},
		{"what a frozen worker had under way", calm, func(w *world) {
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2)
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.now + 40*second, Fault: "F5", Target: "worker-2"})
			w.deliver(a)
			w.deliver(b)
			w.pass(41 * second)
			w.request(a.tenant, taken, a.calls[1]).Worker = "worker-2"
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Late }, 1},
		{"a skipped call, when the event was given up and the answer cut", calm, func(w *world) {
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2)
			w.request(a.tenant, answer{status: 400}, a.calls[0])
			w.letter(a, "rejected", 400)
			w.request(b.tenant, answer{applied: true}, b.calls[0])
			w.deliver(b)
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Unknown }, 1},
		{"a frozen worker's overtaking request", calm, func(w *world) {
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2)
			w.deliver(a)
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.now + 40*second, Fault: "F5", Target: "worker-2"})
			begun := w.pass(millisecond)
			w.pass(30 * second)
			w.request(a.tenant, taken, a.calls[0])
			w.pass(10 * second)
			w.request(b.tenant, taken, b.calls[0]).Begun = begun
			w.request(a.tenant, taken, a.calls[1])
			w.deliver(b)
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Late }, 1},
		{"an unclean end, from the cursor", outage, func(w *world) {
			var waiting []posted
			for i := range 3 {
				waiting = append(waiting, w.event("dove", "u1", fmt.Sprintf("w-%d", i), i))
			}
			w.deliver(waiting[:2]...)
			p := waiting[0].partition
			w.commit(p, w.ends[p], lane.Cursor{
				Tag: lane.TagOf("dove"), From: lane.Offset(waiting[0].offset), Runs: []lane.Run{{Events: 1, State: lane.Done}},
			})
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F1"})
			w.pass(second)
			w.deliver(waiting[1:]...)
			w.commitAll()
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Takeover + r.Repeats.Continued }, 2},
		{"an operator's replay", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.deliver(e)
			w.commitAll()
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "replay", Effects: []checker.Effect{checker.Rewind}, Tenants: []string{"acme"}})
			w.deliver(e)
			w.commit(0, 0)
			w.commit(0, w.ends[0])
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Replayed + r.Repeats.Continued }, 2},
		{"a copy far behind", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			body := w.h.Log[len(w.h.Log)-1].Value
			w.deliver(e)
			w.ends[e.partition] += 1000
			w.post("acme", "survey-event", "u7", body)
			w.deliver(e)
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Copies }, 2},
		{"a tenant that still fails, held by its cursor", calm, func(w *world) {
			e := w.event("dove", "u1", "e", 1)
			w.commit(e.partition, w.ends[e.partition], lane.Cursor{Tag: lane.TagOf("dove"), From: lane.Offset(e.offset)})
			w.h.Final.Failing = []string{"dove"}
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Waiting }, 1},
		{"a tenant that still fails, and nothing has passed it", calm, func(w *world) {
			w.event("dove", "u1", "e", 1)
			w.h.Final.Failing = []string{"dove"}
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Waiting }, 1},
		{"poison with evidence", calm, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			w.request(e.tenant, answer{}, e.calls[0])
			w.deliver(w.event("dove", "u8", "f", 1))
			w.request(e.tenant, answer{status: 500}, e.calls[0])
			w.letter(e, "poison", 500)
			w.deliver(w.event("dove", "u7", "g", 1))
			w.commitAll()
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Dead }, 4},
		{"refused for its size", calm, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			w.request(e.tenant, answer{status: 413}, e.calls[0])
			w.letter(e, "too_large", 413)
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Dead }, 4},
		{"refused with a 200 that says so", calm, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			w.request(e.tenant, answer{status: 200}, e.calls[0])
			w.letter(e, "rejected", 200)
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Dead }, 4},
		{"outlived by the log", calm, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F38"})
			w.letter(e, "outlived", 0)
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Dead }, 4},
		{"a replaced key, within its grace", calm, func(w *world) {
			t := w.tenant("acme")
			t.WriteKeys = []checker.WriteKey{{Key: "new", From: w.now}, {Key: "key-acme", Until: w.now}}
			w.pass(9 * second)
			w.request(t, answer{status: 401}, w.h.Received[0].Calls...).WriteKey = "key-acme"
		}, checker.Options{}, func(r *checker.Report) int { return r.Requests }, 34},
		{"another worker does not know of the Retry-After", outage, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			w.request(e.tenant, answer{status: 429, after: "9"}, e.calls[0])
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F3"})
			w.pass(second)
			w.deliver(e)
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Dead }, 3},
		{"what Retry-After cannot mean", outage, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			for _, after := range []string{"-1", "0", "soon", "Mon, 01 Jan 2001 00:00:00 GMT"} {
				w.request(e.tenant, answer{status: 429, after: after}, e.calls[0])
			}
			w.request(e.tenant, answer{status: 429, after: "1000000000"}, e.calls[0])
			w.pass(300 * second)
			w.deliver(e)
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Dead }, 3},
		{"few probes", outage, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			for range 20 {
				w.request(e.tenant, answer{status: 401}, e.calls[0])
				w.pass(20 * second)
			}
			w.deliver(e)
		}, checker.Options{ProbeMax: 4}, func(r *checker.Report) int { return r.Ended.Dead }, 3},
		{"an old generation's commit that is refused", asked(calm), func(w *world) {
			w.ask(0, 4, "m2", true, 0)
			w.ask(0, 3, "m1", false, 22)
		}, checker.Options{}, func(r *checker.Report) int { return r.Asked.Refused }, 1},
		{"an old generation's commit without an answer", asked(calm), func(w *world) {
			w.ask(0, 4, "m2", true, 0)
			w.ask(0, 3, "m1", false, 0).Answered = 0
		}, checker.Options{}, func(r *checker.Report) int { return r.Asked.Unanswered }, 1},
		{"an old generation's commit that may have come first", asked(calm), func(w *world) {
			a := *w.ask(0, 4, "m2", true, 0)
			w.ask(1, 3, "m1", true, 0).At = a.At
		}, checker.Options{}, func(r *checker.Report) int { return r.Asked.Generations }, 2},
		{"a commit that is made although its answer is an error, or did not come", asked(calm), func(w *world) {
			w.ask(0, 3, "m1", true, 7)
			w.ask(0, 3, "m1", true, 0).Answered = 0
		}, checker.Options{}, func(r *checker.Report) int { return r.Asked.Refused + r.Asked.Unanswered }, 2},
		{"another member in another generation", asked(calm), func(w *world) {
			w.ask(0, 4, "m2", true, 0)
			w.ask(1, 4, "m1", true, 0)
		}, checker.Options{}, func(r *checker.Report) int { return r.Asked.Generations }, 2},
		{"a request of long after the last commit, whose link stood still", asked(calm), func(w *world) {
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.now + 20*second, Fault: "F7", Target: "worker-1"})
			w.pass(20 * second)
			before := len(w.h.Received)
			w.deliver(w.event("acme", "u9", "late", 1))
			for i := range w.h.Received[before:] {
				w.h.Received[before+i].Worker = "worker-1"
			}
			w.ask(0, 3, "m1", true, 0)
			w.ask(1, 3, "m1", true, 0)
		}, checker.Options{Fence: 8 * time.Second}, func(r *checker.Report) int { return r.Asked.Generations }, 1},
		{"an operator's commit", asked(calm), func(w *world) {
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.now + second, Fault: "reset", Effects: []checker.Effect{checker.Rewind}})
			w.commit(0, w.ends[0])
			w.ask(0, -1, "", true, 0)
		}, checker.Options{}, func(r *checker.Report) int { return r.Asked.Refused }, 0},
		{"an event that retention took", calm, func(w *world) {
			w.event("dove", "u7", "e", 1)
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F38"})
			w.trim = true
		}, checker.Options{}, func(r *checker.Report) int { return r.Trimmed }, 1},
		{"an unknown tenant's event, held by its cursor", calm, strange("none", lane.Run{}), checker.Options{}, func(r *checker.Report) int { return r.Ended.Dead }, 5},
		{"an event without a tenant, held by its cursor", calm, strange("", lane.Run{}), checker.Options{}, func(r *checker.Report) int { return r.Ended.Dead }, 5},
		{"accepted, taken over from a commit before, and refused then", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.deliver(e)
			w.kill()
			w.request(e.tenant, answer{status: 400}, e.calls[0])
			w.letter(e, "rejected", 400)
			w.commitAll()
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Dead }, 4},
		{"accepted, taken over from a commit before, and outlived then", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.deliver(e)
			w.kill()
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F38"})
			w.letter(e, "outlived", 0)
			w.commitAll()
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Dead }, 4},
		{"given up, taken over from a commit before, and accepted then", calm, func(w *world) {
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2)
			w.request(a.tenant, answer{status: 400}, a.calls[0])
			w.letter(a, "rejected", 400)
			w.deliver(b)
			w.kill()
			w.deliver(a, b)
			w.commitAll()
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Continued }, 2},
		{"taken over, while the tenant failed for long", outage, func(w *world) {
			e := w.event("dove", "u1", "e", 1)
			w.deliver(e)
			w.kill()
			for range 10 {
				w.request(e.tenant, answer{status: 503}, e.calls[0])
				w.pass(60 * second)
			}
			w.deliver(e)
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Takeover + r.Repeats.Continued }, 2},
		{"a copy of what retention took", calm, trimmedCopy, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Copies }, 2},
		{"a copy of what was given up and retention took", calm, func(w *world) {
			w.trim = true
			copyOfGivenUp(w)
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Copies }, 2},
		{"done behind a cursor whose event retention took", calm, func(w *world) {
			tear(w, true)
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Forgotten + r.Repeats.Continued }, 2},
		{"an event that retention took between its calls", calm, func(w *world) {
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2)
			w.request(a.tenant, taken, a.calls[0])
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F38"})
			w.deliver(b)
			w.trim = true
		}, checker.Options{}, func(r *checker.Report) int { return r.Trimmed }, 1},
		{"a sequence that had begun anew, cut short by retention", calm, func(w *world) {
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2)
			w.deliver(a)
			w.deliver(b)
			w.kill()
			w.deliver(a)
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F38"})
			w.trim = true
		}, checker.Options{}, func(r *checker.Report) int { return r.Repeats.Takeover + r.Repeats.Continued }, 2},
		{"a takeover, and after it a late copy", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.deliver(e)
			w.post("acme", "survey-event", "u7", w.h.Log[len(w.h.Log)-1].Value)
			w.kill()
			w.deliver(e)
			w.commitAll()
			w.pass(second)
			w.deliver(e)
		}, checker.Options{CopyWindow: -1}, func(r *checker.Report) int { return r.Repeats.Calls }, 4},
		{"a late copy that comes again after a takeover", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.deliver(e)
			w.commitAll()
			w.post("acme", "survey-event", "u7", w.h.Log[len(w.h.Log)-1].Value)
			w.pass(second)
			w.deliver(e)
			w.kill()
			w.deliver(e)
			w.commitAll()
		}, checker.Options{CopyWindow: -1}, func(r *checker.Report) int { return r.Repeats.Copies }, 4},
		{"nobody knows the answer", calm, func(w *world) {
			w.h.Sent = append(w.h.Sent, checker.Sent{At: w.now, Tenant: "acme", Body: []byte("x")})
		}, checker.Options{}, func(r *checker.Report) int { return r.Unanswered }, 1},
		{"a library of the right version", calm, func(w *world) {
			phantom(`"name":"refiner-source"`, `"name":"refiner-source","version":"2"`)(w)
		}, checker.Options{}, func(r *checker.Report) int { return r.Ended.Dead }, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := c.of(t)
			c.do(w)
			r := checker.Check(w.close(), c.o)
			if got := c.count(&r); !r.OK() || got != c.want {
				t.Errorf("counted %d, want %d:\n%s", got, c.want, report(r))
			}
		})
	}
}

// A repeat is put down to the fault that is its cause, and so is what follows it in
// order: to that which names the tenant, or else to the last that began.
func TestRepeatsAreCountedByTheFaultThatCausedThem(t *testing.T) {
	t.Parallel()
	w := calm(t)
	fault := func(name string, tenants ...string) {
		w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.now + second, Fault: name, Tenants: tenants})
	}
	a := w.event("acme", "u7", "a", 1)
	fault("F26", "acme")
	fault("F7")
	w.request(a.tenant, answer{applied: true}, a.calls[0])
	w.deliver(a)
	w.commitAll()
	w.pass(2 * second)
	b := w.event("dove", "u7", "b", 1)
	w.deliver(b)
	fault("F1")
	w.pass(2 * second)
	w.deliver(b)
	w.commitAll()
	r := checker.Check(w.close(), checker.Options{})
	if d := cmp.Diff(map[string]int{"F26": 1, "F1": 2}, r.Repeats.Faults); !r.OK() || d != "" {
		t.Errorf("repeats by fault (-want +got):\n%s%s", d, report(r))
	}
}

// Of the repeats of one call the first is nobody's fault, if its answer was lost to the
// worker that sent it; all others are bounded.
func TestOnlyTheFirstRepeatAfterALostAnswerIsUnavoidable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(w *world)
		want checker.Repeats
	}{
		{"lost twice", func(w *world) {
			e := w.event("acme", "u7", "a", 1)
			w.request(e.tenant, answer{applied: true}, e.calls[0])
			w.request(e.tenant, answer{applied: true}, e.calls[0])
			w.deliver(e)
		}, checker.Repeats{Calls: 2, Unavoidable: 1}},
		{"lost to another worker", func(w *world) {
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.now + second, Fault: "F26", Target: "worker-2"})
			e := w.event("acme", "u7", "a", 1)
			w.request(e.tenant, taken, e.calls[0]).Worker = "worker-1"
			w.deliver(e)
		}, checker.Repeats{Calls: 1}},
		{"answered, and the worker was killed before it committed", func(w *world) {
			e := w.event("dove", "u7", "b", 1)
			w.deliver(e)
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.pass(100 * millisecond), Until: w.now + second, Fault: "F1"})
			w.pass(2 * second)
			w.deliver(e)
		}, checker.Repeats{Calls: 2}},
		{"under way when the worker was killed", func(w *world) {
			e := w.event("dove", "u7", "b", 1)
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now + millisecond, Until: w.now + second, Fault: "F1"})
			w.request(e.tenant, taken, e.calls[0]).Answered += 5 * millisecond
			w.pass(2 * second)
			w.deliver(e)
		}, checker.Repeats{Calls: 1, Unavoidable: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := calm(t)
			c.do(w)
			w.commitAll()
			r := checker.Check(w.close(), checker.Options{})
			if !r.OK() || r.Repeats.Calls != c.want.Calls || r.Repeats.Unavoidable != c.want.Unavoidable {
				t.Errorf("want %d repeats, %d of them unavoidable:\n%s", c.want.Calls, c.want.Unavoidable, report(r))
			}
		})
	}
}

// A takeover's repeats are put down to the fault that began nearest to what was not
// committed, not to another that began before the takeover was over.
func TestTakeoverIsPutDownToTheFaultBeforeIt(t *testing.T) {
	t.Parallel()
	w := calm(t)
	e := w.event("dove", "u7", "b", 1)
	w.deliver(e)
	w.h.Faults = append(w.h.Faults, checker.Fault{At: w.pass(100 * millisecond), Until: w.now + second, Fault: "F12"})
	w.pass(20 * second)
	w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.now + 10*second, Fault: "F42"})
	w.pass(2 * second)
	w.deliver(e)
	w.commitAll()
	r := checker.Check(w.close(), checker.Options{})
	if d := cmp.Diff(map[string]int{"F12": 2}, r.Repeats.Faults); !r.OK() || d != "" {
		t.Errorf("repeats by fault (-want +got):\n%s%s", d, report(r))
	}
}

// One frozen worker has at most one request of a lane under way.
func TestFrozenWorkerSendsOneRequestOfALane(t *testing.T) {
	t.Parallel()
	w := calm(t)
	e := w.event("acme", "u7", "a", 1)
	w.deliver(e, w.event("acme", "u7", "b", 2))
	w.commitAll()
	w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.now + 40*second, Fault: "F5", Target: "worker-2"})
	w.pass(41 * second)
	w.request(e.tenant, taken, e.calls[0]).Worker = "worker-2"
	w.request(e.tenant, taken, e.calls[1]).Worker = "worker-2"
	r := checker.Check(w.close(), checker.Options{})
	if r.Counts[checker.Order] != 1 || len(r.Counts) != 1 {
		t.Error(report(r))
	}
}

// kill ends a worker; another goes on from the last commits.
func (w *world) kill() {
	w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F1"})
	w.pass(second)
}

// trimmedCopy delivers an event, and again when retention took it and a copy came.
func trimmedCopy(w *world) {
	e := w.event("acme", "u7", "e", 1)
	w.deliver(e)
	w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F38"})
	w.post("acme", "survey-event", "u7", w.h.Log[len(w.h.Log)-1].Value)
	w.deliver(e)
	w.trim = true
}

// givenUp gives an event up, which it returns with its body, and delivers the next one.
func givenUp(w *world) (posted, []byte) {
	a := w.event("acme", "u7", "a", 1)
	body := w.h.Log[len(w.h.Log)-1].Value
	b := w.event("acme", "u7", "b", 2)
	w.request(a.tenant, answer{status: 400}, a.calls[0])
	w.letter(a, "rejected", 400)
	w.deliver(b)
	return a, body
}

// copyOfGivenUp gives an event up, delivers the next one, and then a copy of the first,
// which it returns.
func copyOfGivenUp(w *world) posted {
	a, body := givenUp(w)
	w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F38"})
	w.post("acme", "survey-event", "u7", body)
	w.deliver(a)
	return a
}

// tear has an event wait behind a cursor, and another one delivered that is sent
// again: when retention took the first, or although it did not.
func tear(w *world, trimmed bool) {
	a, b := w.event("dove", "u1", "a", 1), w.event("dove", "u2", "b", 1)
	w.deliver(b)
	w.commit(a.partition, w.ends[a.partition], lane.Cursor{
		Tag: lane.TagOf("dove"), From: lane.Offset(a.offset), Runs: []lane.Run{{Events: 1}, {Events: 1, State: lane.Done}},
	})
	w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F38"})
	if w.trim = trimmed; !trimmed {
		w.deliver(a)
	}
	w.pass(second)
	w.deliver(b)
}

// strange posts two events with a tenant header that names no tenant, and has a
// cursor hold them until their letters are written.
func strange(name string, first lane.Run) func(*world) {
	return func(w *world) {
		a, b := w.post(name, "survey-event", "x", []byte("[1]")), w.post(name, "survey-event", "x", []byte("[2]"))
		cur := lane.Cursor{Tag: lane.TagOf(name), From: lane.Offset(a.offset)}
		if first.Events > 0 {
			cur.Runs = []lane.Run{first}
		}
		w.commit(a.partition, w.ends[a.partition], cur)
		w.letter(a, "unknown_tenant", 0)
		cur.From, cur.Runs = lane.Offset(b.offset), nil
		w.commit(a.partition, w.ends[a.partition], cur)
		w.letter(b, "unknown_tenant", 0)
		w.commitAll()
	}
}

// A worker that takes over may send again what the commit had no room for.
func TestCommitWithoutRoomExplainsARepeat(t *testing.T) {
	t.Parallel()
	w := calm(t)
	e := w.event("dove", "u1", "e", 1)
	w.deliver(e)
	cursors := []lane.Cursor{{Tag: lane.TagOf("dove"), From: lane.Offset(e.offset), Runs: runs(3000)}}
	m := lane.Metadata{Partitions: partitions, Cursors: cursors}
	text, complete, err := m.Encode()
	if err != nil || complete {
		t.Fatalf("complete %v, %v", complete, err)
	}
	w.h.Commits = append(w.h.Commits, checker.Commit{At: w.now, Partition: e.partition, Offset: w.ends[e.partition], Metadata: text})
	w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F3"})
	w.pass(time.Second.Nanoseconds())
	w.deliver(e)
	r := checker.Check(w.close(), checker.Options{})
	// The runs themselves are about events that are not there.
	if r.Repeats.Forgotten != 1 || r.Repeats.Continued != 1 || r.Repeats.Uncaused != 0 {
		t.Error(report(r))
	}
}

func runs(n int) []lane.Run {
	all := make([]lane.Run, n)
	for i := range all {
		all[i] = lane.Run{Events: 1 << 20, State: lane.RunState(i % 2)}
	}
	return all
}
