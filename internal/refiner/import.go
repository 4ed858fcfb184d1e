package refiner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"refinersource/internal/ingress"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

const (
	// DefaultMaxDayBytes bounds the responses of one day, which are sorted in memory.
	DefaultMaxDayBytes = 256 << 20

	oneDay = 24 * time.Hour
	// settled is when a day's responses are all there, wherever the project's day
	// begins.
	settled = 2 * oneDay
	// stepEvents are published before the state is saved.
	stepEvents  = 500
	concurrency = 64
)

// Publisher appends a record to the log and returns its position when all in-sync
// replicas have it; an error promises nothing.
type Publisher interface {
	Publish(ctx context.Context, r queue.Record) (queue.Position, error)
}

// State is how far an import is: all responses before the day are in the log, and
// those of the day up to, and with, the one that At and ID tell.
type State struct {
	Day time.Time
	At  time.Time
	ID  string
}

// passed tells whether the log has the response.
func (s *State) passed(r *Response) bool {
	return !s.At.IsZero() && r.before(s.At, s.ID) <= 0
}

// Progress is what an import has done in this run.
type Progress struct {
	Day       time.Time // that is being read
	Published int
	Rejected  int // that the ingress would not take
	Skipped   int // that were in the log by the state
}

// Import puts a tenant's responses into the log. Client, Tenant, Since, Until and
// either Publisher or Print are required.
type Import struct {
	Client    *Client
	Tenant    *tenant.Tenant
	Publisher Publisher
	// Print gets the events instead of the log, one after another.
	Print func(raw []byte) error

	Since, Until time.Time // first day, and the day after the last
	State        State     // of an earlier run; its zero value begins at Since
	// Save keeps the state. It is called after each step that the log has
	// acknowledged.
	Save func(State) error
	// OnRejected is told each response that the ingress would not take.
	OnRejected func(id string, err error)
	OnProgress func(Progress)
	// MaxDayBytes bounds the responses of a day; 0 is DefaultMaxDayBytes.
	MaxDayBytes int

	progress Progress
}

// Run imports day by day, the days in order and the responses of a day in the order
// in which Refiner received them: what a user said last comes last into the log
// (invariant 3). Of several runs each goes on where the state says. What was
// published after the last state is published again, which the events' ids make
// harmless.
func (i *Import) Run(ctx context.Context) (Progress, error) {
	i.defaults()
	day := i.Since
	if i.State.Day.After(day) {
		day = i.State.Day
	}
	for ; day.Before(i.Until); day = day.Add(oneDay) {
		i.progress.Day = day
		i.OnProgress(i.progress)
		responses, err := i.read(ctx, day)
		if err != nil {
			return i.progress, fmt.Errorf("read the responses of %s: %w", day.Format(time.DateOnly), err)
		}
		if !i.State.Day.Equal(day) {
			i.State = State{Day: day}
		}
		if err := i.publishDay(ctx, responses); err != nil {
			return i.progress, fmt.Errorf("publish the responses of %s: %w", day.Format(time.DateOnly), err)
		}
		if next := day.Add(oneDay); time.Since(day) >= settled+oneDay {
			i.State = State{Day: next}
			if err := i.save(); err != nil {
				return i.progress, err
			}
		}
	}
	return i.progress, i.finish()
}

func (i *Import) defaults() {
	if i.Save == nil {
		i.Save = func(State) error { return nil }
	}
	if i.OnRejected == nil {
		i.OnRejected = func(string, error) {}
	}
	if i.OnProgress == nil {
		i.OnProgress = func(Progress) {}
	}
	if i.MaxDayBytes == 0 {
		i.MaxDayBytes = DefaultMaxDayBytes
	}
}

// finish makes the next run read the last days again: more may come for them.
func (i *Import) finish() error {
	now := time.Now().UTC().Truncate(oneDay)
	if open := now.Add(-settled); i.State.Day.After(open) {
		i.State = State{Day: open}
		return i.save()
	}
	return nil
}

func (i *Import) save() error {
	if err := i.Save(i.State); err != nil {
		return fmt.Errorf("save the state: %w", err)
	}
	return nil
}

// read returns the day's responses in order, each once.
func (i *Import) read(ctx context.Context, day time.Time) ([]Response, error) {
	query := Query{From: day, To: day.Add(oneDay), Partials: i.Tenant.Rules.Partials}
	var all []Response
	size, cursor := 0, ""
	seen := map[string]struct{}{}
	for {
		page, err := i.Client.Page(ctx, query, cursor)
		if err != nil {
			return nil, err
		}
		for n := range page.Responses {
			r := &page.Responses[n]
			if r.At.Before(day.Add(-oneDay)) || r.At.After(day.Add(2*oneDay)) {
				return nil, badPage(fmt.Sprintf("items[%d].last_data_reception_at", n), "is "+r.At.Format(time.DateTime),
					"one of the day that date_range_start and date_range_end ask for")
			}
			if size += len(r.Raw); size > i.MaxDayBytes {
				return nil, fmt.Errorf("they are over %d bytes, and are sorted in memory: allow more with --max-day-bytes", i.MaxDayBytes)
			}
		}
		all = append(all, page.Responses...)
		if cursor = page.Next; cursor == "" {
			break
		}
		if _, ok := seen[cursor]; ok {
			return nil, badPage("pagination.next_page_cursor", "leads back to a page that was read", "that of the next page")
		}
		seen[cursor] = struct{}{}
	}
	slices.SortStableFunc(all, func(a, b Response) int { return a.before(b.At, b.ID) })
	// A page may begin with what the one before ended with, if a response came in between.
	return slices.CompactFunc(all, func(a, b Response) bool { return a.before(b.At, b.ID) == 0 }), nil
}

func (i *Import) publishDay(ctx context.Context, responses []Response) error {
	from := slices.IndexFunc(responses, func(r Response) bool { return !i.State.passed(&r) })
	if from < 0 {
		from = len(responses)
	}
	i.progress.Skipped += from
	for step := range slices.Chunk(responses[from:], stepEvents) {
		if err := i.publish(ctx, step); err != nil {
			return err
		}
		last := &step[len(step)-1]
		i.State.At, i.State.ID = last.At, last.ID
		if err := i.save(); err != nil {
			return err
		}
		i.OnProgress(i.progress)
	}
	return nil
}

// publish appends the events to the log as the ingress does: those of one key one
// after another, others side by side.
func (i *Import) publish(ctx context.Context, responses []Response) error {
	chains := make(map[string][]event, len(responses))
	var keys []string // in the order of the responses
	for n := range responses {
		r := &responses[n]
		record, err := ingress.Record(i.Tenant, r.Raw, time.Now())
		if err != nil {
			i.reject(r.ID, err)
			continue
		}
		if i.Print != nil {
			if err := i.Print(r.Raw); err != nil {
				return err
			}
			i.progress.Published++
			continue
		}
		key := string(record.Key)
		if chains[key] == nil {
			keys = append(keys, key)
		}
		chains[key] = append(chains[key], event{record: record, id: r.ID})
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(concurrency)
	for _, key := range keys {
		g.Go(func() error { return i.publishChain(ctx, chains[key]) })
	}
	err := g.Wait()
	for _, chain := range chains {
		for _, e := range chain {
			switch {
			case e.published:
				i.progress.Published++
			case e.rejected != nil:
				i.reject(e.id, e.rejected)
			}
		}
	}
	return err
}

// event is an event on its way into the log.
type event struct {
	record    queue.Record
	id        string
	published bool
	rejected  error
}

// publishChain ends with the first event that is not acknowledged: a later one of
// the same user would overtake it.
func (i *Import) publishChain(ctx context.Context, chain []event) error {
	for n := range chain {
		e := &chain[n]
		switch _, err := i.Publisher.Publish(ctx, e.record); {
		case err == nil:
			e.published = true
		case errors.Is(err, queue.ErrTooLarge):
			e.rejected = err
		default:
			return err
		}
	}
	return nil
}

func (i *Import) reject(id string, err error) {
	i.progress.Rejected++
	i.OnRejected(id, err)
}
