package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// Defaults of a Group.
const (
	DefaultSessionTimeout    = 30 * time.Second
	DefaultHeartbeatInterval = 3 * time.Second
	DefaultRebalanceTimeout  = 30 * time.Second
	DefaultJoinBackoff       = 500 * time.Millisecond
)

// partitionCheck is how often a member looks whether the topic has got more
// partitions. It costs no request.
const partitionCheck = 5 * time.Second

// GroupOptions are what a member of a consumer group needs.
type GroupOptions struct {
	ID    string
	Topic string
	// SessionTimeout is after how long without a heartbeat the member is taken for
	// dead; 0 is DefaultSessionTimeout.
	SessionTimeout    time.Duration
	HeartbeatInterval time.Duration // 0 is DefaultHeartbeatInterval; at most a third of SessionTimeout
	// RebalanceTimeout is how long a rebalance waits for its members; 0 is
	// DefaultRebalanceTimeout.
	RebalanceTimeout time.Duration
	JoinBackoff      time.Duration // between attempts to join; 0 is DefaultJoinBackoff
	// OnError is told why joining failed, each time, before it is tried again, and
	// why leaving did. It must not block. nil drops it.
	OnError func(error)
}

// DrainBudget is how long a handler may take to return when its context is done:
// a third of RebalanceTimeout. One that takes longer may be put out of the group.
func (o GroupOptions) DrainBudget() time.Duration { return o.withDefaults().RebalanceTimeout / 3 }

// Validate reports all faults of the options at once.
func (o GroupOptions) Validate() error {
	o = o.withDefaults()
	var errs []error
	if o.ID == "" {
		errs = append(errs, errors.New("no group id"))
	}
	if o.Topic == "" {
		errs = append(errs, errors.New("no topic"))
	}
	for _, d := range []time.Duration{o.SessionTimeout, o.HeartbeatInterval, o.RebalanceTimeout, o.JoinBackoff} {
		if d < time.Millisecond {
			errs = append(errs, fmt.Errorf("timeout %v: want at least 1ms", d))
		}
	}
	if o.HeartbeatInterval > o.SessionTimeout/3 {
		errs = append(errs, fmt.Errorf("heartbeat interval %v: want at most a third of the session timeout %v", o.HeartbeatInterval, o.SessionTimeout))
	}
	// No heartbeats are sent while a member drains for a rebalance.
	if o.RebalanceTimeout/3 > o.SessionTimeout {
		errs = append(errs, fmt.Errorf("rebalance timeout %v: want at most three times the session timeout %v", o.RebalanceTimeout, o.SessionTimeout))
	}
	return errors.Join(errs...)
}

func (o GroupOptions) withDefaults() GroupOptions {
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{
		{&o.SessionTimeout, DefaultSessionTimeout},
		{&o.HeartbeatInterval, DefaultHeartbeatInterval},
		{&o.RebalanceTimeout, DefaultRebalanceTimeout},
		{&o.JoinBackoff, DefaultJoinBackoff},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	return o
}

// Group is a member of a consumer group of one topic.
type Group struct {
	log  *Log
	opts GroupOptions
}

// Group makes a member. Run makes it join.
func (l *Log) Group(o GroupOptions) (*Group, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("consumer group: %w", err)
	}
	l.transport.know(o.Topic)
	return &Group{log: l, opts: o.withDefaults()}, nil
}

// Run is a member of the group until ctx ends, then leaves it and returns nil.
// Joining is tried again for ever; each failure goes to OnError. Run itself fails
// only with ErrRefused, before it joins.
//
// In each generation it calls handle with what the member is assigned, one call at
// a time. The context of handle is done when the generation is to end (its cause
// matches ErrGenerationEnded) or ctx does (its cause is that of ctx). Then handle
// drains: it finishes what is in flight, commits, with another context, and returns
// within the drain budget. Heartbeats go on while it drains because ctx ended, not
// while it drains for a rebalance.
//
// Heartbeats do not depend on progress: a handler that is stuck keeps its
// partitions for ever, so it has to watch itself. One that returns before its
// context is done ends the generation, after JoinBackoff.
func (g *Group) Run(ctx context.Context, handle func(ctx context.Context, g *Generation)) error {
	// A topic that does not exist would give the group an empty assignment for ever.
	m := &membership{group: g, handle: handle}
	err := retry(ctx, g.onError, func() (err error) {
		m.partitions, err = g.log.Partitions(ctx, g.opts.Topic)
		return err
	})
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil //nolint:nilerr // it was ended while it waited for the topic
	default:
		return fmt.Errorf("join group %s: %w", g.opts.ID, err)
	}
	cg, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID:                g.opts.ID,
		Brokers:           g.log.opts.Brokers,
		Dialer:            g.log.dialer,
		Topics:            []string{g.opts.Topic},
		HeartbeatInterval: g.opts.HeartbeatInterval,
		SessionTimeout:    g.opts.SessionTimeout,
		RebalanceTimeout:  g.opts.RebalanceTimeout,
		JoinGroupBackoff:  g.opts.JoinBackoff,
		ErrorLogger:       g.log.errorLog,
	})
	if err != nil {
		return fmt.Errorf("join group %s: %w: %w", g.opts.ID, ErrRefused, err)
	}
	m.run(ctx, cg)
	return nil
}

func (g *Group) onError(err error) {
	if g.opts.OnError != nil {
		g.opts.OnError(err)
	}
}

// membership is one Run. kafka-go runs its generations one after another.
type membership struct {
	group      *Group
	handle     func(context.Context, *Generation)
	partitions int // of the topic, when it was last looked at
}

// run takes the generations as they come: kafka-go would wait for ever for one
// that nobody takes. When ctx ends, the generation's handler drains first, while
// its heartbeats go on; then Close leaves the group and waits for kafka-go.
func (m *membership) run(ctx context.Context, cg *kafka.ConsumerGroup) {
	drained := make(chan struct{})
	close(drained) // no generation, nothing to drain
	memberID := "" // of the last generation, as long as it may be in the group
	var leaving sync.WaitGroup
	for {
		gen, err := cg.Next(ctx)
		if gen == nil && ctx.Err() != nil {
			break
		}
		if err != nil {
			m.group.onError(fmt.Errorf("join group %s: %w", m.group.opts.ID, classify(err)))
			if memberID != "" && !errors.Is(err, kafka.RebalanceInProgress) {
				lost := memberID
				memberID = ""
				leaving.Go(func() { m.group.leave(ctx, lost) })
			}
			continue
		}
		memberID = gen.MemberID
		done := make(chan struct{})
		drained = done
		gen.Start(func(ended context.Context) {
			m.generation(ctx, ended, gen)
			close(done)
			if ctx.Err() != nil {
				<-ended.Done() // kafka-go would join again at once
			}
		})
	}
	<-drained
	_ = cg.Close() // always nil
	leaving.Wait()
	if memberID != "" {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout/2)
		defer cancel()
		m.group.leave(ctx, memberID)
	}
}

// generation handles one generation; ended is done when kafka-go ends it.
func (m *membership) generation(ctx, ended context.Context, gen *kafka.Generation) {
	if ended.Err() != nil {
		return // over before it began; kafka-go does not wait for us then
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(ended, func() { cancel(ErrGenerationEnded) })
	defer stop()
	g := &Generation{ID: int(gen.ID), MemberID: gen.MemberID, Partitions: m.partitions, group: m.group}
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	watch.Go(func() { m.watchPartitions(ctx, cancel) })

	assigned := make([]int, 0, len(gen.Assignments[m.group.opts.Topic]))
	for _, a := range gen.Assignments[m.group.opts.Topic] {
		assigned = append(assigned, a.ID)
	}
	err := retry(ctx, m.group.onError, func() (err error) {
		g.Assignments, err = m.group.assignments(ctx, assigned)
		return err
	})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		m.group.onError(err)
	} else {
		m.handle(ctx, g)
	}
	select {
	case <-ctx.Done():
	case <-time.After(m.group.opts.JoinBackoff):
	}
}

// watchPartitions ends the generation when the topic has another number of
// partitions than when it was last looked at: the group's leader shares out only
// those that it found when the members joined.
func (m *membership) watchPartitions(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(partitionCheck)
	defer tick.Stop()
	for {
		n, err := m.group.log.Partitions(ctx, m.group.opts.Topic)
		if err == nil && n != m.partitions {
			cancel(fmt.Errorf("%w: topic %s has %d partitions, had %d", ErrGenerationEnded, m.group.opts.Topic, n, m.partitions))
			m.partitions = n
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
