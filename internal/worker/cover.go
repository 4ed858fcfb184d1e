package worker

import (
	"time"

	"go.uber.org/zap"
)

const (
	// receiptsPatience is how long a commit waits for receipts, before it is made
	// without the partitions that have not got theirs.
	receiptsPatience = 200 * time.Millisecond
	// lastReceipts is the least that the last commit waits for them.
	lastReceipts = time.Second
)

// receiptsState is what the committer knows of partitions whose receipts are late.
type receiptsState struct {
	ready map[int]commitState // the latest state that the receipts cover
	held  map[int]commitState // one that they do not cover yet
}

func newReceiptsState() receiptsState {
	return receiptsState{ready: make(map[int]commitState), held: make(map[int]commitState)}
}

// cover puts in the place of each state whose receipts the log has not acknowledged
// within patience the partition's latest for which it has. So a commit never passes
// an event without a receipt; and since there is always something to commit, the
// lease lives on though receipts cannot be written. A partition that was late
// before is not waited for.
func (c *committer) cover(states map[int]commitState, patience time.Duration) {
	patient := time.NewTimer(patience)
	defer patient.Stop()
	for _, p := range c.partitions {
		s, ok := states[p.id]
		if !ok || p.receipts == nil {
			continue
		}
		held, late := c.receipts.held[p.id]
		if !late || c.drainBy.Load() != nil {
			select {
			case <-p.receipts.await(s.receipts):
			case <-patient.C:
				patient.Reset(0) // for nobody else either
			}
		}
		switch {
		case p.receipts.covers(s.receipts):
			c.receipts.ready[p.id] = s
			delete(c.receipts.held, p.id)
		case late && p.receipts.covers(held.receipts):
			c.receipts.ready[p.id], c.receipts.held[p.id] = held, s
		case !late:
			c.receipts.held[p.id] = s
		}
		at, ok := c.receipts.ready[p.id]
		if first := p.first.Load(); !ok && first != nil {
			at, ok = *first, true
		}
		if !ok {
			delete(states, p.id)
			continue
		}
		at.receipts = 0 // they are there; what is committed is the place
		states[p.id] = at
	}
}

// lastPatience is how long the last commit waits for receipts: for what is left of
// the drain's time.
func (c *committer) lastPatience() time.Duration {
	by := c.drainBy.Load()
	if by == nil {
		return lastReceipts
	}
	return max(lastReceipts, time.Until(*by))
}

// missed says what the last commit leaves behind, since its receipts are not there.
func (c *committer) missed() {
	for id, s := range c.receipts.held {
		c.log.Warn("the last commit leaves events behind whose receipts could not be written: they come again",
			zap.Int("partition", id), zap.Int64("finished", int64(s.to)))
	}
}
