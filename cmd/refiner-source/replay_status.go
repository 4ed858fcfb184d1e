package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/replay"
)

func newReplayStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show how far the replays are",
		Example: "  refiner-source replay status --brokers kafka:9092 --output json",
		Args:    cobra.NoArgs,
	}
	kafka := addKafkaFlags(cmd)
	id := cmd.Flags().String("id", "", "only the replay with this id")
	output := cmd.Flags().String("output", "table", "table or json")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		if *output != "table" && *output != "json" {
			return usagef("--output %q: want table or json", *output)
		}
		log, topics, err := kafka.open(nil)
		if err != nil {
			return err
		}
		defer log.Close()
		plans, err := replay.Plans(cmd.Context(), log, topics)
		if err != nil {
			return err
		}
		if *id != "" {
			plans = slices.DeleteFunc(plans, func(p replay.Plan) bool { return p.ID != *id })
			if len(plans) == 0 {
				return fmt.Errorf("%w: %s", replay.ErrNoPlan, *id)
			}
		}
		reports := make([]replayReport, len(plans))
		for i := range plans {
			now, err := plans[i].Progress(cmd.Context(), log, topics)
			if err != nil {
				return err
			}
			reports[i] = replayReport{Plan: plans[i], Done: now.Done, All: now.All, Waiting: now.Waiting, Over: now.Over}
		}
		return printReplays(cmd.OutOrStdout(), reports, *output, time.Now())
	})
	return cmd
}

// replayReport is what replay status --output json prints of a replay.
type replayReport struct {
	replay.Plan

	Done    int64 `json:"done"`
	All     int64 `json:"all"`
	Waiting int   `json:"waiting"`
	Over    bool  `json:"over"`
}

// left estimates how long the rest takes: as long for each place as those before
// took, from the beginning; 0 if that is not known.
func (r *replayReport) left(now time.Time) time.Duration {
	if r.Over || r.Done == 0 {
		return 0
	}
	return time.Duration(float64(now.Sub(r.Created)) / float64(r.Done) * float64(r.All-r.Done))
}

func printReplays(out io.Writer, reports []replayReport, output string, now time.Time) error {
	if output == "json" {
		return printJSON(out, reports)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ID\tCREATED\tDONE\tOF\tTENANTS WAIT\tSTATE")
	for i := range reports {
		r := &reports[i]
		state := "over"
		if !r.Over {
			state = "not over"
			if left := r.left(now); left > 0 {
				state += fmt.Sprintf(", some %v left", left.Round(time.Second))
			}
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\n", r.ID, r.Created.Format(time.RFC3339), r.Done, r.All, r.Waiting, state)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the replays: %w", err)
	}
	return nil
}
