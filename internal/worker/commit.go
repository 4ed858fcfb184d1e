package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"refinersource/internal/lane"
	"refinersource/internal/queue"
)

const (
	commitTimeout = 5 * time.Second
	lastCommits   = 3 // tries at the commit that ends a drain
	// commitAtLeast is how often something is committed even without progress: the
	// lease lives on it.
	commitAtLeast = 250 * time.Millisecond
	// commitSoon is the least time between two commits, and commitEvents how many events
	// a partition may finish before it asks for one: where much is done in little time,
	// less than what an interval brings is to come again if this worker ends.
	commitSoon   = 50 * time.Millisecond
	commitEvents = 16
	// askPatience is how long a partition may take to say what to commit, before the
	// others go on without it; one that says nothing for stuckAfter is stuck.
	askPatience = time.Second
	stuckAfter  = time.Minute
)

// errStuck says that a partition's loop does not go on.
var errStuck = errors.New("a partition does not answer")

// commitState is what a partition has to commit: a place, and what says where the
// lanes that it passes go on; and up to which receipt the log must have acknowledged
// them before. All are of the same moment (invariant 2).
type commitState struct {
	at       time.Time
	to       lane.Offset
	metadata string
	receipts uint64
}

// is reports whether two states say the same.
func (s commitState) is(other commitState) bool {
	other.at = s.at
	return s == other
}

// committer commits the partitions of one generation: all that have moved in
// one request, once an interval, sooner where much is finished, and once more at the
// end.
type committer struct {
	generation *queue.Generation
	partitions []*partition
	interval   time.Duration
	lease      *lease
	log        *zap.Logger
	soon       chan struct{} // a partition has finished commitEvents

	acked    map[int]commitState
	ackedAt  time.Time
	receipts receiptsState
	drainBy  atomic.Pointer[time.Time] // when the drain's time is over; nil before
	answered map[int]time.Time         // when each partition last said what to commit
}

func newCommitter(g *queue.Generation, interval time.Duration, lease *lease, log *zap.Logger) *committer {
	return &committer{
		generation: g, interval: interval, lease: lease, log: log, soon: make(chan struct{}, 1),
		acked: make(map[int]commitState), answered: make(map[int]time.Time), receipts: newReceiptsState(),
	}
}

// run commits until worked is closed, then once more. It returns an error when
// the group refuses this generation's commits: nothing that is sent from then on
// would be recorded; and errStuck.
func (c *committer) run(worked <-chan struct{}) error {
	for _, p := range c.partitions {
		c.answered[p.id] = time.Now()
	}
	for ended := false; !ended; {
		begun := time.Now()
		select {
		case <-c.soon: // it will be in this one
		default:
		}
		if err := c.commit(receiptsPatience); errors.Is(err, queue.ErrGenerationEnded) || errors.Is(err, errStuck) {
			return err
		}
		ended = c.pause(begun, worked)
	}
	var err error
	for range lastCommits {
		if err = c.commit(c.lastPatience()); err == nil || errors.Is(err, queue.ErrGenerationEnded) {
			c.missed()
			return err
		}
	}
	return err
}

// pause returns when the next commit is due after one that began then; true if worked
// was closed before.
func (c *committer) pause(begun time.Time, worked <-chan struct{}) bool {
	timer := time.NewTimer(c.interval - time.Since(begun))
	defer timer.Stop()
	soon := c.soon
	for {
		select {
		case <-timer.C:
			return false
		case <-soon:
			soon = nil
			timer.Reset(min(c.interval, commitSoon) - time.Since(begun))
		case <-worked:
			return true
		}
	}
}

// collect asks all partitions, side by side, what to commit.
func (c *committer) collect() (map[int]commitState, error) {
	var mu sync.Mutex
	states := make(map[int]commitState, len(c.partitions))
	var asking sync.WaitGroup
	for _, p := range c.partitions {
		asking.Go(func() {
			if s, ok := p.ask(askPatience); ok {
				mu.Lock()
				states[p.id] = s
				c.answered[p.id] = time.Now()
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	for _, p := range c.partitions {
		if silent := time.Since(c.answered[p.id]); silent > stuckAfter && !p.idle.Load() {
			return nil, fmt.Errorf("%w: partition %d, for %v", errStuck, p.id, silent)
		}
	}
	return states, nil
}

// commit commits what has moved, or something, if nothing has for commitAtLeast.
// It waits for the receipts of what it commits, but not for longer than patience;
// see cover.
func (c *committer) commit(patience time.Duration) error {
	states, err := c.collect()
	if err != nil {
		return err
	}
	c.cover(states, patience)
	var commits []queue.Commit
	for _, p := range c.partitions {
		s, ok := states[p.id]
		if !ok {
			continue
		}
		if c.acked[p.id].is(s) {
			p.lease.renew(s.at) // all that it has is committed
			if len(commits) > 0 || time.Since(c.ackedAt) < commitAtLeast {
				continue
			}
		}
		commits = append(commits, queue.Commit{Partition: p.id, Offset: queue.Offset(s.to), Metadata: s.metadata})
	}
	if len(commits) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	sent := time.Now()
	err = c.generation.Commit(ctx, commits)
	refused, partly := errors.AsType[*queue.CommitError](err)
	if err != nil {
		c.log.Warn("commit offsets", zap.Error(err))
		if !partly {
			return err
		}
	}
	stored := 0
	for _, p := range c.partitions {
		if !slices.ContainsFunc(commits, func(o queue.Commit) bool { return o.Partition == p.id }) || partly && refused.Partitions[p.id] != nil {
			continue
		}
		c.acked[p.id] = states[p.id]
		p.lease.renew(states[p.id].at)
		stored++
	}
	if stored > 0 {
		c.ackedAt = sent
		c.lease.renew(sent)
	}
	return err
}
