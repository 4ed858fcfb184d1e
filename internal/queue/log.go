package queue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/offsetcommit"
	"github.com/segmentio/kafka-go/sasl"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// DefaultClientID is the name that brokers see in their logs and quotas.
const DefaultClientID = "refiner-source"

// Options are what a Log needs.
type Options struct {
	Brokers  []string // host:port of some brokers; the others are found by themselves
	ClientID string   // "" is DefaultClientID
	// Dial opens connections; nil is TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	TLS  *tls.Config // nil is plain text; the server name is each broker's host if it is empty
	// Credentials are for brokers that ask who this is; nil tells them nothing.
	Credentials *Credentials
	// Logger gets what kafka-go says of its own errors, at most a few lines in ten
	// seconds; nil drops it. It never holds a record's bytes.
	Logger *zap.Logger
}

// Validate reports all faults of the options at once.
func (o Options) Validate() error {
	var errs []error
	if len(o.Brokers) == 0 {
		errs = append(errs, errors.New("no brokers"))
	}
	for _, b := range o.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			errs = append(errs, fmt.Errorf("broker %q: want host:port", b))
		}
	}
	if o.Credentials != nil {
		errs = append(errs, o.Credentials.validate())
	}
	return errors.Join(errs...)
}

// sasl is the credentials' mechanism; nil if there are none.
func (o *Options) sasl() sasl.Mechanism {
	if o.Credentials == nil {
		return nil
	}
	return saslMechanism{o.Credentials}
}

// Log is a Kafka cluster, seen as topics of records. It is safe for concurrent
// use. One process needs one.
type Log struct {
	opts      Options
	transport *transport
	client    *kafka.Client
	dialer    *kafka.Dialer
	errorLog  kafka.Logger // nil drops
}

// Open makes a Log. It connects to nothing: the first request does, and Ping says
// whether it can.
func Open(o Options) (*Log, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if o.ClientID == "" {
		o.ClientID = DefaultClientID
	}
	l := &Log{
		opts:      o,
		transport: &transport{opts: o},
		dialer:    &kafka.Dialer{ClientID: o.ClientID, DialFunc: o.Dial, TLS: o.TLS, SASLMechanism: o.sasl(), Timeout: requestTimeout},
		errorLog:  errorLogger(o.Logger),
	}
	l.client = &kafka.Client{Addr: kafka.TCP(o.Brokers...), Transport: l.transport}
	return l, nil
}

// Close gives the connections back. Publishers and groups are to be closed before.
func (l *Log) Close() { l.transport.close() }

// Ping makes one round trip to a broker.
func (l *Log) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// The metadata would come from the transport's cache, even with all brokers gone.
	res, err := l.client.ApiVersions(ctx, &kafka.ApiVersionsRequest{})
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return fmt.Errorf("ping brokers: %w", classify(err))
	}
	return nil
}

// Bounds are the ends of a partition's log.
type Bounds struct {
	Start Offset // of the oldest record that is there
	End   Offset // of the next record that will be
}

// Bounds returns the ends of the topic's partitions, in one attempt.
func (l *Log) Bounds(ctx context.Context, topic string) (map[int]Bounds, error) {
	n, err := l.Partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	return l.bounds(ctx, topic, sequence(n))
}

func (l *Log) bounds(ctx context.Context, topic string, partitions []int) (map[int]Bounds, error) {
	bounds := make(map[int]Bounds, len(partitions))
	if len(partitions) == 0 {
		return bounds, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	l.transport.know(topic)
	requests := make([]kafka.OffsetRequest, 0, 2*len(partitions))
	for _, p := range partitions {
		requests = append(requests, kafka.FirstOffsetOf(p), kafka.LastOffsetOf(p))
	}
	res, err := l.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{topic: requests}})
	if err != nil {
		return nil, fmt.Errorf("list offsets of %s: %w", topic, classify(err))
	}
	for _, p := range res.Topics[topic] {
		if p.Error != nil {
			return nil, fmt.Errorf("list offsets of %s/%d: %w", topic, p.Partition, classify(p.Error))
		}
		bounds[p.Partition] = Bounds{Start: Offset(p.FirstOffset), End: Offset(p.LastOffset)}
	}
	for _, p := range partitions {
		if b, ok := bounds[p]; !ok || b.Start < 0 || b.End < b.Start {
			return nil, fmt.Errorf("list offsets of %s/%d: no answer: %w", topic, p, ErrUnavailable)
		}
	}
	return bounds, nil
}

// Partitions returns how many partitions the topic has, as known at most about a
// second ago. A topic that does not exist is ErrUnavailable: it may be on its way.
func (l *Log) Partitions(ctx context.Context, topic string) (int, error) {
	t, err := l.topic(ctx, topic)
	if err != nil {
		return 0, fmt.Errorf("describe topic %s: %w", topic, classify(err))
	}
	return len(t.Partitions), nil
}

func (l *Log) topic(ctx context.Context, name string) (kafka.Topic, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	l.transport.know(name)
	res, err := l.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{name}})
	if err != nil {
		return kafka.Topic{}, err
	}
	for _, t := range res.Topics {
		if t.Name == name && t.Error == nil && len(t.Partitions) > 0 {
			return t, nil
		}
		if t.Name == name && t.Error != nil {
			return kafka.Topic{}, t.Error
		}
	}
	return kafka.Topic{}, kafka.UnknownTopicOrPartition
}

// sequence is 0 to n-1.
func sequence(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

// errorLogger passes on the first few lines of each ten seconds.
func errorLogger(l *zap.Logger) kafka.Logger {
	if l == nil {
		return nil
	}
	l = l.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, 10*time.Second, 3, 0)
	}))
	return kafka.LoggerFunc(func(format string, args ...any) {
		l.Warn("kafka client", zap.String("detail", fmt.Sprintf(format, args...)))
	})
}

// transport is the cluster's connections. kafka-go asks for the metadata of the
// topics that a kafka.Transport was made with, or of all that the cluster has,
// once a second; so a new one is made when a topic becomes known.
type transport struct {
	opts Options

	mu      sync.Mutex
	topics  []string
	current *kafka.Transport
}

// know makes the transport follow the topics.
func (t *transport) know(topics ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := slices.Concat(t.topics, topics)
	slices.Sort(all)
	if all = slices.Compact(all); len(all) == len(t.topics) {
		return
	}
	t.topics = all
	if t.current != nil {
		t.current.CloseIdleConnections() // requests under way on it end as usual
		t.current = nil
	}
}

// RoundTrip implements kafka.RoundTripper.
func (t *transport) RoundTrip(ctx context.Context, addr net.Addr, req kafka.Request) (kafka.Response, error) {
	if commit, ok := req.(*offsetcommit.Request); ok {
		withoutLeaderEpoch(commit)
	}
	return t.get().RoundTrip(ctx, addr, req)
}

func (t *transport) get() *kafka.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current == nil {
		t.current = &kafka.Transport{
			Dial:           t.opts.Dial,
			DialTimeout:    requestTimeout / 2,
			MetadataTTL:    time.Second, // how long a moved leader is looked for at the old place
			MetadataTopics: t.topics,
			ClientID:       t.opts.ClientID,
			TLS:            t.opts.TLS,
			SASL:           t.opts.sasl(),
		}
	}
	return t.current
}

func (t *transport) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != nil {
		t.current.CloseIdleConnections()
		t.current = nil
	}
}

// withoutLeaderEpoch says that the epoch of the committed record is not known.
// kafka-go says 0, which other clients of the group could take for a truncated log.
func withoutLeaderEpoch(req *offsetcommit.Request) {
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			req.Topics[i].Partitions[j].CommittedLeaderEpoch = -1
		}
	}
}
