package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"refinersource/internal/lane"
	"refinersource/internal/queue"
)

// check refuses to work where what the group has committed says that this would break the
// promise.
func (w *Worker) check(ctx context.Context, g *queue.Generation) error {
	committed, err := w.o.Log.Committed(ctx, w.o.Group, w.o.Topics.Events())
	if err != nil {
		return fmt.Errorf("read the group's commits: %w", err)
	}
	if err := w.checkInstallation(committed); err != nil {
		return err
	}
	if err := w.checkPartitions(ctx, g, committed); err != nil {
		return err
	}
	return w.checkCommits(ctx, g)
}

// checkInstallation refuses to work in the group of another installation, whose tenants
// have other endpoints and keys.
func (w *Worker) checkInstallation(committed map[int]queue.Committed) error {
	for partition, c := range committed {
		m, err := lane.Decode(c.Metadata)
		if err != nil || m.Installation == (lane.Tag{}) || m.Installation == w.installation() {
			continue // what cannot be understood is refused by its partition
		}
		return fmt.Errorf("%w: the commit of partition %d of %s in group %s is of another installation than that of this tenants file (installation: %q). "+
			"Give the file that works in this group, or a --group of its own",
			ErrInstallation, partition, w.o.Topics.Events(), w.o.Group, w.o.Tenants().Installation())
	}
	return nil
}

// checkPartitions refuses to work when the topic's number of partitions has
// changed while events of before are not delivered: users have moved to other
// partitions, where their later events would overtake.
func (w *Worker) checkPartitions(ctx context.Context, g *queue.Generation, committed map[int]queue.Committed) error {
	if w.o.AcceptPartitions == g.Partitions {
		return nil
	}
	topic := w.o.Topics.Events()
	bounds, err := w.o.Log.Bounds(ctx, topic)
	if err != nil {
		return fmt.Errorf("read the ends of the log: %w", err)
	}
	before, waiting := 0, int64(0)
	for id, c := range committed {
		m, err := lane.Decode(c.Metadata)
		if err != nil || m.Partitions == 0 || m.Partitions == g.Partitions {
			continue // what cannot be understood is refused by its partition
		}
		before = m.Partitions
		waiting += int64(max(0, bounds[id].End-c.Offset)) + int64(len(m.Cursors))
	}
	if waiting == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s has %d partitions and had %d; %d events of before are not delivered, and their users' later events, "+
		"which now stand in other partitions, would overtake them. Kafka cannot take partitions back: --accept-partitions %d goes on all the same. "+
		"Next time stop the ingress and wait until `offsets show` says that nothing is left, before adding partitions",
		ErrPartitions, topic, g.Partitions, before, waiting, g.Partitions)
}

// checkCommits refuses to work on a partition of which the group has no commit, but the
// topic of receipts has had some: its commits were deleted, or have expired while no
// worker ran, or this is another group than the one that worked here before. To begin
// at the start of the log would send everything again that it still has. There is no
// receipt before the first commit: until then none is written.
func (w *Worker) checkCommits(ctx context.Context, g *queue.Generation) error {
	if w.o.Anew || !w.o.Receipts || w.o.Replay != nil {
		return nil
	}
	events := make(map[int]int64) // of the partitions without a commit
	for _, a := range g.Assignments {
		if !a.Committed && a.End > a.Start {
			events[a.Partition] = int64(a.End - a.Start)
		}
	}
	if len(events) == 0 {
		return nil
	}
	bounds, err := w.o.Log.Bounds(ctx, w.o.Topics.Receipts())
	if err != nil {
		return fmt.Errorf("read the ends of the receipts: %w", err)
	}
	again := int64(0)
	var worked []int
	for _, partition := range slices.Sorted(maps.Keys(events)) {
		if bounds[partition].End > 0 {
			worked = append(worked, partition)
			again += events[partition]
		}
	}
	if len(worked) == 0 {
		return nil // a new group, in a new installation
	}
	return fmt.Errorf("%w: group %s has none of partitions %v of %s, although there are receipts of their events. They were deleted, or have expired "+
		"while no worker ran (offsets.retention.minutes of the brokers); or the group's name is another one than before. `offsets reset --to-time` "+
		"or --to-latest says where to go on; --from earliest begins at the start of the log, and sends %d events again",
		ErrNoCommits, w.o.Group, worked, w.o.Topics.Events(), again)
}

// installation is the tag of the installation that the tenants file names; zero if it
// names none.
func (w *Worker) installation() lane.Tag {
	if name := w.o.Tenants().Installation(); name != "" {
		return lane.TagOf(name)
	}
	return lane.Tag{}
}

// Causes of a Run that ends before it has worked.
var (
	// ErrPartitions says that the topic has another number of partitions than before.
	ErrPartitions = errors.New("the number of partitions has changed")
	// ErrNoCommits says that the group's commits are gone.
	ErrNoCommits = errors.New("the group's commits are gone")
	// ErrInstallation says that another installation works in the group.
	ErrInstallation = errors.New("the group is another installation's")
)
