package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"refinersource/internal/broker"
	"refinersource/internal/queue"
)

// cluster is the Kafka of a benchmark: brokers that were given, or an embedded
// one in this process.
type cluster struct {
	kind     string // for the report
	brokers  []string
	embedded *broker.Broker // nil for given ones
	client   *kgo.Client
	admin    *kadm.Client
	binary   string // makes the topics
	prefix   string // of all topics and groups
	made     int    // prefixes of topics
	groups   []string
}

// recordBytes bounds a batch of the producer: about a hundred events, as the
// ingress puts them into one.
const recordBytes = 100 << 10

func openCluster(brokers []string, binary string) (*cluster, error) {
	c := &cluster{kind: "given brokers", brokers: brokers, binary: binary, prefix: fmt.Sprintf("bench-%d-", time.Now().UnixMilli())}
	if len(brokers) == 0 {
		b, err := broker.Start(broker.Options{})
		if err != nil {
			return nil, err
		}
		c.kind, c.embedded, c.brokers = "kfake, in the benchmark's process", b, b.Addrs()
	}
	var err error
	c.client, err = kgo.NewClient(
		kgo.SeedBrokers(c.brokers...),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), // Murmur2, as the ingress
		kgo.ProducerBatchCompression(kgo.NoCompression()),    // as the ingress
		kgo.ProducerBatchMaxBytes(recordBytes),
		kgo.ProducerLinger(time.Millisecond),
		kgo.MaxBufferedRecords(20_000),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open client: %w", err), c.close(context.Background()))
	}
	c.admin = kadm.NewClient(c.client)
	return c, nil
}

// topics makes the topics of a load and returns their prefix.
func (c *cluster) topics(ctx context.Context, partitions int) (string, error) {
	c.made++
	prefix := fmt.Sprintf("%s%d.", c.prefix, c.made)
	cmd := exec.CommandContext(ctx, c.binary, "topics", "ensure", "--topic-prefix", prefix,
		"--partitions", fmt.Sprint(partitions), "--brokers", join(c.brokers))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make topics: %w: %s", err, out)
	}
	return prefix, nil
}

// drop deletes the topics of a prefix, so that a long benchmark does not keep all
// loads.
func (c *cluster) drop(ctx context.Context, prefix string) error {
	t := queue.Topics{Prefix: prefix}
	_, err := c.admin.DeleteTopics(ctx, t.Events(), t.Dead(), t.Receipts(), t.Tenants(), t.Replays())
	if err != nil {
		return fmt.Errorf("delete topics: %w", err)
	}
	return nil
}

// group names a new consumer group.
func (c *cluster) group() string {
	c.groups = append(c.groups, fmt.Sprintf("%sgroup-%d", c.prefix, len(c.groups)+1))
	return c.groups[len(c.groups)-1]
}

// fill produces the load's events from one to another in their order, at once. It
// returns when all are acknowledged.
func (c *cluster) fill(ctx context.Context, topic string, r *records, from, to int) error {
	p := newProducing(c.client)
	for i := from; i < to && p.err() == nil; i++ {
		rec, err := r.record(topic, i, time.Now())
		if err != nil {
			return err
		}
		p.produce(ctx, rec)
	}
	return p.wait()
}

// pace produces the load's events from one to another at so many a second, and
// tells sent just before each.
func (c *cluster) pace(ctx context.Context, topic string, r *records, from, to, rate int, sent func(i int, at time.Time)) error {
	p := newProducing(c.client)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	for i := from; i < to && p.err() == nil; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		due := min(to, from+int(time.Since(start).Seconds()*float64(rate)))
		for ; i < due; i++ {
			now := time.Now()
			rec, err := r.record(topic, i, now)
			if err != nil {
				return err
			}
			sent(i, now)
			p.produce(ctx, rec)
		}
	}
	return p.wait()
}

// producing is a run of records on their way.
type producing struct {
	client *kgo.Client
	under  sync.WaitGroup
	mu     sync.Mutex
	first  error
}

func newProducing(client *kgo.Client) *producing { return &producing{client: client} }

func (p *producing) produce(ctx context.Context, rec *kgo.Record) {
	p.under.Add(1)
	p.client.Produce(ctx, rec, func(_ *kgo.Record, err error) {
		defer p.under.Done()
		if err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.first = fmt.Errorf("produce: %w", err)
		}
	})
}

func (p *producing) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.first
}

func (p *producing) wait() error {
	p.under.Wait()
	return p.err()
}

// uncommitted is how many records of the topic the group has not committed.
func (c *cluster) uncommitted(ctx context.Context, group, topic string) (int64, error) {
	ends, err := c.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return 0, fmt.Errorf("list offsets: %w", err)
	}
	committed, err := c.admin.FetchOffsets(ctx, group)
	if err != nil {
		return 0, fmt.Errorf("fetch offsets: %w", err)
	}
	var lag int64
	ends.Each(func(end kadm.ListedOffset) {
		lag += end.Offset
		if o, ok := committed.Lookup(topic, end.Partition); ok && o.At > 0 {
			lag -= o.At
		}
	})
	return lag, nil
}

// joined waits until the group has so many members, each with partitions of its
// own, at most so long.
func (c *cluster) joined(ctx context.Context, group string, members int, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		described, err := c.admin.DescribeGroups(ctx, group)
		if err == nil && isComplete(described[group], members) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d members to join: %w", members, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// isComplete tells whether a group has so many members at work.
func isComplete(g kadm.DescribedGroup, members int) bool {
	if g.Err != nil || g.State != "Stable" || len(g.Members) != members {
		return false
	}
	for i := range g.Members {
		assigned, ok := g.Members[i].Assigned.AsConsumer()
		if !ok || len(assigned.Topics) == 0 {
			return false
		}
	}
	return true
}

// close deletes what was made on given brokers, and ends an embedded one.
func (c *cluster) close(ctx context.Context) error {
	var errs []error
	if c.admin != nil && c.embedded == nil {
		for i := range c.made {
			errs = append(errs, c.drop(ctx, fmt.Sprintf("%s%d.", c.prefix, i+1)))
		}
		_, err := c.admin.DeleteGroups(ctx, c.groups...)
		errs = append(errs, err)
	}
	if c.client != nil {
		c.client.Close()
	}
	if c.embedded != nil {
		errs = append(errs, c.embedded.Close())
	}
	return errors.Join(errs...)
}
