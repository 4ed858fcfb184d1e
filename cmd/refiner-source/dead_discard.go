package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
)

// discards is how many are published side by side.
const discards = 64

func newDeadDiscard() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "discard [ID]",
		Short: "Mark dead letters as discarded",
		Long: "Mark dead letters as discarded, so that dead list leaves them out. ID is the event's, or the letter's own\n" +
			"partition and offset; without it the filters say which are meant, and at least one is needed.\n\n" +
			"Without --execute it says what it would do. With it, it asks first, unless --yes. A mark is a receipt; the letters\n" +
			"stay in their topic until that drops them. When it was ended half-way it can be run again.",
		Example: "  refiner-source dead discard --tenant acme --reason undecodable --brokers localhost:9092\n" +
			"  refiner-source dead discard --tenant acme --reason undecodable --execute --yes --brokers localhost:9092",
		Args: cobra.MaximumNArgs(1),
	}
	f := addDeadFlags(cmd)
	execute := cmd.Flags().Bool("execute", false, "do it; without it nothing is changed")
	yes := cmd.Flags().Bool("yes", false, "do not ask")
	cmd.RunE = work(func(cmd *cobra.Command, args []string) error {
		id, filter, err := f.chosen(args)
		if err != nil {
			return err
		}
		d := discard{cmd: cmd, flags: f, id: id, execute: *execute, yes: *yes}
		return f.with(cmd.Context(), filter, d.run)
	})
	return cmd
}

// discard is a run of the command.
type discard struct {
	cmd     *cobra.Command
	flags   *deadFlags
	id      string
	execute bool
	yes     bool
}

func (d *discard) run(log *queue.Log, topics queue.Topics, shelf *deadletter.Shelf) error {
	ctx := d.cmd.Context()
	plan := newDeadReport(false, false)
	err := unresolved(ctx, shelf, d.id, func(f deadletter.Found) error {
		plan.add(&f)
		return nil
	})
	if err != nil {
		return err
	}
	done := 0
	if plan.Letters > 0 {
		if err := d.agreed(plan); err != nil {
			return err
		}
		if d.execute {
			if done, err = d.publish(ctx, log, topics, shelf); err != nil {
				return fmt.Errorf("%w\n%d of %d letters are discarded. Run the same command again: it goes on with the others", err, done, plan.Letters)
			}
		}
	}
	if d.flags.output == "json" {
		return printJSON(d.cmd.OutOrStdout(), map[string]any{"letters": plan.Letters, "discarded": done, "groups": plan.Groups})
	}
	switch {
	case plan.Letters == 0:
		_, err = fmt.Fprintln(d.cmd.OutOrStdout(), "No dead letters to discard.")
	case d.execute:
		_, err = fmt.Fprintf(d.cmd.OutOrStdout(), "%d letters are discarded.\n", done)
	default:
		_, err = fmt.Fprintf(d.cmd.OutOrStdout(), "%d letters would be discarded: add --execute.\n", plan.Letters)
	}
	return err
}

// agreed shows the plan and asks, where something is to be done.
func (d *discard) agreed(plan *deadReport) error {
	w := tabwriter.NewWriter(d.cmd.ErrOrStderr(), 0, 0, 2, ' ', 0)
	plan.table(w)
	if err := w.Flush(); err != nil || !d.execute {
		return err
	}
	return agreed(d.cmd, d.yes, fmt.Sprintf("Discard %d letters", plan.Letters), "nothing was discarded")
}

// publish marks the letters, and returns how many have been.
func (d *discard) publish(ctx context.Context, log *queue.Log, topics queue.Topics, shelf *deadletter.Shelf) (int, error) {
	publisher := log.Publisher(topics.Receipts(), queue.PublisherOptions{})
	discarder := deadletter.NewDiscarder(patient{publisher}, topics.Receipts(), version)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(discards)
	var done atomic.Int64
	err := unresolved(ctx, shelf, d.id, func(f deadletter.Found) error {
		f.Raw = nil // it is not needed while the mark is under way
		g.Go(func() error {
			if err := discarder.Discard(ctx, &f.Letter, time.Now()); err != nil {
				return err
			}
			done.Add(1)
			return nil
		})
		return ctx.Err()
	})
	waited := g.Wait()
	if waited != nil {
		err = waited // the other one only says that it was cut short
	}
	return int(done.Load()), errors.Join(err, publisher.Close())
}
