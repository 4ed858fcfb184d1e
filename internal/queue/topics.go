package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

// DefaultTopicPrefix begins the names of the topics.
const DefaultTopicPrefix = "refiner."

// DefaultPartitions is how many partitions the topics get.
const DefaultPartitions = 12

// Topics names the topics. The zero value has no prefix.
type Topics struct{ Prefix string }

// Events holds what senders submitted, as they did.
func (t Topics) Events() string { return t.Prefix + "events" }

// Dead holds the dead letters.
func (t Topics) Dead() string { return t.Prefix + "dead" }

// Receipts holds the outcomes.
func (t Topics) Receipts() string { return t.Prefix + "receipts" }

// Tenants holds the last state of each tenant.
func (t Topics) Tenants() string { return t.Prefix + "tenants" }

// Replays holds what each replay is to send again.
func (t Topics) Replays() string { return t.Prefix + "replays" }

// DeadRecordBytes bounds a record of the dead-letter topic: a letter holds what a
// topic takes by default as a record, in base64. An event that nobody could bury
// would hold its partition for ever.
const DeadRecordBytes = 2_000_000

// retention is how long records are kept: the longest outage of a tenant that
// nothing is lost in.
const retention = 7 * 24 * time.Hour

// Specs says how the topics should be. Zero partitions are left as they are where
// topics exist, and DefaultPartitions where they do not; see TopicSpec for
// replication.
func (t Topics) Specs(partitions, replication int) []TopicSpec {
	log := map[string]string{
		// A compacted log has holes, and a reader could not tell them from losses.
		configCleanup:   "delete",
		configRetention: strconv.FormatInt(retention.Milliseconds(), 10),
	}
	dead := maps.Clone(log)
	dead[configMaxMessage] = strconv.Itoa(DeadRecordBytes + batchOverhead)
	state := map[string]string{configCleanup: "compact"}
	return []TopicSpec{
		{Name: t.Events(), Partitions: partitions, Replication: replication, Config: log},
		{Name: t.Dead(), Partitions: partitions, Replication: replication, Config: dead},
		{Name: t.Receipts(), Partitions: partitions, Replication: replication, Config: log},
		{Name: t.Tenants(), Partitions: 1, Replication: replication, Config: state},
		{Name: t.Replays(), Partitions: 1, Replication: replication, Config: maps.Clone(state)},
	}
}

// Names of the topic settings that matter here.
const (
	configCleanup    = "cleanup.policy"
	configRetention  = "retention.ms"
	configMinInSync  = "min.insync.replicas"
	configUnclean    = "unclean.leader.election.enable"
	configMaxMessage = "max.message.bytes"
)

const (
	safeReplication = 3
	safeInSync      = 2
	batchOverhead   = 4 << 10 // what Kafka adds to a publisher's batch
	ensureTimeout   = 30 * time.Second
)

// TopicSpec is how a topic should be.
type TopicSpec struct {
	Name        string
	Partitions  int // 0 is DefaultPartitions for a new topic, any number for one that exists
	Replication int // 0 is three, or as many brokers as there are if fewer
	Config      map[string]string
}

// EnsureTopics creates the topics that do not exist and returns when all have a
// leader for every partition, within half a minute. It never changes one that exists;
// CheckTopics tells where such a one is not as it should be.
func (l *Log) EnsureTopics(ctx context.Context, specs []TopicSpec) error {
	ctx, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	l.transport.know(names(specs)...)
	if err := retry(ctx, nil, func() error { return l.createTopics(ctx, specs) }); err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	for _, s := range specs {
		if err := retry(ctx, nil, func() error { return l.hasLeaders(ctx, s.Name) }); err != nil {
			return fmt.Errorf("wait for leaders of %s: %w", s.Name, err)
		}
	}
	return nil
}

func names(specs []TopicSpec) []string {
	out := make([]string, len(specs))
	for i, s := range specs {
		out[i] = s.Name
	}
	return out
}

func (l *Log) createTopics(ctx context.Context, specs []TopicSpec) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	brokers, topics, err := l.cluster(ctx, specs)
	if err != nil {
		return err
	}
	var create []kafka.TopicConfig
	for _, s := range specs {
		if t, ok := topics[s.Name]; ok && t.Error == nil {
			continue
		}
		config := kafka.TopicConfig{Topic: s.Name, NumPartitions: s.Partitions, ReplicationFactor: s.replication(brokers)}
		if config.NumPartitions == 0 {
			config.NumPartitions = DefaultPartitions
		}
		for _, name := range slices.Sorted(maps.Keys(s.Config)) {
			config.ConfigEntries = append(config.ConfigEntries, kafka.ConfigEntry{ConfigName: name, ConfigValue: s.Config[name]})
		}
		if _, ok := s.Config[configMinInSync]; !ok && config.ReplicationFactor >= safeReplication {
			config.ConfigEntries = append(config.ConfigEntries, kafka.ConfigEntry{ConfigName: configMinInSync, ConfigValue: strconv.Itoa(safeInSync)})
		}
		create = append(create, config)
	}
	if len(create) == 0 {
		return nil
	}
	res, err := l.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: create})
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range create {
		if err := res.Errors[c.Topic]; err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
			errs = append(errs, fmt.Errorf("%s: %w", c.Topic, err))
		}
	}
	return errors.Join(errs...)
}

// replication is what the spec comes to in a cluster of so many brokers.
func (s TopicSpec) replication(brokers int) int {
	if s.Replication > 0 {
		return s.Replication
	}
	return min(safeReplication, brokers)
}

// cluster returns how many brokers there are, and the topics of the specs.
func (l *Log) cluster(ctx context.Context, specs []TopicSpec) (int, map[string]kafka.Topic, error) {
	res, err := l.client.Metadata(ctx, &kafka.MetadataRequest{Topics: names(specs)})
	if err != nil {
		return 0, nil, err
	}
	topics := make(map[string]kafka.Topic, len(res.Topics))
	for _, t := range res.Topics {
		topics[t.Name] = t
	}
	return len(res.Brokers), topics, nil
}

func (l *Log) hasLeaders(ctx context.Context, topic string) error {
	t, err := l.topic(ctx, topic)
	if err != nil {
		return err
	}
	for _, p := range t.Partitions {
		if p.Leader.Host == "" {
			return fmt.Errorf("partition %d: %w", p.ID, kafka.LeaderNotAvailable)
		}
	}
	return nil
}
