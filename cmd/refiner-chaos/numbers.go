package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/chaos"
)

func newNumbers() *cobra.Command {
	var o chaos.NumbersOptions
	var output string
	cmd := &cobra.Command{
		Use: "numbers", Short: "Measure the numbers of the proof, and compare them with their gates", Args: cobra.NoArgs,
		Long: "Measure the numbers of the proof on a real broker, an ingress and workers, as ratios within one run,\n" +
			"and have its history checked. It fails if a gate is missed or the promise was broken.",
		Example: "  refiner-chaos numbers\n  refiner-chaos numbers --only failing --tenants 200 --active 50 --recovering 5 --suspended 20 --rate 40\n  refiner-chaos numbers --only bad-input --output json",
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Only, "only", nil, "parts: "+strings.Join(chaos.NumbersParts(), ", "))
	f.Uint64Var(&o.Seed, "seed", 1, "same seed, same events and same bad input")
	f.IntVar(&o.Tenants, "tenants", 5000, "in the tenants file")
	f.IntVar(&o.Active, "active", 1000, "tenants with live load")
	f.IntVar(&o.Failing, "failing", 10, "of the active tenants, in percent, that fail")
	f.Float64Var(&o.Rate, "rate", 200, "live events a second: less than half of what the machine bears")
	f.Float64Var(&o.Ratio, "ratio", 1.5, "by which the healthy tenants' p99 may grow, or by 100 ms")
	f.IntVar(&o.Senders, "senders", 48, "that post at the same time")
	f.DurationVar(&o.Warm, "warm", 10*time.Second, "load before the baseline, at least one event of each active tenant")
	f.DurationVar(&o.Baseline, "baseline", 40*time.Second, "how long the latency is measured when nobody fails")
	f.DurationVar(&o.Trouble, "trouble", time.Minute, "how long tenants fail")
	f.IntVar(&o.Recovering, "recovering", 100, "tenants that recover with a backlog")
	f.IntVar(&o.Waiting, "waiting", 1000, "events of each of their backlogs")
	f.IntVar(&o.Suspended, "suspended", 1000, "tenants that wait at once")
	f.IntVar(&o.Variants, "variants", 5000, "of bad input")
	f.IntVar(&o.Brokers, "brokers-count", 1, "brokers, which is the replication as well")
	f.IntVar(&o.Workers, "workers", 2, "workers")
	f.IntVar(&o.Partitions, "partitions", 12, "of the topics")
	f.DurationVar(&o.Session, "session", 30*time.Second, "of the consumer group")
	f.DurationVar(&o.Drain, "drain", 5*time.Minute, "how long the end may take")
	f.StringVar(&output, "output", "table", "table or json")
	f.StringVar(&o.Binary, "binary", "", "a built refiner-source; without it, it is built")
	f.StringVar(&o.Dir, "dir", "", "for the history, the logs and the brokers' data; without it a new one under the system's")
	f.StringVar(&o.Root, "root", "", "of the module; without it the one around the working directory")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if output != "table" && output != "json" {
			return fmt.Errorf("--output %q: want table or json", output)
		}
		if err := locate(&o.Root, &o.Dir); err != nil {
			return err
		}
		o.Progress = func(s string) { fmt.Fprintln(os.Stderr, s) }
		fmt.Fprintln(os.Stderr, "history and logs in", o.Dir)
		report, err := chaos.RunNumbers(cmd.Context(), o)
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if output == "json" {
			e := json.NewEncoder(out)
			e.SetIndent("", "  ")
			err = e.Encode(report)
		} else {
			err = report.Write(out)
		}
		if err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		if report.Failed() {
			return errFound
		}
		return nil
	}
	return cmd
}
