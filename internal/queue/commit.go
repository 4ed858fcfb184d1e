package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/segmentio/kafka-go"
)

// MaxMetadataUnits bounds the metadata of a partition's commit, in UTF-16 code
// units, as Kafka counts it by default (offset.metadata.max.bytes).
const MaxMetadataUnits = 4096

// maxCommitBytes bounds the metadata in one request. Kafka keeps a request as one
// batch of its offsets topic, and fails all of it when that is over about 1 MiB.
const maxCommitBytes = 512 << 10

// Generation is the member's share of the topic between two rebalances.
type Generation struct {
	ID          int
	MemberID    string
	Partitions  int          // of the topic, assigned to whomever
	Assignments []Assignment // by partition; none where there are more members than partitions

	group *Group
}

// Assignment is where the member starts in a partition. Nothing is reset: where
// the commit does not lie within Start and End, records were lost to retention
// (before Start) or the log was (past End), and the caller decides.
type Assignment struct {
	Partition int
	Offset    Offset // the commit's, or Start without one
	Metadata  string // the commit's
	Committed bool   // there is a commit
	Start     Offset // of the oldest record, when the generation began
	End       Offset // behind the newest record, when the generation began
}

// DrainBudget is how long the handler may take to return when its context is done.
func (g *Generation) DrainBudget() time.Duration { return g.group.opts.DrainBudget() }

// Commit is a commit point of a partition, and text that is kept with it.
type Commit struct {
	Partition int
	Offset    Offset // of the first record that is not finished
	Metadata  string // valid UTF-8, at most MaxMetadataUnits
}

// Commit stores the commit points in the group, if the member still belongs to
// this generation (a member that is draining for the next one does). It makes one
// attempt, bounded by ctx and ten seconds; the context of the handler is done when
// it drains, so that takes another. It returns nil when every partition is stored.
//
// The error matches ErrGenerationEnded when nothing can be committed in this
// generation any more (the coordinator answered illegal generation, unknown member
// or fenced instance): whatever was not committed belongs to others. Such a commit
// was not stored. All others may pass, with the same or a later commit point:
// ErrUnavailable (also for a rebalance in progress: its end decides) leaves it
// open whether it was stored. ErrRefused and ErrMetadataTooLarge need another
// commit; the latter is found before anything is sent. Where only some partitions
// failed it is a *CommitError; the others are stored.
func (g *Generation) Commit(ctx context.Context, commits []Commit) error {
	return g.group.log.commit(ctx, kafka.OffsetCommitRequest{
		GroupID: g.group.opts.ID, GenerationID: g.ID, MemberID: g.MemberID,
	}, g.group.opts.Topic, commits)
}

// commit stores commits in the name that the request says.
func (l *Log) commit(ctx context.Context, as kafka.OffsetCommitRequest, topic string, commits []Commit) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	failed := make(map[int]error)
	for _, c := range commits {
		if err := checkMetadata(c.Metadata); err != nil {
			failed[c.Partition] = err
		}
	}
	if len(failed) > 0 {
		return &CommitError{Topic: topic, Partitions: failed}
	}
	for part := range commitRequests(commits) {
		as.Topics = map[string][]kafka.OffsetCommit{topic: part}
		if err := l.commitPart(ctx, as, topic, failed); err != nil {
			return fmt.Errorf("commit %s: %w", topic, err)
		}
	}
	if len(failed) > 0 {
		return &CommitError{Topic: topic, Partitions: failed}
	}
	return nil
}

// commitPart sends one request. The call's own error is nil when the coordinator
// refuses a partition; that stands in the answer, and goes into failed.
func (l *Log) commitPart(ctx context.Context, req kafka.OffsetCommitRequest, topic string, failed map[int]error) error {
	res, err := l.client.OffsetCommit(ctx, &req)
	if err != nil {
		return classify(err)
	}
	answered := make(map[int]bool, len(req.Topics[topic]))
	for _, p := range res.Topics[topic] {
		answered[p.Partition] = true
		if p.Error != nil {
			failed[p.Partition] = classify(p.Error)
		}
	}
	for _, c := range req.Topics[topic] {
		if !answered[c.Partition] {
			failed[c.Partition] = fmt.Errorf("no answer: %w", ErrUnavailable)
		}
	}
	return nil
}

// commitRequests shares commits out over requests of at most maxCommitBytes of
// metadata each.
func commitRequests(commits []Commit) iter.Seq[[]kafka.OffsetCommit] {
	return func(yield func([]kafka.OffsetCommit) bool) {
		var part []kafka.OffsetCommit
		bytes := 0
		for _, c := range commits {
			if len(part) > 0 && bytes+len(c.Metadata) > maxCommitBytes {
				if !yield(part) {
					return
				}
				part, bytes = nil, 0
			}
			part = append(part, kafka.OffsetCommit{Partition: c.Partition, Offset: int64(c.Offset), Metadata: c.Metadata})
			bytes += len(c.Metadata)
		}
		if len(part) > 0 {
			yield(part)
		}
	}
}

func checkMetadata(s string) error {
	// Kafka takes other bytes too, and gives different ones back.
	if !utf8.ValidString(s) {
		return fmt.Errorf("metadata is not UTF-8: %w", ErrRefused)
	}
	units := 0
	for _, r := range s {
		if units++; r > 0xFFFF {
			units++
		}
	}
	if units > MaxMetadataUnits {
		return fmt.Errorf("%w: %d units, want at most %d", ErrMetadataTooLarge, units, MaxMetadataUnits)
	}
	return nil
}

// Committed is what a group has stored for a partition.
type Committed struct {
	Offset   Offset
	Metadata string
}

// Committed returns the group's commits for the topic, in one attempt; partitions
// without one are not in it. The group need not exist.
func (l *Log) Committed(ctx context.Context, group, topic string) (map[int]Committed, error) {
	n, err := l.Partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	return l.committed(ctx, group, topic, sequence(n))
}

func (l *Log) committed(ctx context.Context, group, topic string, partitions []int) (map[int]Committed, error) {
	committed := make(map[int]Committed, len(partitions))
	if len(partitions) == 0 {
		return committed, nil // none would mean all of the group's topics
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := l.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: partitions}})
	if err == nil {
		err = res.Error
	}
	if errors.Is(err, kafka.GroupIdNotFound) {
		return committed, nil
	}
	if err != nil {
		return nil, fmt.Errorf("fetch commits of %s: %w", group, classify(err))
	}
	answered := 0
	for _, p := range res.Topics[topic] {
		if p.Error != nil {
			return nil, fmt.Errorf("fetch commit of %s for %s/%d: %w", group, topic, p.Partition, classify(p.Error))
		}
		answered++
		if p.CommittedOffset >= 0 {
			committed[p.Partition] = Committed{Offset: Offset(p.CommittedOffset), Metadata: p.Metadata}
		}
	}
	if answered != len(partitions) {
		return nil, fmt.Errorf("fetch commits of %s: %d of %d partitions answered: %w", group, answered, len(partitions), ErrUnavailable)
	}
	return committed, nil
}

// assignments looks up where the partitions start.
func (g *Group) assignments(ctx context.Context, partitions []int) ([]Assignment, error) {
	slices.Sort(partitions)
	bounds, err := g.log.bounds(ctx, g.opts.Topic, partitions)
	if err != nil {
		return nil, err
	}
	committed, err := g.log.committed(ctx, g.opts.ID, g.opts.Topic, partitions)
	if err != nil {
		return nil, err
	}
	out := make([]Assignment, len(partitions))
	for i, p := range partitions {
		b := bounds[p]
		out[i] = Assignment{Partition: p, Offset: b.Start, Start: b.Start, End: b.End}
		if c, ok := committed[p]; ok {
			out[i].Offset, out[i].Metadata, out[i].Committed = c.Offset, c.Metadata, true
		}
	}
	return out, nil
}
