package replay

import (
	"cmp"
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

// Plan is what a replay sends again. It stands in the topic of replays under its
// id, so that every member of the replay, also one that is started again, has the
// same one.
type Plan struct {
	Version int         `json:"version"` // 1
	ID      string      `json:"id"`
	Created time.Time   `json:"created_at"`
	Tenants []tenant.ID `json:"tenants,omitzero"` // none are all
	User    string      `json:"user,omitzero"`
	Spans   []Span      `json:"spans"`
	// Latest says that the spans are folded: see Folder.
	Latest bool `json:"latest,omitzero"`
	// Label makes other message ids; "" leaves those of the first delivery.
	Label string `json:"new_ids,omitzero"`
	// Rate is how many calls a second go to a tenant, over all members; 0 is half of
	// its own limit.
	Rate int `json:"rate,omitzero"`
	// Live is the group whose traffic goes first.
	Live string `json:"live_group"`
}

const planVersion = 1

var planIDs = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// Validate reports all that is wrong.
func (p *Plan) Validate() error {
	var errs []error
	if p.Version != planVersion {
		errs = append(errs, fmt.Errorf("the replay's plan has version %d, want %d: use the program that made it", p.Version, planVersion))
	}
	if !planIDs.MatchString(p.ID) {
		errs = append(errs, fmt.Errorf("the replay's id is %q; give lower-case letters, digits, - and _, at most 63", p.ID))
	}
	if p.Rate < 0 {
		errs = append(errs, fmt.Errorf("the replay's rate is %d; give calls a second, or 0", p.Rate))
	}
	for _, s := range p.Spans {
		if s.From < 0 || s.To <= s.From {
			errs = append(errs, fmt.Errorf("the replay's span %d to %d of partition %d is none", s.From, s.To, s.Partition))
		}
	}
	return errors.Join(errs...)
}

// Group is the consumer group of the replay's members.
func (p *Plan) Group() string { return p.Live + ".replay." + p.ID }

// Events is how many places of the log the plan has.
func (p *Plan) Events() (n int64) {
	for _, s := range p.Spans {
		n += int64(s.To - s.From)
	}
	return n
}

// Errors of plans.
var (
	ErrExists  = errors.New("there is a replay with this id")
	ErrNoPlan  = errors.New("there is no replay with this id")
	errPartial = errors.New("the topic of replays cannot be read to its end")
)

// planPatience bounds how long is read for plans.
const planPatience = 30 * time.Second

// Plans reads all plans, the oldest first.
func Plans(ctx context.Context, log *queue.Log, topics queue.Topics) ([]Plan, error) {
	ctx, cancel := context.WithTimeout(ctx, planPatience)
	defer cancel()
	topic := topics.Replays()
	bounds, err := log.Bounds(ctx, topic)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]Plan)
	r := log.Reader(topic, 0, bounds[0].Start, queue.ReaderOptions{})
	for r.Offset() < bounds[0].End {
		before := r.Offset()
		b, err := r.Next(ctx)
		if errors.Is(err, queue.ErrGap) {
			r.SkipGap() // the topic is compacted
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the replays: %w", err)
		}
		for i := range b.Records {
			var p Plan
			if err := json.Unmarshal(b.Records[i].Value, &p); err != nil {
				return nil, fmt.Errorf("read the replay at offset %d of %s: %w", b.Records[i].Offset, topic, err)
			}
			byID[p.ID] = p
		}
		if r.Offset() == before && ctx.Err() != nil {
			return nil, errPartial
		}
	}
	return slices.SortedFunc(maps.Values(byID), func(a, b Plan) int { return a.Created.Compare(b.Created) }), nil
}

// Find returns the plan with the id; ErrNoPlan if there is none.
func Find(ctx context.Context, log *queue.Log, topics queue.Topics, id string) (Plan, error) {
	plans, err := Plans(ctx, log, topics)
	if err != nil {
		return Plan{}, err
	}
	for _, p := range plans {
		if p.ID == id {
			return p, p.Validate()
		}
	}
	return Plan{}, fmt.Errorf("%w: %s", ErrNoPlan, id)
}

// Save writes a new plan; ErrExists if there is one of its id.
func Save(ctx context.Context, log *queue.Log, topics queue.Topics, p *Plan) error {
	p.Version = planVersion
	if err := p.Validate(); err != nil {
		return err
	}
	if _, err := Find(ctx, log, topics, p.ID); !errors.Is(err, ErrNoPlan) {
		return cmp.Or(err, fmt.Errorf("%w: %s", ErrExists, p.ID))
	}
	value, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("write the replay: %w", err)
	}
	publisher := log.Publisher(topics.Replays(), queue.PublisherOptions{})
	_, err = publisher.Publish(ctx, queue.Record{Key: []byte(p.ID), Value: value, Time: p.Created})
	if err = errors.Join(err, publisher.Close()); err != nil {
		return fmt.Errorf("write the replay: %w", err)
	}
	return nil
}

// Progress is how far a replay is.
type Progress struct {
	Done, All int64 // places of the log within the plan; what waits does not count as left
	Waiting   int   // tenants whose deliveries are suspended
	Over      bool  // nothing is left to do, also of what came after the plan's end
}

// Progress reads how far the replay's members are.
func (p *Plan) Progress(ctx context.Context, log *queue.Log, topics queue.Topics) (Progress, error) {
	committed, err := log.Committed(ctx, p.Group(), topics.Events())
	if err != nil {
		return Progress{}, err
	}
	progress := Progress{All: p.Events(), Over: true}
	waiting := make(map[lane.Tag]struct{})
	for _, s := range p.Spans {
		c, ok := committed[s.Partition]
		if !ok {
			progress.Over = false
			continue
		}
		m, err := lane.Decode(c.Metadata)
		if err != nil {
			return Progress{}, fmt.Errorf("read the commit of partition %d: %w", s.Partition, err)
		}
		done := c.Offset
		for _, c := range m.Cursors {
			if c.Cause == lane.CauseSlow { // it is under way, as far as a limit lets it
				done = min(done, queue.Offset(c.From))
			} else {
				waiting[c.Tag] = struct{}{}
			}
		}
		progress.Done += int64(min(max(done, s.From), s.To) - s.From)
		progress.Over = progress.Over && m.Owner == lane.Finished
	}
	progress.Waiting = len(waiting)
	return progress, nil
}
