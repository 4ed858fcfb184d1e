package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
)

func newDead() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead",
		Short: "Look at dead letters, put them back, and discard them",
		Example: "  refiner-source dead list --brokers localhost:9092\n" +
			"  refiner-source dead redrive --tenant acme --reason rejected --tenants tenants.yaml --brokers localhost:9092",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Help()
			return usagef("name a command: dead list, dead show, dead redrive or dead discard")
		},
	}
	cmd.AddCommand(newDeadList(), newDeadShow(), newDeadRedrive(), newDeadDiscard())
	return cmd
}

// deadFlags are the filters, and how what they find is shown.
type deadFlags struct {
	kafka  *kafkaFlags
	tenant string
	reason string
	from   string
	to     string
	output string
}

func addDeadFlags(cmd *cobra.Command) *deadFlags {
	f := &deadFlags{kafka: addKafkaFlags(cmd)}
	cmd.Flags().StringVar(&f.tenant, "tenant", "", "letters of this tenant")
	cmd.Flags().StringVar(&f.reason, "reason", "", "letters of this reason: "+strings.Join(reasonNames(), ", "))
	cmd.Flags().StringVar(&f.from, "from", "", "letters from then on: a time as RFC 3339, or how long ago, as -24h")
	cmd.Flags().StringVar(&f.to, "to", "", "letters before then: a time as RFC 3339, or how long ago, as -1h")
	cmd.Flags().StringVar(&f.output, "output", "table", "table or json")
	return f
}

func reasonNames() []string {
	var names []string
	for _, r := range deadletter.Reasons() {
		names = append(names, string(r))
	}
	return names
}

// filter is what the flags mean as of now.
func (f *deadFlags) filter(now time.Time) (deadletter.Filter, error) {
	filter := deadletter.Filter{Tenant: f.tenant, Reason: deadletter.Reason(f.reason)}
	switch {
	case f.output != "table" && f.output != "json":
		return filter, usagef("--output %q: want table or json", f.output)
	case f.reason != "" && !slices.Contains(deadletter.Reasons(), filter.Reason):
		return filter, usagef("--reason %q: want one of %s", f.reason, strings.Join(reasonNames(), ", "))
	}
	var err error
	if filter.From, err = parseWhen("from", f.from, now); err != nil {
		return filter, err
	}
	if filter.To, err = parseWhen("to", f.to, now); err != nil {
		return filter, err
	}
	if !filter.From.IsZero() && !filter.To.IsZero() && !filter.From.Before(filter.To) {
		return filter, usagef("--from %s is not before --to %s", f.from, f.to)
	}
	return filter, nil
}

// chosen is the filter of a command that changes letters, of which an ID, the event's
// or the letter's own position, or a filter has to say which.
func (f *deadFlags) chosen(args []string) (id string, filter deadletter.Filter, err error) {
	id = strings.Join(args, "")
	filter, err = f.filter(time.Now())
	switch {
	case err != nil:
		return id, filter, err
	case len(args) > 0 && id == "":
		return id, filter, usagef("the ID is empty")
	case len(args) == 0 && filter == (deadletter.Filter{}):
		return id, filter, usagef("name which letters: an ID, --tenant, --reason, --from or --to")
	}
	if id != "" && !positionForm.MatchString(id) {
		filter.EventID = id
	}
	return id, filter, nil
}

// unresolved gives the letters that are meant and about which something is left to do.
// Each call gives the same ones, since the shelf's bounds are fixed.
func unresolved(ctx context.Context, shelf *deadletter.Shelf, id string, each func(deadletter.Found) error) error {
	fresh := func(f deadletter.Found) error {
		if f.Fault == nil && !f.Resolved() { // what cannot be read has no place that a mark could name
			return each(f)
		}
		return nil
	}
	if !positionForm.MatchString(id) {
		return shelf.Each(ctx, fresh)
	}
	var partition int
	var offset queue.Offset
	_, _ = fmt.Sscanf(id, "%d:%d", &partition, &offset)
	f, err := shelf.At(ctx, partition, offset)
	if err != nil {
		return err
	}
	return fresh(f)
}

// agreed asks whether to do what has been shown, unless yes. The error says that it was
// not done.
func agreed(cmd *cobra.Command, yes bool, what, undone string) error {
	if yes {
		return nil
	}
	ok, err := ask(cmd, what+"?", strings.ToLower(what[:1])+what[1:])
	if err == nil && !ok {
		err = errors.New(undone)
	}
	return err
}

// with opens the log and gives use the shelf of the filter.
func (f *deadFlags) with(ctx context.Context, filter deadletter.Filter, use func(*queue.Log, queue.Topics, *deadletter.Shelf) error) error {
	log, topics, err := f.kafka.open(nil)
	if err != nil {
		return err
	}
	defer log.Close()
	shelf, err := deadletter.OpenShelf(ctx, log, topics, filter)
	if err != nil {
		return err
	}
	return use(log, topics, shelf)
}
