package worker

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"refinersource/internal/copies"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/redrive"
)

// fetchPart is the part of a window, one in so many, that a fetch asks for; decided, its
// events would take some four times as much. portionPart is the part that is decided
// ahead and handed over, by which a window may overrun.
const (
	fetchPart   = 8
	portionPart = 8
)

// fetched is what was read of the log up to an offset; 0 is up to its last event.
type fetched struct {
	events []*event
	next   lane.Offset
}

// fetch reads the partition from its start and decides what each event makes,
// until ctx ends.
func (p *partition) fetch(ctx context.Context, out chan<- fetched) {
	known := copies.New(copies.DefaultWindow)
	topic := p.w.o.Topics.Events()
	if err := known.Warm(ctx, p.w.o.Log, topic, p.id, p.start.Offset, p.start.Start); err != nil && ctx.Err() == nil {
		p.log.Warn("read what came before: copies of it would not be known", zap.Error(err))
	}
	// What is fetched waits beside the window until that has room.
	r := p.w.o.Log.Reader(topic, p.id, p.start.Offset, queue.ReaderOptions{MaxBytes: min(queue.DefaultMaxBytes, p.limits.WindowBytes/fetchPart)})
	for ctx.Err() == nil {
		before := r.Offset()
		b, err := r.Next(ctx)
		if gap, ok := errors.AsType[*queue.GapError](err); ok {
			// The log no longer has these events: said with their exact range,
			// never passed over in silence.
			p.w.lost(p.log, gap)
			r.SkipGap()
		} else if err != nil {
			if ctx.Err() == nil {
				p.log.Error("stop reading the partition; see `topics check` and the group's offsets", zap.Error(err))
				<-ctx.Done()
			}
			return
		}
		p.status.raiseEnd(int64(b.End))
		if r.Offset() == before {
			continue
		}
		for records := b.Records; ; {
			n, f, err := p.portion(ctx, known, records)
			if err != nil {
				if ctx.Err() == nil {
					p.log.Error("stop reading the partition; see `topics check`", zap.Error(err))
					<-ctx.Done()
				}
				return
			}
			clear(records[:n]) // the events have them now
			if records = records[n:]; len(records) == 0 {
				f.next = lane.Offset(r.Offset())
			}
			select {
			case out <- f:
			case <-ctx.Done():
				return
			}
			if len(records) == 0 {
				break
			}
		}
	}
}

// portion decides what the first of these records make, as many as a part of the window
// takes: what waits beside it is not yet decided, which would make much more of it.
func (p *partition) portion(ctx context.Context, known *copies.Window, records []queue.Record) (n int, f fetched, err error) {
	tenants, skips, bytes := p.w.o.Tenants(), *p.skips.Load(), 0
	for n < len(records) && (n == 0 || bytes < p.limits.WindowBytes/portionPart) {
		e := newEvent(records[n])
		n++
		e.copied = known.Add(&e.record)
		if !p.replay.includes(&e.record, true) {
			continue
		}
		if e.redriven, err = redrive.Read(ctx, p.w.o.Log, records[:n]); err != nil {
			return n, f, err
		}
		// What will be skipped need not be decided; it is when it comes again.
		if _, skip := skips[e.owner]; !skip {
			p.decide(e, tenants)
		}
		bytes += e.bytes
		f.events = append(f.events, e)
	}
	return n, f, nil
}
