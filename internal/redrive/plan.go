package redrive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"refinersource/internal/attribution"
	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// Fate is what is to become of a letter. The set is closed.
type Fate string

// The fates.
const (
	// Goes: the event makes calls now, or newer completions have set all that it
	// could; it is put back.
	Goes Fate = "redrive"
	// StillDead: it would be a dead letter again.
	StillDead Fate = "still_dead"
	// NoCalls: by the rules of today it makes none.
	NoCalls Fate = "no_calls"
	// UnderWay: it was put back before, and has no outcome yet.
	UnderWay Fate = "under_way"
	// Delivered: the event was delivered all the same.
	Delivered Fate = "delivered"
	// Moved: its user's events stand in another partition now.
	Moved Fate = "moved"
	// Unknown: events that came after it are gone from the log, or have another key since
	// the rules have changed, so that nobody can tell what newer ones have set.
	Unknown Fate = "unknown_since"
)

// Item is a letter in the plan.
type Item struct {
	Tenant  string
	EventID string
	Reason  deadletter.Reason // of the letter
	Letter  queue.Position
	Origin  queue.Position
	First   queue.Offset // where the event first stood

	Fate   Fate
	Why    string // of an event that does not go: the reason, or what it is ignored for
	Detail string // for people
	Newer  int    // completions under its key that came later, but those that are dead
	Since  attribution.Since

	key   string
	said  attribution.Said
	at    time.Time // when the event was accepted
	label string    // of the rules
}

// LeftOut is how many of the event's traits newer completions have set.
func (i *Item) LeftOut() int { return len(i.Since.User) + len(i.Since.Account) }

// Superseded reports whether nothing of the event is left to send.
func (i *Item) Superseded() bool { return i.Fate == Goes && i.Why == string(attribution.Superseded) }

// Options of a plan. All but AllowStale are needed.
type Options struct {
	Log    *queue.Log
	Topics queue.Topics
	// Tenants have the rules, which must be those of the workers.
	Tenants *tenant.Registry
	Shelf   *deadletter.Shelf
	// AllowStale puts letters back although it is not known what newer events have set:
	// that may be set to older values.
	AllowStale bool
}

// Plan says which letters are put back, and does it. Its memory is that of the
// letters without their bytes.
type Plan struct {
	o     Options
	Items []*Item // by partition and offset of their events
	scans map[int]*scan
}

// New makes the plan for letters, each of which it is given by each. Those that are
// resolved, and those that cannot be read, are left out; of several letters of one
// event the last counts.
func New(ctx context.Context, o Options, each func(context.Context, func(deadletter.Found) error) error) (*Plan, error) {
	p := &Plan{o: o, scans: make(map[int]*scan)}
	bounds, err := o.Log.Bounds(ctx, o.Topics.Events())
	if err != nil {
		return nil, fmt.Errorf("plan redrive: %w", err)
	}
	items := make(map[queue.Position]*Item)
	err = each(ctx, func(f deadletter.Found) error {
		if f.Fault == nil && !f.Resolved() {
			items[f.Origin] = p.item(&f, bounds)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, i := range items {
		p.Items = append(p.Items, i)
	}
	slices.SortFunc(p.Items, func(a, b *Item) int {
		return cmp.Or(cmp.Compare(a.Origin.Partition, b.Origin.Partition), cmp.Compare(a.First, b.First), cmp.Compare(a.Origin.Offset, b.Origin.Offset))
	})
	if err := p.look(ctx, bounds); err != nil {
		return nil, fmt.Errorf("plan redrive: %w", err)
	}
	return p, nil
}

// item is a letter, judged by itself.
func (p *Plan) item(f *deadletter.Found, bounds map[int]queue.Bounds) *Item {
	i := &Item{
		Tenant: f.Tenant, EventID: f.EventID, Reason: f.Reason, Letter: f.Position, Origin: f.Origin, First: f.FirstOffset(),
		key: string(f.Key), at: f.ReceivedAt,
	}
	b, there := bounds[f.Origin.Partition]
	switch {
	case !there || f.Origin.Topic != p.o.Topics.Events() || i.First >= b.End || queue.PartitionOf(f.Key, len(bounds)) != f.Origin.Partition:
		i.stays(Moved, "", "the event stood in another topic or partition than its user's events do now")
		return i
	case b.Start > i.First+1 && !p.o.AllowStale:
		i.stays(Unknown, "", "events that came after it are gone from the log: what newer ones have set is not known")
		return i
	}
	p.judge(i, &f.Letter)
	return i
}

// judge says what an event makes after what is known of newer ones.
func (p *Plan) judge(i *Item, l *deadletter.Letter) {
	i.Fate, i.Why, i.Detail = Goes, "", ""
	t, ok := p.o.Tenants.Get(tenant.ID(l.Tenant))
	if !ok {
		i.stays(StillDead, string(deadletter.UnknownTenant), "the tenants file has no tenant of this id")
		return
	}
	c, err := survey.Decode(survey.Source(l.Source), l.Raw)
	if err != nil {
		i.dies(err)
		return
	}
	i.said, _ = attribution.Say(&c, &t.Rules)
	i.label = RulesOf(t)
	if !p.o.AllowStale && !hasKey(l, t.Rules.OrderKey(c.UserID, c.AnonymousID, c.AccountID)) {
		i.stays(Unknown, "", "newer events of its user have another key than it has: what they have set is not known")
		return
	}
	res, err := attribution.AttributeSince(c, &t.Rules, l.Tenant, l.ReceivedAt, &i.Since)
	switch {
	case err != nil:
		i.dies(err)
	case res.Ignored == attribution.Superseded:
		i.Why = string(res.Ignored)
	case res.Ignored != survey.NotIgnored:
		i.stays(NoCalls, string(res.Ignored), "by the rules of today it makes no call")
	}
}

// hasKey reports whether new events that are kept in order by this have the letter's
// key, as the ingress makes it: of a long id its hash.
func hasKey(l *deadletter.Letter, order string) bool {
	_, id, known := strings.Cut(order, ":")
	key := string(l.Key)
	return !known || key == l.Tenant+"/"+id || strings.HasPrefix(key, l.Tenant+"/sha256:")
}

func (i *Item) stays(f Fate, why, detail string) { i.Fate, i.Why, i.Detail = f, why, detail }

func (i *Item) dies(err error) {
	reason := survey.Undecodable
	if f, ok := errors.AsType[*survey.Fault](err); ok {
		reason = f.Reason
	}
	i.stays(StillDead, string(reason), err.Error())
}

// readers is how many partitions are worked on side by side.
const readers = 4

// look reads, in each partition, what came after the events.
func (p *Plan) look(ctx context.Context, bounds map[int]queue.Bounds) error {
	delivered, err := p.ends(ctx)
	if err != nil {
		return err
	}
	for _, i := range p.Items {
		if i.Fate == Moved || i.Fate == Unknown {
			continue
		}
		if delivered[i.Origin] {
			i.stays(Delivered, "", "it was delivered all the same, when it was taken again after a crash; discard the letter")
			continue
		}
		s := p.scans[i.Origin.Partition]
		if s == nil {
			s = newScan(p, i.Origin.Partition, max(i.First+1, bounds[i.Origin.Partition].Start), delivered)
			p.scans[i.Origin.Partition] = s
		}
		s.items[i.key] = append(s.items[i.key], i)
	}
	return p.sideBySide(ctx, func(ctx context.Context, s *scan) error {
		if err := s.follow(ctx, bounds[s.partition].End); err != nil {
			return err
		}
		for _, i := range p.of(s.partition) {
			if i.Newer == 0 || i.Fate == UnderWay {
				continue
			}
			l, err := s.letter(ctx, i)
			if err != nil {
				return err
			}
			p.judge(i, l)
		}
		return nil
	})
}

// ends says of the events of the letters' users which became letters, and whether they
// were delivered all the same. Those that were not have set nothing.
func (p *Plan) ends(ctx context.Context) (map[queue.Position]bool, error) {
	if len(p.Items) == 0 {
		return map[queue.Position]bool{}, nil
	}
	keys, since := make(map[string]struct{}), p.Items[0].at
	for _, i := range p.Items {
		keys[i.key] = struct{}{}
		if i.at.Before(since) {
			since = i.at
		}
	}
	return deadletter.Ends(ctx, p.o.Log, p.o.Topics, since, func(key []byte) bool {
		_, ok := keys[string(key)]
		return ok
	})
}

// of are the items of a partition.
func (p *Plan) of(partition int) []*Item {
	from, _ := slices.BinarySearchFunc(p.Items, partition, func(i *Item, n int) int { return cmp.Compare(i.Origin.Partition, n) })
	to, _ := slices.BinarySearchFunc(p.Items, partition+1, func(i *Item, n int) int { return cmp.Compare(i.Origin.Partition, n) })
	return p.Items[from:to]
}

func (p *Plan) sideBySide(ctx context.Context, f func(context.Context, *scan) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, s := range p.scans {
		g.Go(func() error { return f(ctx, s) })
	}
	return g.Wait()
}

// Publisher appends a record to the log of events.
type Publisher = deadletter.Publisher

// most is how often a letter is put back that was overtaken by newer events of its
// user while that was done.
const most = 20

// Run puts back the letters that go, those of a user in the order of their events, and
// returns how many there have been. It may be ended at any time and run again: a new
// plan finds in the log what this one has done.
func (p *Plan) Run(ctx context.Context, publisher Publisher) (int, error) {
	var mu sync.Mutex
	done := 0
	bounds, err := p.o.Log.Bounds(ctx, p.o.Topics.Events())
	if err != nil {
		return 0, fmt.Errorf("redrive: %w", err)
	}
	err = p.sideBySide(ctx, func(ctx context.Context, s *scan) error {
		if err := s.follow(ctx, bounds[s.partition].End); err != nil {
			return fmt.Errorf("redrive: %w", err)
		}
		for _, i := range p.of(s.partition) {
			sent, err := s.redrive(ctx, i, publisher)
			if err != nil {
				return fmt.Errorf("redrive the letter at %d:%d: %w", i.Letter.Partition, i.Letter.Offset, err)
			}
			if sent {
				mu.Lock()
				done++
				mu.Unlock()
			}
		}
		return nil
	})
	return done, err
}
