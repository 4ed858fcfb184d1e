package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
)

// mostShown bounds the letters of one event that are kept in memory and shown.
const mostShown = 20

func newDeadShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a dead letter, its event and the rule that it broke",
		Long: "Show a dead letter, its event and the rule that it broke. ID is the event's, or the letter's own partition and\n" +
			"offset, as dead list --all shows them. Of several letters of an event all are shown, up to 20.\n\n" +
			"What people wrote is escaped. --raw writes the event's bytes as they are, and nothing else.",
		Example: "  refiner-source dead show eb117cb0-49cf-11ed-b050-03a44b32151c --brokers localhost:9092\n" +
			"  refiner-source dead show 3:42 --raw --brokers localhost:9092 | refiner-source map --tenants tenants.yaml --tenant acme",
		Args: cobra.ExactArgs(1),
	}
	f := addDeadFlags(cmd)
	raw := cmd.Flags().Bool("raw", false, "write the event's bytes as they are")
	cmd.RunE = work(func(cmd *cobra.Command, args []string) error {
		filter, err := f.filter(time.Now())
		if err != nil {
			return err
		}
		var found []deadletter.Found
		var more int
		err = f.find(cmd.Context(), args[0], filter, func(l deadletter.Found) error {
			if len(found) < mostShown {
				found = append(found, l)
			} else {
				more++
			}
			return nil
		})
		switch {
		case err != nil:
			return err
		case len(found) == 0:
			return fmt.Errorf("no dead letter of event %q: check the id, --tenant, --reason, --from and --to; letters older than the topic's retention are gone", args[0])
		case *raw && len(found) > 1:
			return usagef("--raw writes one event, and %q has %d letters: name one by its partition and offset, such as %s",
				args[0], len(found)+more, letterID(found[0].Position))
		case *raw && found[0].Fault != nil:
			return fmt.Errorf("the record at %s is no letter: %w", letterID(found[0].Position), found[0].Fault)
		case *raw:
			_, err := cmd.OutOrStdout().Write(found[0].Raw)
			return err
		case f.output == "json":
			return printJSON(cmd.OutOrStdout(), shownLetters(found))
		}
		return printLetters(cmd.OutOrStdout(), found, more)
	})
	return cmd
}

var positionForm = regexp.MustCompile(`^([0-9]{1,9}):([0-9]{1,18})$`)

// find gives the letter at a position, or all letters of an event.
func (f *deadFlags) find(ctx context.Context, id string, filter deadletter.Filter, each func(deadletter.Found) error) error {
	if id == "" {
		return usagef("the ID is empty")
	}
	m := positionForm.FindStringSubmatch(id)
	if m == nil {
		filter.EventID = id
	}
	return f.with(ctx, filter, func(_ *queue.Log, _ queue.Topics, shelf *deadletter.Shelf) error {
		if m == nil {
			return shelf.Each(ctx, each)
		}
		partition, _ := strconv.Atoi(m[1])
		offset, _ := strconv.ParseInt(m[2], 10, 64)
		l, err := shelf.At(ctx, partition, queue.Offset(offset))
		if errors.Is(err, deadletter.ErrNoLetter) {
			return fmt.Errorf("%w: dead list --all shows where they stand; --from and --to count here, too", err)
		}
		if err != nil {
			return err
		}
		return each(l)
	})
}

// shownLetter is what dead show --output json prints of a letter.
type shownLetter struct {
	Letter         string            `json:"letter"`
	Tenant         string            `json:"tenant"`
	Source         string            `json:"source"`
	EventID        string            `json:"event_id"`
	Traceparent    string            `json:"traceparent,omitzero"`
	Reason         deadletter.Reason `json:"reason,omitzero"`
	Rule           string            `json:"rule,omitzero"`
	Stage          deadletter.Stage  `json:"stage,omitzero"`
	Detail         string            `json:"detail"`
	Attempts       int               `json:"attempts"`
	Status         int               `json:"status,omitzero"`
	Rules          int               `json:"rules"`
	ReceivedAt     time.Time         `json:"received_at,omitzero"`
	FirstAttemptAt time.Time         `json:"first_attempt_at,omitzero"`
	DeadAt         time.Time         `json:"dead_at,omitzero"`
	Origin         string            `json:"origin"`
	Key            []byte            `json:"key"` // in base64
	Raw            []byte            `json:"raw"` // in base64
	Discarded      bool              `json:"discarded"`
	First          string            `json:"first,omitzero"`    // where the event first stood, if it had been redriven from there
	Redriven       string            `json:"redriven,omitzero"` // what became of it when it was put back
	Error          string            `json:"error,omitzero"`    // why the record is no letter
}

func shownLetters(found []deadletter.Found) []shownLetter {
	all := make([]shownLetter, len(found))
	for i := range found {
		l := &found[i]
		all[i] = shownLetter{
			Letter: letterID(l.Position), Tenant: l.Tenant, Source: l.Source, EventID: l.EventID, Traceparent: l.Traceparent,
			Reason: l.Reason, Stage: l.Stage, Detail: l.Detail, Attempts: l.Attempts, Status: l.Status, Rules: l.RulesVersion,
			ReceivedAt: l.ReceivedAt, FirstAttemptAt: l.FirstAttemptAt, DeadAt: l.DeadAt,
			Origin: fmt.Sprintf("%s/%s", l.Origin.Topic, letterID(l.Origin)), Key: l.Key, Raw: l.Raw, Discarded: l.Discarded,
		}
		if l.Fault != nil {
			all[i].Error, all[i].Origin = l.Fault.Error(), ""
			continue
		}
		all[i].Rule = l.Reason.Rule()
		if l.First != nil {
			all[i].First = fmt.Sprintf("%s/%d:%d", l.Origin.Topic, l.Origin.Partition, *l.First)
		}
		if x := l.Redriven; x != nil {
			all[i].Redriven = fmt.Sprintf("%s, at %s/%s", cmp.Or(x.Reason, string(x.Outcome)), x.At.Topic, letterID(x.At))
			if x.Reason != "" {
				all[i].Redriven = string(x.Outcome) + ": " + all[i].Redriven
			}
		}
	}
	return all
}

func printLetters(out io.Writer, found []deadletter.Found, more int) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, l := range shownLetters(found) {
		if i > 0 {
			_, _ = fmt.Fprintln(w)
		}
		l.print(w)
	}
	if more > 0 {
		_, _ = fmt.Fprintf(w, "\n%d more letters are left out: narrow them by --tenant, --from and --to.\n", more)
	}
	return w.Flush()
}

// print shows the letter to people; all that came from outside is escaped.
func (l *shownLetter) print(w io.Writer) {
	line := func(what, value string) { _, _ = fmt.Fprintf(w, "%s\t%s\n", what, cmp.Or(value, "-")) }
	state := ""
	if l.Discarded {
		state = ", discarded"
	}
	if l.Redriven != "" {
		state += ", redriven: " + printable(l.Redriven)
	}
	line("letter", l.Letter+state)
	line("tenant", printable(l.Tenant))
	line("event", printable(l.EventID))
	if l.Error != "" {
		line("error", printable(l.Error))
		return
	}
	line("source", printable(l.Source))
	line("origin", printable(l.Origin))
	if l.First != "" {
		line("redriven from", printable(l.First))
	}
	line("key", printable(string(l.Key)))
	line("reason", string(l.Reason))
	line("rule", l.Rule)
	line("detail", printable(l.Detail))
	line("stage", string(l.Stage))
	line("attempts", strconv.Itoa(l.Attempts))
	if l.Status != 0 {
		line("last status", strconv.Itoa(l.Status))
	}
	line("rules version", strconv.Itoa(l.Rules))
	line("received", moment(l.ReceivedAt))
	line("first attempt", moment(l.FirstAttemptAt))
	line("given up", moment(l.DeadAt))
	line("raw event", printable(string(l.Raw)))
}
