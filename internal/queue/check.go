package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

// FindingKind says what is wrong with a topic.
type FindingKind string

// The kinds of findings.
const (
	FindingMissing     FindingKind = "missing"
	FindingPartitions  FindingKind = "partitions"
	FindingReplication FindingKind = "replication"
	FindingCleanup     FindingKind = "cleanup_policy"
	FindingRetention   FindingKind = "retention"
	FindingMinInSync   FindingKind = "min_insync_replicas"
	FindingUnclean     FindingKind = "unclean_leader_election"
	FindingMessageSize FindingKind = "message_size"
)

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	// SeverityError: it does not work, or loses what was acknowledged.
	SeverityError Severity = "error"
	// SeverityRisk: it works until something breaks.
	SeverityRisk Severity = "risk"
)

// Finding is something that is wrong with a topic, and what to do about it.
type Finding struct {
	Topic    string      `json:"topic"`
	Kind     FindingKind `json:"kind"`
	Severity Severity    `json:"severity"`
	Detail   string      `json:"detail"`
	Remedy   string      `json:"remedy"`
}

// CheckTopics compares the topics with their specs, in the order of the specs. It
// changes nothing.
func (l *Log) CheckTopics(ctx context.Context, specs []TopicSpec) ([]Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	l.transport.know(names(specs)...)
	_, topics, err := l.cluster(ctx, specs)
	if err != nil {
		return nil, fmt.Errorf("describe topics: %w", classify(err))
	}
	existing := make(map[string]kafka.Topic, len(topics))
	for name, t := range topics {
		switch {
		case t.Error == nil:
			existing[name] = t
		case !errors.Is(t.Error, kafka.UnknownTopicOrPartition):
			return nil, fmt.Errorf("describe topic %s: %w", name, classify(t.Error))
		}
	}
	configs, err := l.topicConfigs(ctx, existing)
	if err != nil {
		return nil, fmt.Errorf("describe topics: %w", classify(err))
	}
	var findings []Finding
	for _, s := range specs {
		t, ok := existing[s.Name]
		if !ok {
			findings = append(findings, Finding{
				Topic: s.Name, Kind: FindingMissing, Severity: SeverityError,
				Detail: "the topic does not exist", Remedy: "run refiner-source topics ensure",
			})
			continue
		}
		findings = append(findings, check(s, t, configs[s.Name])...)
	}
	return findings, nil
}

func (l *Log) topicConfigs(ctx context.Context, topics map[string]kafka.Topic) (map[string]map[string]string, error) {
	if len(topics) == 0 {
		return nil, nil
	}
	req := &kafka.DescribeConfigsRequest{}
	for name := range topics {
		req.Resources = append(req.Resources, kafka.DescribeConfigRequestResource{
			ResourceType: kafka.ResourceTypeTopic,
			ResourceName: name,
			ConfigNames:  []string{configCleanup, configRetention, configMinInSync, configUnclean, configMaxMessage},
		})
	}
	res, err := l.client.DescribeConfigs(ctx, req)
	if err != nil {
		return nil, err
	}
	configs := make(map[string]map[string]string, len(res.Resources))
	for _, r := range res.Resources {
		if r.Error != nil {
			return nil, fmt.Errorf("%s: %w", r.ResourceName, r.Error)
		}
		entries := make(map[string]string, len(r.ConfigEntries))
		for _, e := range r.ConfigEntries {
			entries[e.ConfigName] = e.ConfigValue
		}
		configs[r.ResourceName] = entries
	}
	return configs, nil
}

// check compares one topic with its spec.
func check(s TopicSpec, t kafka.Topic, config map[string]string) []Finding {
	c := checker{spec: s, replication: len(t.Partitions[0].Replicas), config: config}
	if s.Partitions > 0 && len(t.Partitions) != s.Partitions {
		c.add(FindingPartitions, SeverityError,
			"create the topic again while nothing is in it: another count moves users to other partitions, out of order",
			"%d partitions, want %d", len(t.Partitions), s.Partitions)
	}
	want := s.Replication
	if want == 0 {
		want = safeReplication
	}
	if c.replication < want {
		c.add(FindingReplication, SeverityRisk, "kafka-reassign-partitions to more brokers",
			"replication factor %d, want %d: too few copies of what was acknowledged", c.replication, want)
	}
	c.cleanup()
	c.retention()
	c.minInSync()
	c.unclean()
	c.messageSize()
	return c.findings
}

// checker collects what is wrong with one topic.
type checker struct {
	spec        TopicSpec
	replication int
	config      map[string]string
	findings    []Finding
}

func (c *checker) add(kind FindingKind, severity Severity, remedy, detail string, args ...any) {
	c.findings = append(c.findings, Finding{
		Topic: c.spec.Name, Kind: kind, Severity: severity, Detail: fmt.Sprintf(detail, args...), Remedy: remedy,
	})
}

// alter is the remedy for a setting.
func (c *checker) alter(name, value string) string {
	return fmt.Sprintf("kafka-configs --alter --topic %s --add-config %s=%s", c.spec.Name, name, value)
}

func (c *checker) cleanup() {
	got, want := c.config[configCleanup], c.spec.Config[configCleanup]
	if want != "" && got != want {
		c.add(FindingCleanup, SeverityError, c.alter(configCleanup, want), "%s is %q, want %q", configCleanup, got, want)
	}
}

func (c *checker) retention() {
	want, err := strconv.ParseInt(c.spec.Config[configRetention], 10, 64)
	if err != nil {
		return // of no matter for this topic
	}
	got, err := strconv.ParseInt(c.config[configRetention], 10, 64)
	if err == nil && got >= 0 && got < want { // -1 is for ever
		c.add(FindingRetention, SeverityRisk, c.alter(configRetention, c.spec.Config[configRetention]),
			"records are kept for %v, want %v: a longer outage loses them",
			time.Duration(got)*time.Millisecond, time.Duration(want)*time.Millisecond)
	}
}

func (c *checker) minInSync() {
	got, err := strconv.Atoi(c.config[configMinInSync])
	if err != nil {
		return
	}
	switch {
	case got > c.replication:
		c.add(FindingMinInSync, SeverityError, c.alter(configMinInSync, strconv.Itoa(max(1, c.replication-1))),
			"%s is %d with replication factor %d: nothing can be written", configMinInSync, got, c.replication)
	case got == c.replication && c.replication > 1:
		c.add(FindingMinInSync, SeverityRisk, c.alter(configMinInSync, strconv.Itoa(c.replication-1)),
			"%s is %d with replication factor %d: one broker less and nothing can be written", configMinInSync, got, c.replication)
	case got < safeInSync && c.replication >= safeReplication:
		c.add(FindingMinInSync, SeverityRisk, c.alter(configMinInSync, strconv.Itoa(safeInSync)),
			"%s is %d: a record may be acknowledged by one broker alone", configMinInSync, got)
	}
}

func (c *checker) unclean() {
	if c.config[configUnclean] == "true" {
		c.add(FindingUnclean, SeverityError, c.alter(configUnclean, "false"),
			"%s is true: a broker that lags may become leader, and acknowledged records are lost", configUnclean)
	}
}

func (c *checker) messageSize() {
	want := DefaultMaxRecordBytes + batchOverhead
	if own, err := strconv.Atoi(c.spec.Config[configMaxMessage]); err == nil {
		want = own
	}
	if got, err := strconv.Atoi(c.config[configMaxMessage]); err == nil && got < want {
		c.add(FindingMessageSize, SeverityError, c.alter(configMaxMessage, strconv.Itoa(want)),
			"%s is %d, want at least %d", configMaxMessage, got, want)
	}
}
