package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/app"
	"refinersource/internal/audit"
)

func newTrace() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace [EVENT_ID]",
		Short: "Tell what became of an event, or of all events of a user",
		Long: "Tell what became of an event, or of all events of a user, from what Kafka holds: when it was accepted and where\n" +
			"it stands, its calls and outcome, its dead letter, or why it waits. It fails if there is no such event.\n\n" +
			"EVENT_ID is the id of Refiner's response, or of the canonical event. With --tenant and --user only the user's\n" +
			"partition is read, which is faster; the user is what the tenant's events are kept in order by: the id of the\n" +
			"user, or of the account with order_by: account.",
		Example: "  refiner-source trace eb117cb0-49cf-11ed-b050-03a44b32151c --brokers localhost:9092\n" +
			"  refiner-source trace --tenant acme --user user-17 --from -24h --brokers localhost:9092 --output json",
		Args: cobra.MaximumNArgs(1),
	}
	kafka := addKafkaFlags(cmd)
	span := addRangeFlags(cmd, "events accepted")
	group := cmd.Flags().String("group", app.DefaultGroup, "consumer group")
	tenant := cmd.Flags().String("tenant", "", "the tenant of the event")
	user := cmd.Flags().String("user", "", "the user, or account, by which the tenant's events are kept in order")
	limit := cmd.Flags().Int("limit", audit.DefaultStories, "how many events are told of, the latest ones")
	output := cmd.Flags().String("output", "table", "table or json")
	cmd.RunE = work(func(cmd *cobra.Command, args []string) error {
		q := audit.Query{Group: *group, EventID: strings.Join(args, ""), Tenant: *tenant, User: *user, Most: *limit}
		switch {
		case *output != "table" && *output != "json":
			return usagef("--output %q: want table or json", *output)
		case q.Group == "":
			return usagef("--group is empty")
		case q.EventID == "" && q.User == "":
			return usagef("name an event by its id, or a user with --tenant and --user")
		case q.User != "" && q.Tenant == "":
			return usagef("--user needs --tenant: a user is one of a tenant's")
		case *limit < 1:
			return usagef("--limit %d: want at least 1", *limit)
		}
		var err error
		if q.Range, err = span.resolve(time.Now()); err != nil {
			return err
		}
		log, topics, err := kafka.open(nil)
		if err != nil {
			return err
		}
		defer log.Close()
		q.Topics = topics
		report := traceReport{Events: []*audit.Story{}}
		stories, omitted, err := audit.Trace(cmd.Context(), log, q)
		if err != nil {
			return fmt.Errorf("trace events: %w", err)
		}
		report.Events, report.Omitted = append(report.Events, stories...), omitted
		if *output == "json" {
			err = printJSON(cmd.OutOrStdout(), report)
		} else {
			err = report.print(cmd.OutOrStdout(), q.EventID == "")
		}
		if err != nil {
			return err
		}
		if len(stories) == 0 {
			return notThere(&q)
		}
		return nil
	})
	return cmd
}

// notThere says what to try next.
func notThere(q *audit.Query) error {
	if q.User != "" {
		what := "event"
		if q.EventID != "" {
			what = fmt.Sprintf("event %q", q.EventID)
		}
		return fmt.Errorf("no %s of user %q of tenant %q is in the log: check both ids, and --from and --to; where the tenants file says order_by: account, give the account's id as --user; events older than the topic's retention are gone",
			what, q.User, q.Tenant)
	}
	return fmt.Errorf("no event %q: no receipt names it, and it is not among the events that wait; check the id, --tenant, --from and --to; if it was finished while no receipts were written, name its user: --tenant and --user read all of the user's events; those older than the topic's retention are gone",
		q.EventID)
}

// traceReport is what trace --output json prints.
type traceReport struct {
	Events  []*audit.Story `json:"events"`
	Omitted int            `json:"omitted,omitzero"` // older events that are not told of
}

func (r *traceReport) print(out io.Writer, short bool) error {
	if len(r.Events) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if short {
		r.list(w)
	} else {
		for i, s := range r.Events {
			if i > 0 {
				_, _ = fmt.Fprintln(w)
			}
			tell(w, s)
		}
	}
	if r.Omitted > 0 {
		_, _ = fmt.Fprintf(w, "\n%d older events are left out: narrow the range by --from and --to, or raise --limit.\n", r.Omitted)
	}
	return w.Flush()
}

// list has a line for each event.
func (r *traceReport) list(w io.Writer) {
	_, _ = fmt.Fprintln(w, "EVENT\tSOURCE\tPOSITION\tRECEIVED\tSTATE\tSINCE\tATTEMPTS\tCALLS\tWHY")
	for _, s := range r.Events {
		since, attempts, calls, why := "-", "-", "-", "-"
		if s.Wait != nil {
			why = waits(s.Wait)
		}
		if n := len(s.Receipts); n > 0 {
			last := &s.Receipts[0]
			since, attempts, calls = moment(last.FinishedAt), fmt.Sprint(last.Attempts), fmt.Sprint(len(last.Calls))
			why = cmp.Or(printable(last.Reason), "-")
		}
		if len(s.Letters) > 0 {
			why = string(s.Letters[0].Reason) + ": " + printable(s.Letters[0].Detail)
		}
		if len(s.Redriven) > 0 {
			why = "redriven as " + place(s.Redriven[len(s.Redriven)-1])
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(printable(s.EventID), "-"), cmp.Or(printable(s.Source), "-"),
			place(s.Position), moment(s.ReceivedAt), s.State, since, attempts, calls, why)
	}
}

// tell tells all that is known of an event.
func tell(w io.Writer, s *audit.Story) {
	line := func(what, format string, args ...any) {
		_, _ = fmt.Fprintf(w, "%s\t%s\n", what, fmt.Sprintf(format, args...))
	}
	line("event", "%s", printable(s.EventID))
	line("tenant", "%s", printable(s.Tenant))
	line("key", "%s", printable(s.Key))
	size := fmt.Sprintf("%d bytes", s.Bytes)
	if s.Gone {
		size = "gone from the log since"
	}
	line("received", "%s from %s, at %s, %s", moment(s.ReceivedAt), cmp.Or(printable(s.Source), "-"), place(s.Position), size)
	line("state", "%s", s.State)
	if s.RedriveOf != nil {
		line("redrive of", "the dead letter of the event at %s", place(*s.RedriveOf))
	}
	for _, at := range s.Redriven {
		line("redriven", "as the event at %s", place(at))
	}
	if s.Wait != nil {
		line("waits", "%s", waits(s.Wait))
	}
	if s.State == audit.Unaccounted {
		line("why", "the commit point has passed it, no cursor holds it, and it has no receipt: it was finished while none were written, or see refiner-source audit")
	}
	for i := range s.Receipts {
		r := &s.Receipts[i]
		what := fmt.Sprintf("%s at %s", r.Outcome, moment(r.FinishedAt))
		if r.Reason != "" {
			what += ", " + printable(r.Reason)
		}
		if r.Replay != "" {
			what += ", by replay " + printable(r.Replay)
		}
		line("outcome", "%s, by %s", what, place(r.Position))
		if r.Attempts > 0 {
			line("attempts", "%d, the first at %s", r.Attempts, moment(r.FirstAttemptAt))
		}
		line("rules", "version %d, of the tenant %s, library %s", r.Rules, cmp.Or(printable(r.RulesOf), "-"), cmp.Or(printable(r.Library), "-"))
		for _, c := range r.Calls {
			line(printable(c.Type), "%s, digest %s", printable(c.ID), printable(c.Digest))
		}
		if len(r.Withheld) > 0 {
			line("withheld", "%s", printable(strings.Join(r.Withheld, ", ")))
		}
	}
	for i := range s.Letters {
		l := &s.Letters[i]
		status := ""
		if l.Status > 0 {
			status = fmt.Sprintf(", status %d", l.Status)
		}
		line("dead letter", "%s at %s after %d attempts%s, in stage %s, at %s: %s", l.Reason, moment(l.DeadAt), l.Attempts, status, l.Stage, place(l.Position), printable(l.Detail))
	}
}

// waits says why an event waits.
func waits(w *audit.Wait) string {
	if w.Why == audit.Ahead {
		return fmt.Sprintf("in flight, or not read yet: the commit point is %d", w.Commit)
	}
	since := ""
	if !w.Since.IsZero() {
		since = " since " + moment(w.Since)
	}
	return fmt.Sprintf("its tenant, or its user, waits at %d%s: %s", w.Cursor, since, cmp.Or(w.Cause, "nobody told why"))
}
