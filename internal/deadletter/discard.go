package deadletter

import (
	"context"
	"fmt"
	"time"

	"refinersource/internal/queue"
	"refinersource/internal/receipt"
)

// Discarded is the reason in the receipt of a letter that somebody has discarded.
const Discarded = "discarded"

// discardedMember stands in every such receipt, as receipt.Append writes it.
const discardedMember = `"reason":"` + Discarded + `"`

func isDiscard(r *receipt.Receipt) bool {
	return r.Outcome == receipt.Dead && r.Reason == Discarded
}

// Discarder marks letters as discarded, with a receipt for the event's own position.
// The letters stay where they are, until the log drops them.
type Discarder struct {
	publisher Publisher
	topic     string
	library   string
}

// NewDiscarder returns a Discarder to the receipts' topic, which the caller owns along
// with the publisher. The library is what receipts name as such.
func NewDiscarder(publisher Publisher, topic, library string) *Discarder {
	return &Discarder{publisher: publisher, topic: topic, library: library}
}

// Discard marks a letter. Only a nil error says that the mark is in the log. To mark
// a letter twice does no harm.
func (d *Discarder) Discard(ctx context.Context, l *Letter, at time.Time) error {
	value := receipt.Append(nil, &receipt.Receipt{
		Tenant: l.Tenant, Source: l.Source, EventID: l.EventID, Partition: l.Origin.Partition, Offset: l.Origin.Offset,
		Outcome: receipt.Dead, Reason: Discarded, Attempts: l.Attempts,
		ReceivedAt: l.ReceivedAt, FirstAttemptAt: l.FirstAttemptAt, FinishedAt: at,
		Rules: l.RulesVersion, Library: d.library,
	})
	_, err := d.publisher.Publish(ctx, queue.Record{
		Position: queue.Position{Topic: d.topic},
		Key:      l.Key,
		Value:    value,
		Headers: []queue.Header{
			{Key: queue.HeaderTenant, Value: []byte(text(l.Tenant))},
			{Key: queue.HeaderEventID, Value: []byte(text(l.EventID))},
		},
		Time: at,
	})
	if err != nil {
		return fmt.Errorf("publish discard: %w", err)
	}
	return nil
}

// Rule is the rule that an event given up for the reason broke, for people, and what
// can be done about it.
func (r Reason) Rule() string {
	switch r {
	case Undecodable:
		return "An event is one JSON object of its source's shape. Mend the sender; these bytes can be no completion."
	case BadIdentity:
		return "An id of a user or account is a text or a whole number, and a group id has at most 500 characters. Mend what Refiner is told as the id."
	case AmbiguousIdentity:
		return "An event names one user and one account: the same field must not stand there twice with different values. Mend the sender."
	case NoIdentity:
		return "An event says who answered: a user's id, or what an anonymous respondent is known by."
	case TooLarge:
		return "A call is within the receiver's limit of size, each trait by itself. Shorten the answer's name or leave the answer out by the tenant's rules."
	case UnknownTenant:
		return "An event belongs to a tenant of the tenants file. Add the tenant, or mend the sender's address."
	case Rejected:
		return "The receiver takes an event's calls. It refused these when they travelled alone: see its status above."
	case WouldBeDropped:
		return "Segment keeps what it takes. It would have answered 200 to these calls and dropped them."
	case Poison:
		return "A receiver answers an event's calls. With this event it failed again and again, while it accepted others of the tenant."
	case Outlived:
		return "An event is delivered while the log keeps it. Its tenant's receiver took nothing until the log was about to drop it."
	default:
		return "The reason is not known to this version."
	}
}
