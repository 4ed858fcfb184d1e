package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// installation is the service as it runs: an ingress, workers, and what lies
// between them and Kafka and the receiver.
type installation struct {
	binary  string
	procs   *supervisor
	cluster *Cluster
	fleet   *Fleet
	prefix  string // of the topics
	group   string
	session time.Duration // of the group
	flags   []string      // of a worker, besides those that it needs
	sinks   []*Proxy      // by worker
	logger  func(string, ...any)

	mu           sync.Mutex
	ingress      *Process // under mu; see front
	listen       string
	ingressAdmin string
	workers      []*member
}

// member is the place of one worker in the installation.
type member struct {
	index int
	admin string

	mu      sync.Mutex
	process *Process // nil while it is ended
}

func (i *installation) events() string { return i.prefix + "events" }
func (i *installation) dead() string   { return i.prefix + "dead" }

// The clients of the cluster, by their number.
const ingressClient = 0

func workerClient(index int) int { return 1 + index }

func clientNames(workers int) []string {
	names := []string{"ingress"}
	for i := range workers {
		names = append(names, workerName(i))
	}
	return names
}

// defaultSession is a worker's session timeout where it has no flag for it.
const defaultSession = 30 * time.Second

// takeSession sets the workers' session timeout, if they have a flag for it.
func (i *installation) takeSession(ctx context.Context, want time.Duration) error {
	help, err := exec.CommandContext(ctx, i.binary, "worker", "--help").CombinedOutput()
	if err != nil {
		return fmt.Errorf("ask the worker for its flags: %w\n%s", err, help)
	}
	i.session = defaultSession
	if want > 0 && strings.Contains(string(help), "--session-timeout") {
		i.session = want
		i.flags = append(i.flags, "--session-timeout", want.String())
	}
	return nil
}

// ensureTopics creates the topics.
func (i *installation) ensureTopics(ctx context.Context, partitions int) error {
	replication := len(i.cluster.Brokers)
	out, err := exec.CommandContext(ctx, i.binary, "topics", "ensure", "--brokers", i.cluster.Brokers[0].direct,
		"--topic-prefix", i.prefix, "--partitions", strconv.Itoa(partitions), "--replication", strconv.Itoa(replication)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the topics: %w\n%s", err, out)
	}
	return nil
}

// front is the ingress's last process.
func (i *installation) front() *Process {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.ingress
}

// startIngress starts the ingress if it is ended, as the argument of a command if
// one is given.
func (i *installation) startIngress(within ...string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ingress != nil && !i.ingress.ended() {
		return nil
	}
	p, err := i.procs.start("ingress", append(within, i.binary, "ingress", "--brokers", i.cluster.addresses(ingressClient),
		"--topic-prefix", i.prefix, "--tenants", i.fleet.file(-1), "--listen", i.listen, "--admin-listen", i.ingressAdmin,
		"--tenant-metrics=false")...)
	if err == nil {
		i.ingress = p
	}
	return err
}

// startWorker starts a worker that is ended, as the argument of a command if one is
// given.
func (i *installation) startWorker(m *member, within ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil && !m.process.ended() {
		return nil
	}
	p, err := i.procs.start(workerName(m.index), slices.Concat(within, []string{
		i.binary, "worker", "--brokers", i.cluster.addresses(workerClient(m.index)),
		"--topic-prefix", i.prefix, "--tenants", i.fleet.file(m.index), "--group", i.group, "--admin-listen", m.admin,
		"--tenant-metrics=false",
	}, i.flags)...)
	if err == nil {
		m.process = p
	}
	return err
}

func (m *member) running() *Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process
}

// awaitReady waits until the ingress and all workers that run are ready.
func (i *installation) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("not in time; see their logs"))
	defer cancel()
	return await(ctx, "the ingress and the workers to be ready", 200*time.Millisecond, func(ctx context.Context) bool {
		if !isReady(ctx, i.ingressAdmin) {
			return false
		}
		for _, m := range i.workers {
			if m.running() != nil && !isReady(ctx, m.admin) {
				return false
			}
		}
		return true
	})
}

// lagLine is a worker's metric that names a partition it has.
var lagLine = regexp.MustCompile(`(?m)^refiner_source_lag_events\{partition="(\d+)"\}`)

// partitions are those that a worker has now, as its metrics name them.
func (m *member) partitions(ctx context.Context) []int {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.admin+"/metrics", nil)
	if err != nil {
		return nil
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil
	}
	var ids []int
	for _, match := range lagLine.FindAllSubmatch(text, -1) {
		if id, err := strconv.Atoi(string(match[1])); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// heal undoes what was done to links and processes: everything runs, and every
// link is whole.
func (i *installation) heal(ctx context.Context) error {
	if err := i.cluster.reviveAll(ctx, i.cluster.Brokers); err != nil {
		return err
	}
	for _, b := range i.cluster.Brokers {
		for _, p := range b.proxies {
			p.Set(Toxics{})
		}
	}
	for _, p := range i.sinks {
		p.Set(Toxics{})
		if err := p.Refuse(false); err != nil {
			return err
		}
	}
	if i.front().ended() {
		if err := i.startIngress(); err != nil {
			return err
		}
	}
	for _, m := range i.workers {
		if p := m.running(); p != nil {
			p.signal(sigCont)
		}
		if err := i.startWorker(m); err != nil {
			return err
		}
	}
	return i.cluster.await(ctx)
}
