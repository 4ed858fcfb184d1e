package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"refinersource/internal/queue"
	"refinersource/internal/replay"
)

// progressTick is how often it is told how far a replay is.
const progressTick = 2 * time.Second

// progress tells now and then how far a replay is: in one line on a terminal.
func progress(ctx context.Context, out io.Writer, log *queue.Log, topics queue.Topics, p *replay.Plan) {
	if !onTerminal(out) {
		return
	}
	defer func() { _, _ = fmt.Fprint(out, clearLine) }()
	tick := time.NewTicker(progressTick)
	defer tick.Stop()
	var began time.Time
	var before int64
	for {
		if now, err := p.Progress(ctx, log, topics); err == nil {
			if began.IsZero() {
				began, before = time.Now(), now.Done
			}
			state := stateOf(now, remaining(time.Since(began), now.Done-before, now.All-now.Done))
			showBar(out, now.Done, now.All, fmt.Sprintf("%d of %d, %s", now.Done, now.All, state))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// showReading tells on a terminal how much the scan has read of so many places of the
// log, until the function that it returns is called.
func showReading(out io.Writer, scan *replay.Scan, all int64) (done func()) {
	if !onTerminal(out) {
		return func() {}
	}
	var read atomic.Int64
	scan.Progress = func(records int) {
		n := min(all, read.Add(int64(records)))
		showBar(out, n, all, fmt.Sprintf("%d %% of the range is read", 100*n/max(1, all)))
	}
	return func() { _, _ = fmt.Fprint(out, clearLine) }
}

// showBar shows a bar and a text in the line of the terminal. The cursor stays at its
// beginning, so that what is logged takes its place.
func showBar(out io.Writer, done, all int64, text string) {
	const width = 30
	full := int(width * done / max(1, all))
	_, _ = fmt.Fprintf(out, clearLine+"[%s%s] %s\r", strings.Repeat("=", full), strings.Repeat(" ", width-full), text)
}

// clearLine clears the line of the terminal.
const clearLine = "\r\x1b[K"

func onTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

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

// remaining estimates how long what is left takes, if it takes as long as what was
// done in a time; 0 if that is not known.
func remaining(took time.Duration, done, left int64) time.Duration {
	if done <= 0 {
		return 0
	}
	return time.Duration(float64(took) / float64(done) * float64(left))
}

// stateOf is a progress for people. left is an estimate of how long the rest takes; 0
// is for not known.
func stateOf(now replay.Progress, left time.Duration) string {
	var parts []string
	switch {
	case now.Over:
		return "over"
	case now.Done < now.All && left > 0:
		parts = append(parts, fmt.Sprintf("some %v left", left.Round(time.Second)))
	case now.Done == now.All && now.Waiting == 0:
		parts = append(parts, "sends what came since")
	}
	if now.Waiting > 0 {
		parts = append(parts, fmt.Sprintf("%d tenants wait", now.Waiting))
	}
	return strings.Join(append([]string{"not over"}, parts...), ", ")
}

func printReplays(out io.Writer, reports []replayReport, output string, now time.Time) error {
	if output == "json" {
		return printJSON(out, reports)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ID\tCREATED\tDONE\tOF\tSTATE")
	for i := range reports {
		r := &reports[i]
		progress := replay.Progress{Done: r.Done, All: r.All, Waiting: r.Waiting, Over: r.Over}
		state := stateOf(progress, remaining(now.Sub(r.Created), r.Done, r.All-r.Done))
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", r.ID, r.Created.Format(time.RFC3339), r.Done, r.All, state)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the replays: %w", err)
	}
	return nil
}
