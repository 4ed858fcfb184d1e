package main

import (
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"refinersource/internal/queue"
)

// kafkaFlags are the flags of each command that talks to Kafka.
type kafkaFlags struct {
	brokers []string
	prefix  string
}

func addKafkaFlags(cmd *cobra.Command) *kafkaFlags {
	f := &kafkaFlags{}
	cmd.Flags().StringSliceVar(&f.brokers, "brokers", nil, "addresses of some Kafka brokers, host:port,…")
	cmd.Flags().StringVar(&f.prefix, "topic-prefix", queue.DefaultTopicPrefix, "what the names of the topics begin with")
	return f
}

// resolve returns the brokers and the names of the topics.
func (f *kafkaFlags) resolve() ([]string, queue.Topics, error) {
	if len(f.brokers) == 0 {
		return nil, queue.Topics{}, usagef("name the brokers with --brokers host:port,… or %s", envName("brokers"))
	}
	return f.brokers, queue.Topics{Prefix: f.prefix}, nil
}

// open opens the log. The caller must close it.
func (f *kafkaFlags) open(logger *zap.Logger) (*queue.Log, queue.Topics, error) {
	brokers, topics, err := f.resolve()
	if err != nil {
		return nil, queue.Topics{}, err
	}
	l, err := queue.Open(queue.Options{Brokers: brokers, Logger: logger})
	if err != nil {
		return nil, queue.Topics{}, usageError{err} // it connects to nothing, so only the options can be wrong
	}
	return l, topics, nil
}
