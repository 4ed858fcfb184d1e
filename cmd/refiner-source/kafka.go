package main

import (
	"regexp"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"refinersource/internal/queue"
)

// kafkaFlags are the flags of each command that talks to Kafka.
type kafkaFlags struct {
	brokers []string
	prefix  string
}

// prefixForm is what a topic's name may have; it may be 249 long, with ours behind.
var prefixForm = regexp.MustCompile(`^[a-zA-Z0-9._-]{0,200}$`)

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
	if !prefixForm.MatchString(f.prefix) {
		return nil, queue.Topics{}, usagef("--topic-prefix %q: want at most 200 of a-z, A-Z, 0-9, dots, dashes and underscores", f.prefix)
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
