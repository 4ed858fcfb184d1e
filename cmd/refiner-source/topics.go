package main

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"refinersource/internal/queue"
)

func newTopics() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "topics",
		Short:   "Create and check the Kafka topics",
		Example: "  refiner-source topics ensure --brokers localhost:9092",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Help()
			return usagef("name a command: topics ensure or topics check")
		},
	}
	cmd.AddCommand(newTopicsEnsure(), newTopicsCheck())
	return cmd
}

// topicsFlags are the flags of both commands.
type topicsFlags struct {
	kafka       *kafkaFlags
	partitions  int
	replication int
	output      string
}

func addTopicsFlags(cmd *cobra.Command, partitions int, usage string) *topicsFlags {
	f := &topicsFlags{kafka: addKafkaFlags(cmd)}
	cmd.Flags().IntVar(&f.partitions, "partitions", partitions, usage)
	cmd.Flags().IntVar(&f.replication, "replication", 0, "copies of each record; 0 is 3, or as many as there are brokers")
	cmd.Flags().StringVar(&f.output, "output", "table", "table or json")
	return f
}

func (f *topicsFlags) validate() error {
	switch {
	case f.partitions < 0:
		return usagef("--partitions %d: want a positive number", f.partitions)
	case f.replication < 0:
		return usagef("--replication %d: want a positive number, or 0", f.replication)
	case f.output != "table" && f.output != "json":
		return usagef("--output %q: want table or json", f.output)
	}
	return nil
}

func newTopicsEnsure() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ensure",
		Short: "Create the topics that do not exist, and check those that do",
		Long: "Create the topics that do not exist, and check those that do.\n\n" +
			"Topics that exist are never changed. What is wrong with them is reported as by topics check.",
		Example: "  refiner-source topics ensure --brokers localhost:9092 --partitions 24",
		Args:    cobra.NoArgs,
	}
	f := addTopicsFlags(cmd, queue.DefaultPartitions, "partitions of the topics; hard to change later")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		if err := f.validate(); err != nil {
			return err
		}
		log, topics, err := f.kafka.open(nil)
		if err != nil {
			return err
		}
		defer log.Close()
		specs := topics.Specs(f.partitions, f.replication)
		if err := log.EnsureTopics(cmd.Context(), specs); err != nil {
			return err
		}
		return reportTopics(cmd.Context(), cmd.OutOrStdout(), log, specs, f.output)
	})
	return cmd
}

func newTopicsCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Report what is wrong with the topics",
		Long:    "Report what is wrong with the topics: errors, and risks, which do not fail the check.",
		Example: "  refiner-source topics check --brokers localhost:9092 --output json",
		Args:    cobra.NoArgs,
	}
	f := addTopicsFlags(cmd, 0, "partitions that the topics should have; 0 is as many as the events topic has")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		if err := f.validate(); err != nil {
			return err
		}
		log, topics, err := f.kafka.open(nil)
		if err != nil {
			return err
		}
		defer log.Close()
		if err := log.Ping(cmd.Context()); err != nil {
			return err
		}
		if f.partitions == 0 {
			// Without an events topic that is the finding, and the others have any number.
			f.partitions, _ = log.Partitions(cmd.Context(), topics.Events())
		}
		return reportTopics(cmd.Context(), cmd.OutOrStdout(), log, topics.Specs(f.partitions, f.replication), f.output)
	})
	return cmd
}

// reportTopics prints what is wrong with the topics. It fails if any of it is an
// error.
func reportTopics(ctx context.Context, out io.Writer, log *queue.Log, specs []queue.TopicSpec, output string) error {
	findings, err := log.CheckTopics(ctx, specs)
	if err != nil {
		return err
	}
	if err := printFindings(out, findings, len(specs), output); err != nil {
		return err
	}
	for _, f := range findings {
		if f.Severity == queue.SeverityError {
			return errReported
		}
	}
	return nil
}

func printFindings(out io.Writer, findings []queue.Finding, topics int, output string) error {
	if output == "json" {
		if findings == nil {
			findings = []queue.Finding{}
		}
		if err := json.MarshalWrite(out, findings); err != nil {
			return err
		}
		_, err := fmt.Fprintln(out)
		return err
	}
	if len(findings) == 0 {
		_, err := fmt.Fprintf(out, "%d topics, nothing wrong\n", topics)
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "SEVERITY\tTOPIC\tKIND\tDETAIL\tREMEDY")
	for _, f := range findings {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", f.Severity, f.Topic, f.Kind, f.Detail, f.Remedy)
	}
	return table.Flush()
}
