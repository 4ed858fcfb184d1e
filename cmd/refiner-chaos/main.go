// Command refiner-chaos runs refiner-source on real Kafka under load and under
// faults, and checks what came of it. See docs/proof.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/chaos"
	"refinersource/internal/checker"
)

func main() { os.Exit(execute()) }

// errFound ends a command with 1 when what was found has been printed.
var errFound = errors.New("violations were found")

func execute() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "refiner-chaos", Short: "Break refiner-source on purpose, and prove what holds",
		SilenceUsage: true, SilenceErrors: true, Example: "  go run ./cmd/refiner-chaos run --seed 1 --duration 2m --events 20000 --dir /tmp/chaos-1",
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(newRun(), newShort(), newCheck(), newMutants(), newNumbers())
	switch err := root.ExecuteContext(ctx); {
	case err == nil:
		return 0
	case errors.Is(err, errFound):
		return 1
	default:
		fmt.Fprintln(os.Stderr, "refiner-chaos:", err)
		return 1
	}
}

func newRun() *cobra.Command {
	var o chaos.Options
	cmd := &cobra.Command{
		Use: "run", Short: "Make a run: brokers, ingress, workers, load, faults, drain, check", Args: cobra.NoArgs,
		Example: "  refiner-chaos run --seed 7 --duration 8m --events 200000 --dir /tmp/chaos-7\n  refiner-chaos run --faults F1,F3,F10 --duration 2m --events 20000",
	}
	addFlags(cmd, &o)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return makeRun(cmd, o) }
	return cmd
}

func newShort() *cobra.Command {
	var o chaos.Options
	cmd := &cobra.Command{
		Use: "short", Short: "The run of the gate: 40 kinds of faults in some ten minutes", Args: cobra.NoArgs, Example: "  refiner-chaos short",
	}
	addFlags(cmd, &o)
	for name, value := range map[string]string{"duration": "7m", "max-load": "8m30s", "events": "210000", "drain": "6m"} {
		f := cmd.Flags().Lookup(name)
		f.DefValue = value
		_ = f.Value.Set(value)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return makeRun(cmd, o) }
	return cmd
}

func addFlags(cmd *cobra.Command, o *chaos.Options) {
	f := cmd.Flags()
	f.Uint64Var(&o.Seed, "seed", 1, "same seed, same events and same schedule of faults")
	f.DurationVar(&o.Duration, "duration", 8*time.Minute, "over which the events are shared out")
	f.DurationVar(&o.MaxLoad, "max-load", 0, "when sending ends, though events are left; 0 is long after --duration")
	f.IntVar(&o.Events, "events", 200_000, "to be sent")
	f.IntVar(&o.Tenants, "tenants", 1000, "in the tenants file")
	f.IntVar(&o.Active, "active", 80, "tenants that have nine in ten of the events")
	f.IntVar(&o.Users, "users", 20, "of an active tenant, for each sender")
	f.IntVar(&o.Senders, "senders", 32, "that post at the same time")
	f.IntVar(&o.Batch, "batch", 12, "the most events of a batch, which one request in twelve is; 1 is none")
	f.IntVar(&o.Brokers, "brokers-count", 3, "brokers")
	f.IntVar(&o.Workers, "workers", 3, "workers")
	f.IntVar(&o.Partitions, "partitions", 12, "of the topics")
	f.StringVar(&o.Faults, "faults", "safety", "safety, liveness, none, or names such as F1,F10,F15:mid_commit")
	f.BoolVar(&o.NoCopies, "no-copies", false, "senders post no event twice on purpose")
	f.BoolVar(&o.Long, "long", false, "with faults that take long")
	f.DurationVar(&o.Session, "session", 12*time.Second, "of the consumer group, where the worker has a flag for it")
	f.DurationVar(&o.Drain, "drain", 15*time.Minute, "how long the end may take")
	f.Float64Var(&o.MaxRepeats, "max-repeats", 0, repeatsUsage)
	f.StringVar(&o.Binary, "binary", "", "a built refiner-source; without it, it is built")
	f.StringVar(&o.Dir, "dir", "", "for the history, the logs and the brokers' data; without it a new one under the system's")
	f.StringVar(&o.Root, "root", "", "of the module; without it the one around the working directory")
}

func makeRun(cmd *cobra.Command, o chaos.Options) error {
	if err := locate(&o.Root, &o.Dir); err != nil {
		return err
	}
	o.Progress = func(s string) { fmt.Fprintln(os.Stderr, s) }
	fmt.Fprintln(os.Stderr, "history and logs in", o.Dir)
	report, err := chaos.Run(cmd.Context(), o)
	if err != nil {
		return err
	}
	if err := report.Write(cmd.OutOrStdout()); err != nil {
		return err
	}
	if report.Failed() {
		return errFound
	}
	return nil
}

// locate fills in the module and the directory.
func locate(root, dir *string) error {
	if *root == "" {
		here, err := os.Getwd()
		if err != nil {
			return fmt.Errorf("find the working directory: %w", err)
		}
		for *root = here; ; *root = filepath.Dir(*root) {
			if _, err := os.Stat(filepath.Join(*root, "go.mod")); err == nil {
				break
			}
			if *root == filepath.Dir(*root) {
				return errors.New("there is no go.mod here or above; name the module with --root")
			}
		}
	}
	if *dir == "" {
		made, err := os.MkdirTemp("", "chaos-")
		if err != nil {
			return fmt.Errorf("make a directory: %w", err)
		}
		*dir = made
	}
	full, err := filepath.Abs(*dir)
	if err != nil {
		return fmt.Errorf("find the run's directory: %w", err)
	}
	*dir = full
	return nil
}

func newCheck() *cobra.Command {
	most := 0.0
	cmd := &cobra.Command{
		Use: "check DIR", Short: "Check the recorded history of a run again", Args: cobra.ExactArgs(1), Example: "  refiner-chaos check /tmp/chaos-7",
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := chaos.CheckDir(strings.TrimSuffix(args[0], "/"), checker.Options{MaxRepeats: most})
			if err != nil {
				return err
			}
			if err := report.Write(cmd.OutOrStdout()); err != nil {
				return err
			}
			if chaos.Violations(report) > 0 {
				return errFound
			}
			return nil
		},
	}
	cmd.Flags().Float64Var(&most, "max-repeats", 0, repeatsUsage)
	return cmd
}

const repeatsUsage = "the share of calls that may come again without need, such as 0.01, but for the first time after a lost answer; 0 does not bound it"

func newMutants() *cobra.Command {
	var o chaos.Options
	var only []string
	var list bool
	cmd := &cobra.Command{
		Use: "mutants", Short: "Build the service with mistakes, and demand that each is caught", Args: cobra.NoArgs,
		Example: "  refiner-chaos mutants\n  refiner-chaos mutants --only commit-one-too-far",
	}
	f := cmd.Flags()
	f.StringSliceVar(&only, "only", nil, "names of mutants")
	f.BoolVar(&list, "list", false, "print the mutants, and try none")
	f.StringVar(&o.Binary, "binary", "", "the service as it is, built; without it, it is built")
	f.StringVar(&o.Dir, "dir", "", "for the histories and the logs; without it a new one under the system's")
	f.StringVar(&o.Root, "root", "", "of the module; without it the one around the working directory")
	f.DurationVar(&o.Session, "session", 12*time.Second, "of the consumer group, where the worker has a flag for it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out := cmd.OutOrStdout()
		if list {
			for _, m := range chaos.Mutants() {
				if _, err := fmt.Fprintf(out, "%-34s %-10s %v: %s\n", m.Name, m.Scenario, m.Rules, m.Why); err != nil {
					return err
				}
			}
			return nil
		}
		if err := locate(&o.Root, &o.Dir); err != nil {
			return err
		}
		verdicts, err := chaos.RunMutants(cmd.Context(), chaos.MutantsOptions{
			Root: o.Root, Dir: o.Dir, Binary: o.Binary, Only: only, Session: o.Session,
			Progress: func(s string) { _, _ = fmt.Fprintln(out, s) },
		})
		if err != nil {
			return err
		}
		for _, v := range verdicts {
			if !v.OK {
				return errFound
			}
		}
		return nil
	}
	return cmd
}
