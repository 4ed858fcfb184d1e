package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
)

// Members returns how many members a group has, in one attempt; none if there is no
// such group.
func (l *Log) Members(ctx context.Context, group string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := l.client.DescribeGroups(ctx, &kafka.DescribeGroupsRequest{GroupIDs: []string{group}})
	if err == nil && len(res.Groups) != 1 {
		err = fmt.Errorf("%d groups answered: %w", len(res.Groups), ErrUnavailable)
	}
	if err == nil {
		err = res.Groups[0].Error
	}
	if errors.Is(err, kafka.GroupIdNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("describe group %s: %w", group, classify(err))
	}
	return len(res.Groups[0].Members), nil
}

// ResetCommits stores commits in a group in nobody's name, in one attempt, bounded by
// ctx and ten seconds. It returns nil when every partition is stored.
//
// The coordinator takes such a commit only while the group has no members, and that is
// the very check, not one before it: otherwise the error matches ErrGroupActive. Where
// only some partitions failed it is a *CommitError; the others are stored. A group may
// get a member between two requests, so some may be stored of those that come together.
func (l *Log) ResetCommits(ctx context.Context, group, topic string, commits []Commit) error {
	err := l.commit(ctx, kafka.OffsetCommitRequest{GroupID: group, GenerationID: -1}, topic, commits)
	if refused, ok := errors.AsType[*CommitError](err); ok {
		for p, err := range refused.Partitions {
			if errors.Is(err, ErrGenerationEnded) || errors.Is(err, kafka.RebalanceInProgress) {
				refused.Partitions[p] = fmt.Errorf("%w: %w", ErrGroupActive, err)
			}
		}
	}
	return err
}
