package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

// Cluster is real Kafka: one process a broker, each a controller as well. Every
// client has a listener of its own at every broker, behind a proxy of its own, so
// that one client's link to one broker can be broken. Brokers talk to each other,
// and we to them, directly.
type Cluster struct {
	Brokers []*Broker
	// Admin is our own client, past all proxies.
	Admin   *kgo.Client
	clients []string
	dir     string
	java    []string
	procs   *supervisor
}

// Broker is one broker of a cluster.
type Broker struct {
	ID      int
	direct  string
	proxies []*Proxy // by client
	file    string   // its properties
	process *Process // the last one
}

// brokerStart is how long a broker may take to serve.
const brokerStart = 2 * time.Minute

// startCluster starts n brokers for the named clients.
func startCluster(ctx context.Context, procs *supervisor, free *ports, root, dir string, n int, clients []string) (*Cluster, error) {
	java, id, err := kafkaCommand(ctx, root)
	if err != nil {
		return nil, err
	}
	c := &Cluster{clients: clients, dir: dir, java: java, procs: procs}
	type addresses struct{ controller, between, direct string }
	all := make([]addresses, n)
	var voters []string
	for i := range all {
		for _, a := range []*string{&all[i].controller, &all[i].between, &all[i].direct} {
			if *a, err = free.take(); err != nil {
				return nil, err
			}
		}
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, all[i].controller))
	}
	for i, a := range all {
		b := &Broker{ID: i + 1, direct: a.direct}
		c.Brokers = append(c.Brokers, b)
		listeners := []string{"CONTROLLER://" + a.controller, "BROKER://" + a.between, "DIRECT://" + a.direct}
		advertised := []string{"BROKER://" + a.between, "DIRECT://" + a.direct}
		names := []string{"CONTROLLER:PLAINTEXT", "BROKER:PLAINTEXT", "DIRECT:PLAINTEXT"}
		for _, client := range clients {
			address, err := free.take()
			if err != nil {
				return nil, err
			}
			p, err := listenProxy(free, address)
			if err != nil {
				return nil, err
			}
			p.SpeakKafka()
			b.proxies = append(b.proxies, p)
			name := strings.ToUpper(strings.ReplaceAll(client, "-", ""))
			listeners = append(listeners, name+"://"+address)
			advertised = append(advertised, name+"://"+p.Addr())
			names = append(names, name+":PLAINTEXT")
		}
		b.file = filepath.Join(dir, fmt.Sprintf("broker-%d.properties", b.ID))
		inSync := min(2, n)
		text := strings.Join([]string{
			"process.roles=broker,controller",
			fmt.Sprintf("node.id=%d", b.ID),
			"controller.quorum.voters=" + strings.Join(voters, ","),
			"controller.listener.names=CONTROLLER",
			"inter.broker.listener.name=BROKER",
			"listeners=" + strings.Join(listeners, ","),
			"advertised.listeners=" + strings.Join(advertised, ","),
			"listener.security.protocol.map=" + strings.Join(names, ","),
			"log.dirs=" + filepath.Join(dir, fmt.Sprintf("data-%d", b.ID)),
			"auto.create.topics.enable=false",
			fmt.Sprintf("offsets.topic.replication.factor=%d", n),
			"offsets.topic.num.partitions=4",
			"offsets.topic.segment.bytes=1073741824", // what is compacted is gone from the history
			fmt.Sprintf("transaction.state.log.replication.factor=%d", n),
			fmt.Sprintf("transaction.state.log.min.isr=%d", inSync),
			"transaction.state.log.num.partitions=1",
			fmt.Sprintf("share.coordinator.state.topic.replication.factor=%d", n),
			fmt.Sprintf("share.coordinator.state.topic.min.isr=%d", inSync),
			fmt.Sprintf("min.insync.replicas=%d", inSync),
			"group.initial.rebalance.delay.ms=1000", // so that workers that start together begin in one generation
			"num.network.threads=1",
			"num.io.threads=4",
			"",
		}, "\n")
		if err := os.WriteFile(b.file, []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("write the broker's properties: %w", err)
		}
	}
	formats, formatCtx := errgroup.WithContext(ctx)
	for _, b := range c.Brokers {
		formats.Go(func() error {
			out, err := exec.CommandContext(formatCtx, java[0], append(java[1:], "kafka.tools.StorageTool", "format", "-t", id, "-c", b.file)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("format the data of broker %d: %w\n%s", b.ID, err, out)
			}
			return nil
		})
	}
	if err := formats.Wait(); err != nil {
		return nil, err
	}
	var seeds []string
	for _, b := range c.Brokers {
		seeds = append(seeds, b.direct)
		if err := c.start(b); err != nil {
			return nil, err
		}
	}
	c.Admin, err = kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.MetadataMinAge(250*time.Millisecond), kgo.MetadataMaxAge(5*time.Second),
		kgo.RetryTimeout(time.Minute), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return nil, fmt.Errorf("make a client of the brokers: %w", err)
	}
	return c, c.await(ctx)
}

// listenProxy makes a proxy at a port of its own to an address.
func listenProxy(free *ports, to string) (*Proxy, error) {
	address, err := free.take()
	if err != nil {
		return nil, err
	}
	return NewProxy(func() (net.Listener, error) { return net.Listen("tcp", address) }, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", to)
	})
}

// kafkaCommand returns how to run a class of Kafka, and a fresh cluster id. The
// jars are those of scripts/kafka, which fetches them first.
func kafkaCommand(ctx context.Context, root string) (java []string, id string, err error) {
	var errs bytes.Buffer
	tool := exec.CommandContext(ctx, filepath.Join(root, "scripts", "kafka"), "tool", "kafka.tools.StorageTool", "random-uuid")
	tool.Stderr = &errs
	out, err := tool.Output()
	if err != nil {
		return nil, "", fmt.Errorf("fetch Kafka with scripts/kafka: %w\n%s", err, errs.Bytes())
	}
	libs, err := filepath.Glob(filepath.Join(root, ".cache", "kafka-*", "libs", ".complete"))
	if err != nil || len(libs) == 0 {
		return nil, "", errors.New("scripts/kafka left no jars in .cache")
	}
	jars := filepath.Join(filepath.Dir(libs[len(libs)-1]), "*")
	return []string{
		"java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", jars,
	}, strings.TrimSpace(string(out)), nil
}

// addresses are where a client finds the brokers.
func (c *Cluster) addresses(client int) string {
	var all []string
	for _, b := range c.Brokers {
		all = append(all, b.proxies[client].Addr())
	}
	return strings.Join(all, ",")
}

func (c *Cluster) start(b *Broker) (err error) {
	command := append(append([]string(nil), c.java...), "kafka.Kafka", b.file)
	b.process, err = c.procs.start(fmt.Sprintf("broker-%d", b.ID), command...)
	return err
}

// kill ends a broker with SIGKILL. Nobody listens at its addresses then.
func (c *Cluster) kill(b *Broker) {
	b.process.kill()
	for _, p := range b.proxies {
		_ = p.Refuse(true)
		p.Cut()
	}
}

// revive starts a broker that was killed, on its data, and returns when it
// listens.
func (c *Cluster) revive(ctx context.Context, b *Broker) error {
	if b.process.ended() {
		if err := c.start(b); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, brokerStart, errors.New("not in time; see its log"))
	defer cancel()
	if err := await(ctx, fmt.Sprintf("broker %d to listen", b.ID), 100*time.Millisecond, func(ctx context.Context) bool {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", b.direct)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}); err != nil {
		return err
	}
	for _, p := range b.proxies {
		if err := p.Refuse(false); err != nil {
			return err
		}
	}
	return nil
}

// reviveAll revives brokers at the same time: some serve only when others do.
func (c *Cluster) reviveAll(ctx context.Context, brokers []*Broker) error {
	var all errgroup.Group
	for _, b := range brokers {
		all.Go(func() error { return c.revive(ctx, b) })
	}
	return all.Wait()
}

// await waits until all brokers are registered and serve.
func (c *Cluster) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, brokerStart, errors.New("not in time; see the brokers' logs"))
	defer cancel()
	return await(ctx, "the brokers", 300*time.Millisecond, func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		r, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, c.Admin)
		return err == nil && len(r.Brokers) == len(c.Brokers)
	})
}

// leaders returns how many partitions of a topic each broker leads, and how many
// are not in sync on all their replicas.
func (c *Cluster) leaders(ctx context.Context, topic string) (map[int]int, int, error) {
	q := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	q.Topics = append(q.Topics, t)
	r, err := q.RequestWith(ctx, c.Admin)
	if err != nil {
		return nil, 0, fmt.Errorf("read the topic's leaders: %w", err)
	}
	leads, behind := make(map[int]int), 0
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			leads[int(p.Leader)]++
			if len(p.ISR) < len(p.Replicas) {
				behind++
			}
		}
	}
	return leads, behind, nil
}

// configure sets a setting of a topic and returns how to undo it.
func (c *Cluster) configure(ctx context.Context, topic, name, value string) (undo func(context.Context) error, err error) {
	q := kmsg.NewPtrDescribeConfigsRequest()
	res := kmsg.NewDescribeConfigsRequestResource()
	res.ResourceType, res.ResourceName, res.ConfigNames = kmsg.ConfigResourceTypeTopic, topic, []string{name}
	q.Resources = append(q.Resources, res)
	r, err := q.RequestWith(ctx, c.Admin)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", name, topic, err)
	}
	if len(r.Resources) != 1 || len(r.Resources[0].Configs) != 1 || r.Resources[0].Configs[0].Value == nil {
		return nil, fmt.Errorf("read %s of %s: no answer", name, topic)
	}
	before := *r.Resources[0].Configs[0].Value
	return func(ctx context.Context) error { return c.set(ctx, topic, name, before) }, c.set(ctx, topic, name, value)
}

func (c *Cluster) set(ctx context.Context, topic, name, value string) error {
	q := kmsg.NewPtrIncrementalAlterConfigsRequest()
	res := kmsg.NewIncrementalAlterConfigsRequestResource()
	res.ResourceType, res.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	config.Name, config.Value = name, &value
	res.Configs = append(res.Configs, config)
	q.Resources = append(q.Resources, res)
	r, err := q.RequestWith(ctx, c.Admin)
	if err == nil && len(r.Resources) > 0 {
		err = kerr.ErrorForCode(r.Resources[0].ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("set %s of %s: %w", name, topic, err)
	}
	return nil
}

// coordinator returns the broker that coordinates a group.
func (c *Cluster) coordinator(ctx context.Context, group string) (*Broker, error) {
	q := kmsg.NewPtrFindCoordinatorRequest()
	q.CoordinatorKey, q.CoordinatorKeys = group, []string{group}
	r, err := q.RequestWith(ctx, c.Admin)
	if err != nil {
		return nil, fmt.Errorf("find the coordinator: %w", err)
	}
	id := r.NodeID
	if len(r.Coordinators) > 0 {
		id = r.Coordinators[0].NodeID
	}
	return c.broker(int(id))
}

// controller returns the broker whose controller is active.
func (c *Cluster) controller(ctx context.Context) (*Broker, error) {
	q := kmsg.NewPtrDescribeQuorumRequest()
	t := kmsg.NewDescribeQuorumRequestTopic()
	t.Topic = "__cluster_metadata"
	t.Partitions = append(t.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
	q.Topics = append(q.Topics, t)
	r, err := q.RequestWith(ctx, c.Admin)
	if err != nil {
		return nil, fmt.Errorf("find the controller: %w", err)
	}
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
		return nil, errors.New("find the controller: no answer for the quorum")
	}
	return c.broker(int(r.Topics[0].Partitions[0].LeaderID))
}

func (c *Cluster) broker(id int) (*Broker, error) {
	if id < 1 || id > len(c.Brokers) {
		return nil, fmt.Errorf("there is no broker %d", id)
	}
	return c.Brokers[id-1], nil
}

// close ends the brokers and the proxies. Their data stay.
func (c *Cluster) close() {
	if c.Admin != nil {
		c.Admin.Close()
	}
	for _, b := range c.Brokers {
		if b.process != nil {
			b.process.kill()
		}
		for _, p := range b.proxies {
			p.Close()
		}
	}
}
