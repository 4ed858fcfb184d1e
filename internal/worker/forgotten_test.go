package worker_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// A respondent who is to be forgotten is sent nothing more, wherever his events wait when
// the tenants file says so; and nothing else waits for them or is lost.
func TestForgottenRespondentIsSentNothingMore(t *testing.T) {
	t.Parallel()
	transient := segment.Result{Class: segment.Transient, Status: 500, Err: errLost}
	for name, answer := range map[string]func(id tenant.ID, calls []attribution.Call) segment.Result{
		"in the window, while the host is down": func(tenant.ID, []attribution.Call) segment.Result { return transient },
		"behind a cursor": func(id tenant.ID, _ []attribution.Call) segment.Result {
			if id == "acme" {
				return segment.Result{Class: segment.Misconfigured, Status: 401}
			}
			return segment.Result{Class: segment.Canceled}
		},
		"between identify and group": func(id tenant.ID, calls []attribution.Call) segment.Result {
			if id == "acme" && slices.ContainsFunc(calls, func(c attribution.Call) bool { return c.Kind == attribution.Group }) {
				return transient
			}
			return segment.Result{Class: segment.Canceled}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *world) { forget(t, w, answer) })
		})
	}
}

// forget has a receiver fail, forgets a respondent meanwhile, and heals it.
func forget(t *testing.T, w *world, answer func(tenant.ID, []attribution.Call) segment.Result) {
	const gone = "user-1"
	var failing, forgotten atomic.Bool
	var mu sync.Mutex
	late := 0
	w.receiver.answer = func(id tenant.ID, calls []attribution.Call) segment.Result {
		mu.Lock()
		defer mu.Unlock()
		for i := range calls {
			if forgotten.Load() && id == "acme" && calls[i].UserID == gone {
				late++
			}
		}
		if failing.Load() {
			return answer(id, calls)
		}
		return segment.Result{Class: segment.Canceled} // as if there were no script
	}
	var inForce atomic.Pointer[tenant.Registry]
	inForce.Store(w.tenants)
	m := w.join(small, func(o *worker.Options) { o.Tenants, o.Delivery.MinHostFailures = inForce.Load, 3 })
	w.publishAll(5, 1)
	w.until("all to be delivered", w.settled)
	failing.Store(true)
	w.publishAll(5, 3)
	time.Sleep(time.Minute)
	inForce.Store(forgetting(t, w.tenants, "acme", gone))
	time.Sleep(time.Second) // what is on its way to the receiver arrives
	forgotten.Store(true)
	w.publishAll(5, 1)
	time.Sleep(time.Minute)
	failing.Store(false)
	w.until("all others to be delivered", w.settled)
	if late > 0 {
		t.Errorf("%d calls of the respondent were sent after he was to be forgotten", late)
	}
	who := person{"acme", gone}
	var skipped []string
	for i := range w.sent[who] {
		for _, kind := range []attribution.Kind{attribution.Identify, attribution.Group} {
			name := callName(who, kind, fmt.Sprint(i+1))
			if !slices.ContainsFunc(w.receiver.got, func(a accepted) bool { return callName(a.who, a.kind, a.seq) == name }) {
				skipped = append(skipped, name)
			}
		}
	}
	w.verify(func(tenant.ID, queue.Position, attribution.Kind) bool { return true }, skipped...)
	m.mu.Lock()
	defer m.mu.Unlock()
	ignored := 0
	for _, f := range m.finished {
		if f.Outcome == worker.Dead {
			t.Errorf("event %s of %s became a dead letter: %s", f.EventID, f.Tenant, f.Reason)
		}
		if f.Outcome == worker.Ignored && f.Reason == "forgotten" {
			ignored++
		}
	}
	if want := len(w.sent[who]) - 1; ignored != want {
		t.Errorf("%d events were ignored as forgotten, want %d", ignored, want)
	}
	m.mu.Unlock()
	m.terminate()
	m.mu.Lock()
}

// forgetting is a registry in which a tenant forgets a respondent.
func forgetting(t *testing.T, of *tenant.Registry, id tenant.ID, user string) *tenant.Registry {
	t.Helper()
	var all []tenant.Tenant
	for t := range of.All() {
		t := *t
		if t.ID == id {
			t.Rules.Forgotten = map[string]struct{}{user: {}}
		}
		all = append(all, t)
	}
	r, err := tenant.NewRegistry(all...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A letter that waits to be written is not, and what had no answer before does not keep
// the next owner waiting.
func TestWhatIsForgottenLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]segment.Result{
		"a letter that is not written": {Class: segment.Refused, Status: 400},
		"a request without an answer":  {Class: segment.Transient, Unknown: true, Err: errLost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *world) {
				var healed atomic.Bool
				w.refuseLetters(func() bool { return !healed.Load() })
				w.receiver.answer = func(_ tenant.ID, calls []attribution.Call) segment.Result {
					if !healed.Load() && slices.ContainsFunc(calls, func(c attribution.Call) bool { return c.UserID == "user-1" }) {
						return answer
					}
					return segment.Result{Class: segment.Canceled}
				}
				var inForce atomic.Pointer[tenant.Registry]
				inForce.Store(w.tenants)
				m := w.join(func(o *worker.Options) { o.Tenants = inForce.Load })
				w.publish("acme", "user-2") // so that the receiver is known to take others
				w.until("the first to be delivered", w.settled)
				w.publish("acme", "user-1")
				time.Sleep(700 * time.Millisecond)
				inForce.Store(forgetting(t, w.tenants, "acme", "user-1"))
				time.Sleep(time.Minute)
				healed.Store(true)
				w.until("nothing to be left", w.settled)
				if n := len(w.letters()); n > 0 {
					t.Errorf("%d dead letters were written", n)
				}
				m.mu.Lock()
				for _, f := range m.finished {
					if want := f.EventID == "r-user-1-1"; want != (f.Outcome == worker.Ignored && f.Reason == "forgotten") {
						t.Errorf("event %s ended %s, %q", f.EventID, f.Outcome, f.Reason)
					}
				}
				m.mu.Unlock()
				m.terminate()
				committed, err := w.log.Committed(t.Context(), "group", w.topics.Events())
				if err != nil {
					t.Fatal(err)
				}
				for partition, c := range committed {
					if d, err := lane.Decode(c.Metadata); err != nil || d.Owner != lane.Clean {
						t.Errorf("partition %d: the last owner left it %v (%v), want clean", partition, d.Owner, err)
					}
				}
			})
		})
	}
}

// An event that is to become a dead letter is ignored instead: without one in the log it
// must not count as dead.
func TestNoLetterIsWrittenOfTheForgotten(t *testing.T) {
	t.Parallel()
	acme := tenant.Tenant{ID: "acme", WriteKey: tenant.NewSecret("k"), Rules: attribution.DefaultRules()}
	all, err := tenant.NewRegistry(acme)
	if err != nil {
		t.Fatal(err)
	}
	if outcome, letter := worker.PrepareLetter("ann", all); outcome != lane.Abandoned || !letter {
		t.Errorf("of anybody: %v, letter %v", outcome, letter)
	}
	if outcome, letter := worker.PrepareLetter("ann", forgetting(t, all, "acme", "ann")); outcome != lane.Ended || letter {
		t.Errorf("of the forgotten: %v, letter %v, want it ended without one", outcome, letter)
	}
}
