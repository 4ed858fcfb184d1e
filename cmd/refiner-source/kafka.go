package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"refinersource/internal/queue"
)

// kafkaFlags are the flags of each command that talks to Kafka.
type kafkaFlags struct {
	brokers []string
	prefix  string

	tls           bool
	ca, cert, key string // files

	sasl, user, password string
}

// prefixForm is what a topic's name may have; it may be 249 long, with ours behind.
var prefixForm = regexp.MustCompile(`^[a-zA-Z0-9._-]{0,200}$`)

func addKafkaFlags(cmd *cobra.Command) *kafkaFlags {
	f := &kafkaFlags{}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.brokers, "brokers", nil, "addresses of some Kafka brokers, host:port,…")
	flags.StringVar(&f.prefix, "topic-prefix", queue.DefaultTopicPrefix, "what the names of the topics begin with")
	flags.BoolVar(&f.tls, "kafka-tls", false, "speak TLS to the brokers, who must have certificates that the system trusts, or --kafka-ca")
	flags.StringVar(&f.ca, "kafka-ca", "", "file with the authorities (PEM) that brokers' certificates are from, read at the start; with it --kafka-tls is on")
	flags.StringVar(&f.cert, "kafka-cert", "", "file with our certificate (PEM) for the brokers, read again for each connection; with it --kafka-tls is on")
	flags.StringVar(&f.key, "kafka-key", "", "file with its key (PEM)")
	flags.StringVar(&f.sasl, "kafka-sasl", "", "how we say to the brokers who we are: "+strings.Join(queue.Mechanisms(), ", ")+"; plain shows them the password, and the network too without --kafka-tls")
	flags.StringVar(&f.user, "kafka-user", "", "user for --kafka-sasl")
	flags.StringVar(&f.password, "kafka-password", "", "its password; better file:PATH, which is read for each connection, or the variable "+envName("kafka-password"))
	return f
}

// resolve returns how the brokers are reached, and the names of the topics.
func (f *kafkaFlags) resolve() (queue.Options, queue.Topics, error) {
	if len(f.brokers) == 0 {
		return queue.Options{}, queue.Topics{}, usagef("name the brokers with --brokers host:port,… or %s", envName("brokers"))
	}
	if !prefixForm.MatchString(f.prefix) {
		return queue.Options{}, queue.Topics{}, usagef("--topic-prefix %q: want at most 200 of a-z, A-Z, 0-9, dots, dashes and underscores", f.prefix)
	}
	o := queue.Options{Brokers: f.brokers}
	var err error
	if o.TLS, err = f.tlsConfig(); err == nil {
		o.Credentials, err = f.credentials()
	}
	return o, queue.Topics{Prefix: f.prefix}, err
}

// open opens the log. The caller must close it.
func (f *kafkaFlags) open(logger *zap.Logger) (*queue.Log, queue.Topics, error) {
	o, topics, err := f.resolve()
	if err != nil {
		return nil, queue.Topics{}, err
	}
	o.Logger = logger
	l, err := queue.Open(o)
	if err != nil {
		return nil, queue.Topics{}, usageError{err} // it connects to nothing, so only the options can be wrong
	}
	return l, topics, nil
}

// tlsConfig is what the flags say of TLS; nil is plain text.
func (f *kafkaFlags) tlsConfig() (*tls.Config, error) {
	if !f.tls && f.ca == "" && f.cert == "" && f.key == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		text, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, usagef("--kafka-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, usagef("--kafka-ca: %s has no certificate in PEM", f.ca)
		}
	}
	if (f.cert == "") != (f.key == "") {
		return nil, usagef("give --kafka-cert and --kafka-key together")
	}
	if f.cert != "" {
		own := func() (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(f.cert, f.key)
			if err != nil {
				return nil, fmt.Errorf("read our certificate for the brokers: %w", err)
			}
			return &c, nil
		}
		if _, err := own(); err != nil {
			return nil, usagef("--kafka-cert, --kafka-key: %w", err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own() }
	}
	return config, nil
}

// credentials are what the flags say of SASL; nil is none.
func (f *kafkaFlags) credentials() (*queue.Credentials, error) {
	if f.sasl == "" && f.user == "" && f.password == "" {
		return nil, nil
	}
	if f.sasl == "" || f.user == "" || f.password == "" {
		return nil, usagef("give --kafka-sasl, --kafka-user and --kafka-password together")
	}
	if !slices.Contains(queue.Mechanisms(), f.sasl) {
		return nil, usagef("--kafka-sasl %q: want one of %s", f.sasl, strings.Join(queue.Mechanisms(), ", "))
	}
	password := func() (string, error) { return f.password, nil }
	if path, ok := strings.CutPrefix(f.password, "file:"); ok {
		password = func() (string, error) {
			text, err := os.ReadFile(path)
			if err != nil {
				return "", fmt.Errorf("read the password for the brokers: %w", err)
			}
			return strings.TrimRight(string(text), "\r\n"), nil
		}
		if _, err := password(); err != nil {
			return nil, usagef("--kafka-password: %w", err)
		}
	}
	return &queue.Credentials{Mechanism: f.sasl, User: f.user, Password: password}, nil
}
