package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"refinersource/internal/lane"
	"refinersource/internal/queue"
)

const (
	commitTimeout = 5 * time.Second
	lastCommits   = 3 // tries at the commit that ends a drain
)

// committer commits the partitions of one generation: all that have moved in
// one request, once an interval, and once more at the end.
type committer struct {
	generation *queue.Generation
	interval   time.Duration
	log        *zap.Logger

	mu    sync.Mutex // never held across a commit
	moved map[int]lane.Offset
}

func newCommitter(g *queue.Generation, interval time.Duration, log *zap.Logger) *committer {
	return &committer{generation: g, interval: interval, log: log, moved: make(map[int]lane.Offset)}
}

// moveTo sets the commit point of a partition; it never goes back.
func (c *committer) moveTo(partition int, to lane.Offset) {
	c.mu.Lock()
	c.moved[partition] = to
	c.mu.Unlock()
}

// run commits until worked is closed, then once more. It returns an error when
// the group refuses this generation's commits: nothing that is sent from then on
// would be recorded.
func (c *committer) run(worked <-chan struct{}) error {
	tick := time.NewTicker(c.interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := c.commit(); errors.Is(err, queue.ErrGenerationEnded) {
				return err
			}
		case <-worked:
			var err error
			for range lastCommits {
				if err = c.commit(); err == nil || errors.Is(err, queue.ErrGenerationEnded) {
					return err
				}
			}
			return err
		}
	}
}

// commit commits what has moved. What was not committed moves again, unless it
// has moved on since.
func (c *committer) commit() error {
	c.mu.Lock()
	moved := c.moved
	c.moved = make(map[int]lane.Offset, len(moved))
	c.mu.Unlock()
	if len(moved) == 0 {
		return nil
	}
	commits := make([]queue.Commit, 0, len(moved))
	for partition, to := range moved {
		commits = append(commits, queue.Commit{Partition: partition, Offset: queue.Offset(to)})
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	err := c.generation.Commit(ctx, commits)
	if err == nil {
		return nil
	}
	c.log.Warn("commit offsets", zap.Error(err))
	c.mu.Lock()
	for partition, to := range moved {
		if _, newer := c.moved[partition]; !newer {
			c.moved[partition] = to
		}
	}
	c.mu.Unlock()
	return err
}
