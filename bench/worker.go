package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

// common are the flags of every command.
type common struct {
	Brokers    []string `json:"-"`
	Binary     string   `json:"-"`
	Users      int      `json:"users"`
	Tenants    int      `json:"tenants"`
	Partitions int      `json:"partitions"`
	Seed       uint64   `json:"seed"`
	Runs       int      `json:"runs"`
	output     string
	keep       bool
}

func addCommon(cmd *cobra.Command) *common {
	f := new(common)
	flags := cmd.Flags()
	flags.StringSliceVar(&f.Brokers, "brokers", nil, "addresses of Kafka brokers, host:port,…; without them an embedded broker in this process")
	flags.StringVar(&f.Binary, "binary", "", "refiner-source to measure; without it one is built from ..")
	flags.IntVar(&f.Users, "users", 10_000, "users, each event's drawn at random")
	flags.IntVar(&f.Tenants, "tenants", 100, "tenants that the users are spread over")
	flags.IntVar(&f.Partitions, "partitions", 12, "partitions of the topics")
	flags.Uint64Var(&f.Seed, "seed", 1, "of the load; the same makes the same")
	flags.IntVar(&f.Runs, "runs", 3, "runs of everything, in turns")
	flags.StringVar(&f.output, "output", "table", "table or json")
	flags.BoolVar(&f.keep, "keep", false, "keep the directory with the programs and their logs")
	return f
}

func (f *common) validate() error {
	switch {
	case f.Users < 1 || f.Tenants < 1 || f.Partitions < 1 || f.Runs < 1:
		return usagef("--users, --tenants, --partitions and --runs must be at least 1")
	case f.output != "table" && f.output != "json":
		return usagef("--output %q: want table or json", f.output)
	}
	return nil
}

// prepare builds the programs and opens the cluster. The caller must call done.
func (f *common) prepare(ctx context.Context, names ...string) (built programs, b *bench, done func() error, err error) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, nil, nil, fmt.Errorf("make directory: %w", err)
	}
	b = &bench{dir: dir, pairing: "strict", stalled: time.Minute}
	done = func() error {
		var errs []error
		if b.cluster != nil {
			errs = append(errs, b.cluster.close(context.WithoutCancel(ctx)))
		}
		if f.keep {
			fmt.Fprintln(os.Stderr, "kept", dir)
		} else {
			errs = append(errs, os.RemoveAll(dir))
		}
		return errors.Join(errs...)
	}
	if f.Binary == "" {
		names = append(names, "refiner-source")
	}
	fmt.Fprintln(os.Stderr, "building", names)
	built, err = build(ctx, dir, names...)
	if err == nil {
		if f.Binary == "" {
			f.Binary = built["refiner-source"]
		}
		b.cluster, err = openCluster(f.Brokers, f.Binary)
	}
	if err != nil {
		return nil, nil, nil, errors.Join(err, done())
	}
	return built, b, done, nil
}

// workerFlags are those of bench worker.
type workerFlags struct {
	*common
	Events   int             `json:"events"`
	Delays   []time.Duration `json:"delays_ns"`
	Systems  []string        `json:"systems"`
	Peer     string          `json:"peer,omitempty"`
	Baseline string          `json:"baseline,omitempty"`
	Pairing  string          `json:"pairing"`
	Rate     int             `json:"paced_events_per_second"`
	Paced    time.Duration   `json:"paced_ns"`
	Batch    int             `json:"bento_batch"`
	profile  string
}

func newWorker() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Empty a full log and deliver a paced one: the worker, the floor, and a peer",
		Example: "  go run . worker\n" +
			"  go run . worker --peer bento --brokers 127.0.0.1:19092\n" +
			"  go run . worker --systems worker --baseline /tmp/refiner-source-before --delays 0s --paced 0s",
		Args: cobra.NoArgs,
	}
	f := &workerFlags{common: addCommon(cmd)}
	flags := cmd.Flags()
	flags.IntVar(&f.Events, "events", 200_000, "events in the log that is emptied")
	flags.DurationSliceVar(&f.Delays, "delays", []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond}, "how long the receiver takes to answer")
	flags.StringSliceVar(&f.Systems, "systems", []string{"worker", "receipts", "floor"}, "what runs: worker (without receipts), receipts (the worker with them), floor")
	flags.StringVar(&f.Peer, "peer", "", "bento: runs Bento as well")
	flags.StringVar(&f.Baseline, "baseline", "", "another refiner-source binary, which runs as well (without receipts)")
	flags.StringVar(&f.Pairing, "pairing", "strict", "the tenants' pairing: strict or batch")
	flags.IntVar(&f.Rate, "rate", 1_000, "events a second of the paced runs")
	flags.DurationVar(&f.Paced, "paced", 10*time.Second, "length of the paced runs, which tell the latency; 0s leaves them out")
	flags.IntVar(&f.Batch, "bento-batch", 1_000, "events that Bento takes together from a partition")
	flags.StringVar(&f.profile, "profile", "", "file for a CPU profile of the workers while they empty a log, which takes 6 s of each at least")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) }
	return cmd
}

func (f *workerFlags) validate() error {
	if err := f.common.validate(); err != nil {
		return err
	}
	switch {
	case f.Events < 1 || f.Batch < 1:
		return usagef("--events and --bento-batch must be at least 1")
	case f.Peer != "" && f.Peer != "bento":
		return usagef("--peer %q: want bento", f.Peer)
	case f.Pairing != "strict" && f.Pairing != "batch":
		return usagef("--pairing %q: want strict or batch", f.Pairing)
	case f.Paced < 0 || f.Paced > 0 && f.Rate < 1:
		return usagef("--paced must not be negative, and --rate must be at least 1")
	}
	for _, s := range f.Systems {
		if !slices.Contains([]string{"worker", "receipts", "floor"}, s) {
			return usagef("--systems %q: want worker, receipts or floor", s)
		}
		if f.profile != "" && (s == "floor" || f.Peer != "") {
			return usagef("--profile: only workers have profiles; name them in --systems, without --peer")
		}
	}
	return nil
}

// systems are those to run, from the built programs.
func (f *workerFlags) systems(built programs) []system {
	strict := f.Pairing == "strict"
	var all []system
	for _, name := range f.Systems {
		switch name {
		case "worker":
			all = append(all, workerSystem(name, f.Binary, strict, "--receipts=false"))
		case "receipts":
			all = append(all, workerSystem(name, f.Binary, strict, anew...))
		case "floor":
			all = append(all, floorSystem(built["floor"]))
		}
	}
	if f.Baseline != "" {
		all = append(all, workerSystem("baseline", f.Baseline, strict, "--receipts=false"))
	}
	if f.Peer != "" {
		all = append(all, bentoSystem(built["bento"], built["bento.yaml"], f.Partitions, f.Batch))
	}
	return all
}

func (f *workerFlags) run(ctx context.Context, out io.Writer) (err error) {
	if err := f.validate(); err != nil {
		return err
	}
	var names []string
	if slices.Contains(f.Systems, "floor") {
		names = append(names, "floor")
	}
	if f.Peer != "" {
		names = append(names, f.Peer)
	}
	built, b, done, err := f.prepare(ctx, names...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	b.pairing, b.profiling = f.Pairing, f.profile != ""
	b.load = newLoad(f.Events, f.Users, f.Tenants, f.Seed)
	prefix, err := b.fill(ctx, f.Partitions)
	if err != nil {
		return err
	}
	drained, paced, err := f.measure(ctx, b, f.systems(built), prefix)
	if err != nil {
		return err
	}
	if err := f.write(out, b.cluster.kind, drained, paced); err != nil {
		return err
	}
	if b.profiling {
		if err := writeProfile(f.profile, b.profiles); err != nil {
			return err
		}
	}
	if drained.broken()+paced.broken() > 0 {
		return errBroken
	}
	return nil
}

// fill makes topics that hold the load.
func (b *bench) fill(ctx context.Context, partitions int) (prefix string, err error) {
	if prefix, err = b.cluster.topics(ctx, partitions); err != nil {
		return "", err
	}
	// The endpoint is not part of a record.
	file, err := writeTenants(b.dir, b.load.tenants, "http://127.0.0.1", b.pairing)
	if err != nil {
		return "", err
	}
	r, err := newRecords(b.load, file)
	if err != nil {
		return "", err
	}
	begun := time.Now()
	at := place{prefix: prefix}
	if err := b.cluster.fill(ctx, at.topic(), r, 0, b.load.events()); err != nil {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "produced %d events in %.1f s\n", b.load.events(), time.Since(begun).Seconds())
	return prefix, nil
}

// warmEvents come before the paced ones, which are those whose latency counts.
const warmEvents = 2_000

// measure runs the systems in turns, every other time in the other order.
func (f *workerFlags) measure(ctx context.Context, b *bench, systems []system, prefix string) (drained, paced results, err error) {
	for run := range f.Runs {
		for _, delay := range f.Delays {
			for i := range systems {
				s := &systems[i]
				if run%2 == 1 {
					s = &systems[len(systems)-1-i]
				}
				one, err := b.drain(ctx, s, prefix, delay)
				if err != nil {
					return nil, nil, err
				}
				one.Run = run
				fmt.Fprintf(os.Stderr, "run %d, receiver %v, %s: %.0f events/s, %.1f µs/event, %.0f MB, %d requests %s\n",
					run+1, delay, one.System, one.Rate, one.CPU, float64(one.PeakRSS)/1e6, one.Requests, one.note())
				drained = append(drained, one)
				if f.Paced == 0 {
					continue
				}
				l := newLoad(warmEvents+int(f.Paced.Seconds()*float64(f.Rate)), f.Users, f.Tenants, f.Seed)
				if one, err = b.paced(ctx, s, l, f.Rate, warmEvents, f.Partitions, delay); err != nil {
					return nil, nil, err
				}
				one.Run = run
				fmt.Fprintf(os.Stderr, "run %d, receiver %v, %s, paced: p50 %.1f ms, p99 %.1f ms %s\n", run+1, delay, one.System, one.P50, one.P99, one.note())
				paced = append(paced, one)
			}
		}
	}
	return drained, paced, nil
}

// note is empty, or tells what went wrong.
func (r *result) note() string {
	if !r.failed() {
		return ""
	}
	return fmt.Sprintf("FAILED: %+v, %d not committed: %s", r.Found, r.Behind, r.Failure)
}

// gates are the bounds that the figures are held to.
func (f *workerFlags) gates(drained results) []gate {
	cpu := func(system string) spread { return spreadOf(drained.values(system, 0, cpuPerEvent)) }
	var all []gate
	if f.Pairing == "strict" {
		all = append(all,
			atMost("worker: CPU µs/event, no receipts", cpu("worker"), 30, 1),
			atMost("worker: CPU µs/event, receipts", cpu("receipts"), 35, 1),
			atMost("worker / floor: CPU per event", drained.ratio("worker", "floor", 0, 0, cpuPerEvent), 2.2, 2),
		)
	}
	all = append(all,
		atLeast("bento / worker: CPU per event", drained.ratio("bento", "worker", 0, 0, cpuPerEvent), 3.5, 2),
		atLeast("worker / bento: events/s", drained.ratio("worker", "bento", 0, 0, eventsPerSecond), 3, 2),
		atLeast("worker, receiver 100ms / 0s: events/s", drained.ratio("worker", "worker", 100*time.Millisecond, 0, eventsPerSecond), 0.7, 2),
		atMost("worker: peak RSS MB", spreadOf(drained.values("worker", 0, peakMegabytes)), 150, 0),
		atMost("worker: peak RSS MB, receipts", spreadOf(drained.values("receipts", 0, peakMegabytes)), 150, 0),
	)
	return measured(all...)
}

func (f *workerFlags) write(out io.Writer, kind string, drained, paced results) error {
	m := thisMachine()
	gates := f.gates(drained)
	if f.output == "json" {
		r := report{Machine: m, Broker: kind, What: f, Gates: gates, Runs: map[string]results{"drained": drained, "paced": paced}}
		return r.json(out)
	}
	fmt.Fprintf(out, "%d events of about 1 kB, %d users, %d tenants, %d partitions, %s pairs; %s; %s, %s, %d CPUs shared by all\n",
		f.Events, f.Users, f.Tenants, f.Partitions, f.Pairing, kind, m.Go, m.OS, m.CPUs)
	fmt.Fprintf(out, "Median of %d runs (lowest–highest). CPU and memory are of the system's process alone.\n", f.Runs)
	err := drained.table(out, "Emptying a full log", eventsPerSecond, cpuPerEvent, peakMegabytes, requestsMade)
	return errors.Join(err,
		paced.table(out, fmt.Sprintf("%d events a second for %v: accepted to delivered", f.Rate, f.Paced), latencyP50, latencyP99, requestsMade),
		writeGates(out, gates),
		f.against(out, drained),
	)
}

// against compares with a baseline.
func (f *workerFlags) against(out io.Writer, drained results) error {
	if f.Baseline == "" {
		return nil
	}
	fmt.Fprintln(out)
	for _, delay := range f.Delays {
		fmt.Fprintf(out, "worker / baseline at %v: CPU per event %s, events/s %s\n", delay,
			drained.ratio("worker", "baseline", delay, delay, cpuPerEvent).format(3),
			drained.ratio("worker", "baseline", delay, delay, eventsPerSecond).format(3))
	}
	return nil
}
