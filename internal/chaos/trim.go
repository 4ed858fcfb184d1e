package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/checker"
)

// trimmed are the records that were deleted from the log, each once and each partition's
// in order. A broker that is killed soon after may bring some back: it notes now and then
// from where on its log is valid.
type trimmed struct {
	records []checker.Record
	to      map[int]int64 // by partition, one past the last
}

// left is what of these bounds has not been taken yet.
func (t *trimmed) left(b checker.Bounds) checker.Bounds {
	b.Start = max(b.Start, t.to[b.Partition])
	return b
}

// take takes a record, unless it has it.
func (t *trimmed) take(r checker.Record) bool {
	if t.has(r.Partition, r.Offset) {
		return false
	}
	if t.to == nil {
		t.to = make(map[int]int64)
	}
	t.records, t.to[r.Partition] = append(t.records, r), r.Offset+1
	return true
}

func (t *trimmed) has(partition int, offset int64) bool { return offset < t.to[partition] }

// trim makes tenants fail, and when one waits at a cursor deletes the log of its
// partition up to the commit, as retention does: nothing that only a cursor holds
// is left there. What is deleted is read first, for the history.
func (j *injector) trim(ctx context.Context, in Injection, r *rand.Rand, f *checker.Fault) error {
	j.trimming.Lock() // one at a time
	defer j.trimming.Unlock()
	m, err := mode(in.Mode)
	if err != nil {
		return err
	}
	j.receiver.treat(in.Tenants, m)
	defer j.receiver.treat(in.Tenants, nil)
	f.Effects = []checker.Effect{checker.Harmless} // so far
	if !pause(ctx, in.For*2/3) {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	to, err := j.cursorPartition(limited, r)
	if err != nil {
		return err
	}
	if to.Start == to.End {
		f.Params["missed"] = "true"
		j.logger("F38: nobody waits at a cursor")
		return nil
	}
	if err := j.cluster.readBetween(limited, j.events(), []checker.Bounds{j.trimmed.left(to)}, func(record *kgo.Record) {
		j.trimmed.take(logged(record))
	}); err != nil {
		return err
	}
	f.At, f.Effects = time.Now().UnixNano(), []checker.Effect{checker.Trimmed}
	f.Target = fmt.Sprintf("partition %d", to.Partition)
	f.Params["offset"] = fmt.Sprint(to.End)
	if err := j.cluster.deleteRecords(limited, j.events(), to.Partition, to.End); err != nil {
		return err
	}
	pause(ctx, in.For/3)
	return nil
}

// cursorPartition chooses a partition in whose commit a tenant waits at a cursor,
// and returns its first offset and the commit's. Both are 0 if there is none.
func (j *injector) cursorPartition(ctx context.Context, r *rand.Rand) (checker.Bounds, error) {
	bounds, err := j.cluster.bounds(ctx, j.events())
	if err != nil {
		return checker.Bounds{}, err
	}
	positions, err := j.cluster.positions(ctx, j.group, j.events(), len(bounds))
	if err != nil {
		return checker.Bounds{}, err
	}
	for _, n := range r.Perm(len(positions)) {
		p := positions[n]
		waiting, err := cursorsIn(p.Metadata)
		if err != nil {
			return checker.Bounds{}, fmt.Errorf("read the commit of partition %d: %w", p.Partition, err)
		}
		for _, b := range bounds {
			if b.Partition == p.Partition && waiting > 0 && b.Start < p.Committed {
				return checker.Bounds{Partition: b.Partition, Start: b.Start, End: p.Committed}, nil
			}
		}
	}
	return checker.Bounds{}, nil
}

// deleteRecords deletes what stands before an offset of a partition.
func (c *Cluster) deleteRecords(ctx context.Context, topic string, partition int, before int64) error {
	q := kmsg.NewPtrDeleteRecordsRequest()
	t := kmsg.NewDeleteRecordsRequestTopic()
	t.Topic = topic
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Partition, p.Offset = int32(partition), before
	t.Partitions = append(t.Partitions, p)
	q.Topics = append(q.Topics, t)
	q.TimeoutMillis = int32((30 * time.Second).Milliseconds())
	for _, shard := range c.Admin.RequestSharded(ctx, q) {
		err := shard.Err
		if r, ok := shard.Resp.(*kmsg.DeleteRecordsResponse); ok && err == nil {
			for _, t := range r.Topics {
				for _, p := range t.Partitions {
					err = kerr.ErrorForCode(p.ErrorCode)
				}
			}
		}
		if err != nil {
			return fmt.Errorf("delete records of %s/%d: %w", topic, partition, err)
		}
	}
	return nil
}
