package queue_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/queue"
)

// K9: the call succeeds, and the refusal stands in the answer for the partition.
func TestCommitChecksEachPartition(t *testing.T) {
	for _, test := range []struct {
		answer *kerr.Error
		class  error
	}{
		{kerr.IllegalGeneration, queue.ErrGenerationEnded},
		{kerr.UnknownMemberID, queue.ErrGenerationEnded},
		{kerr.FencedInstanceID, queue.ErrGenerationEnded},
		{kerr.RebalanceInProgress, queue.ErrUnavailable},
		{kerr.CoordinatorLoadInProgress, queue.ErrUnavailable},
		{kerr.CoordinatorNotAvailable, queue.ErrUnavailable},
		{kerr.NotCoordinator, queue.ErrUnavailable},
		{kerr.RequestTimedOut, queue.ErrUnavailable},
		{kerr.UnknownServerError, queue.ErrUnavailable},
		{kerr.UnknownTopicOrPartition, queue.ErrUnavailable},
		{kerr.OffsetMetadataTooLarge, queue.ErrMetadataTooLarge},
		{kerr.InvalidCommitOffsetSize, queue.ErrRefused},
		{kerr.GroupAuthorizationFailed, queue.ErrRefused},
	} {
		t.Run(test.answer.Message, func(t *testing.T) {
			inBubble(t, 2, func(t *testing.T, c *cluster) {
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Partitions: []int32{1}, Err: test.answer})
				c.inGeneration(t, func(ctx context.Context, g *queue.Generation) {
					err := g.Commit(ctx, []queue.Commit{{Partition: 0, Offset: 5}, {Partition: 1, Offset: 5}})
					if !errors.Is(err, test.class) {
						t.Errorf("got error %v, want %v", err, test.class)
					}
					for _, other := range []error{queue.ErrGenerationEnded, queue.ErrUnavailable, queue.ErrRefused, queue.ErrMetadataTooLarge} {
						if !errors.Is(test.class, other) && errors.Is(err, other) {
							t.Errorf("error %v is also %q", err, other)
						}
					}
					failed, ok := errors.AsType[*queue.CommitError](err)
					if !ok || len(failed.Partitions) != 1 || failed.Partitions[1] == nil {
						t.Errorf("got error %v, want one for partition 1 alone", err)
					}
				})
				got, err := c.log.Committed(virtual(t), "group", c.topic)
				if err != nil || got[0].Offset != 5 {
					t.Errorf("commits: got %v and error %v, want offset 5 for partition 0", got, err)
				}
			})
		})
	}
}

// K25: other clients of the group take an epoch that is not there for a truncated log.
func TestCommitClaimsNoLeaderEpoch(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		var epoch atomic.Int32
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Observe: true, Count: -1, When: func(req kmsg.Request) bool {
			epoch.Store(req.(*kmsg.OffsetCommitRequest).Topics[0].Partitions[0].LeaderEpoch)
			return true
		}})
		c.inGeneration(t, func(ctx context.Context, g *queue.Generation) {
			if err := g.Commit(ctx, []queue.Commit{{Offset: 0}}); err != nil {
				t.Error(err)
			}
		})
		if epoch.Load() != -1 {
			t.Errorf("leader epoch of the commit: got %d, want -1", epoch.Load())
		}
	})
}

// Kafka fails all of a commit that does not fit its offsets topic.
func TestLargeCommitIsSentInParts(t *testing.T) {
	const partitions = 64
	inBubble(t, partitions, func(t *testing.T, c *cluster) {
		var mu sync.Mutex
		var sizes []int
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, TopLevel: true, Observe: true, Count: -1, When: func(req kmsg.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			size := 0
			for _, p := range req.(*kmsg.OffsetCommitRequest).Topics[0].Partitions {
				size += len(*p.Metadata)
			}
			sizes = append(sizes, size)
			return true
		}})
		var commits []queue.Commit
		for p := range partitions {
			commits = append(commits, queue.Commit{Partition: p, Offset: 0, Metadata: strings.Repeat("丏", queue.MaxMetadataUnits)})
		}
		c.inGeneration(t, func(ctx context.Context, g *queue.Generation) {
			if err := g.Commit(ctx, commits); err != nil {
				t.Error(err)
			}
		})
		total := 0
		for _, size := range sizes {
			if total += size; size > 512<<10 {
				t.Errorf("a request of %d bytes of metadata, want at most 512 KiB", size)
			}
		}
		if want := partitions * queue.MaxMetadataUnits * 3; total != want {
			t.Errorf("%d bytes of metadata in %d requests, want %d", total, len(sizes), want)
		}
		if got, err := c.log.Committed(virtual(t), "group", c.topic); err != nil || len(got) != partitions {
			t.Errorf("got %d commits and error %v, want %d", len(got), err, partitions)
		}
	})
}

func TestGroupTriesAgainUntilItKnowsItsCommits(t *testing.T) {
	for name, fault := range map[string]kfake.Fault{
		"offset fetch":         {Keys: []kmsg.Key{kmsg.OffsetFetch}, Err: kerr.CoordinatorLoadInProgress},
		"offsets of partition": {Keys: []kmsg.Key{kmsg.ListOffsets}, Partitions: []int32{1}, Err: kerr.NotLeaderForPartition},
		"join":                 {Keys: []kmsg.Key{kmsg.JoinGroup}, Err: kerr.CoordinatorNotAvailable},
		"sync":                 {Keys: []kmsg.Key{kmsg.SyncGroup}, Err: kerr.NotCoordinator},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 2, func(t *testing.T, c *cluster) {
				c.publish(t, "v")
				c.inGeneration(t, func(ctx context.Context, g *queue.Generation) {
					if err := g.Commit(ctx, []queue.Commit{{Partition: 0, Offset: 1}, {Partition: 1, Offset: 0}}); err != nil {
						t.Error(err)
					}
				})
				fault.Count = 5
				handle := c.Fault(fault)
				c.inGeneration(t, func(_ context.Context, g *queue.Generation) {
					for _, a := range g.Assignments {
						if !a.Committed {
							t.Errorf("partition %d: assigned without its commit", a.Partition)
						}
					}
				})
				if handle.Hits() == 0 {
					t.Error("the fault was not met")
				}
			})
		})
	}
}

// Heartbeats go on while the handler drains, so that it may take longer than the
// session.
func TestMemberThatDrainsOnItsOwnAccordStaysInTheGroup(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		c.inGeneration(t, func(ctx context.Context, g *queue.Generation) {
			time.Sleep(time.Minute)
			if err := g.Commit(ctx, []queue.Commit{{Offset: 0}}); err != nil {
				t.Errorf("commit after ten sessions: %v", err)
			}
		})
		group, err := c.log.Group(queue.GroupOptions{ID: "drains", Topic: c.topic, SessionTimeout: 6 * time.Second, HeartbeatInterval: time.Second, RebalanceTimeout: 15 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(virtual(t))
		if err := group.Run(ctx, func(ctx context.Context, g *queue.Generation) {
			cancel()
			<-ctx.Done()
			time.Sleep(time.Minute)
			if err := g.Commit(context.WithoutCancel(ctx), []queue.Commit{{Offset: 0}}); err != nil {
				t.Errorf("commit after ten sessions of draining: %v", err)
			}
		}); err != nil {
			t.Error(err)
		}
	})
}

// A member that joins again on its way out makes a rebalance for nothing.
func TestMemberThatLeavesDoesNotJoinAgain(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		joins := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, Observe: true, Count: -1})
		for range 50 {
			before := 0
			c.inGeneration(t, func(context.Context, *queue.Generation) { before = joins.Hits() })
			if got := joins.Hits(); got != before {
				t.Fatalf("joined %d times after the handler had returned", got-before)
			}
		}
	})
}

// kafka-go does not leave where the group rebalances just as it is closed. Such a
// member would hold up the others until its session is over.
func TestMemberLeavesInTheMidstOfARebalance(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		ctx, cancel := context.WithCancel(virtual(t))
		group, err := c.log.Group(queue.GroupOptions{ID: "group", Topic: c.topic, OnError: func(error) { cancel() }})
		if err != nil {
			t.Fatal(err)
		}
		if err := group.Run(ctx, func(context.Context, *queue.Generation) {
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.SyncGroup}, Err: kerr.RebalanceInProgress, Count: -1})
		}); err != nil {
			t.Error(err)
		}
		client, err := kgo.NewClient(kgo.SeedBrokers(c.options.Brokers...), kgo.Dialer(c.options.Dial))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Groups = []string{"group"}
		res, err := req.RequestWith(virtual(t), client)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(res.Groups[0].Members); got != 0 {
			t.Errorf("members left behind: got %d, want none", got)
		}
	})
}

// K26: a member that lost its coordinator joins again as a new one. If the old one
// stayed, the group would wait for it until its session is over.
func TestMemberThatLostItsCoordinatorIsBackBeforeItsSessionIsOver(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		group, err := c.log.Group(queue.GroupOptions{ID: "group", Topic: c.topic})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(virtual(t))
		var members []string
		var lost time.Time
		if err := group.Run(ctx, func(ctx context.Context, g *queue.Generation) {
			if members = append(members, g.MemberID); len(members) == 2 {
				cancel()
				return
			}
			lost = time.Now()
			c.Fault(
				kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.NotCoordinator},
				kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, Err: kerr.CoordinatorNotAvailable, Count: 5},
				kfake.Fault{Keys: []kmsg.Key{kmsg.LeaveGroup}, Err: kerr.CoordinatorNotAvailable, Count: 5},
			)
			<-ctx.Done()
		}); err != nil {
			t.Error(err)
		}
		if len(members) != 2 || members[0] == members[1] {
			t.Fatalf("members: got %v, want two that differ", members)
		}
		if away := time.Since(lost); away >= queue.DefaultSessionTimeout {
			t.Errorf("away for %v, want less than the session's %v", away, queue.DefaultSessionTimeout)
		}
	})
}

// K15: the members share out only the partitions that were there when they joined.
func TestNewPartitionsMakeANewGeneration(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		client, err := kgo.NewClient(kgo.SeedBrokers(c.options.Brokers...), kgo.Dialer(c.options.Dial))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		group, err := c.log.Group(queue.GroupOptions{ID: "group", Topic: c.topic})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(virtual(t))
		var got []int
		if err := group.Run(ctx, func(ctx context.Context, g *queue.Generation) {
			if got = append(got, g.Partitions, len(g.Assignments)); len(got) == 4 {
				cancel()
				return
			}
			req := kmsg.NewPtrCreatePartitionsRequest()
			topic := kmsg.NewCreatePartitionsRequestTopic()
			topic.Topic, topic.Count = c.topic, 3
			req.Topics = append(req.Topics, topic)
			if _, err := req.RequestWith(ctx, client); err != nil {
				t.Error(err)
			}
			<-ctx.Done()
			if cause := context.Cause(ctx); !errors.Is(cause, queue.ErrGenerationEnded) {
				t.Errorf("cause of the end: got %v, want ErrGenerationEnded", cause)
			}
			// It is only to end: what was done before counts.
			if err := g.Commit(context.WithoutCancel(ctx), []queue.Commit{{Offset: 0}}); err != nil {
				t.Errorf("commit while draining: %v", err)
			}
		}); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]int{1, 1, 3, 3}, got); diff != "" {
			t.Errorf("partitions of the topic and of the member, by generation (-want +got):\n%s", diff)
		}
	})
}

// A group whose brokers are gone still ends, at once where it waits for them.
func TestRunEndsWithoutBrokers(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *cluster) {
		ended := make(chan struct{})
		c.inGeneration(t, func(ctx context.Context, _ *queue.Generation) {
			c.Close()
			<-ctx.Done() // the heartbeats fail
			close(ended)
		})
		<-ended
	})
}
