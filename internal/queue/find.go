package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"
)

// OffsetsAt returns, for each partition of the topic, the offset of the first
// record whose time is not before at, by Kafka's own index, in one attempt: the end
// of the log where there is none. Times are to the millisecond.
func (l *Log) OffsetsAt(ctx context.Context, topic string, at time.Time) (map[int]Offset, error) {
	ends, err := l.Bounds(ctx, topic)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	requests := make([]kafka.OffsetRequest, 0, len(ends))
	for p := range ends {
		// Negative times mean other things there, and no record is that old.
		requests = append(requests, kafka.OffsetRequest{Partition: p, Timestamp: max(0, at.UnixMilli())})
	}
	res, err := l.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{topic: requests}})
	if err != nil {
		return nil, fmt.Errorf("list offsets of %s by time: %w", topic, classify(err))
	}
	offsets := make(map[int]Offset, len(ends))
	for _, p := range res.Topics[topic] {
		if p.Error != nil {
			return nil, fmt.Errorf("list offsets of %s/%d by time: %w", topic, p.Partition, classify(p.Error))
		}
		for at := range p.Offsets {
			if at < 0 { // no record is as late as that
				at = int64(ends[p.Partition].End)
			}
			offsets[p.Partition] = Offset(at)
		}
	}
	for p := range ends {
		if _, ok := offsets[p]; !ok {
			return nil, fmt.Errorf("list offsets of %s/%d by time: no answer: %w", topic, p, ErrUnavailable)
		}
	}
	return offsets, nil
}

// PartitionOf is where a Publisher, and any Kafka client that places keys as
// Kafka's own do, puts a record with that key.
func PartitionOf(key []byte, partitions int) int {
	return balancer.Balance(kafka.Message{Key: key}, sequence(partitions)...)
}

// balancer places keys as Kafka's own clients do; a nil key goes where an empty one does.
var balancer = kafka.Murmur2Balancer{Consistent: true}
