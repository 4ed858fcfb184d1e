package worker

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"go.uber.org/zap"

	"refinersource/internal/attribution"
	"refinersource/internal/deadletter"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// Replay makes a worker send a range of the log again, as a member of a group of
// its own. Every member must be given the same one.
//
// A user is never left with older values than before: whoever has an event in the
// range is followed beyond it, up to the end of the log as it is when the last of
// them has been sent. What comes into the log after that, live traffic sends after
// it. Run returns when all of it is done, by whichever members.
type Replay struct {
	// ID stands in the receipts.
	ID string
	// Spans are the parts of the partitions; those that are not there are left out.
	Spans map[int]ReplaySpan
	// Wants says which records are meant; nil all of them.
	Wants func(*queue.Record) bool
	// Held says whether a partition's live traffic has to go first; nil is never. It
	// is asked often, and must not block.
	Held func(partition int) bool
	// Fold makes it send what remains of the range: of a partition's events with one
	// key the folded calls, in the place of the last. What came after the range is
	// sent as it stands. nil sends all events.
	Fold func(ctx context.Context, partition int) (Folded, error)
}

// Folded is what remains of a partition's part of the range. Its methods are called
// by several goroutines.
type Folded interface {
	// Has reports whether calls stand in the place of the event at that offset. That
	// must not depend on anything but the log.
	Has(at queue.Offset) bool
	// Calls are those that do.
	Calls(at queue.Offset) ([]attribution.Call, error)
}

// ReplaySpan is a part of a partition's log, To excluded.
type ReplaySpan struct{ From, To queue.Offset }

// Times of a replay.
const (
	heldPause = 500 * time.Millisecond // between two looks at Held
	overTick  = time.Second            // between two looks at what other members have done
	endPause  = 100 * time.Millisecond // between two looks at the end of the log
)

// replaying is what a partition knows of its replay.
type replaying struct {
	*Replay

	partition int
	span      ReplaySpan
	seed      maphash.Seed
	over      bool // all of it is done
	// A look at the end of the log: when it is asked for, what lies before done is done;
	// when it is known, and all before it is read, who has nothing between the two is
	// settled.
	asking bool
	done   lane.Offset
	end    lane.Offset // 0 is not known
	next   time.Time   // no look before
	ends   chan queue.Offset

	ready  chan struct{} // closed when it is known what the range holds
	folded Folded        // from then on; nil if the range is not folded

	mu sync.Mutex
	// touched are the keys of the range's records, and behind which offset each has
	// nothing that was read; settled if live traffic alone sends what comes.
	touched map[uint64]queue.Offset
	open    int // those that are not settled
}

const settled queue.Offset = -1

// replayOf is nil where the worker replays nothing.
func (w *Worker) replayOf(partition int) *replaying {
	if w.o.Replay == nil {
		return nil
	}
	span, part := w.o.Replay.Spans[partition]
	return &replaying{
		Replay: w.o.Replay, partition: partition, span: span, over: !part, seed: maphash.MakeSeed(),
		touched: make(map[uint64]queue.Offset), ends: make(chan queue.Offset), ready: make(chan struct{}),
	}
}

// includes reports whether a record is to be sent again: one of the range, or what
// it is folded to, or a later one with the key of one. first says that it is read for
// the first time.
func (r *replaying) includes(rec *queue.Record, first bool) bool {
	if r == nil {
		return true
	}
	if rec.Offset < r.span.From || r.Wants != nil && !r.Wants(rec) {
		return false
	}
	key := maphash.Bytes(r.seed, rec.Key)
	r.mu.Lock()
	defer r.mu.Unlock()
	last, again := r.touched[key]
	if rec.Offset < r.span.To {
		if first {
			if !again {
				r.open++
			}
			r.touched[key] = max(last, rec.Offset+1)
		}
		return r.folded == nil || r.folded.Has(rec.Offset)
	}
	if again && last != settled {
		r.touched[key] = max(last, rec.Offset+1)
	}
	return again
}

// isSettled reports whether live traffic alone sends a record: it comes after what the
// replay has sent last of its key. It is counted all the same, so that every owner
// counts the same.
func (r *replaying) isSettled(rec *queue.Record) bool {
	if rec.Offset < r.span.To {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.touched[maphash.Bytes(r.seed, rec.Key)] == settled
}

// settle settles the keys of which nothing stands at an offset or behind it, and
// returns how many are left.
func (r *replaying) settle(at lane.Offset) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, last := range r.touched {
		if last != settled && last <= queue.Offset(at) {
			r.touched[key] = settled
			r.open--
		}
	}
	return r.open
}

// prepare finds out what has to be known of the range before the first event: which
// keys it has, up to where this owner starts, and what it is folded to. It reports
// whether the partition can be worked on.
func (p *partition) prepare(ctx context.Context) bool {
	if p.replay == nil {
		return true
	}
	err := p.rebuild(ctx)
	if err == nil && p.replay.Fold != nil {
		p.replay.folded, err = p.replay.Fold(ctx, p.id)
	}
	if err != nil {
		if ctx.Err() == nil {
			p.log.Error("stop replaying the partition", zap.Error(err))
			<-ctx.Done()
		}
		return false
	}
	close(p.replay.ready)
	return true
}

// prepared waits until prepare has ended; false if it ended with ctx.
func (r *replaying) prepared(ctx context.Context) bool {
	if r == nil {
		return true
	}
	select {
	case <-r.ready:
		return true
	case <-ctx.Done():
		return false
	}
}

// rebuild reads again which keys the range has, up to where this owner starts.
func (p *partition) rebuild(ctx context.Context) error {
	r := p.replay
	reader := p.w.o.Log.Reader(p.w.o.Topics.Events(), p.id, r.span.From, queue.ReaderOptions{})
	for to := min(p.start.Offset, r.span.To); reader.Offset() < to; {
		b, err := reader.Next(ctx)
		if errors.Is(err, queue.ErrGap) {
			reader.SkipGap()
			continue
		}
		if err != nil {
			return fmt.Errorf("read which users the replay has had: %w", err)
		}
		for i := range b.Records {
			r.includes(&b.Records[i], true)
		}
	}
	return nil
}

// held reports whether nothing may be sent now, since live traffic goes first.
func (r *replaying) held() bool { return r != nil && r.Held != nil && r.Held(r.partition) }

// settleReplay finds out whose replay is over: what the replay has sent last of a key
// was answered before the end of the log was read, and the key has nothing up to that
// end. What comes later live traffic sends after it. The partition's part is over when
// that is so of all. It returns when to look again, zero if there is no need.
func (p *partition) settleReplay(ctx context.Context, running *sync.WaitGroup, now time.Time) time.Time {
	r := p.replay
	if r == nil || r.over || r.asking || p.draining {
		return time.Time{}
	}
	if r.end > 0 {
		if p.lanes.Position() < r.end {
			return time.Time{}
		}
		if r.end = 0; r.settle(r.done) == 0 {
			r.over = true
			p.log.Info("the partition's part of the replay is done", zap.Int64("up to", int64(r.done)))
			return time.Time{}
		}
	}
	switch done := p.lanes.CommitPoint(); {
	case done < lane.Offset(r.span.To) || len(p.lanes.Held()) > 0:
		return time.Time{}
	case now.Before(r.next):
		return r.next
	default:
		r.asking, r.done, r.next = true, done, now.Add(endPause)
	}
	running.Go(func() {
		end := queue.Offset(-1)
		if bounds, err := p.w.o.Log.Bounds(ctx, p.w.o.Topics.Events()); err == nil {
			end = bounds[p.id].End
		}
		select {
		case r.ends <- end:
		case <-ctx.Done():
		}
	})
	return time.Time{}
}

// replayEnd takes in where the log ends; below 0 that is not known.
func (p *partition) replayEnd(end queue.Offset) {
	p.replay.asking = false
	if end >= 0 {
		p.replay.end = lane.Offset(end)
	}
}

// watchReplay ends the worker when all partitions of the replay are done.
func (w *Worker) watchReplay(ctx context.Context, done func()) {
	tick := time.NewTicker(overTick)
	defer tick.Stop()
	for {
		if over, err := w.replayOver(ctx); err == nil && over {
			done()
			return
		} else if err != nil && ctx.Err() == nil {
			w.log.Warn("look how far the replay is", zap.Error(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (w *Worker) replayOver(ctx context.Context) (bool, error) {
	committed, err := w.o.Log.Committed(ctx, w.o.Group, w.o.Topics.Events())
	if err != nil {
		return false, err
	}
	for partition := range w.o.Replay.Spans {
		m, err := lane.Decode(committed[partition].Metadata)
		if err != nil {
			return false, fmt.Errorf("partition %d: %w", partition, err)
		}
		if m.Owner != lane.Finished {
			return false, nil
		}
	}
	return true, nil
}

// decide says what an event makes: by the rules, or what is folded to its place.
func (p *partition) decide(e *event, tenants *tenant.Registry) {
	r := p.replay
	if r != nil && r.isSettled(&e.record) {
		e.decided, e.ignored = true, settledReason
		return
	}
	if r == nil || r.folded == nil {
		p.w.decide(e, tenants)
		return
	}
	if e.record.Offset < r.span.To {
		p.fold(e, tenants)
	} else {
		p.w.decide(e, tenants)
	}
	e.key = string(e.record.Key) // all users of a place have it, before and behind it
}

// fold makes an event one with the calls of its place.
func (p *partition) fold(e *event, tenants *tenant.Registry) {
	e.decided = true
	defer e.spare()
	calls, err := p.replay.folded.Calls(e.record.Offset)
	t, ok := tenants.Get(tenant.ID(e.owner))
	switch {
	case err != nil:
		e.fault(deadletter.StageAttribute, err)
	case !ok || len(calls) == 0:
		e.ignored = foldedToNothing
	default:
		e.tenant, e.calls = t, calls
		e.cut(t.Pairing, p.w.o.Limits)
	}
}

// foldedToNothing is why a replay leaves out a place of which no event makes a call.
const foldedToNothing survey.Ignored = "no_calls"

// settledReason is why a replay leaves out what comes after it has done with its user:
// live traffic sends that.
const settledReason survey.Ignored = "sent_live"

// spare makes an event that would be a dead letter one that is ignored: its letter
// was written when it was delivered, or the audit says that it was not.
func (e *event) spare() {
	if e.letter != nil {
		e.letter, e.costs, e.ignored = nil, nil, undeliverable
	}
}

// undeliverable is why a replay leaves an event out that makes no call but a dead
// letter.
const undeliverable survey.Ignored = "dead_letter"
