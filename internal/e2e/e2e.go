// Package e2e holds the tests of whole processes against real Kafka: the built
// binary, a receiver outside it, and a check of what arrived that shares no code
// with the service. They run when KAFKA_BROKERS is set; scripts/kafka starts
// brokers for it:
//
//	scripts/kafka run-with 1 -- go test -count=1 -v ./internal/e2e
package e2e
