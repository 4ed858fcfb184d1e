package redrive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/copies"
	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// patience is how long a partition may give nothing, with records before its end.
const patience = 30 * time.Second

// scan follows a partition from the first of the letters' events on, and knows what
// newer ones have set.
type scan struct {
	plan      *Plan
	partition int
	items     map[string][]*Item      // by key
	delivered map[queue.Position]bool // of events that became letters
	reader    *queue.Reader
	known     *copies.Window        // nil until it is warm
	past      map[string][]redriven // of these keys, what has been read
}

// redriven is what is remembered of a record: enough to say whether a mark holds.
type redriven struct {
	at    queue.Offset
	first queue.Offset // its place in the order of its user
	mark  bool
}

func newScan(p *Plan, partition int, from queue.Offset, delivered map[queue.Position]bool) *scan {
	return &scan{
		plan: p, partition: partition, items: make(map[string][]*Item), delivered: delivered, past: make(map[string][]redriven),
		reader: p.o.Log.Reader(p.o.Topics.Events(), partition, from, queue.ReaderOptions{}),
	}
}

// follow reads up to an offset.
func (s *scan) follow(ctx context.Context, to queue.Offset) error {
	if s.known == nil {
		s.known = copies.New(copies.DefaultWindow)
		if err := s.known.Warm(ctx, s.plan.o.Log, s.plan.o.Topics.Events(), s.partition, s.reader.Offset(), 0); err != nil {
			return err
		}
	}
	for s.reader.Offset() < to {
		b, err := s.next(ctx)
		if errors.Is(err, queue.ErrGap) {
			s.reader.SkipGap() // as New has allowed
			continue
		}
		if err != nil {
			return err
		}
		for i := range b.Records {
			s.take(&b.Records[i])
		}
	}
	return nil
}

func (s *scan) next(ctx context.Context) (queue.Batch, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.reader.Next(ctx)
}

// take takes in one record.
func (s *scan) take(r *queue.Record) {
	copied := s.known.Add(r) // of each: a copy of what is not looked at is none of what is
	items := s.items[string(r.Key)]
	if len(items) == 0 {
		return
	}
	m, err := MarkOf(r)
	x := redriven{at: r.Offset, first: r.Offset, mark: m != nil}
	holds := err == nil
	if m != nil {
		x.first = m.First
		holds = !s.missed(r, m) && !s.plan.o.Shelf.WasOutdated(r.Partition, r.Offset)
	}
	s.past[string(r.Key)] = append(s.past[string(r.Key)], x)
	if copied || !holds {
		return // it makes no call
	}
	for _, i := range items {
		if m != nil && m.Of == i.Origin.Offset {
			i.stays(UnderWay, "", fmt.Sprintf("it was put back at %d:%d, and is not finished yet", r.Partition, r.Offset))
		}
	}
	if delivered, dead := s.delivered[r.Position]; dead && !delivered {
		return
	}
	said := s.plan.say(r)
	if said == nil {
		return
	}
	for _, i := range items {
		if x.first > i.First {
			i.Newer++
			i.Since.Add(&i.said, said)
		}
	}
}

// missed is Mark.missed over what has been read.
func (s *scan) missed(r *queue.Record, m *Mark) bool {
	if r.Offset-m.Seen > MaxBehind {
		return true
	}
	return slices.ContainsFunc(s.past[string(r.Key)], func(x redriven) bool {
		return x.at >= m.Seen && (!x.mark || x.first >= m.First)
	})
}

// say is what an event says by the rules of today; nil if it makes no call.
func (p *Plan) say(r *queue.Record) *attribution.Said {
	t, ok := p.o.Tenants.Get(tenant.ID(r.Header(queue.HeaderTenant)))
	if !ok {
		return nil
	}
	c, err := survey.Decode(survey.Source(r.Header(queue.HeaderSource)), r.Value)
	if err != nil {
		return nil
	}
	said, ok := attribution.Say(&c, &t.Rules)
	if !ok {
		return nil
	}
	return &said
}

// letter reads an item's letter again.
func (s *scan) letter(ctx context.Context, i *Item) (*deadletter.Letter, error) {
	f, err := s.plan.o.Shelf.At(ctx, i.Letter.Partition, i.Letter.Offset)
	if err == nil {
		err = f.Fault
	}
	return &f.Letter, err
}

// redrive puts an item back, if it goes; false if it does not. What comes into the log
// while it is published is read then: where its mark does not hold for that reason, so
// that no worker takes it, it is published again.
func (s *scan) redrive(ctx context.Context, i *Item, publisher Publisher) (bool, error) {
	if i.Fate != Goes {
		return false, nil
	}
	l, err := s.letter(ctx, i)
	if err != nil {
		return false, err
	}
	for range most {
		if s.plan.judge(i, l); i.Fate != Goes {
			return false, nil
		}
		at, err := publisher.Publish(ctx, s.record(i, l))
		if err != nil {
			return false, err
		}
		if at.Partition != s.partition {
			return false, fmt.Errorf("it came into partition %d, and its user's events stand in %d: the topic's number of partitions has changed", at.Partition, s.partition)
		}
		if err := s.follow(ctx, at.Offset+1); err != nil {
			return false, err
		}
		if i.Fate == UnderWay {
			return true, nil
		}
	}
	return false, errors.New("newer events of its user keep coming; run the same command again")
}

// record is the event as it goes back.
func (s *scan) record(i *Item, l *deadletter.Letter) queue.Record {
	m := Mark{Of: i.Origin.Offset, First: i.First, Seen: s.reader.Offset(), Rules: i.label, Since: i.Since}
	r := queue.Record{
		Key:   l.Key,
		Value: l.Raw,
		Headers: []queue.Header{
			{Key: queue.HeaderTenant, Value: []byte(l.Tenant)},
			{Key: queue.HeaderSource, Value: []byte(l.Source)},
			{Key: queue.HeaderEventID, Value: []byte(l.EventID)},
			{Key: queue.HeaderRedrive, Value: m.text()},
		},
		Time: time.Now(),
	}
	if !l.ReceivedAt.IsZero() {
		r.Headers = append(r.Headers, queue.Header{Key: queue.HeaderReceivedAt, Value: l.ReceivedAt.AppendFormat(nil, time.RFC3339Nano)})
	}
	if l.Traceparent != "" {
		r.Headers = append(r.Headers, queue.Header{Key: queue.HeaderTraceparent, Value: []byte(l.Traceparent)})
	}
	return r
}
