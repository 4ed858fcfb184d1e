package worker_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/queue"
	"refinersource/internal/redrive"
	"refinersource/internal/segment"
	"refinersource/internal/survey"
	"refinersource/internal/worker"
)

// publishRedriven puts the user's first event back, with this in its mark.
func (w *world) publishRedriven(user string, first, seen queue.Offset) {
	w.t.Helper()
	acme, _ := w.tenants.Get("acme")
	mark := fmt.Sprintf(`{"of":%d,"first":%d,"seen":%d,"rules":%q,"since":{"user":["refiner_seq"],"known":true,"member":true}}`, first, first, seen, redrive.RulesOf(acme))
	_, err := w.events.Publish(w.t.Context(), queue.Record{
		Key: []byte("acme/" + user), Value: event(user, 1),
		Headers: []queue.Header{
			{Key: queue.HeaderTenant, Value: []byte("acme")},
			{Key: queue.HeaderSource, Value: []byte(survey.RefinerWebhook)},
			{Key: queue.HeaderRedrive, Value: []byte(mark)},
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestRedrivenEventIsTheSameWhenItsTenantHadToWait(t *testing.T) {
	t.Parallel()
	for name, waits := range map[string]bool{"at once": false, "behind a cursor": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *world) {
				failing := w.fails("acme", segment.Result{Class: segment.Transient, Status: 500})
				failing.Store(waits)
				m := w.join(small)
				first := w.publish("acme", "ann")
				if waits {
					w.until("a cursor", func() bool { return len(w.cursors("acme")) == 1 })
				}
				second := w.publish("acme", "ann")
				w.publishRedriven("ann", first.Offset, first.Offset+1)  // it has not seen the second
				w.publishRedriven("ann", first.Offset, second.Offset+1) // nor this one the other
				w.publishRedriven("ann", first.Offset, second.Offset+3)
				w.until("the commit to pass them", func() bool { return w.lag() == 0 })
				failing.Store(false)
				w.until("all to be settled", w.settled)
				m.terminate()
				var got []string
				for _, a := range w.receiver.got {
					got = append(got, fmt.Sprintf("%v %s", a.kind, a.seq))
				}
				want := []string{"identify 1", "group 1", "identify 2", "group 2", "identify ", "group 1"}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
				outdated := 0
				for _, f := range m.finished {
					if f.Outcome == worker.Ignored && f.Reason == string(redrive.Outdated) {
						outdated++
					}
				}
				if outdated != 2 {
					t.Errorf("%d redrives are outdated, want 2", outdated)
				}
			})
		})
	}
}
