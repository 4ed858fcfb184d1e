package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
)

func newDeadList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Count dead letters by tenant and reason",
		Long: "Count dead letters by tenant and reason, without those that were discarded, and those that were redriven and have\n" +
			"a new outcome. An event that died twice, as after a crash, has two letters. It fails if there is a record that\n" +
			"cannot be read as a letter.",
		Example: "  refiner-source dead list --from -24h --brokers localhost:9092\n" +
			"  refiner-source dead list --tenant acme --all --brokers localhost:9092 --output json",
		Args: cobra.NoArgs,
	}
	f := addDeadFlags(cmd)
	all := cmd.Flags().Bool("all", false, "each letter on a line of its own")
	limit := cmd.Flags().Int("limit", 1000, "with --all: how many letters, the latest ones")
	discarded := cmd.Flags().Bool("discarded", false, "with those that were discarded")
	redriven := cmd.Flags().Bool("redriven", false, "with those that were redriven and have a new outcome")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		filter, err := f.filter(time.Now())
		if err != nil {
			return err
		}
		if *limit < 1 {
			return usagef("--limit %d: want at least 1", *limit)
		}
		return f.with(cmd.Context(), filter, func(_ *queue.Log, _ queue.Topics, shelf *deadletter.Shelf) error {
			list := newDeadReport(*discarded, *redriven)
			if *all {
				list.limit = *limit
			}
			if err := list.read(cmd.Context(), shelf); err != nil {
				return err
			}
			if f.output == "json" {
				err = printJSON(cmd.OutOrStdout(), list)
			} else {
				err = list.print(cmd.OutOrStdout(), *all)
			}
			if err == nil && list.Unreadable > 0 {
				err = fmt.Errorf("%d records of %s cannot be read as letters, the first at %s: they are of another version, or were not written by a worker",
					list.Unreadable, list.unreadableAt.Topic, letterID(list.unreadableAt))
			}
			return err
		})
	})
	return cmd
}

// deadReport is what dead list --output json prints.
type deadReport struct {
	Letters    int          `json:"letters"`
	Unreadable int          `json:"unreadable,omitzero"`
	Groups     []*deadGroup `json:"groups"`
	All        []deadLine   `json:"all,omitzero"`     // with --all
	Omitted    int          `json:"omitted,omitzero"` // older letters, left out of All

	discarded    bool // are counted
	redriven     bool // likewise
	limit        int  // of All; 0 is without
	groups       map[deadKey]*deadGroup
	unreadableAt queue.Position
}

type deadKey struct {
	tenant string
	reason deadletter.Reason
}

// deadGroup is the letters of a tenant for one reason.
type deadGroup struct {
	Tenant    string            `json:"tenant"`
	Reason    deadletter.Reason `json:"reason"`
	Letters   int               `json:"letters"`
	Discarded int               `json:"discarded,omitzero"` // of them
	Redriven  int               `json:"redriven,omitzero"`  // of them
	First     time.Time         `json:"first"`
	Last      time.Time         `json:"last"`
}

// deadLine is one letter.
type deadLine struct {
	Letter    string            `json:"letter"` // its partition and offset
	DeadAt    time.Time         `json:"dead_at"`
	Tenant    string            `json:"tenant"`
	EventID   string            `json:"event_id"`
	Reason    deadletter.Reason `json:"reason"`
	Stage     deadletter.Stage  `json:"stage"`
	Attempts  int               `json:"attempts"`
	Status    int               `json:"status,omitzero"`
	Detail    string            `json:"detail"`
	Discarded bool              `json:"discarded,omitzero"`
	Redriven  string            `json:"redriven,omitzero"` // its new outcome
}

func newDeadReport(discarded, redriven bool) *deadReport {
	return &deadReport{Groups: []*deadGroup{}, discarded: discarded, redriven: redriven, groups: map[deadKey]*deadGroup{}}
}

func (r *deadReport) read(ctx context.Context, shelf *deadletter.Shelf) error {
	err := shelf.Each(ctx, func(f deadletter.Found) error {
		r.add(&f)
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(r.Groups, func(a, b *deadGroup) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Reason, b.Reason))
	})
	r.cut()
	return nil
}

func (r *deadReport) add(f *deadletter.Found) {
	if f.Fault != nil {
		if r.Unreadable++; r.Unreadable == 1 {
			r.unreadableAt = f.Position
		}
		return
	}
	if f.Resolved() && !(f.Discarded && r.discarded) && !(f.Redriven != nil && r.redriven) {
		return
	}
	r.Letters++
	key := deadKey{f.Tenant, f.Reason}
	g := r.groups[key]
	if g == nil {
		g = &deadGroup{Tenant: f.Tenant, Reason: f.Reason, First: f.DeadAt, Last: f.DeadAt}
		r.groups[key], r.Groups = g, append(r.Groups, g)
	}
	g.Letters++
	if f.Discarded {
		g.Discarded++
	}
	if f.Redriven != nil {
		g.Redriven++
	}
	if f.DeadAt.Before(g.First) {
		g.First = f.DeadAt
	}
	if f.DeadAt.After(g.Last) {
		g.Last = f.DeadAt
	}
	if r.limit == 0 {
		return
	}
	line := deadLine{
		Letter: letterID(f.Position), DeadAt: f.DeadAt, Tenant: f.Tenant, EventID: f.EventID, Reason: f.Reason, Stage: f.Stage,
		Attempts: f.Attempts, Status: f.Status, Detail: f.Detail, Discarded: f.Discarded,
	}
	if f.Redriven != nil {
		line.Redriven = string(f.Redriven.Outcome)
	}
	r.All = append(r.All, line)
	if len(r.All) >= 2*r.limit { // keeps the memory bounded
		r.cut()
	}
}

// cut leaves the latest letters, in their order.
func (r *deadReport) cut() {
	slices.SortFunc(r.All, func(a, b deadLine) int {
		return cmp.Or(a.DeadAt.Compare(b.DeadAt), cmp.Compare(a.Letter, b.Letter))
	})
	if over := len(r.All) - r.limit; over > 0 {
		r.Omitted += over
		r.All = slices.Delete(r.All, 0, over)
	}
}

// letterID is what dead show takes to find a letter.
func letterID(p queue.Position) string { return fmt.Sprintf("%d:%d", p.Partition, p.Offset) }

func (r *deadReport) print(out io.Writer, all bool) error {
	if r.Letters == 0 {
		_, err := fmt.Fprintln(out, "No dead letters.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if all {
		_, _ = fmt.Fprintln(w, "LETTER\tDEAD AT\tTENANT\tEVENT\tREASON\tSTAGE\tATTEMPTS\tDETAIL")
		for i := range r.All {
			l := &r.All[i]
			mark := ""
			if l.Discarded {
				mark = " (discarded)"
			}
			if l.Redriven != "" {
				mark += " (redriven: " + l.Redriven + ")"
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s%s\t%s\t%d\t%s\n", l.Letter, moment(l.DeadAt), cmp.Or(printable(l.Tenant), "-"),
				cmp.Or(printable(l.EventID), "-"), l.Reason, mark, l.Stage, l.Attempts, printable(l.Detail))
		}
		if r.Omitted > 0 {
			_, _ = fmt.Fprintf(w, "\n%d older letters are left out: narrow the range by --from and --to, or raise --limit.\n", r.Omitted)
		}
		return w.Flush()
	}
	r.table(w)
	return w.Flush()
}

// table has a line for each group.
func (r *deadReport) table(w io.Writer) {
	_, _ = fmt.Fprintln(w, "TENANT\tREASON\tLETTERS\tDISCARDED\tREDRIVEN\tFIRST\tLAST")
	for _, g := range r.Groups {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%s\n", cmp.Or(printable(g.Tenant), "-"), g.Reason, g.Letters, g.Discarded, g.Redriven, moment(g.First), moment(g.Last))
	}
}
