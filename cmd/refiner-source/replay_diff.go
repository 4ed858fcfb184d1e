package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/replay"
	"refinersource/internal/tenant"
)

// diffFlags are those of replay --diff alone.
type diffFlags struct {
	on     bool
	output string
	memory int
}

func (f *diffFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.on, "diff", false, "tell what the rules would send that differs from what was sent, and send nothing; ends with 1 if something does")
	flags.StringVar(&f.output, "output", "table", "with --diff: table or json")
	flags.IntVar(&f.memory, "memory", replay.DefaultTableBytes>>20, "with --diff: MiB that what is known of events may take")
	cmd.Long += "\n\n--diff holds the rules of today, or those of --rules, against what was sent, by the receipts and rules that\n" +
		"Kafka has: traits added, gone, renamed, of another type, owner or value, and calls that would come or go.\n" +
		"What was sent is what the first receipt of live traffic says, not what replays have sent since. The exit\n" +
		"code is 0 if nothing differs; 1 if something does, or if no event of the range can be compared."
	cmd.Example += "\n  refiner-source replay --brokers kafka:9092 --diff --rules tenants.new.yaml --from -720h"
}

// refuse names the flags that have no meaning with --diff.
func (f *replayFlags) refuseWithDiff(cmd *cobra.Command) error {
	for _, no := range [...]struct{ flag, why string }{
		{"latest", "it makes other calls of many events, and events are compared one by one"},
		{"new-ids", "other message ids make every call another one"},
		{"id", "nothing is sent, so there is no replay"},
		{"rate", "nothing is sent"},
	} {
		if cmd.Flags().Changed(no.flag) {
			return usagef("--%s and --diff exclude each other: %s", no.flag, no.why)
		}
	}
	switch {
	case f.diff.output != "table" && f.diff.output != "json":
		return usagef("--output %q: want table or json", f.diff.output)
	case f.diff.memory < 1:
		return usagef("--memory %d: want at least 1", f.diff.memory)
	case f.tenants == "" && f.rules == "":
		return usagef("--tenants is missing; give the tenants file, or one that is not in force yet with --rules")
	}
	return nil
}

// runDiff compares the range with what was sent of it.
func (f *replayFlags) runDiff(cmd *cobra.Command) error {
	if err := f.refuseWithDiff(cmd); err != nil {
		return err
	}
	r, err := f.span(cmd, time.Now())
	if err != nil {
		return err
	}
	tenants, err := tenant.LoadRules(cmp.Or(f.rules, f.tenants))
	if err != nil {
		return usageError{err}
	}
	logger, err := f.log.logger()
	if err != nil {
		return err
	}
	log, topics, err := f.kafka.open(logger)
	if err != nil {
		return err
	}
	defer log.Close()
	spans, err := r.Spans(cmd.Context(), log, topics.Events())
	if err != nil {
		return err
	}
	scan, gaps := f.scan(cmd, log, topics, r, tenants)
	diff := replay.Diff{Scan: scan, Topics: topics, TableBytes: int64(f.diff.memory) << 20}
	report, err := diff.Run(cmd.Context(), spans)
	if err != nil {
		return fmt.Errorf("compare with what was sent: %w", err)
	}
	lost := gaps()
	if err := unknownTenants(r, tenants, report); err != nil {
		return err
	}
	if err := printDiff(cmd.OutOrStdout(), report, f.diff.output); err != nil {
		return err
	}
	switch total := &report.Total; {
	case report.Differs:
		return errReported
	case total.Events > 0 && total.NotComparable == total.Events:
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "no event of the range can be compared with what was sent, so nothing is known")
		return errReported
	}
	return lost
}

// unknownTenants refuses a tenant that neither the file nor the range has: a slip
// would pass for nothing that differs.
func unknownTenants(r replay.Range, tenants *tenant.Registry, report *replay.DiffReport) error {
	had := make(map[tenant.ID]bool)
	for i := range report.Tenants {
		had[report.Tenants[i].Tenant] = true
	}
	for _, id := range r.Tenants {
		if _, ok := tenants.Get(id); !ok && !had[id] {
			return usagef("--tenant %q: the tenants file has no tenant of this id, and the range no event of it", id)
		}
	}
	return nil
}

func printDiff(out io.Writer, r *replay.DiffReport, output string) error {
	if output == "json" {
		return printJSON(out, r)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "TENANT\tEVENTS\tSAME\tDIFFERENT\tNOT COMPARABLE\tFIRST\tLAST")
	line := func(name string, c *replay.DiffCounts) {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", name, c.Events, c.Same, c.Different, c.NotComparable, moment(c.First), moment(c.Last))
	}
	for i := range r.Tenants {
		line(cmp.Or(printable(string(r.Tenants[i].Tenant)), "-"), &r.Tenants[i].DiffCounts)
	}
	line("all", &r.Total)
	changes(w, r)
	incomparable(w, r)
	if r.Total.Replayed > 0 {
		_, _ = fmt.Fprintf(w, "\nReplays have gone over %d of the events too. All are compared with what was sent first.\n", r.Total.Replayed)
	}
	switch {
	case r.Total.Events == 0:
		_, _ = fmt.Fprintln(w, "\nThe range has no events.")
	case !r.Differs && r.Total.NotComparable < r.Total.Events:
		_, _ = fmt.Fprintln(w, "\nNothing differs.")
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the differences: %w", err)
	}
	return nil
}

// changes prints what differs.
func changes(w io.Writer, r *replay.DiffReport) {
	head := "\nCHANGE\tTENANT\tCALL\tTRAIT\tBECOMES\tEVENTS\tEXAMPLE\n"
	for i := range r.Tenants {
		t := &r.Tenants[i]
		for j := range t.Changes {
			c := &t.Changes[j]
			_, _ = fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\t%s\t%d\t%s\n", head, strings.ReplaceAll(string(c.Kind), "_", " "), printable(string(t.Tenant)),
				c.Call, cmp.Or(string(c.Trait), "-"), becomes(&c.Change), c.Events, printable(c.Example))
			head = ""
		}
		if t.LeftOut > 0 {
			_, _ = fmt.Fprintf(w, "\nTenant %s has more than %d changes: others, met %d times, are left out.\n", printable(string(t.Tenant)), replay.MaxChanges, t.LeftOut)
			head = "\n"
		}
	}
}

// becomes says what of a trait or a call would be.
func becomes(c *replay.Change) string {
	switch c.Kind {
	case replay.CallGone:
		return strings.TrimSuffix("not sent; "+printable(c.Why), "; ")
	case replay.CallAdded:
		if c.Why != "" {
			return "sent; was " + printable(c.Why)
		}
		return "sent"
	case replay.Gone:
		if c.Why == replay.NoAccount {
			return "not sent; it is of an account that is not known"
		}
		return "not sent"
	case replay.Added:
		if c.Why == replay.NoAccount {
			return "sent; it was of an account that is not known"
		}
		return "sent"
	case replay.Renamed:
		return string(c.ToTrait)
	case replay.Owner:
		if c.ToTrait != c.Trait {
			return c.ToCall + " " + string(c.ToTrait)
		}
		return c.ToCall
	case replay.Type:
		return c.ToType + ", was " + c.Type
	case replay.Value:
		return "another answer's value"
	case replay.Integrations:
		return "other integrations"
	default:
		return "-"
	}
}

// incomparable prints why events could not be compared.
func incomparable(w io.Writer, r *replay.DiffReport) {
	if r.Total.NotComparable == 0 && r.Unreadable == 0 {
		return
	}
	_, _ = fmt.Fprintln(w, "\nNOT COMPARABLE\tTENANT\tEVENTS")
	var meanings strings.Builder
	for _, why := range replay.Incomparables() {
		for i := range r.Tenants {
			if n := r.Tenants[i].Reasons[why]; n > 0 {
				_, _ = fmt.Fprintf(w, "%s\t%s\t%d\n", why, cmp.Or(printable(string(r.Tenants[i].Tenant)), "-"), n)
			}
		}
		if n := r.Total.Reasons[why]; n > 0 {
			fmt.Fprintf(&meanings, "%s (%d): %s.\n", why, n, why.Meaning())
		}
	}
	_, _ = fmt.Fprintf(w, "\n%s", meanings.String())
	if r.Unreadable > 0 {
		_, _ = fmt.Fprintf(w, "%d receipts of the time cannot be read: they are of another version of this program.\n", r.Unreadable)
	}
}
