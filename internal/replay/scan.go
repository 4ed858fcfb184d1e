package replay

import (
	"context"
	"errors"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"refinersource/internal/attribution"
	"refinersource/internal/copies"
	"refinersource/internal/queue"
	"refinersource/internal/redrive"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// Event is a record of the range and what it makes by the rules in force.
type Event struct {
	Record  *queue.Record
	Tenant  tenant.ID
	Decoded survey.Completion // what could be read of it
	// Ignored is why it makes no call; Fault why it would be a dead letter. At most
	// one of them is set.
	Ignored survey.Ignored
	Fault   error
	Result  attribution.Result
}

// ErrUnknownTenant is the fault of an event whose tenant there are no rules of.
var ErrUnknownTenant = errors.New("the tenants file has no tenant of this id")

// Scan reads a range.
type Scan struct {
	Log   *queue.Log
	Topic string
	Range Range
	// Tenants have the rules.
	Tenants *tenant.Registry
	// OnGap is told of events that are gone from the log, with their exact range.
	OnGap func(*queue.GapError)
	// Progress is told how many records have been read, now and then, by several
	// goroutines.
	Progress func(records int)
}

// batch is what a partition's goroutine hands over at once.
const scanBytes = 4 << 20

// Run reads the spans, several partitions at a time, and gives each its own
// visitor: all events of a partition go to the same one, in the order of the log,
// and to no two of one partition at once. Flush, if the visitor has it, is called
// after each batch and at the end. It ends with the first error.
func (s *Scan) Run(ctx context.Context, spans []Span, visitor func(partition int) Visitor) error {
	readers, ctx := errgroup.WithContext(ctx)
	readers.SetLimit(2 * runtime.GOMAXPROCS(0)) // while one waits for the broker, another works
	for _, span := range spans {
		readers.Go(func() error { return s.read(ctx, span, visitor(span.Partition)) })
	}
	return readers.Wait()
}

// Visitor takes in a partition's events.
type Visitor interface {
	// Visit takes in one event, which it must not keep.
	Visit(e *Event) error
	// Flush is called behind each batch of events.
	Flush() error
}

func (s *Scan) read(ctx context.Context, span Span, v Visitor) error {
	r := s.Log.Reader(s.Topic, span.Partition, span.From, queue.ReaderOptions{MaxBytes: scanBytes})
	window := copies.New(copies.DefaultWindow)
	if err := window.Warm(ctx, s.Log, s.Topic, span.Partition, span.From, 0); err != nil && ctx.Err() != nil {
		return err
	}
	var e Event
	for r.Offset() < span.To {
		b, err := r.Next(ctx)
		if gap, ok := errors.AsType[*queue.GapError](err); ok {
			if s.OnGap != nil {
				s.OnGap(gap)
			}
			r.SkipGap()
			continue
		}
		if err != nil {
			return err
		}
		records := 0
		for i := range b.Records {
			rec := &b.Records[i]
			if rec.Offset >= span.To {
				break
			}
			records++
			copied := window.Add(rec)
			if !s.Range.wants(rec) {
				continue
			}
			redriven, err := redrive.Read(ctx, s.Log, b.Records[:i+1])
			if err != nil {
				return err
			}
			if !s.decide(&e, rec, copied, redriven, span.From) {
				continue
			}
			if err := v.Visit(&e); err != nil {
				return err
			}
		}
		if err := v.Flush(); err != nil {
			return err
		}
		if s.Progress != nil {
			s.Progress(records)
		}
	}
	return nil
}

// decide says what a record makes; false if it is not of the range, which begins at
// from.
func (s *Scan) decide(e *Event, rec *queue.Record, copied bool, redriven *redrive.Redriven, from queue.Offset) bool {
	*e = Event{Record: rec, Tenant: tenant.ID(rec.Header(queue.HeaderTenant))}
	t, ok := s.Tenants.Get(e.Tenant)
	if !ok {
		e.Fault = ErrUnknownTenant
		return s.Range.User == ""
	}
	var err error
	if e.Decoded, err = survey.Decode(survey.Source(rec.Header(queue.HeaderSource)), rec.Value); err != nil {
		e.Fault = err
		return s.Range.User == ""
	}
	if !s.Range.means(&e.Decoded) {
		return false
	}
	if copied {
		e.Ignored = copies.Reason
		return true
	}
	if redriven != nil {
		e.Result, err = redriven.Attribute(e.Decoded, t, accepted(rec), redriven.Mark != nil && redriven.Mark.First >= from)
	} else {
		e.Result, err = attribution.Attribute(e.Decoded, &t.Rules, string(t.ID), accepted(rec))
	}
	if err != nil {
		e.Fault = err
		return true
	}
	e.Ignored = e.Result.Ignored
	return true
}

// accepted is when an event was accepted.
func accepted(rec *queue.Record) time.Time {
	if at, err := time.Parse(time.RFC3339Nano, rec.Header(queue.HeaderReceivedAt)); err == nil {
		return at.UTC()
	}
	return rec.Time.UTC()
}
