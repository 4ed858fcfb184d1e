package main

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/attribution"
	"refinersource/internal/replay"
	"refinersource/internal/tenant"
)

// latestPasses is how often a range is read to count what it is folded to: once for
// what it holds, and then as a Folder does.
const latestPasses = 3

// eachLatest gives the folded calls of the spans, one partition after another, in the order
// in which they would be sent.
func eachLatest(cmd *cobra.Command, scan *replay.Scan, spans []replay.Span, do func(tenant.ID, []attribution.Call) error) error {
	folder := replay.NewFolder(*scan, spans)
	for _, s := range spans {
		folded, err := folder.Partition(cmd.Context(), s.Partition)
		if err != nil {
			return err
		}
		if err := folded.Each(do); err != nil {
			return err
		}
	}
	return nil
}

// printLatest prints the folded calls as JSON lines.
func printLatest(cmd *cobra.Command, scan *replay.Scan, spans []replay.Span, out *bufio.Writer) error {
	return eachLatest(cmd, scan, spans, func(_ tenant.ID, calls []attribution.Call) error {
		for i := range calls {
			if _, err := out.Write(append(calls[i].AppendJSON(out.AvailableBuffer()), '\n')); err != nil {
				return fmt.Errorf("write calls: %w", err)
			}
		}
		return nil
	})
}

// countLatest makes the summary of the spans count the folded calls.
func countLatest(cmd *cobra.Command, scan *replay.Scan, spans []replay.Span, summary *replay.Summary) error {
	told := *scan
	told.OnGap = nil
	calls := make(map[tenant.ID]int)
	err := eachLatest(cmd, &told, spans, func(id tenant.ID, folded []attribution.Call) error {
		calls[id] += len(folded)
		return nil
	})
	summary.SetCalls(calls)
	return err
}

// sayWhatIsLeft tells what a fold leaves to be done.
func sayWhatIsLeft(out io.Writer, p *replay.Plan) {
	if p.Latest {
		_, _ = fmt.Fprintf(out, "what other users have said of the same accounts since: replay --latest --from %s\n", p.Created.UTC().Format(time.RFC3339))
	}
}
