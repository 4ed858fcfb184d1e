package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
	"refinersource/internal/redrive"
	"refinersource/internal/tenant"
)

func newDeadRedrive() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "redrive [ID]",
		Short: "Put dead letters back after what was wrong is mended",
		Long: "Put dead letters back into the log of events after what was wrong is mended: the rules, a key, a limit, the\n" +
			"receiver. The workers deliver them like new events, in the order of their users. ID is the event's, or the\n" +
			"letter's own partition and offset; without it the filters say which are meant, and at least one is needed.\n\n" +
			"A trait that a newer completion has set since is left out, for its user and for the account; and so is the\n" +
			"account of a user who has had another one since. What would be dead again stays where it is.\n\n" +
			"Without --execute it says what it would do. With it, it asks first, unless --yes. --tenants must be the file\n" +
			"of the workers: they send nothing that was judged by other rules, and the letter is listed again. It can be\n" +
			"ended half-way and run again: nothing is put back twice. dead list leaves a letter out when it has its new\n" +
			"outcome, which needs the workers' receipts.",
		Example: "  refiner-source dead redrive --tenant acme --reason unknown_tenant --tenants tenants.yaml --brokers localhost:9092\n" +
			"  refiner-source dead redrive --tenant acme --reason unknown_tenant --tenants tenants.yaml --execute --yes --brokers localhost:9092\n" +
			"  refiner-source dead redrive 3:42 --tenants tenants.yaml --execute --brokers localhost:9092",
		Args: cobra.MaximumNArgs(1),
	}
	f := addDeadFlags(cmd)
	tenants := cmd.Flags().String("tenants", "", "tenants file (YAML), that of the workers")
	stale := cmd.Flags().Bool("allow-stale", false, "also letters of which later events are gone from the log, or have another key: what those have set may get older values")
	execute := cmd.Flags().Bool("execute", false, "do it; without it nothing is changed")
	yes := cmd.Flags().Bool("yes", false, "do not ask")
	cmd.RunE = work(func(cmd *cobra.Command, args []string) error {
		if *tenants == "" {
			return usagef("--tenants is missing; give the tenants file of the workers")
		}
		id, filter, err := f.chosen(args)
		if err != nil {
			return err
		}
		rules, err := tenant.LoadRules(*tenants)
		if err != nil {
			return usageError{err}
		}
		r := redriving{cmd: cmd, flags: f, id: id, rules: rules, stale: *stale, execute: *execute, yes: *yes}
		return f.with(cmd.Context(), filter, r.run)
	})
	return cmd
}

// redriving is a run of the command.
type redriving struct {
	cmd     *cobra.Command
	flags   *deadFlags
	id      string
	rules   *tenant.Registry
	stale   bool
	execute bool
	yes     bool
}

func (r *redriving) run(log *queue.Log, topics queue.Topics, shelf *deadletter.Shelf) error {
	ctx, out := r.cmd.Context(), r.cmd.OutOrStdout()
	plan, err := redrive.New(ctx, redrive.Options{Log: log, Topics: topics, Tenants: r.rules, Shelf: shelf, AllowStale: r.stale},
		func(ctx context.Context, each func(deadletter.Found) error) error {
			return unresolved(ctx, shelf, r.id, each)
		})
	if err != nil {
		return err
	}
	report := newRedriveReport(plan)
	if report.Letters > 0 && (r.execute || r.flags.output != "json") {
		to := out
		if r.execute {
			to = r.cmd.ErrOrStderr()
		}
		if err := report.print(to); err != nil {
			return err
		}
	}
	if r.execute && report.Goes > 0 {
		if err := agreed(r.cmd, r.yes, fmt.Sprintf("Redrive %d letters", report.Goes), "nothing was redriven"); err != nil {
			return err
		}
		publisher := log.Publisher(topics.Events(), queue.PublisherOptions{})
		report.Redriven, err = plan.Run(ctx, patient{publisher})
		if err = errors.Join(err, publisher.Close()); err != nil {
			return fmt.Errorf("%w\n%d of %d letters are back in the log. Run the same command again: it goes on with the others", err, report.Redriven, report.Goes)
		}
	}
	if r.flags.output == "json" {
		return printJSON(out, report)
	}
	switch {
	case report.Letters == 0:
		_, err = fmt.Fprintln(out, "No dead letters to redrive.")
	case r.execute:
		_, err = fmt.Fprintf(out, "%d letters are back in the log.\n", report.Redriven)
	case report.Goes > 0:
		_, err = fmt.Fprintf(out, "\n%d letters would be redriven: add --execute.\n", report.Goes)
	}
	return err
}

// redriveReport is what dead redrive --output json prints.
type redriveReport struct {
	Letters  int             `json:"letters"`
	Goes     int             `json:"redrive"`
	Redriven int             `json:"redriven"`
	Groups   []*redriveGroup `json:"groups"`
	Stays    []*redriveStays `json:"stays"`
}

// redriveGroup is the letters of a tenant for one reason.
type redriveGroup struct {
	Tenant     string            `json:"tenant"`
	Reason     deadletter.Reason `json:"reason"`
	Letters    int               `json:"letters"`
	Goes       int               `json:"redrive"`    // are put back
	Newer      int               `json:"newer"`      // of them: have newer completions
	LeftOut    int               `json:"left_out"`   // traits that these have set
	Superseded int               `json:"superseded"` // of them: nothing is left to send
	Stays      int               `json:"stays"`
}

// redriveStays is letters of a group that stay where they are, for one reason.
type redriveStays struct {
	Tenant string            `json:"tenant"`
	Reason deadletter.Reason `json:"reason"`
	Fate   redrive.Fate      `json:"fate"`
	Why    string            `json:"why,omitzero"`
	Count  int               `json:"letters"`
	Letter string            `json:"letter"` // the first of them
	Detail string            `json:"detail"` // of that
}

func newRedriveReport(plan *redrive.Plan) *redriveReport {
	r := &redriveReport{Letters: len(plan.Items), Groups: []*redriveGroup{}, Stays: []*redriveStays{}}
	groups := map[deadKey]*redriveGroup{}
	type stayKey struct {
		deadKey
		fate redrive.Fate
		why  string
	}
	stays := map[stayKey]*redriveStays{}
	for _, i := range plan.Items {
		key := deadKey{i.Tenant, i.Reason}
		g := groups[key]
		if g == nil {
			g = &redriveGroup{Tenant: i.Tenant, Reason: i.Reason}
			groups[key], r.Groups = g, append(r.Groups, g)
		}
		g.Letters++
		if i.Fate == redrive.Goes {
			r.Goes++
			g.Goes++
			if i.Newer > 0 {
				g.Newer++
			}
			if i.Superseded() {
				g.Superseded++
			}
			g.LeftOut += i.LeftOut()
			continue
		}
		g.Stays++
		k := stayKey{key, i.Fate, i.Why}
		s := stays[k]
		if s == nil {
			s = &redriveStays{Tenant: i.Tenant, Reason: i.Reason, Fate: i.Fate, Why: i.Why, Letter: letterID(i.Letter), Detail: i.Detail}
			stays[k], r.Stays = s, append(r.Stays, s)
		}
		s.Count++
	}
	slices.SortFunc(r.Groups, func(a, b *redriveGroup) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Reason, b.Reason))
	})
	slices.SortFunc(r.Stays, func(a, b *redriveStays) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Fate, b.Fate), cmp.Compare(a.Why, b.Why))
	})
	return r
}

func (r *redriveReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "TENANT\tREASON\tLETTERS\tREDRIVE\tWITH NEWER\tTRAITS LEFT OUT\tNOTHING LEFT\tSTAY")
	for _, g := range r.Groups {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\n", cmp.Or(printable(g.Tenant), "-"), g.Reason, g.Letters, g.Goes, g.Newer, g.LeftOut, g.Superseded, g.Stays)
	}
	if len(r.Stays) > 0 {
		_, _ = fmt.Fprintln(w, "\nTENANT\tREASON\tSTAY\tAS\tWHY\tFIRST LETTER")
		for _, s := range r.Stays {
			as := string(s.Fate)
			if s.Why != "" {
				as += ": " + s.Why
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", cmp.Or(printable(s.Tenant), "-"), s.Reason, s.Count, as, printable(s.Detail), s.Letter)
		}
	}
	return w.Flush()
}
