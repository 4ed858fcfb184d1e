package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/app"
	"refinersource/internal/audit"
)

func newAudit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Prove that every accepted event has one final outcome",
		Long: "Prove from Kafka alone that every accepted event of a range has exactly one final outcome, or waits: behind\n" +
			"a tenant's cursor, or at or beyond the group's commit point. It changes nothing, and may run beside the workers.\n\n" +
			"It fails if there is an event of which that cannot be said, and names it. Receipts are what it goes by: the\n" +
			"range must not begin before they were written. It takes 12 bytes of memory an event, of four partitions at a time.",
		Example: "  refiner-source audit --brokers localhost:9092 --from -24h\n" +
			"  refiner-source audit --brokers localhost:9092 --tenant acme --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z --output json",
		Args: cobra.NoArgs,
	}
	kafka := addKafkaFlags(cmd)
	span := addRangeFlags(cmd, "events accepted")
	group := cmd.Flags().String("group", app.DefaultGroup, "consumer group")
	tenant := cmd.Flags().String("tenant", "", "the tenant whose events are audited; all without it")
	memory := cmd.Flags().Int("memory", audit.DefaultTableBytes>>20, "MiB that what is known of events may take")
	limit := cmd.Flags().Int("limit", audit.DefaultFindings, "how many findings of each kind are listed; all are counted")
	output := cmd.Flags().String("output", "table", "table or json")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		switch {
		case *output != "table" && *output != "json":
			return usagef("--output %q: want table or json", *output)
		case *group == "":
			return usagef("--group is empty")
		case *memory < 1:
			return usagef("--memory %d: want at least 1", *memory)
		case *limit < 1:
			return usagef("--limit %d: want at least 1", *limit)
		}
		r, err := span.resolve(time.Now())
		if err != nil {
			return err
		}
		log, topics, err := kafka.open(nil)
		if err != nil {
			return err
		}
		defer log.Close()
		report, err := audit.Run(cmd.Context(), log, audit.Options{
			Group: *group, Topics: topics, Range: r, Tenant: *tenant, TableBytes: int64(*memory) << 20, Findings: *limit,
		})
		if err != nil {
			return fmt.Errorf("audit events: %w", err)
		}
		if err := printAudit(cmd.OutOrStdout(), report, *output); err != nil {
			return err
		}
		if !report.Sound() {
			return errReported
		}
		return nil
	})
	return cmd
}

func printAudit(out io.Writer, r *audit.Report, output string) error {
	if output == "json" {
		return printJSON(out, r)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "TENANT\tEVENTS\tDELIVERED\tDEAD\tIGNORED\tWAITING\tREPEATS\tFINDINGS")
	line := func(name string, c *audit.Counts) {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", name, c.Events, c.Delivered, c.Dead, c.Ignored, c.Waiting, c.Repeats, c.Findings)
	}
	for i := range r.Tenants {
		line(cmp.Or(printable(r.Tenants[i].Tenant), "-"), &r.Tenants[i].Counts)
	}
	line("all", &r.Total)
	if r.Unproven > 0 {
		_, _ = fmt.Fprintf(w, "\nThe oldest %d events of the range are left out: the receipts of their time are gone from the log.\n", r.Unproven)
	}
	if r.Sound() {
		_, _ = fmt.Fprintln(w, "\nNothing found: each event has one final outcome, or waits.")
		return w.Flush()
	}
	_, _ = fmt.Fprintln(w, "\nFINDING\tTENANT\tEVENT\tPOSITION\tWITNESS\tDETAIL")
	listed := make(map[audit.Kind]int)
	for i := range r.Findings {
		f := &r.Findings[i]
		listed[f.Kind]++
		at := place(f.Position)
		if f.To > f.Offset+1 {
			at += fmt.Sprintf(" to %d", f.To-1)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", f.Kind, cmp.Or(printable(f.Tenant), "-"), cmp.Or(printable(f.EventID), "-"),
			at, place(f.Witness), printable(f.Detail))
	}
	_, _ = fmt.Fprintln(w)
	for _, kind := range audit.Kinds() {
		n := r.Kinds[kind]
		if n == 0 {
			continue
		}
		more := ""
		if n > listed[kind] {
			more = fmt.Sprintf(", %d of them listed", listed[kind])
		}
		_, _ = fmt.Fprintf(w, "%s (%d%s): %s.\n", kind, n, more, kind.Remedy())
	}
	return w.Flush()
}

// place is a position for people.
func place(p audit.Position) string {
	if p.Topic == "" {
		return "-"
	}
	return fmt.Sprintf("%s/%d:%d", p.Topic, p.Partition, p.Offset)
}
