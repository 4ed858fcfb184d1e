package worker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/worker"
)

// A lease is short where commits are quick, so that little is sent that cannot be
// committed, and longer where they take long, so that slow links do not stop the work.
func TestLeaseIsAsLongAsCommitsTake(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		most time.Duration
		took []time.Duration // by the commits before
		want time.Duration
	}{
		{"never acknowledged", 1500 * time.Millisecond, nil, 0},
		{"at once", 1500 * time.Millisecond, []time.Duration{0}, 600 * time.Millisecond},
		{"after a while", 1500 * time.Millisecond, []time.Duration{100 * time.Millisecond}, 1000 * time.Millisecond},
		{"one slow, then a quick one", 1500 * time.Millisecond, []time.Duration{160 * time.Millisecond, 0}, 1160 * time.Millisecond},
		{"slow", 1500 * time.Millisecond, []time.Duration{time.Second}, 1500 * time.Millisecond},
		{"a short session", 700 * time.Millisecond, []time.Duration{100 * time.Millisecond}, 700 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := worker.NewLease(test.most)
				sent := time.Now()
				for _, took := range test.took {
					sent = time.Now()
					time.Sleep(took)
					l.Renew(sent)
					time.Sleep(time.Nanosecond) // so that the next one is later
				}
				for l.Valid() {
					time.Sleep(10 * time.Millisecond)
				}
				if got := time.Since(sent).Truncate(10 * time.Millisecond); got != test.want && got != test.want+10*time.Millisecond {
					t.Errorf("it was good for %v, want %v", got, test.want)
				}
			})
		})
	}
}
