package queue

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

// Unlimited is a Retention's Time or Bytes where there is no such limit.
const Unlimited = -1

// Retention says how long a topic keeps its records: until one of the limits is
// reached, and then as long as the cluster takes to find out.
type Retention struct {
	Time  time.Duration // from the record's time on; Unlimited if it does not matter
	Bytes int64         // of a partition; Unlimited if they do not matter
}

const configRetentionBytes = "retention.bytes"

// Retention returns how long the topic keeps its records, in one attempt. That is
// of a topic whose cleanup policy is delete, as CheckTopics asks for. A topic that
// does not exist is ErrUnavailable.
func (l *Log) Retention(ctx context.Context, topic string) (Retention, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	l.transport.know(topic)
	res, err := l.client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{
			ResourceType: kafka.ResourceTypeTopic,
			ResourceName: topic,
			ConfigNames:  []string{configRetention, configRetentionBytes},
		}},
	})
	if err != nil {
		return Retention{}, fmt.Errorf("describe retention of %s: %w", topic, classify(err))
	}
	limits := make(map[string]int64)
	for _, r := range res.Resources {
		if r.Error != nil {
			return Retention{}, fmt.Errorf("describe retention of %s: %w", topic, classify(r.Error))
		}
		for _, e := range r.ConfigEntries {
			if n, err := strconv.ParseInt(e.ConfigValue, 10, 64); err == nil {
				limits[e.ConfigName] = n
			}
		}
	}
	millis, known := limits[configRetention]
	bytes, knownBytes := limits[configRetentionBytes]
	if !known || !knownBytes {
		return Retention{}, fmt.Errorf("describe retention of %s: the broker does not tell: %w", topic, ErrRefused)
	}
	r := Retention{Time: time.Duration(millis) * time.Millisecond, Bytes: bytes}
	if millis < 0 || millis > math.MaxInt64/int64(time.Millisecond) {
		r.Time = Unlimited
	}
	if bytes < 0 {
		r.Bytes = Unlimited
	}
	return r, nil
}
