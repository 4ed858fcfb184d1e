package deadletter

import (
	"context"
	"fmt"

	"refinersource/internal/queue"
)

// HeaderReason is the header that holds the reason, beside those of the
// envelope: tenant, source and event-id.
const HeaderReason = "reason"

// Publisher appends a record to the log. It returns its position when all
// in-sync replicas have it; an error promises nothing.
type Publisher interface {
	Publish(ctx context.Context, r queue.Record) (queue.Position, error)
}

// Writer writes letters to their topic.
type Writer struct {
	publisher Publisher
	topic     string
}

// NewWriter returns a Writer to a topic that the caller owns along with the
// publisher.
func NewWriter(publisher Publisher, topic string) *Writer {
	return &Writer{publisher: publisher, topic: topic}
}

// Write appends the letter and returns its position. The record has the key of
// the event's own record, so that in a topic with as many partitions it lands in
// the partition of the same number, and the time of death as its time.
//
// Only a nil error says that the letter is in the log (invariant 2). A letter of
// an event of up to 700 KiB is within queue.DefaultMaxRecordBytes; the ingress
// accepts less than half of that. What is larger, and can only have come into
// the log past the ingress, may be refused with queue.ErrTooLarge.
func (w *Writer) Write(ctx context.Context, l Letter) (queue.Position, error) {
	value, err := Encode(l)
	if err != nil {
		return queue.Position{}, err
	}
	position, err := w.publisher.Publish(ctx, queue.Record{
		Position: queue.Position{Topic: w.topic},
		Key:      l.Key,
		Value:    value,
		Headers: []queue.Header{
			{Key: queue.HeaderTenant, Value: []byte(text(l.Tenant))},
			{Key: queue.HeaderSource, Value: []byte(text(l.Source))},
			{Key: queue.HeaderEventID, Value: []byte(text(l.EventID))},
			{Key: HeaderReason, Value: []byte(l.Reason)},
		},
		Time: l.DeadAt,
	})
	if err != nil {
		return queue.Position{}, fmt.Errorf("publish dead letter: %w", err)
	}
	return position, nil
}
