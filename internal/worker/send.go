package worker

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"refinersource/internal/attribution"
	"refinersource/internal/deadletter"
	"refinersource/internal/delivery"
	"refinersource/internal/lane"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

const (
	// lettersAtOnce bounds the dead letters that a request writes at once.
	lettersAtOnce = 64
	// lettersBudget is how long is tried to write them before the lane is suspended.
	lettersBudget = 5 * time.Second
)

// causeLetters says that the lane's dead letters cannot be written.
const causeLetters delivery.Cause = "letters"

// done is a request on its way, and then what has become of it.
type done struct {
	request lane.Request[*event]
	tenant  *tenant.Tenant
	which   []int // the parts that are calls; the others are dead letters
	parts   [][]attribution.Call
	gap     time.Duration // to wait before they are sent

	outcomes []lane.Outcome
	// failed says of each part whether the receiver did not take it when it
	// travelled alone; its outcome is then for the partition to say.
	failed   []bool
	blamed   []bool // and whether the event may be the reason
	accepted bool   // something was
	cut      bool   // something was left without a known outcome
	verdict  delivery.Verdict
}

// prepare says what of a request is to be sent. Until something else is known of a part,
// nothing became of it. An event whose respondent the tenant is to forget by now is over.
func prepare(r lane.Request[*event], tenants *tenant.Registry) *done {
	n := len(r.Parts)
	found := make([]bool, 2*n)
	d := &done{
		request: r, which: make([]int, 0, n), parts: make([][]attribution.Call, 0, n),
		outcomes: make([]lane.Outcome, n), failed: found[:n:n], blamed: found[n:],
	}
	for _, part := range r.Parts {
		if t := part.Item.Payload.tenant; t != nil {
			d.tenant = t
		}
	}
	rules := d.rules(tenants)
	for i, part := range r.Parts {
		d.outcomes[i] = lane.Abandoned
		e := part.Item.Payload
		e.taken = callsOf(e.steps[:min(part.Step, len(e.steps))])
		if len(e.steps) > 0 && rules.Forgets(e.steps[0][0].UserID, e.steps[0][0].AnonymousID) {
			d.outcomes[i], e.ignored, e.letter = lane.Ended, survey.Forgotten, nil
			continue
		}
		if e.letter != nil {
			continue
		}
		d.which, d.parts = append(d.which, i), append(d.parts, e.steps[part.Step])
		if part.Step > 0 {
			d.gap = e.tenant.PairGap
		}
	}
	return d
}

// rules are those of the request's tenant as he stands now, as source gives him; those of
// nobody if there is no such tenant.
func (d *done) rules(tenants *tenant.Registry) *attribution.Rules {
	if d.tenant == nil {
		return new(attribution.Rules)
	}
	if now, ok := tenants.Get(d.tenant.ID); ok {
		return &now.Rules
	}
	return &d.tenant.Rules
}

// mayJoin reports whether a request is nothing but calls that can go at once with others:
// no letters, no pause before them, and no event that may be what fails.
func (d *done) mayJoin() bool {
	r := &d.request
	return !r.Probe && !r.Alone && d.gap == 0 && len(d.which) == len(r.Parts)
}

// join has a request travel with another of its tenant that waits to be written, if there
// is one: then it comes back without a sender of its own.
func (p *partition) join(ctx context.Context, d *done, running *sync.WaitGroup, returned chan<- *done) bool {
	if !d.mayJoin() {
		return false
	}
	source, began := p.w.source(d.tenant), time.Now()
	running.Add(1)
	if !p.w.deliverer.Join(ctx, source, d.parts, delivery.DeliverOptions{CatchUp: d.request.Behind}, func(reports []delivery.Report, verdict delivery.Verdict) {
		defer running.Done()
		p.conclude(ctx, d, source, began, reports, verdict)
		returned <- d
	}) {
		running.Done()
		return false
	}
	return true
}

// send brings a request to its end and says what became of each part.
func (p *partition) send(ctx context.Context, d *done) {
	if len(d.which) < len(d.request.Parts) {
		p.bury(ctx, d)
	}
	if len(d.which) == 0 {
		return
	}
	// The step before was accepted before this request was handed out.
	if d.gap > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(d.gap):
		}
	}
	source, began := p.w.source(d.tenant), time.Now()
	o := delivery.DeliverOptions{Probe: d.request.Probe || d.request.Alone, CatchUp: d.request.Behind}
	reports, verdict := p.w.deliverer.Deliver(ctx, source, d.parts, o)
	p.conclude(ctx, d, source, began, reports, verdict)
}

// conclude says what became of each part that was sent.
func (p *partition) conclude(ctx context.Context, d *done, source delivery.Source, began time.Time, reports []delivery.Report, verdict delivery.Verdict) {
	r := &d.request
	if r.Alone && verdict.Cause == delivery.Unavailable {
		// It has failed alone before, while others were accepted. Whether the tenant
		// fails, they will tell.
		verdict = delivery.Verdict{}
	}
	if verdict.Cause != "" {
		d.verdict, d.tenant = verdict, source()
	}
	guilty := false
	for j, report := range reports {
		i := d.which[j]
		e := r.Parts[i].Item.Payload
		if e.attempts += report.Attempts; e.attempts > 0 && e.first.IsZero() {
			e.first = began
		}
		e.status = report.Last.Status
		switch report.Outcome {
		case delivery.Accepted:
			d.outcomes[i], d.accepted = lane.Accepted, true
			if p.w.o.OnCall != nil {
				for k := range d.parts[j] {
					p.w.o.OnCall(e.tenant.ID, &d.parts[j][k])
				}
			}
		case delivery.Rejected, delivery.TooLarge, delivery.Invalid:
			e.reject(d.parts[j][0].Kind, report)
			guilty = true
		case delivery.Failing:
			d.outcomes[i] = lane.Abandoned
			d.failed[i] = verdict.Cause == "" || len(d.parts) == 1 && verdict.Cause == delivery.Unavailable
			// Only what may be the event's own fault is held against it: an answer, or
			// none to a request that had been sent.
			d.blamed[i] = d.failed[i] && (report.Last.Status != 0 || report.Unknown)
			e.step = r.Parts[i].Step
		case delivery.Abandoned:
			d.outcomes[i] = lane.Abandoned
			d.cut = d.cut || report.Unknown && ctx.Err() != nil // else it is handed out again
		}
	}
	if guilty {
		p.bury(ctx, d)
	}
}

// callsOf is how many calls steps have.
func callsOf(steps [][]attribution.Call) (n int) {
	for _, calls := range steps {
		n += len(calls)
	}
	return n
}

// bury writes the dead letters of a request's parts. An event is over only with
// its letter in the log; one whose letter cannot be written waits with its lane.
func (p *partition) bury(ctx context.Context, d *done) {
	ctx, cancel := context.WithTimeout(ctx, lettersBudget)
	defer cancel()
	var letters errgroup.Group
	letters.SetLimit(lettersAtOnce)
	for i, part := range d.request.Parts {
		e := part.Item.Payload
		if e.letter == nil || d.outcomes[i] == lane.Ended {
			continue
		}
		letters.Go(func() error {
			if err := p.w.bury(ctx, e); err != nil {
				d.outcomes[i] = lane.Abandoned
				return err
			}
			d.outcomes[i] = lane.Ended
			return nil
		})
	}
	if err := letters.Wait(); err != nil && d.verdict.Cause == "" {
		d.verdict = delivery.Verdict{Cause: causeLetters}
	}
}

// bury writes the event's dead letter, and tries until the log has acknowledged
// it or ctx ends.
func (w *Worker) bury(ctx context.Context, e *event) error {
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
		return err
	}
	w.log.Warn("an event became a dead letter",
		zap.String("tenant", e.letter.Tenant),
		zap.String("event", e.letter.EventID),
		zap.String("reason", string(e.letter.Reason)),
		zap.String("stage", string(e.letter.Stage)),
		zap.String("detail", e.letter.Detail),
		zap.Int("partition", e.record.Partition),
		zap.Int64("offset", int64(e.record.Offset)))
	return nil
}

// source gives a tenant as it stands in the registry now, or as it was when the
// registry has it no longer.
func (w *Worker) source(t *tenant.Tenant) delivery.Source {
	var seen *tenant.Registry
	return func() *tenant.Tenant {
		if now := w.o.Tenants(); now != seen {
			seen = now
			if found, ok := now.Get(t.ID); ok {
				t = found
			}
		}
		return t
	}
}

var _ Letters = (*deadletter.Writer)(nil)

// finished takes in that an event has its outcome: it is counted and gets its
// receipt, and the observer is told.
func (p *partition) finished(e *event) {
	f := p.w.finished(e)
	p.receipts.add(e, &f)
}

// finished counts an event that has its outcome and tells the observer.
func (w *Worker) finished(e *event) Finished {
	f := Finished{
		Tenant:   tenant.ID(e.owner),
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
	w.metrics.finishedEvent(f, &e.notes, e.redriven != nil)
	if w.o.OnFinished != nil {
		w.o.OnFinished(f)
	}
	return f
}
