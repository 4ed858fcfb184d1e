// Package queue is the log: records in topics, over segmentio/kafka-go. It is
// the only importer of that library and runs unchanged against real Kafka and
// against the embedded broker (package broker). It knows nothing of surveys,
// tenants or Segment.
package queue

import (
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
)

// Offset is a place in a partition's log.
type Offset int64

// Position is a place in the log.
type Position struct {
	Topic     string
	Partition int
	Offset    Offset
}

// Header names of the envelope.
const (
	HeaderTenant      = "tenant"
	HeaderSource      = "source"
	HeaderEventID     = "event-id"
	HeaderReceivedAt  = "received-at" // RFC 3339 with nanoseconds, UTC
	HeaderTraceparent = "traceparent"
	// HeaderRedrive is only there on an event that was put back after it had been
	// given up; see package redrive.
	HeaderRedrive = "redrive"
)

// Header is one header of a record: a Key and a Value.
type Header = kafka.Header

// Record is a record of the log. Key and Value are the caller's to keep and must
// not be changed.
type Record struct {
	Position
	Key     []byte
	Value   []byte
	Headers []Header
	Time    time.Time
}

// Header returns the value of the last header with that name, "" if there is none.
func (r *Record) Header(name string) string { return string(r.HeaderBytes(name)) }

// HeaderBytes is Header without a copy.
func (r *Record) HeaderBytes(name string) []byte {
	for _, h := range slices.Backward(r.Headers) {
		if h.Key == name {
			return h.Value
		}
	}
	return nil
}
