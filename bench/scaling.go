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

// scalingFlags are those of bench scaling.
type scalingFlags struct {
	*common
	Events       int             `json:"events"`
	Workers      []int           `json:"workers"`
	OnPartitions []int           `json:"on_partitions"`
	Delays       []time.Duration `json:"delays_ns"`
	Receipts     bool            `json:"receipts"`
}

func newScaling() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scaling",
		Short: "Empty a full log with several workers, and with more and fewer partitions",
		Long: "Empty a full log with several worker processes, and with more and fewer partitions.\n\n" +
			"The rate is that from when all workers have joined: what was delivered before, and the rebalances of the start, are\n" +
			"not in it. The processor time is all that the processes took, from their start to their end.\n\n" +
			"Workers, broker and receiver share this machine's processors: where they are all busy, more workers bring nothing.\n" +
			"With a receiver that takes its time they show what they bring.",
		Example: "  go run . scaling --workers 1,2 --on-partitions 12,96 --delays 100ms --runs 1",
		Args:    cobra.NoArgs,
	}
	f := &scalingFlags{common: addCommon(cmd)}
	flags := cmd.Flags()
	flags.IntVar(&f.Events, "events", 200_000, "events in each log that is emptied")
	flags.IntSliceVar(&f.Workers, "workers", []int{1, 2, 4}, "worker processes")
	flags.IntSliceVar(&f.OnPartitions, "on-partitions", []int{12, 48, 96}, "partitions of the topics, a log for each")
	flags.DurationSliceVar(&f.Delays, "delays", []time.Duration{0, 100 * time.Millisecond}, "how long the receiver takes to answer")
	flags.BoolVar(&f.Receipts, "receipts", true, "the workers write receipts, as is their default")
	_ = flags.MarkHidden("partitions") // fails for a flag that is not there
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("partitions") {
			return usagef("--partitions: give --on-partitions")
		}
		return f.run(cmd.Context(), cmd.OutOrStdout())
	}
	return cmd
}

func (f *scalingFlags) validate() error {
	if err := f.common.validate(); err != nil {
		return err
	}
	switch {
	case f.Events < 1 || len(f.Workers) == 0 || len(f.OnPartitions) == 0 || len(f.Delays) == 0:
		return usagef("--events must be at least 1, and --workers, --on-partitions and --delays must not be empty")
	case slices.Min(f.Workers) < 1 || slices.Min(f.Delays) < 0:
		return usagef("--workers must be at least 1, and --delays not negative")
	case slices.Max(f.Workers) > slices.Min(f.OnPartitions):
		return usagef("--workers must be at most --on-partitions: a worker without a partition has nothing to do")
	}
	return nil
}

// scalingName names the runs with so many workers and partitions.
func scalingName(partitions, workers int) string {
	return fmt.Sprintf("%d partitions, %d workers", partitions, workers)
}

func (f *scalingFlags) run(ctx context.Context, out io.Writer) (err error) {
	if err := f.validate(); err != nil {
		return err
	}
	_, b, done, err := f.prepare(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	b.load = newLoad(f.Events, f.Users, f.Tenants, f.Seed)
	var all results
	for _, partitions := range f.OnPartitions {
		prefix, err := b.fill(ctx, partitions)
		if err != nil {
			return err
		}
		measured, err := f.measure(ctx, b, prefix, partitions)
		if err != nil {
			return err
		}
		all = append(all, measured...)
		if err := b.cluster.drop(ctx, prefix); err != nil {
			return err
		}
	}
	if err := f.write(out, b.cluster.kind, all); err != nil {
		return err
	}
	if all.broken() > 0 {
		return errBroken
	}
	return nil
}

// measure has workers empty one log, every other time in the other order.
func (f *scalingFlags) measure(ctx context.Context, b *bench, prefix string, partitions int) (results, error) {
	args := anew
	if !f.Receipts {
		args = []string{"--receipts=false"}
	}
	var all results
	for run := range f.Runs {
		for _, delay := range f.Delays {
			for i := range f.Workers {
				workers := f.Workers[i]
				if run%2 == 1 {
					workers = f.Workers[len(f.Workers)-1-i]
				}
				s := workerSystem(scalingName(partitions, workers), f.Binary, true, args...)
				one, err := b.drainTogether(ctx, &s, prefix, delay, workers)
				if err != nil {
					return nil, err
				}
				one.Run, one.Workers, one.Partitions = run, workers, partitions
				fmt.Fprintf(os.Stderr, "run %d, receiver %v, %s: %.0f events/s, %.1f µs/event, %.0f MB, %d requests %s\n",
					run+1, delay, one.System, one.Rate, one.CPU, float64(one.PeakRSS)/1e6, one.Requests, one.note())
				all = append(all, one)
			}
		}
	}
	return all, nil
}

// drainTogether has several processes of the system empty a log that is full when
// they start. The rate is of what was left when all had joined.
func (b *bench) drainTogether(ctx context.Context, s *system, prefix string, delay time.Duration, workers int) (result, error) {
	out := result{System: s.name, Delay: delay, Events: b.load.events()}
	r, at, err := b.scene(ctx, s, prefix, b.load, delay)
	if err != nil {
		return out, err
	}
	defer r.close()
	var all []*process
	for range workers {
		p, err := s.start(ctx, at)
		if err != nil {
			b.finish(ctx, &out, r, at, err, all...)
			return out, err
		}
		all = append(all, p)
	}
	running := until(ctx, all...)
	err = b.cluster.joined(running, at.group, workers, b.stalled)
	calls, since := r.acceptedSoFar()
	if err == nil {
		err = r.await(running, b.load.events(), b.stalled)
	}
	b.finish(ctx, &out, r, at, err, all...)
	out.CPU /= float64(b.load.events())
	left := float64(b.load.events()) - float64(calls)/float64(r.perEvent())
	if 2*left < float64(b.load.events()) && out.Failure == "" {
		out.Failure = fmt.Sprintf("%.0f events were left when all had joined: give more --events", left)
	}
	if took := r.ended.Sub(later(since, r.begun)); took > 0 {
		out.Rate = left / took.Seconds()
	}
	return out, ctx.Err()
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func (f *scalingFlags) write(out io.Writer, kind string, all results) error {
	m := thisMachine()
	if f.output == "json" {
		r := report{Machine: m, Broker: kind, What: f, Gates: []gate{}, Runs: all}
		return r.json(out)
	}
	fmt.Fprintf(out, "%d events of about 1 kB, %d users, %d tenants, strict pairs, receipts %t; %s; %s, %s, %d CPUs shared by all\n",
		f.Events, f.Users, f.Tenants, f.Receipts, kind, m.Go, m.OS, m.CPUs)
	fmt.Fprintf(out, "Median of %d runs (lowest–highest). The rate is from when all workers have joined; CPU is of all workers, memory of the largest.\n", f.Runs)
	if err := all.table(out, "Emptying a full log", eventsPerSecond, cpuPerEvent, peakMegabytes, requestsMade); err != nil {
		return err
	}
	f.gains(out, all)
	return nil
}

// gains tells what more workers bring, run by run.
func (f *scalingFlags) gains(out io.Writer, all results) {
	fewest := slices.Min(f.Workers)
	for _, delay := range all.delays() {
		for _, partitions := range f.OnPartitions {
			for _, workers := range f.Workers {
				if workers == fewest {
					continue
				}
				gain := all.ratio(scalingName(partitions, workers), scalingName(partitions, fewest), delay, delay, eventsPerSecond)
				fmt.Fprintf(out, "\nreceiver %v, %d partitions: events/s with %d workers / %d: %s", delay, partitions, workers, fewest, gain.format(2))
			}
		}
	}
	fmt.Fprintln(out)
}
