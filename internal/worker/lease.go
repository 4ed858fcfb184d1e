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
	state atomic.Pointer[leaseState]
	most  time.Duration // that it is good for, at most leaseTime
}

// leaseState is what the acknowledged commits say.
type leaseState struct {
	last time.Time     // when the last one was sent
	slow time.Duration // how long the slow ones among them took to be acknowledged
	good time.Duration // how long after last the lease is valid
}

// A lease is good for leaseLeast and leaseFactor times as long as commits have taken
// lately, and for leaseTime at most. The session timeout less the longest request would
// do against a frozen worker; but what is sent while nothing can be committed is sent
// again if this worker ends, so it is little: more than commitAtLeast, and room for a
// commit that takes longer than those before it. What was slow is forgotten by an eighth
// with each commit.
const (
	leaseLeast  = 600 * time.Millisecond
	leaseFactor = 4
	leaseTime   = 1500 * time.Millisecond
)

// leasePoll is how often one that waits looks again.
const leasePoll = 50 * time.Millisecond

// renew takes in that a commit which was sent at that time was acknowledged, or what
// was finished by then; never less than it knew.
func (l *lease) renew(at time.Time) {
	before := l.state.Load()
	if before == nil {
		before = new(leaseState)
	}
	if !at.After(before.last) {
		return
	}
	slow := max(time.Since(at), before.slow-before.slow/8)
	l.state.Store(&leaseState{last: at, slow: slow, good: min(l.most, leaseLeast+leaseFactor*slow)})
}

func (l *lease) valid() bool {
	s := l.state.Load()
	return s != nil && time.Since(s.last) <= s.good
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
