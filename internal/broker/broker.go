// Package broker is a Kafka cluster inside the process, for dev and the tests: it
// runs franz-go's kfake, which speaks Kafka's protocol, and keeps its data. It owns
// the listening ports and the data directory. It is not for production: one
// process, one disk, one copy.
//
// What it acknowledged survives a clean end and the death of the process; the
// death of the machine only with Options.Sync.
package broker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"
)

// Options are what a Broker can be told. The zero value is one broker on a free
// loopback port that forgets everything when it is closed.
type Options struct {
	// DataDir keeps the topics, records and commits; "" keeps them in memory. One
	// process at a time uses a directory. A later one may use other ports, and must
	// have as many brokers.
	DataDir string
	// Brokers is how many there are; 0 is one, or as many as there are Ports.
	Brokers int
	Ports   []int // on 127.0.0.1, one per broker; none is free ports
	// Listen opens the ports; nil is TCP.
	Listen func(network, address string) (net.Listener, error)
	// Sync waits for the disk before each acknowledgement: slow, and only needed
	// where the machine may die.
	Sync   bool
	Logger *zap.Logger // nil is none
}

// minSessionTimeout lets tests have members that die quickly; Kafka's own bound
// is six seconds.
const minSessionTimeout = 100 * time.Millisecond

// Broker is a running cluster.
type Broker struct {
	cluster *kfake.Cluster
	addrs   []string
	lock    *os.File // nil without a data directory
}

// Start starts the cluster and returns when it takes connections. The caller must
// close it.
func Start(o Options) (*Broker, error) {
	if o.Brokers == 0 {
		o.Brokers = max(1, len(o.Ports))
	}
	if len(o.Ports) > 0 && len(o.Ports) != o.Brokers {
		return nil, fmt.Errorf("start broker: %d ports for %d brokers", len(o.Ports), o.Brokers)
	}
	opts := []kfake.Opt{
		kfake.NumBrokers(o.Brokers),
		kfake.GroupMinSessionTimeout(minSessionTimeout),
		kfake.BrokerConfigs(map[string]string{"default.replication.factor": fmt.Sprint(o.Brokers)}),
	}
	if len(o.Ports) > 0 {
		opts = append(opts, kfake.Ports(o.Ports...))
	}
	if o.Listen != nil {
		opts = append(opts, kfake.ListenFn(o.Listen))
	}
	if o.Logger != nil {
		opts = append(opts, kfake.WithLogger(logger{o.Logger.Sugar()}))
	}
	var lock *os.File
	if o.DataDir != "" {
		var err error
		if lock, err = lockDir(o.DataDir); err != nil {
			return nil, fmt.Errorf("start broker: %w", err)
		}
		opts = append(opts, kfake.DataDir(o.DataDir))
		if o.Sync {
			opts = append(opts, kfake.SyncWrites())
		}
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		if lock != nil {
			err = errors.Join(err, lock.Close())
		}
		return nil, fmt.Errorf("start broker: %w", err)
	}
	return &Broker{cluster: cluster, addrs: cluster.ListenAddrs(), lock: lock}, nil
}

// Addrs are the host:port of the brokers.
func (b *Broker) Addrs() []string { return b.addrs }

// Cluster is the fake itself, for tests that make it fail.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Close ends the cluster. With a data directory all of it is on disk then.
func (b *Broker) Close() error {
	b.cluster.Close()
	if b.lock == nil {
		return nil
	}
	if err := b.lock.Close(); err != nil {
		return fmt.Errorf("close broker: %w", err)
	}
	return nil
}

// ErrInUse says that another process has the data directory.
var ErrInUse = errors.New("data directory is in use by another process; end it, or give another directory")

// lockDir makes the directory and takes its lock, which ends with the file or the
// process.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), f.Close())
	}
	return f, nil
}

// logger passes kfake's lines on.
type logger struct{ to *zap.SugaredLogger }

// Logf implements kfake.Logger.
func (l logger) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.to.Errorf(format, args...)
	case kfake.LogLevelWarn:
		l.to.Warnf(format, args...)
	default: // each request is a line of its own
		l.to.Debugf(format, args...)
	}
}
