package worker

import (
	"context"
	"sync/atomic"
	"time"
)

// lease says whether the worker may still send: whether the group has heard of it
// so lately that nobody else can have its partitions before a request that starts
// now is over. What counts is the time at which the last acknowledged commit was
// sent. A worker that was stopped, or has lost Kafka, has none.
//
// Each partition has one too: what it had finished by that time is committed. One
// whose receipts cannot be written, or whose commits are refused, begins nothing
// more, whatever becomes of the others.
type lease struct {
	last atomic.Pointer[time.Time]
	good time.Duration
}

// leaseTime is the most that a lease is good for. The session timeout less the
// longest request would do against a frozen worker; but what is sent while nothing
// can be committed is sent again if this worker ends, so it is little.
const leaseTime = 1500 * time.Millisecond

// leasePoll is how often one that waits looks again.
const leasePoll = 50 * time.Millisecond

// renew takes in that a commit which was sent at that time was acknowledged, or what
// was finished by then; never less than it knew.
func (l *lease) renew(at time.Time) {
	if last := l.last.Load(); last == nil || at.After(*last) {
		l.last.Store(&at)
	}
}

func (l *lease) valid() bool {
	last := l.last.Load()
	return last != nil && time.Since(*last) <= l.good
}

// wait returns when the lease is valid, or ctx's cause when it ends first.
func (l *lease) wait(ctx context.Context) error {
	for !l.valid() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(leasePoll):
		}
	}
	return nil
}
