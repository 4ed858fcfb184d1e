package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"refinersource/internal/attribution"
	"refinersource/internal/deadletter"
	"refinersource/internal/delivery"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

// partition drives one partition's lanes. One goroutine owns the state machine;
// one fetches and decides, each request in flight has one of its own, and all
// have ended when run returns.
type partition struct {
	w         *Worker
	partition int
	lanes     *lane.Partition[*event]
	commits   *committer
	committed lane.Offset
	status    *status
	start     queue.Assignment
}

// done is a request that has come back.
type done struct {
	request  lane.Request[*event]
	outcomes []lane.Outcome
}

func newPartition(w *Worker, a queue.Assignment, commits *committer) *partition {
	start := lane.Offset(a.Offset)
	p := &partition{
		w:         w,
		partition: a.Partition,
		lanes:     lane.New[*event](w.o.Limits, start),
		commits:   commits,
		committed: start,
		status:    new(status),
		start:     a,
	}
	p.status.committed.Store(int64(a.Offset))
	p.status.end.Store(int64(a.End))
	return p
}

// run works until fetching ends, then drains; attempts that are still under way
// when their context ends are abandoned.
func (p *partition) run(fetching, attempts context.Context) {
	fetched, returned := make(chan []*event), make(chan done)
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { p.fetch(fetching, fetched) })

	draining := fetching.Done()
	for {
		for attempts.Err() == nil {
			r, ok := p.lanes.Next()
			if !ok {
				break
			}
			running.Go(func() { returned <- done{r, p.send(attempts, r)} })
		}
		p.report()
		if p.lanes.InFlight() == 0 && (attempts.Err() != nil || p.lanes.Drained()) {
			return
		}
		more := fetched
		if draining == nil || p.lanes.Full() {
			more = nil
		}
		select {
		case events := <-more:
			for _, e := range events {
				p.add(e)
			}
		case d := <-returned:
			for _, it := range p.lanes.Done(d.request, d.outcomes) {
				p.w.finished(it.Payload)
			}
		case <-draining:
			draining = nil
			p.lanes.Drain()
		}
	}
}

// add takes in an event; one that makes no call is finished by it.
func (p *partition) add(e *event) {
	it := p.lanes.Add(lane.Event[*event]{
		Offset:  lane.Offset(e.record.Offset),
		Lane:    e.lane,
		Key:     e.key,
		Steps:   e.costs,
		Bytes:   e.bytes,
		Payload: e,
	})
	if len(e.costs) == 0 {
		p.lanes.Finish(it)
		p.w.finished(e)
	}
}

// report hands the commit point to the committer and the figures to the status.
func (p *partition) report() {
	if to := p.lanes.CommitPoint(); to != p.committed {
		p.committed = to
		p.commits.moveTo(p.partition, to)
		p.status.committed.Store(int64(to))
	}
	p.status.window.Store(int64(p.lanes.Len()))
	oldest := int64(0)
	if it, ok := p.lanes.Oldest(); ok {
		oldest = it.Payload.accepted.UnixNano()
	}
	p.status.oldest.Store(oldest)
}

// fetch reads the partition from its start and decides what each event makes,
// until ctx ends.
func (p *partition) fetch(ctx context.Context, out chan<- []*event) {
	log := p.w.log.With(zap.Int("partition", p.partition))
	r := p.w.o.Log.Reader(p.w.o.Topics.Events(), p.partition, p.start.Offset, queue.ReaderOptions{})
	for ctx.Err() == nil {
		b, err := r.Next(ctx)
		if gap, ok := errors.AsType[*queue.GapError](err); ok {
			// The log no longer has these events: said with their exact range,
			// never passed over in silence.
			p.w.metrics.lost.Add(float64(gap.To - gap.From))
			log.Error("events were deleted from the log before they were delivered",
				zap.Int64("from", int64(gap.From)), zap.Int64("to", int64(gap.To)))
			r.SkipGap()
			continue
		}
		if err != nil {
			if ctx.Err() == nil {
				log.Error("stop reading the partition; see `topics check` and the group's offsets", zap.Error(err))
				<-ctx.Done()
			}
			return
		}
		p.status.raiseEnd(int64(b.End))
		if len(b.Records) == 0 {
			continue
		}
		events := make([]*event, len(b.Records))
		tenants := p.w.o.Tenants()
		for i := range b.Records {
			events[i] = p.w.decide(b.Records[i], tenants)
		}
		select {
		case out <- events:
		case <-ctx.Done():
		}
	}
}

// send brings a request to its end and says what became of each part.
func (p *partition) send(ctx context.Context, r lane.Request[*event]) []lane.Outcome {
	outcomes := make([]lane.Outcome, len(r.Parts))
	if r.Lane == letterLane {
		var letters errgroup.Group
		letters.SetLimit(lettersAtOnce)
		for i, part := range r.Parts {
			letters.Go(func() error {
				outcomes[i] = p.w.bury(ctx, part.Item.Payload)
				return nil
			})
		}
		_ = letters.Wait()
		return outcomes
	}
	parts := make([][]attribution.Call, len(r.Parts))
	gap := time.Duration(0)
	for i, part := range r.Parts {
		parts[i] = part.Item.Payload.steps[part.Step]
		if part.Step > 0 {
			gap = r.Parts[0].Item.Payload.tenant.PairGap
		}
	}
	// The step before was accepted before this request was handed out.
	if gap > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(gap):
		}
	}
	reports := p.w.deliverer.Deliver(ctx, p.w.source(r.Parts[0].Item.Payload.tenant), parts)
	for i, report := range reports {
		e := r.Parts[i].Item.Payload
		e.attempts += report.Attempts
		switch report.Outcome {
		case delivery.Accepted:
			outcomes[i] = lane.Accepted
			if p.w.o.OnCall != nil {
				for j := range parts[i] {
					p.w.o.OnCall(e.tenant.ID, &parts[i][j])
				}
			}
		case delivery.Rejected, delivery.TooLarge, delivery.Invalid:
			e.reject(parts[i][0].Kind, report)
			outcomes[i] = p.w.bury(ctx, e)
		case delivery.Abandoned:
			outcomes[i] = lane.Abandoned
		}
	}
	return outcomes
}

// source gives a tenant as it stands in the registry now, or as it was when the
// registry has it no longer.
func (w *Worker) source(t *tenant.Tenant) delivery.Source {
	return func() *tenant.Tenant {
		if now, ok := w.o.Tenants().Get(t.ID); ok {
			t = now
		}
		return t
	}
}

// bury writes the event's dead letter, and tries until the log has acknowledged
// it or ctx ends: an event is over only with its letter in the log.
func (w *Worker) bury(ctx context.Context, e *event) lane.Outcome {
	e.letter.Attempts, e.letter.DeadAt = e.attempts, time.Now().UTC()
	pauses := backoff.NewExponentialBackOff(backoff.WithMaxElapsedTime(0))
	err := backoff.RetryNotify(func() error {
		_, err := w.o.Letters.Write(ctx, *e.letter)
		return err
	}, backoff.WithContext(pauses, ctx), func(err error, pause time.Duration) {
		w.log.Error("write a dead letter again", zap.Error(err), zap.Duration("pause", pause),
			zap.String("tenant", e.letter.Tenant), zap.String("event", e.letter.EventID))
	})
	if err != nil {
		return lane.Abandoned
	}
	w.log.Warn("an event became a dead letter",
		zap.String("tenant", e.letter.Tenant),
		zap.String("event", e.letter.EventID),
		zap.String("reason", string(e.letter.Reason)),
		zap.String("stage", string(e.letter.Stage)),
		zap.String("detail", e.letter.Detail),
		zap.Int("partition", e.record.Partition),
		zap.Int64("offset", int64(e.record.Offset)))
	return lane.Ended
}

// finished counts an event that has its outcome and tells the observer.
func (w *Worker) finished(e *event) {
	f := Finished{
		Tenant:   tenant.ID(e.record.Header(queue.HeaderTenant)),
		EventID:  e.id,
		Source:   e.source,
		Position: e.record.Position,
		Outcome:  Delivered,
		Attempts: e.attempts,
		Calls:    e.calls,
		Accepted: e.accepted,
		Finished: time.Now(),
	}
	switch {
	case e.letter != nil:
		f.Outcome, f.Reason = Dead, string(e.letter.Reason)
	case e.ignored != "":
		f.Outcome, f.Reason = Ignored, string(e.ignored)
	}
	w.metrics.finishedEvent(f)
	if w.o.OnFinished != nil {
		w.o.OnFinished(f)
	}
}

const (
	// letterLane is the lane of the events whose dead letter is all that is left
	// to do. No tenant has that name.
	letterLane = "\x00letters"
	// lettersAtOnce bounds the dead letters that a partition writes at once.
	lettersAtOnce = 64
)

var _ Letters = (*deadletter.Writer)(nil)
