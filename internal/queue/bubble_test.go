package queue_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/broker"
	"refinersource/internal/queue"
)

// cluster is an embedded broker in a bubble of virtual time, with a topic.
type cluster struct {
	*kfake.Cluster
	options queue.Options
	log     *queue.Log
	topic   string
}

const port = 9092

// inBubble runs a test against a cluster of its own, in virtual time.
func inBubble(t *testing.T, partitions int, test func(t *testing.T, c *cluster)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var network kfake.VirtualNetwork
		b, err := broker.Start(broker.Options{Ports: []int{port, port + 1}, Listen: network.Listen})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		options := queue.Options{Brokers: b.Addrs(), Dial: network.DialContext}
		l, err := queue.Open(options)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c := &cluster{Cluster: b.Cluster(), options: options, log: l, topic: "topic"}
		if err := l.EnsureTopics(virtual(t), []queue.TopicSpec{{Name: c.topic, Partitions: partitions}}); err != nil {
			t.Fatal(err)
		}
		test(t, c)
	})
}

// virtual ends what would hang; the clock jumps there at once.
func virtual(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	t.Cleanup(cancel)
	return ctx
}

// publish appends records one after another, with a publisher of its own.
func (c *cluster) publish(t *testing.T, values ...string) {
	t.Helper()
	p := c.log.Publisher(c.topic, queue.PublisherOptions{})
	defer p.Close()
	for _, v := range values {
		if _, err := p.Publish(virtual(t), queue.Record{Value: []byte(v)}); err != nil {
			t.Fatal(err)
		}
	}
}

// read reads partition 0 from the start, n records.
func (c *cluster) read(t *testing.T, n int, o queue.ReaderOptions) []string {
	t.Helper()
	r := c.log.Reader(c.topic, 0, 0, o)
	ctx := virtual(t)
	var values []string
	for len(values) < n {
		b, err := r.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range b.Records {
			values = append(values, string(rec.Value))
		}
	}
	return values
}

// inGeneration runs f as the handler of a member's first generation.
func (c *cluster) inGeneration(t *testing.T, f func(ctx context.Context, g *queue.Generation)) {
	t.Helper()
	group, err := c.log.Group(queue.GroupOptions{ID: "group", Topic: c.topic, SessionTimeout: 6 * time.Second, HeartbeatInterval: time.Second, RebalanceTimeout: 15 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(virtual(t))
	defer cancel()
	if err := group.Run(ctx, func(ctx context.Context, g *queue.Generation) {
		defer cancel()
		f(ctx, g)
	}); err != nil {
		t.Fatal(err)
	}
}

// noLeader makes all partitions of the topic have no leader until that moment.
func (c *cluster) noLeader(partitions int, until time.Time) {
	c.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if time.Now().After(until) {
			return nil, nil, false
		}
		c.KeepControl()
		res := req.ResponseKind().(*kmsg.MetadataResponse)
		for node := range int32(2) {
			b := kmsg.NewMetadataResponseBroker()
			b.NodeID, b.Host, b.Port = node, "localhost", port+node
			res.Brokers = append(res.Brokers, b)
		}
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic = new(c.topic)
		for p := range int32(partitions) {
			part := kmsg.NewMetadataResponseTopicPartition()
			part.Partition, part.Leader, part.ErrorCode = p, -1, kerr.LeaderNotAvailable.Code
			topic.Partitions = append(topic.Partitions, part)
		}
		res.Topics = append(res.Topics, topic)
		return res, nil, true
	})
}
