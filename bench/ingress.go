package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/valyala/fasthttp"

	"refinersource/internal/queue"
)

// ingressFlags are those of bench ingress.
type ingressFlags struct {
	*common
	Connections []int         `json:"connections"`
	Duration    time.Duration `json:"duration_ns"`
}

func newIngress() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ingress",
		Short:   "Post events to the ingress, at its peak and at half of that, and to a server that only reads them",
		Example: "  go run . ingress --connections 64,512 --brokers 127.0.0.1:19092",
		Args:    cobra.NoArgs,
	}
	f := &ingressFlags{common: addCommon(cmd)}
	cmd.Flags().IntSliceVar(&f.Connections, "connections", []int{64, 512}, "connections, each with one request at a time")
	cmd.Flags().DurationVar(&f.Duration, "duration", 10*time.Second, "length of a run")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) }
	return cmd
}

func (f *ingressFlags) validate() error {
	if err := f.common.validate(); err != nil {
		return err
	}
	if len(f.Connections) == 0 || slices.Min(f.Connections) < 1 || f.Duration <= 0 {
		return usagef("--connections must be at least 1, and --duration more than 0")
	}
	return nil
}

// front is one run against a server.
type front struct {
	System      string  `json:"system"`
	Connections int     `json:"connections"`
	Run         int     `json:"run"`
	Offered     float64 `json:"offered_per_second,omitempty"` // 0 is as many as the connections bear
	Requests    int     `json:"requests"`                     // answered 202
	Rate        float64 `json:"requests_per_second"`
	CPU         float64 `json:"cpu_us_per_request"` // of the process, from when it listens to its end
	PeakRSS     int64   `json:"peak_rss_bytes"`
	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
	P999        float64 `json:"p999_ms"`
	Refused     int64   `json:"refused"` // any other answer, or none
	Broken      int     `json:"broken"`  // answered 202 and not in the log as answered
	Failure     string  `json:"failure,omitempty"`
}

func (r *front) say() {
	fmt.Fprintf(os.Stderr, "run %d, %d connections, %s: %.0f requests/s, %.1f µs/request, p50 %.1f ms, p99 %.1f ms, p99.9 %.1f ms, %d refused, %d broken %s\n",
		r.Run+1, r.Connections, r.System, r.Rate, r.CPU, r.P50, r.P99, r.P999, r.Refused, r.Broken, r.Failure)
}

func (r *front) failed() bool { return r.Failure != "" || r.Refused > 0 || r.Broken > 0 }

func (f *ingressFlags) run(ctx context.Context, out io.Writer) (err error) {
	if err := f.validate(); err != nil {
		return err
	}
	built, b, done, err := f.prepare(ctx, "bare")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	var all fronts
	for run := range f.Runs {
		for _, connections := range f.Connections {
			names := []string{"ingress", "bare"}
			if run%2 == 1 {
				slices.Reverse(names)
			}
			for _, name := range names {
				one := front{System: name, Connections: connections, Run: run}
				if name == "bare" {
					err = f.bare(ctx, b, built["bare"], &one)
				} else {
					err = f.ingress(ctx, b, &one)
				}
				if err != nil {
					return err
				}
				all = append(all, one)
				one.say()
				if name == "bare" || one.failed() {
					continue
				}
				half := front{System: "half", Connections: connections, Run: run, Offered: one.Rate / 2}
				if err := f.ingress(ctx, b, &half); err != nil {
					return err
				}
				all = append(all, half)
				half.say()
			}
		}
	}
	if err := f.write(out, b.cluster.kind, all); err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(r front) bool { return r.failed() }) {
		return errBroken
	}
	return nil
}

// ingress measures the ingress, and holds its answers to the log.
func (f *ingressFlags) ingress(ctx context.Context, b *bench, one *front) error {
	prefix, err := b.cluster.topics(ctx, f.Partitions)
	if err != nil {
		return err
	}
	tenants, err := writeTenants(b.dir, f.Tenants, "http://127.0.0.1", "strict")
	if err != nil {
		return err
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	p, err := start(ctx, b.dir, f.Binary, "ingress", "--brokers", join(b.cluster.brokers), "--topic-prefix", prefix,
		"--tenants", tenants, "--listen", address, "--admin-listen", "127.0.0.1:0")
	if err != nil {
		return err
	}
	sent, before := f.load(ctx, p, address, one)
	one.finish(p, len(sent), before)
	if one.Broken, err = b.cluster.missing(ctx, queue.Topics{Prefix: prefix}.Events(), sent); err != nil {
		return err
	}
	return errors.Join(ctx.Err(), b.cluster.drop(ctx, prefix))
}

// bare measures the server that does nothing.
func (f *ingressFlags) bare(ctx context.Context, b *bench, binary string, one *front) error {
	address, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	p, err := start(ctx, b.dir, binary, "-listen", address)
	if err != nil {
		return err
	}
	sent, before := f.load(ctx, p, address, one)
	one.finish(p, len(sent), before)
	return ctx.Err()
}

func (r *front) finish(p *process, requests int, before time.Duration) {
	used, err := p.stop()
	r.PeakRSS, r.Requests = used.PeakRSS, requests
	r.CPU = float64((used.CPU - before).Microseconds()) / float64(max(1, requests))
	if err != nil {
		r.Failure = err.Error()
	}
}

// posted is an event that was answered 202: its id, and where the answer says that
// it stands.
type posted struct {
	id        string
	partition int32
	offset    int64
	took      time.Duration // since it was due
}

// load posts events over so many connections, each one after another, for the
// duration, and tells what was accepted, and what the process had taken before.
func (f *ingressFlags) load(ctx context.Context, p *process, address string, one *front) (sent []posted, before time.Duration) {
	running, cancel := context.WithCancel(until(ctx, p))
	defer cancel()
	if err := reachable(running, address); err != nil {
		one.Failure = err.Error()
		return nil, 0
	}
	before = p.cpu()
	l := &load{users: f.Users, tenants: f.Tenants}
	client := &fasthttp.HostClient{Addr: address, MaxConns: one.Connections, ReadTimeout: 30 * time.Second, MaxIdemponentCallAttempts: 1}
	defer client.CloseIdleConnections()
	each := make([][]posted, one.Connections)
	var next, refused atomic.Int64
	var posting sync.WaitGroup
	begun := time.Now()
	for c := range one.Connections {
		posting.Go(func() {
			s := newSender(client, address)
			for running.Err() == nil && time.Since(begun) < f.Duration {
				// Each event is another one: the n-th survey of its user.
				i := int(next.Add(1) - 1)
				due := time.Now()
				if one.Offered > 0 { // each has its time, and whoever comes late waits as long
					due = begun.Add(time.Duration(float64(i) / one.Offered * float64(time.Second)))
					time.Sleep(time.Until(due))
				}
				user, seq := i%l.users, i/l.users+1
				done, ok := s.post(l, user, seq)
				if !ok {
					refused.Add(1)
					continue
				}
				done.took = time.Since(due)
				each[c] = append(each[c], done)
			}
		})
	}
	posting.Wait()
	took := time.Since(begun)
	sent = slices.Concat(each...)
	one.Refused = refused.Load()
	one.Rate = float64(len(sent)) / took.Seconds()
	latencies := make([]time.Duration, len(sent))
	for i := range sent {
		latencies[i] = sent[i].took
	}
	slices.Sort(latencies)
	one.P50, one.P99, one.P999 = milliseconds(quantile(latencies, 0.5)), milliseconds(quantile(latencies, 0.99)), milliseconds(quantile(latencies, 0.999))
	return sent, before
}

// sender is one connection's: its buffers.
type sender struct {
	client   *fasthttp.HostClient
	address  string
	request  *fasthttp.Request
	response *fasthttp.Response
	body     []byte
}

func newSender(client *fasthttp.HostClient, address string) *sender {
	s := &sender{client: client, address: address, request: fasthttp.AcquireRequest(), response: fasthttp.AcquireResponse()}
	s.request.Header.SetMethod(fasthttp.MethodPost)
	s.request.Header.SetContentType("application/json")
	return s
}

// post posts one event, and reports false for any answer but 202.
func (s *sender) post(l *load, user, seq int) (posted, bool) {
	tenant := l.tenantOf(user)
	s.body = l.appendEvent(s.body[:0], user, seq)
	s.request.SetRequestURI("http://" + s.address + "/v1/webhooks/refiner/" + tenantID(tenant))
	s.request.Header.Set("Authorization", "Bearer "+token(tenant))
	s.request.SetBodyRaw(s.body)
	err := s.client.Do(s.request, s.response)
	out := posted{id: eventID(user, seq), partition: -1}
	if err != nil || s.response.StatusCode() != fasthttp.StatusAccepted {
		return posted{}, false
	}
	var answer struct {
		Events []struct {
			Partition int32
			Offset    int64
		}
	}
	if body := s.response.Body(); len(body) > 0 {
		if err := json.Unmarshal(body, &answer); err != nil {
			return posted{}, false
		}
	}
	if len(answer.Events) == 1 {
		out.partition, out.offset = answer.Events[0].Partition, answer.Events[0].Offset
	}
	return out, true
}

// missing counts the events that the log does not have where the answer said.
func (c *cluster) missing(ctx context.Context, topic string, sent []posted) (int, error) {
	type position struct {
		partition int32
		offset    int64
	}
	want := make(map[position]string, len(sent))
	broken := 0
	for _, s := range sent {
		at := position{s.partition, s.offset}
		if _, taken := want[at]; taken || s.partition < 0 {
			broken++
			continue
		}
		want[at] = s.id
	}
	ends, err := c.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return 0, fmt.Errorf("list offsets: %w", err)
	}
	var left int64
	for _, partitions := range ends {
		for _, end := range partitions {
			left += end.Offset
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(c.brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return 0, fmt.Errorf("open client: %w", err)
	}
	defer client.Close()
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return 0, fmt.Errorf("read topic: %w", err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			left--
			at := position{r.Partition, r.Offset}
			for _, h := range r.Headers {
				if h.Key == queue.HeaderEventID && string(h.Value) == want[at] {
					delete(want, at)
				}
			}
		})
	}
	return broken + len(want), nil
}

// freeAddress is one that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// reachable waits until somebody listens.
func reachable(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("reach %s: %w", address, err)
		case <-tick.C:
		}
	}
}
