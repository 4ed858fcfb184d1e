package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// memoryFlags are those of bench memory.
type memoryFlags struct {
	*common
	Backlogs   []int `json:"backlogs"`
	Configured int   `json:"configured_tenants"`
}

func newMemory() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "memory",
		Short: "Peak memory of the worker with a short and a long backlog, and with many tenants configured",
		Long: "Peak memory of the worker with a short and a long backlog, and with many tenants configured.\n\n" +
			"The embedded broker keeps the backlog in this process: about 1.2 GB for a million events.",
		Example: "  go run . memory --brokers 127.0.0.1:19092",
		Args:    cobra.NoArgs,
	}
	f := &memoryFlags{common: addCommon(cmd)}
	cmd.Flags().IntSliceVar(&f.Backlogs, "backlogs", []int{300_000, 3_000_000}, "events in the log, the first that others are compared with")
	cmd.Flags().IntVar(&f.Configured, "configured", 10_000, "tenants in the file of the last run; in the others only those that have events")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) }
	return cmd
}

func (f *memoryFlags) validate() error {
	if err := f.common.validate(); err != nil {
		return err
	}
	if len(f.Backlogs) == 0 || f.Configured < f.Tenants {
		return usagef("--backlogs must not be empty, and --configured at least --tenants")
	}
	for _, n := range f.Backlogs {
		if n < 1 {
			return usagef("--backlogs must be at least 1")
		}
	}
	return nil
}

// backlogName names the runs with so many events.
func backlogName(events int) string { return fmt.Sprintf("backlog of %d", events) }

// tenantsName names those with many tenants configured.
func (f *memoryFlags) tenantsName() string {
	return fmt.Sprintf("%s, %d tenants", backlogName(f.Backlogs[0]), f.Configured)
}

func (f *memoryFlags) run(ctx context.Context, out io.Writer) (err error) {
	if err := f.validate(); err != nil {
		return err
	}
	_, b, done, err := f.prepare(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	var all results
	for i, events := range f.Backlogs {
		b.load = newLoad(events, f.Users, f.Tenants, f.Seed)
		prefix, err := b.fill(ctx, f.Partitions)
		if err != nil {
			return err
		}
		measure := func(name string, configured int) error {
			s := workerSystem(name, f.Binary, true, "--receipts=false")
			b.configured = configured
			for run := range f.Runs {
				one, err := b.drain(ctx, &s, prefix, 0)
				if err != nil {
					return err
				}
				one.Run = run
				fmt.Fprintf(os.Stderr, "run %d, %s: %.0f MB, %.0f events/s %s\n", run+1, name, float64(one.PeakRSS)/1e6, one.Rate, one.note())
				all = append(all, one)
			}
			return nil
		}
		if err := measure(backlogName(events), f.Tenants); err != nil {
			return err
		}
		if i == 0 {
			if err := measure(f.tenantsName(), f.Configured); err != nil {
				return err
			}
		}
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

func (f *memoryFlags) gates(all results) []gate {
	first := backlogName(f.Backlogs[0])
	var gates []gate
	for _, name := range all.systems() {
		gates = append(gates, atMost("peak RSS MB, "+name, spreadOf(all.values(name, 0, peakMegabytes)), 150, 0))
		if name != first {
			gates = append(gates, atMost("peak RSS, "+name+" / "+first, all.ratio(name, first, 0, 0, peakMegabytes), 1.2, 2))
		}
	}
	return measured(gates...)
}

func (f *memoryFlags) write(out io.Writer, kind string, all results) error {
	m := thisMachine()
	gates := f.gates(all)
	if f.output == "json" {
		r := report{Machine: m, Broker: kind, What: f, Gates: gates, Runs: all}
		return r.json(out)
	}
	fmt.Fprintf(out, "Events of about 1 kB, %d users, %d tenants, %d partitions; %s; %s, %s, %d CPUs shared by all\n",
		f.Users, f.Tenants, f.Partitions, kind, m.Go, m.OS, m.CPUs)
	return errors.Join(
		all.table(out, fmt.Sprintf("The worker, median of %d runs (lowest–highest)", f.Runs), peakMegabytes, eventsPerSecond, cpuPerEvent),
		writeGates(out, gates))
}
