package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// The mechanisms of SASL that Credentials can have. With Plain the password itself goes to
// the broker: use it with TLS alone.
const (
	Plain       = "plain"
	ScramSHA256 = "scram-sha-256"
	ScramSHA512 = "scram-sha-512"
)

// Mechanisms returns all mechanisms.
func Mechanisms() []string { return []string{Plain, ScramSHA256, ScramSHA512} }

// Credentials tell the brokers who this is, by SASL.
type Credentials struct {
	Mechanism string
	User      string
	// Password is asked for each connection, so that one that was changed is used without
	// a restart. It must be safe for concurrent use.
	Password func() (string, error)
}

func (c *Credentials) validate() error {
	var errs []error
	if (saslMechanism{c}).Name() == "" {
		errs = append(errs, fmt.Errorf("SASL mechanism %q: want one of %v", c.Mechanism, Mechanisms()))
	}
	if c.User == "" || c.Password == nil {
		errs = append(errs, errors.New("SASL needs a user and a password"))
	}
	return errors.Join(errs...)
}

// saslMechanism is credentials as kafka-go wants them.
type saslMechanism struct{ *Credentials }

// Name implements sasl.Mechanism: the name on the wire, "" for none that is known.
func (m saslMechanism) Name() string {
	switch m.Mechanism {
	case Plain:
		return "PLAIN"
	case ScramSHA256:
		return scram.SHA256.Name()
	case ScramSHA512:
		return scram.SHA512.Name()
	default:
		return ""
	}
}

// Start implements sasl.Mechanism.
func (m saslMechanism) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	password, err := m.Password()
	if err != nil {
		return nil, nil, fmt.Errorf("read the password for the brokers: %w", err)
	}
	if m.Mechanism == Plain {
		return plain.Mechanism{Username: m.User, Password: password}.Start(ctx)
	}
	algorithm := scram.SHA256
	if m.Mechanism == ScramSHA512 {
		algorithm = scram.SHA512
	}
	mechanism, err := scram.Mechanism(algorithm, m.User, password)
	if err != nil {
		return nil, nil, fmt.Errorf("use the password for the brokers: %w", err)
	}
	return mechanism.Start(ctx)
}
