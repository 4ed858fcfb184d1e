package worker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"refinersource/internal/attribution"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
	"refinersource/internal/tenant"
)

const (
	// bundleBytes is how much of receipts is written without waiting for a commit, if
	// that is not more than half of what may wait.
	bundleBytes = 128 << 10
	// minReceiptBytes is the least that a partition's receipts may take before events
	// wait; beyond it, it is a part of the window.
	minReceiptBytes = 64 << 10
	receiptsPart    = 4
	// receiptsAlarm is how often it is said that receipts cannot be written.
	receiptsAlarm = time.Minute
)

// receipts are those of one partition, on their way into the log. The partition's
// goroutine adds; another writes, one bundle after another: at each commit, and
// when there is much. All methods but write may be called on nil, which keeps none.
type receipts struct {
	w         *Worker
	partition int
	log       *zap.Logger
	status    *status
	limit     int64 // bytes that wait
	bundle    int   // bytes that are written without waiting for a commit

	wake, room chan struct{}
	waiting    atomic.Int64 // bytes that the log has not acknowledged

	mu      sync.Mutex
	open    *queue.Bundle
	rules   []*tenant.Tenant // that the open bundle names for the first time
	added   uint64
	acked   uint64
	awaited uint64
	done    chan struct{} // closed when awaited are acknowledged; nil if nobody waits

	// What follows is add's own, used again each time.
	named   map[tenant.ID]string
	next    receipt.Receipt
	record  queue.Record
	scratch []byte
}

func newReceipts(w *Worker, partition, windowBytes int, log *zap.Logger, s *status) *receipts {
	limit := max(minReceiptBytes, windowBytes/receiptsPart)
	return &receipts{
		w: w, partition: partition, log: log, status: s,
		limit: int64(limit), bundle: min(bundleBytes, limit/2),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
		open: new(queue.Bundle), named: make(map[tenant.ID]string),
		record: queue.Record{Headers: []queue.Header{{Key: queue.HeaderTenant}, {Key: queue.HeaderEventID}}},
	}
}

// add makes the receipt of an event that has its outcome.
func (r *receipts) add(e *event, f *Finished) {
	if r == nil {
		return
	}
	r.fill(e, f)
	named := r.rulesOf(e.tenant)
	rec := &r.record
	rec.Key, rec.Time = e.record.Key, f.Finished
	rec.Value = receipt.Append(rec.Value[:0], &r.next)
	rec.Headers[0].Value = appendCut(rec.Headers[0].Value[:0], e.owner)
	rec.Headers[1].Value = appendCut(rec.Headers[1].Value[:0], e.id)

	r.mu.Lock()
	before := r.open.Bytes()
	r.open.Add(rec)
	after := r.open.Bytes()
	if named {
		r.rules = append(r.rules, e.tenant)
	}
	r.added++
	r.mu.Unlock()
	rec.Key = nil
	r.waiting.Add(int64(after - before))
	r.status.receipts.Add(1)
	if after >= r.bundle {
		signal(r.wake)
	}
}

// fill puts what is known of the event into next.
func (r *receipts) fill(e *event, f *Finished) {
	n := &r.next
	*n = receipt.Receipt{
		Tenant:         e.owner,
		Source:         string(e.source),
		EventID:        e.id,
		Partition:      e.record.Partition,
		Offset:         e.record.Offset,
		Outcome:        receipt.Outcome(f.Outcome),
		Reason:         f.Reason,
		Calls:          n.Calls[:0],
		Attempts:       e.attempts,
		ReceivedAt:     e.accepted,
		FirstAttemptAt: e.first,
		FinishedAt:     f.Finished,
		Rules:          attribution.RulesVersion,
		Library:        attribution.Version,
		Withheld:       n.Withheld[:0],
	}
	if e.tenant != nil {
		n.RulesOf, n.Library = e.tenant.RulesOf, e.tenant.Rules.LibraryVersion
	}
	if r.w.o.Replay != nil {
		n.Replay = r.w.o.Replay.ID
	}
	if e.redriven != nil && e.redriven.Mark != nil && !e.copied { // a copy says nothing of the letter
		n.RedriveOf = &e.redriven.Mark.Of
	}
	calls := e.calls
	if f.Outcome != Delivered {
		calls = calls[:min(e.taken, len(calls))]
	}
	for i := range calls {
		c := receipt.Call{Type: calls[i].Kind.String(), ID: calls[i].MessageID}
		c.Digest, r.scratch = calls[i].Digest(r.scratch)
		n.Calls = append(n.Calls, c)
	}
	for _, name := range e.notes.WithheldNoAccount {
		n.Withheld = append(n.Withheld, string(name))
	}
}

// rulesOf reports whether these rules of the tenant have not been named before in
// this generation.
func (r *receipts) rulesOf(t *tenant.Tenant) bool {
	if t == nil || r.named[t.ID] == t.RulesOf {
		return false
	}
	r.named[t.ID] = t.RulesOf
	return true
}

// appendCut appends at most so much of a text as a receipt holds of it.
func appendCut(dst []byte, s string) []byte {
	return append(dst, s[:min(len(s), receipt.MaxTextBytes)]...)
}

// signal wakes the one who waits at a channel that holds one value.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// full reports whether so many wait that no more events should be finished.
func (r *receipts) full() bool { return r != nil && r.waiting.Load() >= r.limit }

// hasRoom wakes the partition when receipts were acknowledged.
func (r *receipts) hasRoom() <-chan struct{} {
	if r == nil {
		return nil
	}
	return r.room
}

// flush has all receipts written, and returns how many there have been.
func (r *receipts) flush() uint64 {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open.Len() > 0 {
		signal(r.wake)
	}
	return r.added
}

// await returns a channel that is closed when the log has acknowledged the first so
// many. One goroutine at a time may wait.
func (r *receipts) await(first uint64) <-chan struct{} {
	done := make(chan struct{})
	if r == nil {
		close(done)
		return done
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.acked >= first {
		close(done)
		return done
	}
	r.awaited, r.done = first, done
	return done
}

// covers reports whether the log has acknowledged the first so many.
func (r *receipts) covers(first uint64) bool {
	if r == nil {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acked >= first
}

// write writes what was added until ctx ends. Rules that a receipt is the first to
// name are in the log before it.
func (r *receipts) write(ctx context.Context) {
	spare, told := new(queue.Bundle), time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		r.mu.Lock()
		bundle, rules, mark := r.open, r.rules, r.added
		r.open, r.rules = spare, nil
		r.mu.Unlock()

		clean := true
		failed := func(err error) {
			clean = false
			if now := time.Now(); now.Sub(told) >= receiptsAlarm {
				told = now
				r.log.Error("receipts cannot be written, so nothing more is committed and events wait; see `topics check`, or go on without them: --receipts=false",
					zap.Int64("waiting", r.status.receipts.Load()), zap.Error(err))
			}
		}
		if err := r.w.writeRules(ctx, rules, failed); err != nil {
			return
		}
		if err := r.w.o.Log.AppendBundle(ctx, r.w.o.Topics.Receipts(), r.partition, bundle, failed); err != nil {
			return
		}
		r.acknowledged(mark, bundle)
		if spare = bundle; !clean {
			spare = new(queue.Bundle) // what failed may still be on its way
		}
		spare.Reset(2 * bundleBytes)
		signal(r.room)
	}
}

// acknowledged takes in that the log has all receipts up to a mark.
func (r *receipts) acknowledged(mark uint64, b *queue.Bundle) {
	r.w.metrics.receipts.Add(float64(b.Len()))
	r.status.receipts.Add(int64(-b.Len()))
	r.waiting.Add(int64(-b.Bytes()))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acked = mark
	if r.done != nil && r.acked >= r.awaited {
		close(r.done)
		r.done = nil
	}
}

// named are the rules that this worker has written to the log.
type named struct {
	mu   sync.Mutex
	done map[string]struct{}
}

// writeRules writes the rules of these tenants, but those that it has written.
func (w *Worker) writeRules(ctx context.Context, tenants []*tenant.Tenant, onRetry func(error)) error {
	b, keys := new(queue.Bundle), make([]string, 0, len(tenants))
	w.named.mu.Lock()
	for _, t := range tenants {
		key := receipt.RulesKey{Tenant: string(t.ID), Fingerprint: t.RulesOf}.String()
		if _, ok := w.named.done[key]; !ok {
			keys = append(keys, key)
			b.Add(&queue.Record{Key: []byte(key), Value: tenant.RulesText(&t.Rules), Time: time.Now()})
		}
	}
	w.named.mu.Unlock()
	if err := w.o.Log.AppendBundle(ctx, w.o.Topics.Tenants(), receipt.RulesPartition, b, onRetry); err != nil {
		return err
	}
	w.named.mu.Lock()
	defer w.named.mu.Unlock()
	if w.named.done == nil {
		w.named.done = make(map[string]struct{})
	}
	for _, key := range keys {
		w.named.done[key] = struct{}{}
	}
	return nil
}
