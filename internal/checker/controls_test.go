package checker_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/checker"
	"refinersource/internal/lane"
)

// control is a history that breaks the promise, and the rules that must say so,
// and no other.
type control struct {
	name string
	of   func(testing.TB) *world
	do   func(w *world)
	o    checker.Options
	want checker.Rule
}

// changed is a call with another text in the place of one.
func changed(call json.RawMessage, old, text string) json.RawMessage {
	if !strings.Contains(string(call), old) {
		panic("the call has no " + old)
	}
	return json.RawMessage(strings.ReplaceAll(string(call), old, text))
}

// The controls are what mutants of the service would leave behind.
func controls() []control {
	return []control{
		// Recorded
		{"the receiver's order is not that of application", calm, func(w *world) { w.h.Received[3].Applied = 9 }, checker.Options{}, checker.Recorded},
		{"one event with two contents", calm, func(w *world) {
			w.deliver(w.event("acme", "u7", "twice", "a"))
			w.now -= 6 * millisecond // its calls were made of the same times
			w.event("acme", "u7", "twice", "b")
			w.now += second
		}, checker.Options{}, checker.Recorded},
		{"the last commit is not where the group stood", calm, func(w *world) {
			w.h.Final.Positions = []checker.Position{{Partition: 0, Committed: 1}}
		}, checker.Options{}, checker.Recorded},
		{"a record where no partition is", calm, func(w *world) {
			w.h.Log = append(w.h.Log, checker.Record{Partition: 9})
		}, checker.Options{}, checker.Recorded},
		{"a commit that nobody was seen to ask for", asked(calm), func(w *world) { w.commitAll() }, checker.Options{}, checker.Recorded},
		{"a commit that was answered, and not made", asked(calm), func(w *world) { w.ask(0, 3, "m1", false, 0) }, checker.Options{}, checker.Recorded},
		{"requests for commits out of order", asked(calm), func(w *world) {
			w.ask(0, 3, "m1", true, 0)
			w.ask(1, 3, "m1", true, 0).Answered -= second
		}, checker.Options{}, checker.Recorded},
		{"records out of order", calm, func(w *world) { w.h.Log = append(w.h.Log, w.h.Log[0]) }, checker.Options{}, checker.Recorded},

		// Durable
		{"a 202 for what is not in the log", calm, func(w *world) { w.h.Sent[3].Offset += 1000 }, checker.Options{}, checker.Durable},
		{"a 202 for other bytes", calm, func(w *world) { w.h.Sent[3].Body = []byte("{}") }, checker.Options{}, checker.Durable},
		{"a 202 for another hash", calm, func(w *world) { w.h.Sent[3].Body, w.h.Sent[3].SHA256 = nil, make([]byte, 32) }, checker.Options{}, checker.Durable},
		{"a 202 for another tenant's event", calm, func(w *world) { w.h.Sent[0].Tenant = "bolt" }, checker.Options{}, checker.Durable},
		{"a 202 for another source", calm, func(w *world) { w.h.Sent[0].Source = "refiner-webhook" }, checker.Options{}, checker.Durable},

		// Forgotten
		{"a call of a respondent who was to be forgotten", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.forget("acme", "u7")
			w.pass(21 * second)
			w.deliver(e)
		}, checker.Options{}, checker.Forgotten},
		{"the same, while another worker stood still", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.forget("acme", "u7")
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.pass(30 * second), Fault: "F4", Target: "worker-1"})
			w.request(e.tenant, taken, e.calls[0]).Worker = "worker-2"
		}, checker.Options{}, checker.Forgotten},
		{"the same, while another tenant's answers were lost", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.forget("acme", "u7")
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.pass(30 * second), Fault: "F26", Tenants: []string{"bolt"}})
			w.deliver(e)
		}, checker.Options{}, checker.Forgotten},
		{"the same, an hour after a worker stood still", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.forget("acme", "u7")
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.pass(300 * second), Until: w.pass(second), Fault: "F4", Target: "worker-1"})
			w.pass(3600 * second)
			w.deliver(e)
		}, checker.Options{}, checker.Forgotten},
		{"a respondent is passed over who was not to be forgotten yet", calm, func(w *world) {
			w.event("acme", "u7", "e", 1)
			w.commitAll()
			w.pass(second)
			w.forget("acme", "u7")
		}, checker.Options{}, checker.Commits},

		// Phantom
		{"a call from nowhere", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			id := idOf(e.calls[0])
			w.request(e.tenant, taken, changed(e.calls[0], id, "00000000-0000-5000-8000-000000000000"))
			w.deliver(e)
		}, checker.Options{}, checker.Phantom},
		{"a call that is no object", calm, func(w *world) { w.request(w.tenant("acme"), taken, json.RawMessage("1")) }, checker.Options{}, checker.Phantom},
		{"a trait with another value", calm, phantom(`"refiner_how_big_is_your_team":7`, `"refiner_how_big_is_your_team":8`), checker.Options{}, checker.Phantom},
		{"a number with another text", calm, phantom(`"refiner_how_big_is_your_team":7`, `"refiner_how_big_is_your_team":7.0`), checker.Options{}, checker.Phantom},
		{"a trait with another name", calm, phantom("refiner_how_big", "refiner_how_bigg"), checker.Options{}, checker.Phantom},
		{"an answer at the wrong level", calm, phantom(`"refiner_email":`, `"refiner_seats":7,"refiner_email":`), checker.Options{}, checker.Phantom},
		{"another user", calm, phantom(`"userId":"u7"`, `"userId":"u8"`), checker.Options{}, checker.Phantom},
		{"another time", calm, phantom(`"timestamp":"2026`, `"timestamp":"2025`), checker.Options{}, checker.Phantom},
		{"no group in the context", calm, phantom(`"groupId":"acc-1",`, ``), checker.Options{}, checker.Phantom},
		{"a library of another name", calm, phantom(`"refiner-source"`, `"analytics-go"`), checker.Options{}, checker.Phantom},
		{"a library of another version", calm, phantom(`"name":"refiner-source"`, `"name":"refiner-source","version":"2"`), checker.Options{LibraryVersion: "1"}, checker.Phantom},

		// Complete
		{"a pair is never sent", calm, func(w *world) { w.event("acme", "u7", "e", 1) }, checker.Options{}, checker.Complete},
		{"a group is never sent", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, taken, e.calls[0])
		}, checker.Options{}, checker.Complete},
		{"an answered event was not applied", calm, func(w *world) {
			e := w.event("bolt", "u7", "e", 1)
			w.request(e.tenant, answer{status: 200}, e.calls...)
		}, checker.Options{}, checker.Complete},
		{"no dead letter for what cannot be decoded", calm, func(w *world) { w.post("acme", "survey-event", "x", []byte("[1]")) }, checker.Options{}, checker.Complete},
		{"no dead letter for an unknown tenant", calm, func(w *world) { w.post("none", "survey-event", "x", []byte("{ }")) }, checker.Options{}, checker.Complete},
		{"its tenant fails, and no cursor holds it", calm, func(w *world) {
			e := w.event("dove", "u1", "e", 1)
			w.h.Final.Failing = []string{"dove"}
			w.h.Commits = nil
			w.h.Final.Positions = []checker.Position{{Partition: e.partition, Committed: e.offset + 1}}
		}, checker.Options{}, checker.Complete},
		{"its tenant fails, and the cursor stands behind it", calm, func(w *world) {
			e := w.event("dove", "u1", "e", 1)
			w.h.Final.Failing = []string{"dove"}
			w.commit(e.partition, e.offset+1, lane.Cursor{Tag: lane.TagOf("dove"), From: lane.Offset(e.offset + 1)})
			last := w.h.Commits[len(w.h.Commits)-1]
			w.h.Commits = nil
			w.h.Final.Positions = []checker.Position{{Partition: e.partition, Committed: e.offset + 1, Metadata: last.Metadata}}
		}, checker.Options{}, checker.Complete},

		{"its tenant fails, and the cursor says that it is done", calm, func(w *world) {
			e := w.event("dove", "u1", "e", 1)
			w.h.Final.Failing = []string{"dove"}
			w.commit(e.partition, e.offset+1, lane.Cursor{
				Tag: lane.TagOf("dove"), From: lane.Offset(e.offset), Runs: []lane.Run{{Events: 1, State: lane.Done}},
			})
			last := w.h.Commits[len(w.h.Commits)-1]
			w.h.Commits = nil
			w.h.Final.Positions = []checker.Position{{Partition: e.partition, Committed: e.offset + 1, Metadata: last.Metadata}}
		}, checker.Options{}, checker.Complete},

		// Pair
		{"group before identify", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, taken, e.calls[1])
			w.request(e.tenant, taken, e.calls[0])
		}, checker.Options{}, checker.Pair},
		{"side by side, with strict pairing", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, taken, e.calls...)
		}, checker.Options{}, checker.Pair},
		{"side by side in the wrong order", calm, func(w *world) {
			e := w.event("bolt", "u7", "e", 1)
			w.request(e.tenant, taken, e.calls[1], e.calls[0])
		}, checker.Options{}, checker.Pair},
		{"the group goes on although the identify was in doubt", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, answer{applied: true}, e.calls[0])
			w.request(e.tenant, taken, e.calls[1])
		}, checker.Options{}, checker.Pair},
		{"the group goes out while the identify is under way", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, taken, e.calls[0])
			w.request(e.tenant, taken, e.calls[1]).Begun -= 2 * millisecond
		}, checker.Options{}, checker.Pair},
		{"a group that is refused had no identify either", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, answer{status: 500}, e.calls[1])
			w.deliver(e)
		}, checker.Options{}, checker.Pair},

		// Keys
		{"another tenant's key", calm, func(w *world) {
			w.deliver(w.event("acme", "u7", "e", 1))
			w.h.Received[len(w.h.Received)-1].WriteKey = "key-bolt"
		}, checker.Options{}, checker.Keys},
		{"another endpoint", calm, func(w *world) { w.h.Received[0].Endpoint = "two" }, checker.Options{}, checker.Keys},
		{"a key that was replaced", calm, func(w *world) {
			w.tenant("acme").WriteKeys = []checker.WriteKey{{Key: "key-acme", Until: w.now - 11*second}, {Key: "new", From: w.now - 11*second}}
			for i := range w.h.Received {
				if w.h.Received[i].WriteKey == "key-acme" {
					w.h.Received[i].WriteKey = "new"
				}
			}
			for i := range w.h.Tenants[0].WriteKeys[1:] {
				w.h.Tenants[0].WriteKeys[1+i].From = 0
			}
			w.deliver(w.event("acme", "u7", "e", 1))
		}, checker.Options{}, checker.Keys},
		{"a key that was not yet valid", calm, func(w *world) { w.tenant("acme").WriteKeys[0].From = w.h.Received[0].Begun + second/2 }, checker.Options{MaxPerRule: 1}, checker.Keys},
		{"two tenants in one request", calm, func(w *world) {
			a, b := w.event("bolt", "u7", "e", 1), w.event("acme", "u7", "e", 2)
			w.request(a.tenant, taken, append(slices.Clone(a.calls), b.calls[0])...)
			w.request(b.tenant, taken, b.calls[1])
		}, checker.Options{}, checker.Keys},

		// Order
		{"a later event overtakes", calm, func(w *world) {
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2)
			w.deliver(b, a)
		}, checker.Options{}, checker.Order},
		{"the next identify does not wait for the group", calm, func(w *world) {
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2)
			w.request(a.tenant, taken, a.calls[0])
			w.request(a.tenant, answer{status: 500}, a.calls[1])
			w.request(b.tenant, answer{status: 500}, b.calls[0])
			w.request(a.tenant, taken, a.calls[1])
			w.deliver(b)
		}, checker.Options{}, checker.Order},
		{"two events of a user in one strict request", calm, func(w *world) {
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2)
			w.request(a.tenant, taken, a.calls[0])
			w.request(a.tenant, taken, a.calls[1], b.calls[0])
			w.request(b.tenant, taken, b.calls[1])
		}, checker.Options{}, checker.Order},
		{"two users of one account, kept in order by account", calm, func(w *world) {
			a, b := w.event("corp", "u7", "a", 1), w.event("corp", "u8", "b", 2)
			w.deliver(b, a)
		}, checker.Options{}, checker.Order},
		{"again without a cause, long after a kill", rough, func(w *world) {
			w.pass(time.Hour.Nanoseconds())
			e := w.event("acme", "u7", "e", 1)
			w.deliver(e)
			w.request(e.tenant, taken, e.calls[1])
		}, checker.Options{}, checker.Order},
		{"again after a kill, although it was committed", rough, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.deliver(e)
			w.commitAll()
			w.pass(second)
			w.deliver(e)
		}, checker.Options{}, checker.Order},
		{"what begins anew leaves one out", rough, func(w *world) {
			a, b, c := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2), w.event("acme", "u7", "c", 3)
			w.deliver(a, b, c)
			w.deliver(a, c)
		}, checker.Options{}, checker.Order},
		{"an identify again, though the cursor says that it was accepted", calm, func(w *world) {
			e := w.event("dove", "u1", "e", 1)
			w.deliver(e)
			w.commit(e.partition, w.ends[e.partition], lane.Cursor{
				Tag: lane.TagOf("dove"), From: lane.Offset(e.offset), Runs: []lane.Run{{Events: 1, State: lane.AfterFirst}},
			})
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F1"})
			w.pass(second)
			w.request(e.tenant, taken, e.calls[0])
		}, checker.Options{}, checker.Order},
		{"by another worker than the frozen one", calm, func(w *world) {
			e := w.event("acme", "u7", "a", 1)
			w.deliver(e)
			w.commitAll()
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.now + 40*second, Fault: "F5", Target: "worker-2"})
			w.pass(41 * second)
			w.request(e.tenant, taken, e.calls[1]).Worker = "worker-1"
		}, checker.Options{}, checker.Order},
		{"a user in two partitions", calm, func(w *world) {
			a := w.event("acme", "u7", "a", 1)
			w.deliver(a)
			w.deliver(w.post("acme", "survey-event", other(a.partition), w.body("u7", "b", 2)))
		}, checker.Options{}, checker.Order},
		{"given up, and sent later", calm, func(w *world) {
			a, _ := givenUp(w)
			w.deliver(a)
		}, checker.Options{}, checker.Order},
		{"given up, and delivered as a copy although retention took nothing", calm, func(w *world) { copyOfGivenUp(w) }, checker.Options{}, checker.Order},
		{"given up, and sent before the copy that retention makes new", calm, func(w *world) {
			w.trim = true
			a, body := givenUp(w)
			w.deliver(a) // nothing is trimmed, and there is no copy yet
			w.pass(60 * second)
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F38"})
			w.post("acme", "survey-event", "u7", body)
		}, checker.Options{}, checker.Order},
		{"given up, and delivered twice where there was one copy", calm, func(w *world) {
			w.trim = true
			a := copyOfGivenUp(w)
			w.deliver(a)
		}, checker.Options{}, checker.Duplicates},

		{"given up, committed, and sent after a kill", calm, func(w *world) {
			a, _ := givenUp(w)
			w.commitAll()
			w.kill()
			w.deliver(a)
		}, checker.Options{}, checker.Order},
		{"overtaken before retention took it", calm, func(w *world) {
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2)
			w.request(a.tenant, taken, a.calls[0])
			w.deliver(b)
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F38"})
			w.trim = true
		}, checker.Options{}, checker.Order},

		{"a late copy that comes twice", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.deliver(e)
			w.post("acme", "survey-event", "u7", w.h.Log[len(w.h.Log)-1].Value)
			w.pass(second)
			w.deliver(e)
			w.deliver(e)
			w.commitAll()
		}, checker.Options{CopyWindow: -1}, checker.Duplicates},

		// Convergence
		{"what begins anew stops in the middle", rough, func(w *world) {
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2)
			w.deliver(a, b)
			w.deliver(a)
		}, checker.Options{}, checker.Convergence},
		{"the same, though retention took it before", calm, func(w *world) {
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.pass(second), Fault: "F38"})
			w.pass(second)
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u7", "b", 2)
			w.deliver(a)
			w.deliver(b)
			w.kill()
			w.deliver(a)
			w.trim = true
		}, checker.Options{}, checker.Convergence},

		// Commits
		{"one too far", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.commit(e.partition, e.offset+1)
			w.deliver(e)
		}, checker.Options{}, checker.Commits},
		{"between identify and group", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, taken, e.calls[0])
			w.commit(e.partition, e.offset+1)
			w.request(e.tenant, taken, e.calls[1])
		}, checker.Options{}, checker.Commits},
		{"what was applied is in doubt", calm, func(w *world) {
			e := w.event("bolt", "u7", "e", 1)
			w.request(e.tenant, answer{applied: true}, e.calls...)
			w.commit(e.partition, e.offset+1)
		}, checker.Options{}, checker.Commits},
		{"before the letter", calm, func(w *world) {
			e := w.post("acme", "survey-event", "x", []byte("[1]"))
			w.commit(e.partition, e.offset+1)
			w.letter(e, "undecodable", 0)
		}, checker.Options{}, checker.Commits},
		{"before an unknown tenant's letter", calm, func(w *world) {
			e := w.post("none", "survey-event", "x", []byte("[1]"))
			w.commit(e.partition, e.offset+1)
			w.letter(e, "unknown_tenant", 0)
		}, checker.Options{}, checker.Commits},
		{"before retention took it", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.commit(e.partition, e.offset+1)
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F38"})
			w.trim = true
		}, checker.Options{}, checker.Commits},
		{"a cursor says too soon that an unknown tenant's letter is there", calm, strange("none", lane.Run{Events: 1, State: lane.Done}), checker.Options{}, checker.Commits},
		{"with a cursor that stands behind it", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.commit(e.partition, e.offset+1, lane.Cursor{Tag: lane.TagOf("acme"), From: lane.Offset(e.offset + 1)})
			w.deliver(e)
		}, checker.Options{}, checker.Commits},
		{"with another tenant's cursor", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.commit(e.partition, e.offset+1, lane.Cursor{Tag: lane.TagOf("bolt"), From: lane.Offset(e.offset)})
			w.deliver(e)
		}, checker.Options{}, checker.Commits},
		{"a cursor says done too soon", calm, claim(lane.Cursor{Runs: []lane.Run{{Events: 1, State: lane.Done}}}), checker.Options{}, checker.Commits},
		{"a cursor says half done too soon", calm, claim(lane.Cursor{Runs: []lane.Run{{Events: 1, State: lane.AfterFirst}}}), checker.Options{}, checker.Commits},
		{"a cursor says that the rest is done", calm, claim(lane.Cursor{Until: 1 << 40, Runs: []lane.Run{{Events: 1}}}), checker.Options{}, checker.Commits},
		{"back", calm, func(w *world) { w.commit(0, w.ends[0]-1); w.commit(0, w.ends[0]) }, checker.Options{}, checker.Commits},
		{"behind the end", calm, func(w *world) { w.commit(0, w.ends[0]+1) }, checker.Options{}, checker.Commits},
		{"by an old generation", asked(calm), func(w *world) {
			w.ask(0, 4, "m2", true, 0)
			w.ask(1, 3, "m1", true, 0)
		}, checker.Options{}, checker.Commits},
		{"by an old generation, after a request that overlapped", asked(calm), func(w *world) {
			a, b := *w.ask(0, 4, "m2", true, 0), w.ask(1, 5, "m3", true, 0)
			b.At = a.At
			w.ask(1, 4, "m4", true, 0)
		}, checker.Options{}, checker.Commits},
		{"not made for long, by a worker that goes on", asked(calm), func(w *world) {
			for i := range w.h.CommitRequests[1:] {
				w.h.CommitRequests[i+1].Asked[0].Error = 28
			}
			for i := range w.h.Received {
				w.h.Received[i].Worker = "worker-1"
			}
		}, checker.Options{Fence: 20 * time.Millisecond}, checker.Commits},
		{"by another member", asked(calm), func(w *world) { w.ask(1, 3, "m2", true, 0) }, checker.Options{}, checker.Commits},
		{"by a worker outside of the group", asked(calm), func(w *world) { w.ask(1, -1, "", true, 0) }, checker.Options{}, checker.Commits},

		// DeadLetters
		{"for a 401", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, answer{status: 401}, e.calls[0])
			w.letter(e, "rejected", 401)
		}, checker.Options{}, checker.DeadLetters},
		{"for a 401 that came after a 400", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, answer{status: 400}, e.calls[0])
			w.request(e.tenant, answer{status: 401}, e.calls[0])
			w.letter(e, "rejected", 401)
		}, checker.Options{}, checker.DeadLetters},
		{"poison, though nothing but its own identify was taken", calm, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			w.request(e.tenant, answer{status: 500}, e.calls[0])
			w.request(e.tenant, taken, e.calls[0])
			w.request(e.tenant, answer{status: 500}, e.calls[1])
			w.letter(e, "poison", 500)
		}, checker.Options{}, checker.DeadLetters},
		{"never refused alone", calm, func(w *world) {
			a, b := w.event("acme", "u7", "a", 1), w.event("acme", "u8", "b", 1)
			w.request(a.tenant, answer{status: 400}, a.calls[0], b.calls[0])
			w.deliver(b)
			w.letter(a, "rejected", 400)
		}, checker.Options{}, checker.DeadLetters},
		{"before it was refused", calm, func(w *world) {
			e := w.event("acme", "u7", "a", 1)
			w.letter(e, "rejected", 400)
			w.pass(second)
			w.request(e.tenant, answer{status: 400}, e.calls[0])
		}, checker.Options{}, checker.DeadLetters},
		{"by the rules it makes calls", calm, func(w *world) { w.letter(w.event("acme", "u7", "e", 1), "undecodable", 0) }, checker.Options{}, checker.DeadLetters},
		{"for another reason than the rules'", calm, func(w *world) {
			w.letter(w.post("acme", "survey-event", "x", []byte(`{"user":{"id":true}}`)), "no_identity", 0)
		}, checker.Options{}, checker.DeadLetters},
		{"for an unknown reason", calm, func(w *world) { w.letter(w.event("acme", "u7", "e", 1), "bored", 0) }, checker.Options{}, checker.DeadLetters},
		{"too large, though it was refused for something else", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, answer{status: 400}, e.calls[0])
			w.letter(e, "too_large", 400)
		}, checker.Options{}, checker.DeadLetters},
		{"poison, though nothing of the tenant was taken", calm, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			w.request(e.tenant, answer{status: 500}, e.calls[0])
			w.request(e.tenant, answer{status: 500}, e.calls[0])
			w.letter(e, "poison", 500)
		}, checker.Options{}, checker.DeadLetters},
		{"poison at the first trouble", calm, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			w.request(e.tenant, answer{status: 500}, e.calls[0])
			w.deliver(w.event("dove", "u8", "f", 1))
			w.letter(e, "poison", 500)
		}, checker.Options{}, checker.DeadLetters},
		{"outlived, but it is still there", calm, func(w *world) { w.letter(w.event("acme", "u7", "e", 1), "outlived", 0) }, checker.Options{}, checker.DeadLetters},
		{"after its calls were accepted", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, answer{status: 400}, e.calls[0])
			w.deliver(e)
			w.letter(e, "rejected", 400)
		}, checker.Options{}, checker.DeadLetters},
		{"after its calls were accepted and committed, and a kill", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.deliver(e)
			w.commitAll()
			w.kill()
			w.request(e.tenant, answer{status: 400}, e.calls[0])
			w.letter(e, "rejected", 400)
		}, checker.Options{}, checker.DeadLetters},
		{"after its calls were accepted, for a refusal before", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.request(e.tenant, answer{status: 400}, e.calls[0])
			w.deliver(e)
			w.kill()
			w.letter(e, "rejected", 400)
		}, checker.Options{}, checker.DeadLetters},
		{"of an unknown tenant under another name", calm, func(w *world) {
			e := w.post("none", "survey-event", "x", []byte("[1]"))
			e.tenant = &checker.Tenant{ID: "other"}
			w.letter(e, "unknown_tenant", 0)
			e.tenant = &checker.Tenant{ID: "none"}
			w.letter(e, "unknown_tenant", 0)
		}, checker.Options{}, checker.DeadLetters},
		{"of another event's bytes", calm, func(w *world) {
			w.letter(w.post("acme", "survey-event", "x", []byte(`[1]`)), "undecodable", 0)
			e := w.post("acme", "survey-event", "x", []byte(`[2]`))
			w.letter(e, "undecodable", 0)
			w.h.Letters = append(w.h.Letters, w.h.Letters[len(w.h.Letters)-1])
			last := &w.h.Letters[len(w.h.Letters)-1]
			last.Value = []byte(strings.Replace(string(last.Value), `"raw":"WzJd"`, `"raw":"WzFd"`, 1))
		}, checker.Options{}, checker.DeadLetters},
		{"about nothing", calm, func(w *world) {
			e := posted{tenant: w.tenant("acme"), partition: 0, offset: 999}
			w.letter(e, "undecodable", 0)
		}, checker.Options{}, checker.DeadLetters},
		{"that cannot be read", calm, func(w *world) { w.h.Letters = append(w.h.Letters, checker.Letter{Value: []byte("{")}) }, checker.Options{}, checker.DeadLetters},

		// Duplicates
		{"again in a run without faults", calm, again, checker.Options{}, checker.Duplicates},
		{"again in a rolling restart", calm, func(w *world) {
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F3"})
			again(w)
		}, checker.Options{}, checker.Duplicates},
		{"a copy in the log is delivered", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.deliver(e)
			w.post("acme", "survey-event", "u7", w.h.Log[len(w.h.Log)-1].Value)
			w.deliver(e)
		}, checker.Options{}, checker.Duplicates},
		{"done behind a cursor, and nothing was lost", calm, func(w *world) { tear(w, false) }, checker.Options{}, checker.Duplicates},
		{"a copy of what retention took is delivered twice", calm, func(w *world) {
			trimmedCopy(w)
			last := w.h.Received[len(w.h.Received)-1]
			w.request(w.tenant("acme"), taken, last.Calls...)
		}, checker.Options{}, checker.Duplicates},
		{"again after another tenant's trouble", calm, func(w *world) {
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.now + second, Fault: "F26", Tenants: []string{"bolt"}})
			again(w)
		}, checker.Options{}, checker.Duplicates},
		{"again when the doubt is over", calm, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Until: w.now + 3*millisecond, Fault: "F26"})
			w.deliver(e)
			w.request(e.tenant, taken, e.calls[0])
		}, checker.Options{}, checker.Duplicates},
		{"after a restart, though the commit had room for what was done", calm, func(w *world) {
			e := w.event("dove", "u1", "e", 1)
			w.deliver(e)
			w.commit(e.partition, w.ends[e.partition], lane.Cursor{Tag: lane.TagOf("dove"), From: lane.Offset(e.offset)})
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.now, Fault: "F3"})
			w.pass(second)
			w.request(e.tenant, taken, e.calls[1])
		}, checker.Options{}, checker.Duplicates},
		{"too many, though each has a cause", rough, func(*world) {}, checker.Options{MaxRepeats: 0.01}, checker.Duplicates},

		// Isolation
		{"the healthy are slow during a fault", calm, func(w *world) {
			w.h.Faults = append(w.h.Faults, checker.Fault{At: w.pass(second), Until: w.now + 10*second, Fault: "F22"})
			e := w.event("bolt", "u7", "e", 1)
			w.pass(second)
			w.deliver(e)
		}, checker.Options{MaxLatencyRatio: 1.5}, checker.Isolation},

		// Determinism
		{"other bytes when it comes again", rough, func(w *world) {
			e := w.event("acme", "u7", "e", 1)
			w.deliver(e)
			e.calls = slices.Clone(e.calls)
			e.calls[0] = changed(e.calls[0], `"context":{`, `"context": {`)
			w.deliver(e)
		}, checker.Options{}, checker.Determinism},

		// Politeness
		{"before Retry-After is over", outage, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			w.request(e.tenant, answer{status: 429, after: "3"}, e.calls[0])
			w.pass(2 * second)
			w.deliver(e)
		}, checker.Options{}, checker.Politeness},
		{"before the time in Retry-After", outage, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			at := time.Unix(0, w.now).Add(10 * time.Second).UTC()
			w.request(e.tenant, answer{status: 503, after: strings.ReplaceAll(at.Format(time.RFC1123), "UTC", "GMT")}, e.calls[0])
			w.pass(5 * second)
			w.deliver(e)
		}, checker.Options{}, checker.Politeness},
		{"too many probes", outage, func(w *world) {
			e := w.event("dove", "u7", "e", 1)
			for range 40 {
				w.request(e.tenant, answer{status: 401}, e.calls[0])
				w.pass(second)
			}
			w.deliver(e)
		}, checker.Options{ProbeMax: 5, ProbeAfter: 10 * time.Second}, checker.Politeness},

		// Cursors
		{"dropped", outage, func(w *world) { w.h.Commits[w.withCursors(1)].Metadata = "" }, checker.Options{}, checker.Cursors},
		{"dropped, of an unknown tenant", calm, func(w *world) {
			e := w.post("none", "survey-event", "x", []byte("[1]"))
			w.commit(e.partition, w.ends[e.partition], lane.Cursor{Tag: lane.TagOf("none"), From: lane.Offset(e.offset)})
			w.commit(e.partition, w.ends[e.partition])
			w.letter(e, "unknown_tenant", 0)
		}, checker.Options{}, checker.Cursors},
		{"over events of an unknown tenant that are not there", calm, strange("none", lane.Run{Events: 90, State: lane.AfterFirst}), checker.Options{}, checker.Cursors},
		{"moved on too far", outage, func(w *world) {
			i := w.withCursors(1)
			m := must(lane.Decode(w.h.Commits[i].Metadata))
			m.Cursors[0].From++
			w.h.Commits[i].Metadata, _, _ = m.Encode()
		}, checker.Options{}, checker.Cursors},
		{"changed on the way", outage, func(w *world) {
			k := &w.h.Commits[w.withCursors(2)]
			k.Metadata = k.Metadata[:10] + "AAAA" + k.Metadata[14:]
		}, checker.Options{}, checker.Cursors},
		{"of an unknown version", calm, func(w *world) { w.h.Commits[0].Metadata = "r2.AAAA" }, checker.Options{}, checker.Cursors},
		{"of a topic with other partitions", calm, func(w *world) {
			m := lane.Metadata{Partitions: 3}
			w.h.Commits[0].Metadata, _, _ = m.Encode()
		}, checker.Options{}, checker.Cursors},
		{"over events that are not there", outage, func(w *world) {
			i := w.withCursors(1)
			m := must(lane.Decode(w.h.Commits[i].Metadata))
			m.Cursors[0].Runs = []lane.Run{{Events: 90, State: lane.Pending}, {Events: 1, State: lane.Done}}
			w.h.Commits[i].Metadata, _, _ = m.Encode()
		}, checker.Options{}, checker.Cursors},
	}
}

func idOf(call json.RawMessage) string {
	var c struct {
		MessageID string `json:"messageId"`
	}
	if err := json.Unmarshal(call, &c); err != nil {
		panic(err)
	}
	return c.MessageID
}

// phantom has an event delivered with an identify that says something else.
func phantom(old, text string) func(*world) {
	return func(w *world) {
		e := w.event("acme", "u7", "e", 7)
		e.calls = slices.Clone(e.calls)
		e.calls[0] = changed(e.calls[0], old, text)
		w.deliver(e)
	}
}

// again delivers an event's last call twice.
func again(w *world) {
	e := w.event("acme", "u7", "e", 1)
	w.deliver(e)
	w.pass(second)
	w.request(e.tenant, taken, e.calls[1])
}

// claim commits a cursor, before two events are delivered.
func claim(c lane.Cursor) func(*world) {
	return func(w *world) {
		a, b := w.event("dove", "u7", "a", 1), w.event("dove", "u7", "b", 2)
		c.Tag, c.From = lane.TagOf("dove"), lane.Offset(a.offset)
		w.commit(a.partition, b.offset+1, c)
		w.deliver(a, b)
	}
}

// other finds a user of the other partition, so that a record can be put there.
func other(partition int) string {
	for i := range 100 {
		if user := fmt.Sprintf("somebody-%d", i); partitionOf("acme", user) != partition {
			return user
		}
	}
	panic("all users have one partition")
}

// withCursors is the index of the nth commit that has cursors.
func (w *world) withCursors(n int) int {
	for i, k := range w.h.Commits {
		if m, err := lane.Decode(k.Metadata); err == nil && len(m.Cursors) > 0 {
			if n == 0 {
				return i
			}
			n--
		}
	}
	w.t.Fatal("no such commit")
	return 0
}

func TestEachRuleFindsItsBreaches(t *testing.T) {
	t.Parallel()
	seen := make(map[checker.Rule]bool)
	for _, c := range slices.Concat(controls(), apartControls()) {
		seen[c.want] = true
		t.Run(c.want.String()+"/"+c.name, func(t *testing.T) {
			t.Parallel()
			w := c.of(t)
			if r := checker.Check(w.close(), checker.Options{}); !r.OK() {
				t.Fatalf("before it is broken:\n%s", report(r))
			}
			c.do(w)
			r := checker.Check(w.close(), c.o)
			var got []checker.Rule
			for rule := range r.Counts {
				got = append(got, rule)
			}
			if d := cmp.Diff([]checker.Rule{c.want}, got); d != "" {
				t.Errorf("rules (-want +got):\n%s\n%s", d, report(r))
			}
		})
	}
	for _, rule := range checker.Rules() {
		if !seen[rule] {
			t.Errorf("nothing breaks the rule %s", rule)
		}
	}
}
