package queue_test

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"refinersource/internal/broker"
	"refinersource/internal/queue"
	"refinersource/internal/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEmbeddedBrokerConforms(t *testing.T) {
	t.Parallel()
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	queuetest.Run(t, queue.Options{Brokers: b.Addrs()})
}

func TestKafkaConforms(t *testing.T) {
	t.Parallel()
	brokers := os.Getenv("KAFKA_BROKERS")
	if brokers == "" {
		t.Skip("KAFKA_BROKERS is not set; scripts/kafka run-with 1 -- go test ./internal/queue sets it")
	}
	queuetest.Run(t, queue.Options{Brokers: strings.Split(brokers, ",")})
}
