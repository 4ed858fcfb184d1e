package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/checker"
)

// offsetsTopic is where a cluster keeps what groups have committed.
const offsetsTopic = "__consumer_offsets"

// bounds returns the first offset of each of a topic's partitions and the one
// behind its last.
func (c *Cluster) bounds(ctx context.Context, topic string) ([]checker.Bounds, error) {
	starts, err := c.offsets(ctx, topic, -2)
	if err != nil {
		return nil, err
	}
	ends, err := c.offsets(ctx, topic, -1)
	if err != nil {
		return nil, err
	}
	all := make([]checker.Bounds, 0, len(ends))
	for _, p := range slices.Sorted(maps.Keys(ends)) {
		all = append(all, checker.Bounds{Partition: p, Start: starts[p], End: ends[p]})
	}
	return all, nil
}

// offsets asks for the offset at a time: -2 is the first, -1 the next.
func (c *Cluster) offsets(ctx context.Context, topic string, at int64) (map[int]int64, error) {
	meta := kmsg.NewPtrMetadataRequest()
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = &topic
	meta.Topics = append(meta.Topics, mt)
	m, err := meta.RequestWith(ctx, c.Admin)
	if err != nil {
		return nil, fmt.Errorf("read the partitions of %s: %w", topic, err)
	}
	q := kmsg.NewPtrListOffsetsRequest()
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	for _, p := range m.Topics[0].Partitions {
		lp := kmsg.NewListOffsetsRequestTopicPartition()
		lp.Partition, lp.Timestamp = p.Partition, at
		t.Partitions = append(t.Partitions, lp)
	}
	q.Topics = append(q.Topics, t)
	offsets := make(map[int]int64)
	for _, shard := range c.Admin.RequestSharded(ctx, q) {
		if shard.Err != nil {
			return nil, fmt.Errorf("list offsets of %s: %w", topic, shard.Err)
		}
		r, ok := shard.Resp.(*kmsg.ListOffsetsResponse)
		if !ok {
			return nil, fmt.Errorf("list offsets of %s: answer %T", topic, shard.Resp)
		}
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return nil, fmt.Errorf("list offsets of %s/%d: %w", topic, p.Partition, err)
				}
				offsets[int(p.Partition)] = p.Offset
			}
		}
	}
	if len(offsets) != len(m.Topics[0].Partitions) || len(offsets) == 0 {
		return nil, fmt.Errorf("list offsets of %s: %d of %d partitions answered", topic, len(offsets), len(m.Topics[0].Partitions))
	}
	return offsets, nil
}

// read calls f with every record of a topic up to its present end, each
// partition's in order.
func (c *Cluster) read(ctx context.Context, topic string, f func(*kgo.Record)) error {
	bounds, err := c.bounds(ctx, topic)
	if err != nil {
		return err
	}
	return c.readBetween(ctx, topic, bounds, f)
}

// readBetween calls f with every record of a topic within bounds, each partition's
// in order.
func (c *Cluster) readBetween(ctx context.Context, topic string, bounds []checker.Bounds, f func(*kgo.Record)) error {
	from := make(map[int32]kgo.Offset)
	left := make(map[int32]int64) // by partition: where to stop
	var seeds []string
	for _, b := range bounds {
		if b.Start < b.End {
			from[int32(b.Partition)] = kgo.NewOffset().At(b.Start)
			left[int32(b.Partition)] = b.End
		}
	}
	if len(left) == 0 {
		return nil
	}
	for _, b := range c.Brokers {
		seeds = append(seeds, b.direct)
	}
	// Control records count too: without them an end may never be seen.
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.KeepControlRecords())
	if err != nil {
		return fmt.Errorf("make a client that reads %s: %w", topic, err)
	}
	defer client.Close()
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return fmt.Errorf("read %s: %w", topic, err)
		}
		for r := range fetches.RecordsAll() {
			end, ok := left[r.Partition]
			if !ok || r.Offset >= end {
				continue
			}
			if !r.Attrs.IsControl() {
				f(r)
			}
			if r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		}
	}
	return nil
}

// dumpLog writes the events topic into the history, each partition in order: first
// what was deleted from it, then what is there.
func (c *Cluster) dumpLog(ctx context.Context, topic, dir string, deleted *trimmed) (int, error) {
	out, err := createLines(dir, checker.LogFile)
	if err != nil {
		return 0, err
	}
	for i := range deleted.records {
		out.write(&deleted.records[i])
	}
	n := len(deleted.records)
	err = c.read(ctx, topic, func(r *kgo.Record) {
		if deleted.has(int(r.Partition), r.Offset) {
			return
		}
		n++
		line := logged(r)
		out.write(&line)
	})
	return n, errors.Join(err, out.close())
}

// logged is a record of the events topic as the history has it.
func logged(r *kgo.Record) checker.Record {
	headers := make(map[string]string, len(r.Headers))
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	return checker.Record{Partition: int(r.Partition), Offset: r.Offset, Key: r.Key, Headers: headers, Value: r.Value, Time: r.Timestamp.UnixNano()}
}

// dumpLetters writes the topic of dead letters into the history.
func (c *Cluster) dumpLetters(ctx context.Context, topic, dir string) (int, error) {
	var all []checker.Letter
	if err := c.read(ctx, topic, func(r *kgo.Record) {
		all = append(all, checker.Letter{Partition: int(r.Partition), Offset: r.Offset, Value: r.Value, Time: r.Timestamp.UnixNano()})
	}); err != nil {
		return 0, err
	}
	return len(all), writeAll(dir, checker.LettersFile, all)
}

// dumpCommits writes every commit of the group for the topic into the history. A
// group lives in one partition of the offsets topic, in the coordinator's order.
func (c *Cluster) dumpCommits(ctx context.Context, group, topic, dir string, each func(checker.Commit)) error {
	out, err := createLines(dir, checker.CommitsFile)
	if err != nil {
		return err
	}
	err = c.read(ctx, offsetsTopic, func(r *kgo.Record) {
		commit, ok := decodeCommit(r, group, topic)
		if ok {
			each(commit)
			out.write(&commit)
		}
	})
	return errors.Join(err, out.close())
}

// decodeCommit reads a record of the offsets topic: a commit of the group for a
// partition of the topic, or something else.
func decodeCommit(r *kgo.Record, group, topic string) (checker.Commit, bool) {
	if len(r.Key) < 2 || r.Value == nil {
		return checker.Commit{}, false
	}
	if v := int16(binary.BigEndian.Uint16(r.Key)); v != 0 && v != 1 {
		return checker.Commit{}, false
	}
	key, value := kmsg.NewOffsetCommitKey(), kmsg.NewOffsetCommitValue()
	if key.ReadFrom(r.Key) != nil || key.Group != group || key.Topic != topic || value.ReadFrom(r.Value) != nil {
		return checker.Commit{}, false
	}
	// Its time is in whole milliseconds, cut: it was not before the end of that one.
	return checker.Commit{
		At: r.Timestamp.Add(time.Millisecond - 1).UnixNano(), Partition: int(key.Partition), Offset: value.Offset, Metadata: value.Metadata,
	}, true
}

// positions are what the group has committed of the topic.
func (c *Cluster) positions(ctx context.Context, group, topic string, partitions int) ([]checker.Position, error) {
	q := kmsg.NewPtrOffsetFetchRequest()
	gt := kmsg.NewOffsetFetchRequestGroupTopic()
	gt.Topic = topic
	for p := range partitions {
		gt.Partitions = append(gt.Partitions, int32(p))
	}
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.Topics = group, append(g.Topics, gt)
	q.Groups = append(q.Groups, g)
	r, err := q.RequestWith(ctx, c.Admin)
	if err != nil {
		return nil, fmt.Errorf("fetch the group's commits: %w", err)
	}
	var all []checker.Position
	for _, g := range r.Groups { // Kafka has them since 3.0
		if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
			return nil, fmt.Errorf("fetch the group's commits: %w", err)
		}
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				all = append(all, checker.Position{Partition: int(p.Partition), Committed: p.Offset, Metadata: text(p.Metadata)})
			}
		}
	}
	if len(all) != partitions {
		return nil, fmt.Errorf("fetch the group's commits: %d of %d partitions answered", len(all), partitions)
	}
	return all, nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// lag returns how many events are behind the group's commits, and how many
// tenants wait at a cursor.
func (c *Cluster) lag(ctx context.Context, group, topic string) (lag int64, cursors int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	bounds, err := c.bounds(ctx, topic)
	if err != nil {
		return 0, 0, err
	}
	positions, err := c.positions(ctx, group, topic, len(bounds))
	if err != nil {
		return 0, 0, err
	}
	committed := make(map[int]int64)
	for _, p := range positions {
		committed[p.Partition] = max(p.Committed, 0)
		n, err := cursorsIn(p.Metadata)
		if err != nil {
			return 0, 0, fmt.Errorf("read the commit of partition %d: %w", p.Partition, err)
		}
		cursors += n
	}
	for _, b := range bounds {
		lag += max(0, b.End-max(b.Start, committed[b.Partition]))
	}
	return lag, cursors, nil
}

// cursorsIn counts the tenants that wait by a commit's metadata.
func cursorsIn(metadata string) (int, error) {
	all, err := waitersIn(metadata)
	return len(all), err
}
