package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/segmentio/kafka-go"
)

// The classes of errors. Every error of this package matches one of them with
// errors.Is.
var (
	// ErrUnavailable: the cluster cannot do it now; a later try may pass.
	ErrUnavailable = errors.New("log unavailable")
	// ErrRefused: the cluster will not do it, whatever is tried: not authorized,
	// an invalid topic name, a setting it does not take.
	ErrRefused = errors.New("refused by the cluster")
	// ErrTooLarge: the record is over the publisher's or the topic's bound.
	ErrTooLarge = errors.New("record too large")
	// ErrClosed: the publisher was closed by its owner.
	ErrClosed = errors.New("closed")
	// ErrOffsetOutOfRange: the offset is past the end of the partition, which
	// only a lost or re-created log explains.
	ErrOffsetOutOfRange = errors.New("offset past the end of the log")
	// ErrGenerationEnded: the member is out of this generation; nothing can be
	// committed in it any more.
	ErrGenerationEnded = errors.New("generation ended")
	// ErrMetadataTooLarge: the metadata of a commit is over MaxMetadataUnits.
	ErrMetadataTooLarge = errors.New("commit metadata too large")
	// ErrGroupActive: the group has members; its commits are theirs alone.
	ErrGroupActive = errors.New("the group has active members")
	// ErrGap: records are gone; see GapError.
	ErrGap = errors.New("records are gone from the log")
)

// GapError says that records which a reader wanted do not exist any more. From
// is the first that is missing, To the first that is there.
type GapError struct {
	Topic     string
	Partition int
	From, To  Offset
}

func (e *GapError) Error() string {
	return fmt.Sprintf("%s/%d: records %d to %d are gone from the log", e.Topic, e.Partition, e.From, e.To-1)
}

// Is makes errors.Is(err, ErrGap) true.
func (e *GapError) Is(target error) bool { return target == ErrGap }

// CommitError says which partitions of a commit were refused, and why. Those it
// does not name are committed, unless the whole request failed.
type CommitError struct {
	Topic      string
	Partitions map[int]error // each matches one of the classes
}

func (e *CommitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "commit %s:", e.Topic)
	for i, p := range slices.Sorted(maps.Keys(e.Partitions)) {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " partition %d: %v", p, e.Partitions[p])
	}
	return b.String()
}

// Unwrap gives the errors of the partitions.
func (e *CommitError) Unwrap() []error { return slices.Collect(maps.Values(e.Partitions)) }

// classify gives an error of kafka-go its class. It is the only place that knows
// that library's errors. What it does not know is taken for transient: to try
// again costs less than to give up. So is a password that is not accepted, since it
// may just be about to be changed.
func classify(err error) error {
	if err == nil {
		return nil
	}
	if errs, ok := errors.AsType[kafka.WriteErrors](err); ok && len(errs) > 0 {
		err = errs[0]
	}
	if class := classOf(err); class != nil {
		return fmt.Errorf("%w: %w", class, err)
	}
	return err
}

// classOf is nil for an error that has its class already.
func classOf(err error) error {
	for _, class := range []error{
		ErrUnavailable, ErrRefused, ErrTooLarge, ErrClosed, ErrOffsetOutOfRange, ErrGenerationEnded,
		ErrMetadataTooLarge, ErrGroupActive, ErrGap,
	} {
		if errors.Is(err, class) {
			return nil
		}
	}
	code, ok := errors.AsType[kafka.Error](err)
	if !ok {
		return ErrUnavailable
	}
	switch code {
	case kafka.IllegalGeneration, kafka.UnknownMemberId, kafka.FencedInstanceID:
		return ErrGenerationEnded
	case kafka.OffsetMetadataTooLarge:
		return ErrMetadataTooLarge
	case kafka.MessageSizeTooLarge, kafka.RecordListTooLarge:
		return ErrTooLarge
	case kafka.TopicAuthorizationFailed, kafka.GroupAuthorizationFailed, kafka.ClusterAuthorizationFailed,
		kafka.UnsupportedSASLMechanism, kafka.IllegalSASLState, kafka.SecurityDisabled,
		kafka.InvalidTopic, kafka.InvalidGroupId, kafka.InvalidSessionTimeout, kafka.InconsistentGroupProtocol,
		kafka.InvalidPartitionNumber, kafka.InvalidReplicationFactor, kafka.InvalidConfiguration, kafka.PolicyViolation,
		kafka.InvalidRequest, kafka.InvalidRequiredAcks, kafka.InvalidTimestamp, kafka.InvalidRecord,
		kafka.InvalidCommitOffsetSize, kafka.UnsupportedVersion, kafka.UnsupportedForMessageFormat,
		kafka.UnsupportedCompressionType:
		return ErrRefused
	default:
		return ErrUnavailable
	}
}

// ended adds the end of the caller's context to the last error before it.
func ended(ctx context.Context, last error) error {
	if last == nil || errors.Is(last, ctx.Err()) {
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	return fmt.Errorf("%w (%w)", last, ctx.Err())
}
