// Package replay goes over a range of the log again: what it holds, which calls it
// makes by the rules of today, and what remains of them when the later ones have
// their way. It sends nothing.
package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"refinersource/internal/queue"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// Range says which events are meant. The zero value is all of them; each field
// that is set leaves some out.
type Range struct {
	Tenants []tenant.ID
	// User is the id of a user: only completions of his are meant.
	User string
	// From and To bound when the events came into the log, To excluded.
	From, To time.Time
	// Partition is the one partition that is meant, if Offsets is set: from offset
	// FromOffset, and up to, not with, ToOffset; 0 is its end.
	Offsets              bool
	Partition            int
	FromOffset, ToOffset queue.Offset
}

// Validate reports all that is wrong.
func (r *Range) Validate() error {
	var errs []error
	if !r.From.IsZero() && !r.To.IsZero() && !r.From.Before(r.To) {
		errs = append(errs, fmt.Errorf("the range ends (%v) before it begins (%v)", r.To.Format(time.RFC3339), r.From.Format(time.RFC3339)))
	}
	if r.Offsets && (r.Partition < 0 || r.FromOffset < 0 || r.ToOffset < 0 || r.ToOffset != 0 && r.ToOffset <= r.FromOffset) {
		errs = append(errs, fmt.Errorf("partition %d from offset %d to %d is no range", r.Partition, r.FromOffset, r.ToOffset))
	}
	if r.Offsets && (!r.From.IsZero() || !r.To.IsZero()) {
		errs = append(errs, errors.New("give either times or offsets"))
	}
	return errors.Join(errs...)
}

// Span is a part of a partition's log.
type Span struct {
	Partition int          `json:"partition"`
	From      queue.Offset `json:"from"`
	To        queue.Offset `json:"to"` // excluded
}

// Spans finds the range in the log as it is now, ordered by partition; partitions
// in which it is empty are left out.
func (r *Range) Spans(ctx context.Context, log *queue.Log, topic string) ([]Span, error) {
	bounds, err := log.Bounds(ctx, topic)
	if err != nil {
		return nil, err
	}
	from, to := make(map[int]queue.Offset), make(map[int]queue.Offset)
	for p, b := range bounds {
		from[p], to[p] = b.Start, b.End
	}
	if !r.From.IsZero() {
		if from, err = log.OffsetsAt(ctx, topic, r.From); err != nil {
			return nil, err
		}
	}
	if !r.To.IsZero() {
		if to, err = log.OffsetsAt(ctx, topic, r.To); err != nil {
			return nil, err
		}
	}
	var spans []Span
	for p, b := range bounds {
		s := Span{Partition: p, From: max(from[p], b.Start), To: min(to[p], b.End)}
		if r.Offsets {
			if p != r.Partition {
				continue
			}
			s.From = max(s.From, r.FromOffset)
			if r.ToOffset > 0 {
				s.To = min(s.To, r.ToOffset)
			}
		}
		if s.From < s.To {
			spans = append(spans, s)
		}
	}
	if _, ok := bounds[r.Partition]; r.Offsets && !ok {
		return nil, fmt.Errorf("%s has no partition %d: it has %d, from 0", topic, r.Partition, len(bounds))
	}
	slices.SortFunc(spans, func(a, b Span) int { return cmp.Compare(a.Partition, b.Partition) })
	return spans, nil
}

// wants reports whether a record can be of the range, by its envelope alone.
func (r *Range) wants(rec *queue.Record) bool {
	return len(r.Tenants) == 0 || slices.Contains(r.Tenants, tenant.ID(rec.Header(queue.HeaderTenant)))
}

// means reports whether a completion is of the range.
func (r *Range) means(c *survey.Completion) bool { return r.User == "" || c.UserID == r.User }
