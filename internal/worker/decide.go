package worker

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/copies"
	"refinersource/internal/deadletter"
	"refinersource/internal/delivery"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/redrive"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// event is a record and what it makes: the steps of its delivery, or its dead
// letter, or the reason why it is ignored. The goroutine that has its part in
// flight, or the partition's, owns it.
type event struct {
	record   queue.Record
	source   survey.Source
	id       string
	accepted time.Time
	added    time.Time      // to the window
	tenant   *tenant.Tenant // as it was when the event was read; nil if unknown

	owner string // the tenant, as the header names it
	trace string // traceparent of the header
	lane  string // that of the tenant, or of a key that is set apart from it
	key   string
	calls []attribution.Call
	steps [][]attribution.Call // parts of calls
	costs []lane.Cost          // of the steps; one empty one for a dead letter
	bytes int
	// pair is where the steps and costs of most events are.
	pair struct {
		steps [2][]attribution.Call
		costs [2]lane.Cost
	}

	decided  bool
	copied   bool              // the same bytes came before
	redriven *redrive.Redriven // if it puts a dead letter back
	ignored  survey.Ignored
	letter   *deadletter.Letter
	notes    attribution.Notes // what was left out or renamed
	taken    int               // calls that were accepted before the step that is sent
	first    time.Time         // when the first attempt began
	attempts int
	failures int // alone, in a row
	step     int // the last that was sent
	status   int // of the last answer
	// gap is set in what is no event, but a hole in the log.
	gap *queue.GapError
}

// eventBytes is what an event takes of memory besides its bytes and its calls.
// With the factors below it comes to what a heap profile shows of a full window:
// some 4 KB for an event of 1 KB.
const eventBytes = 640

// newEvent is the event of a record; decide says what it makes.
func newEvent(r queue.Record) *event {
	e := &event{
		record:   r,
		source:   sourceOf(r.HeaderBytes(queue.HeaderSource)),
		id:       r.Header(queue.HeaderEventID),
		accepted: r.Time.UTC(),
		owner:    ownerOf(r.Header(queue.HeaderTenant)),
		trace:    r.Header(queue.HeaderTraceparent),
		bytes:    eventBytes + len(r.Value), // its text and its answers are parts of that
	}
	e.lane = e.owner
	var at time.Time
	if err := at.UnmarshalText(r.HeaderBytes(queue.HeaderReceivedAt)); err == nil {
		e.accepted = at.UTC()
	}
	return e
}

// sourceOf is the source that a header names; the known ones take no memory.
func sourceOf(header []byte) survey.Source {
	for _, s := range [...]survey.Source{survey.RefinerWebhook, survey.SurveyEvent} {
		if string(header) == string(s) {
			return s
		}
	}
	return survey.Source(header)
}

// decide says what an event makes, by the rules of its tenant. It never fails:
// what cannot make a call becomes a dead letter.
func (w *Worker) decide(e *event, tenants *tenant.Registry) {
	e.decided = true
	e.record.Headers = nil // what they say is in the event
	if w.o.Replay != nil {
		defer e.spare()
	}
	if e.copied {
		e.ignored = copies.Reason
		return
	}
	if e.redriven != nil && !e.redriven.Holds {
		e.ignored = redrive.Outdated
		return
	}
	t, ok := tenants.Get(tenant.ID(e.owner))
	if !ok {
		e.die(deadletter.UnknownTenant, deadletter.StageDecode, "the tenants file has no tenant of this id; add it, then redrive")
		return
	}
	e.tenant = t
	completion, err := survey.Decode(e.source, e.record.Value)
	defer completion.Release()
	if err != nil {
		e.fault(deadletter.StageDecode, err)
		return
	}
	if e.id == "" {
		e.id = completion.ID
	}
	result, err := w.attribute(e, completion, t)
	e.notes = result.Notes
	if err != nil {
		e.fault(deadletter.StageAttribute, err)
		return
	}
	if result.Ignored != survey.NotIgnored {
		e.ignored = result.Ignored
		return
	}
	e.key, e.calls = result.OrderKey, result.Calls
	e.cut(t.Pairing, w.o.Limits)
}

// attribute makes the calls of an event.
func (w *Worker) attribute(e *event, c survey.Completion, t *tenant.Tenant) (attribution.Result, error) {
	switch {
	case e.redriven != nil:
		inPlace := w.o.Replay != nil && e.redriven.Mark.First >= w.o.Replay.Spans[e.record.Partition].From
		return e.redriven.Attribute(c, t, e.accepted, inPlace)
	case w.o.Receipts:
		return attribution.AttributeAndDigest(c, &t.Rules, string(t.ID), e.accepted)
	default:
		return attribution.Attribute(c, &t.Rules, string(t.ID), e.accepted)
	}
}

// cut cuts the calls into steps: what is accepted before the next is sent. With
// strict pairing that is all identifies, then all groups, then all tracks; a kind
// that is over a request's limits by itself takes several.
func (e *event) cut(pairing tenant.Pairing, limits lane.Limits) {
	from, cost := 0, lane.Cost{}
	e.steps, e.costs = e.pair.steps[:0], e.pair.costs[:0]
	for i := range e.calls {
		size := e.calls[i].Size()
		e.bytes += 2 * size
		next := pairing == tenant.Strict && i > from && e.calls[i].Kind != e.calls[i-1].Kind
		full := cost.Calls+1 > limits.RequestCalls || cost.Bytes+size > limits.RequestBytes
		if i > from && (next || full) {
			e.steps, e.costs = append(e.steps, e.calls[from:i:i]), append(e.costs, cost)
			from, cost = i, lane.Cost{}
		}
		cost.Calls++
		cost.Bytes += size + 1 // the comma between two calls
	}
	e.steps, e.costs = append(e.steps, e.calls[from:]), append(e.costs, cost)
}

// fault makes the dead letter of an event that decoding or attribution gave up.
func (e *event) fault(stage deadletter.Stage, err error) {
	if f, ok := errors.AsType[*survey.Fault](err); ok {
		detail := f.Detail
		if f.Pointer != "" {
			detail = f.Pointer + ": " + detail
		}
		e.die(deadletter.Reason(f.Reason), stage, detail)
		return
	}
	e.die(deadletter.Undecodable, stage, err.Error())
}

// die makes the dead letter of an event that makes no call. Its key is its own:
// nothing waits for it.
func (e *event) die(reason deadletter.Reason, stage deadletter.Stage, detail string) {
	e.key, e.costs = "\x00"+strconv.FormatInt(int64(e.record.Offset), 10), []lane.Cost{{Calls: 1}}
	e.letter = e.newLetter(reason, stage, detail)
}

// reject makes the dead letter of an event that the receiver refused.
func (e *event) reject(kind attribution.Kind, r delivery.Report) {
	reason := deadletter.Rejected
	switch r.Outcome {
	case delivery.TooLarge:
		reason = deadletter.TooLarge
	case delivery.Invalid:
		reason = deadletter.WouldBeDropped
	case delivery.Accepted, delivery.Rejected, delivery.Failing, delivery.Abandoned:
	}
	stage := stageOf(kind)
	e.letter = e.newLetter(reason, stage, "refused when it was sent alone: "+r.Last.Class.String()+" "+strconv.Itoa(r.Last.Status))
	e.letter.Status = r.Last.Status
}

// poison makes the dead letter of an event that the receiver fails with for ever.
func (e *event) poison(x *failure) {
	e.letter = e.newLetter(deadletter.Poison, stageOf(e.steps[e.step][0].Kind), fmt.Sprintf(
		"the receiver failed with it for %v, %d times after it had accepted other events of the tenant",
		x.last.Sub(x.first).Round(time.Second), x.proven))
	e.letter.Status = e.status
}

func stageOf(kind attribution.Kind) deadletter.Stage {
	switch kind {
	case attribution.Group:
		return deadletter.StageGroup
	case attribution.Track:
		return deadletter.StageTrack
	case attribution.Identify:
		return deadletter.StageIdentify
	default:
		return deadletter.StageIdentify
	}
}

func (e *event) newLetter(reason deadletter.Reason, stage deadletter.Stage, detail string) *deadletter.Letter {
	l := &deadletter.Letter{
		Tenant:       e.owner,
		Source:       string(e.source),
		EventID:      e.id,
		Reason:       reason,
		Stage:        stage,
		Detail:       detail,
		Origin:       e.record.Position,
		Key:          e.record.Key,
		ReceivedAt:   e.accepted,
		RulesVersion: attribution.RulesVersion,
		Traceparent:  e.trace,
		Raw:          e.record.Value,
	}
	if e.redriven != nil && e.redriven.Mark != nil {
		l.First = &e.redriven.Mark.First
	}
	return l
}
