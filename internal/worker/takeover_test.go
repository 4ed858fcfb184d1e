package worker_test

import (
	"testing"
	"time"

	"refinersource/internal/lane"
	"refinersource/internal/worker"
)

// Invariant 3: what the owner before may still have under way has ended before the
// first request of who takes over. How long that takes is what its last commit says.
func TestTakeoverWaitsAsLongAsTheOwnerBeforeMayStillBeHeard(t *testing.T) {
	t.Parallel()
	const longest = 7 * time.Second // that a request takes
	for name, c := range map[string]struct {
		owner lane.Owner
		wait  time.Duration
	}{
		"drained":                         {lane.Clean, 0},
		"left without a word":             {lane.Working, 2 * time.Second},
		"left requests without an answer": {lane.Cut, longest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *world) {
				at := w.publish("acme", "ann")
				text, _, err := (&lane.Metadata{Partitions: partitions, Owner: c.owner}).Encode()
				if err != nil {
					t.Fatal(err)
				}
				w.commitAs(at.Partition, at.Offset, text)
				m := w.join(func(o *worker.Options) { o.RequestTimeout = longest })
				joined := time.Now()
				w.until("it to be delivered", w.settled)
				if took := w.receiver.got[0].at.Sub(joined); took < c.wait-100*time.Millisecond || took > c.wait+time.Second {
					t.Errorf("the first request came %v after the worker had joined, want %v", took, c.wait)
				}
				w.verify(never)
				m.terminate()
			})
		})
	}
}
