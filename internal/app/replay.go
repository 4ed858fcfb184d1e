package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"refinersource/internal/attribution"
	"refinersource/internal/deadletter"
	"refinersource/internal/delivery"
	"refinersource/internal/queue"
	"refinersource/internal/replay"
	"refinersource/internal/segment"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// ReplayOptions of one member of a replay.
type ReplayOptions struct {
	Log    *queue.Log
	Topics queue.Topics
	Plan   replay.Plan
	// Tenants are followed while they change.
	Tenants func() *tenant.Registry
	Logger  *zap.Logger
	// OnCall is told of every accepted call; see worker.Options.
	OnCall func(tenant.ID, *attribution.Call)
	// OnFinished likewise of every event that is done with.
	OnFinished func(worker.Finished)
}

// Times of a replay.
const (
	liveTick = 2 * time.Second // between two looks at the live group
	// liveLag is how many events live traffic may be behind in a partition before the
	// replay lets it go first there.
	liveLag = 1000
)

// Replay is a member of a replay until all of it is done, by whichever members, or
// ctx ends; then it drains, and returns nil. What is left then another goes on with.
func Replay(ctx context.Context, o ReplayOptions) error {
	client, err := segment.New(segment.Options{Timeout: worker.DefaultRequestTimeout})
	if err != nil {
		return err
	}
	defer client.Close()
	letters := o.Log.Publisher(o.Topics.Dead(), queue.PublisherOptions{MaxRecordBytes: queue.DeadRecordBytes})
	live := &liveTraffic{log: o.Log, topic: o.Topics.Events(), group: o.Plan.Live}
	spans := make(map[int]worker.ReplaySpan, len(o.Plan.Spans))
	for _, s := range o.Plan.Spans {
		spans[s.Partition] = worker.ReplaySpan{From: s.From, To: s.To}
	}
	w, err := worker.New(worker.Options{
		Log:        o.Log,
		Topics:     o.Topics,
		Group:      o.Plan.Group(),
		Tenants:    asReplayed(o.Tenants, &o.Plan, afterLatest(&o.Plan)),
		Delivery:   delivery.Options{Sender: client},
		Letters:    deadletter.NewWriter(letters, o.Topics.Dead()),
		Logger:     o.Logger,
		OnCall:     o.OnCall,
		OnFinished: o.OnFinished,
		Receipts:   true,
		Replay:     &worker.Replay{ID: o.Plan.ID, Spans: spans, Wants: wants(o.Plan), Held: live.behind, Fold: fold(&o)},
	})
	if err != nil {
		return errors.Join(err, letters.Close())
	}
	watching, stop := context.WithCancel(ctx)
	var background sync.WaitGroup
	background.Go(func() { live.watch(watching, o.Logger) })
	err = w.Run(ctx)
	stop()
	background.Wait()
	if err = errors.Join(err, letters.Close()); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	return nil
}

// fold folds the partitions of a plan that is for the latest values, by the rules
// that are in force as it begins; nil for others.
func fold(o *ReplayOptions) func(context.Context, int) (worker.Folded, error) {
	if !o.Plan.Latest {
		return nil
	}
	folder := replay.NewFolder(replay.Scan{
		Log: o.Log, Topic: o.Topics.Events(), Range: replay.Range{Tenants: o.Plan.Tenants, User: o.Plan.User},
		Tenants: asReplayed(o.Tenants, &o.Plan, nil)(),
		OnGap: func(g *queue.GapError) {
			o.Logger.Error("events are gone from the log: their values are not in the fold",
				zap.Int("partition", g.Partition), zap.Int64("from", int64(g.From)), zap.Int64("to", int64(g.To)))
		},
	}, o.Plan.Spans)
	return func(ctx context.Context, partition int) (worker.Folded, error) {
		return folder.Partition(ctx, partition)
	}
}

// afterLatest changes the rules for what follows what was folded; nil where nothing
// is. Live traffic may have delivered it before: with the same message ids a receiver
// that drops repeats would be left with the older values of the fold. Track calls are
// history.
func afterLatest(p *replay.Plan) func(*attribution.Rules) {
	if !p.Latest {
		return nil
	}
	return func(r *attribution.Rules) {
		r.IDLabel = cmp.Or(p.Label, "after "+p.ID)
		r.Track = false
	}
}

// wants says which records a plan means.
func wants(p replay.Plan) func(*queue.Record) bool {
	return func(r *queue.Record) bool {
		if len(p.Tenants) > 0 && !slices.Contains(p.Tenants, tenant.ID(r.Header(queue.HeaderTenant))) {
			return false
		}
		if p.User == "" {
			return true
		}
		c, err := survey.Decode(survey.Source(r.Header(queue.HeaderSource)), r.Value)
		return err == nil && c.UserID == p.User
	}
}

// asReplayed gives the tenants the replay's rate and ids, and changes their rules. It
// makes a registry once for each that comes into force.
func asReplayed(now func() *tenant.Registry, p *replay.Plan, change func(*attribution.Rules)) func() *tenant.Registry {
	type made struct{ of, is *tenant.Registry }
	var last atomic.Pointer[made]
	return func() *tenant.Registry {
		current := now()
		if m := last.Load(); m != nil && m.of == current {
			return m.is
		}
		all := make([]tenant.Tenant, 0, current.Len())
		for t := range current.All() {
			changed := *t
			changed.Rules.IDLabel = p.Label
			if change != nil {
				change(&changed.Rules)
			}
			if p.Rate > 0 {
				changed.RateLimit = p.Rate
			} else if changed.RateLimit > 0 {
				changed.RateLimit = max(1, changed.RateLimit/2)
			}
			all = append(all, changed)
		}
		r, err := tenant.NewRegistry(all...)
		if err != nil {
			return current // it was in order, and a rate and a label change nothing of that
		}
		last.Store(&made{of: current, is: r})
		return r
	}
}

// liveTraffic knows where the live group is behind.
type liveTraffic struct {
	log          *queue.Log
	topic, group string
	late         atomic.Pointer[map[int]bool]
}

// behind reports whether live traffic has to go first in a partition.
func (l *liveTraffic) behind(partition int) bool {
	late := l.late.Load()
	return late != nil && (*late)[partition]
}

func (l *liveTraffic) watch(ctx context.Context, log *zap.Logger) {
	tick := time.NewTicker(liveTick)
	defer tick.Stop()
	for {
		if err := l.look(ctx); err != nil && ctx.Err() == nil {
			log.Warn("look how far live traffic is", zap.Error(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *liveTraffic) look(ctx context.Context) error {
	committed, err := l.log.Committed(ctx, l.group, l.topic)
	if err != nil {
		return err
	}
	bounds, err := l.log.Bounds(ctx, l.topic)
	if err != nil {
		return err
	}
	late := make(map[int]bool, len(committed))
	for p, c := range committed {
		late[p] = bounds[p].End-c.Offset > liveLag
	}
	l.late.Store(&late)
	return nil
}
