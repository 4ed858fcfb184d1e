package ingress

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"refinersource/internal/queue"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// maxKeyBytes bounds the ids in a record's key and headers; of a longer one its
// hash stands there.
const maxKeyBytes = 512

// ErrEventTooLarge is of an event that is over DefaultMaxEventBytes.
var ErrEventTooLarge = errors.New("event too large")

// Record returns the record of one event of Refiner as its webhook's route makes it:
// the bytes as they are, with the same key, headers and time. It refuses what that
// route refuses, with ErrEventTooLarge or a *survey.Fault. Other faults of an event
// are left to the worker, which makes dead letters of them.
func Record(t *tenant.Tenant, raw []byte, received time.Time) (queue.Record, error) {
	if len(raw) > DefaultMaxEventBytes {
		return queue.Record{}, fmt.Errorf("%w: it has %d bytes, and %d are allowed", ErrEventTooLarge, len(raw), DefaultMaxEventBytes)
	}
	head, err := survey.Peek(survey.RefinerWebhook, raw)
	if fault, ok := errors.AsType[*survey.Fault](err); ok && fault.Reason == survey.Undecodable {
		return queue.Record{}, fmt.Errorf("read event: %w", fault)
	}
	return newRecord(t, survey.RefinerWebhook, recordKey(t, &head), head.EventID, raw, received.UTC()), nil
}

func newRecord(t *tenant.Tenant, source survey.Source, key, eventID string, raw []byte, received time.Time) queue.Record {
	eventID = bounded(eventID)
	// One piece of memory for key and envelope; there may be one more header.
	all := make([]byte, 0, len(key)+len(t.ID)+len(source)+len(eventID)+len(time.RFC3339Nano))
	part := func(from int) []byte { return all[from:len(all):len(all)] }
	headers := make([]queue.Header, 4, 5)
	all = append(all, key...)
	recordKey := part(0)
	for i, h := range [...]struct{ key, value string }{
		{queue.HeaderTenant, string(t.ID)},
		{queue.HeaderSource, string(source)},
		{queue.HeaderEventID, eventID},
	} {
		from := len(all)
		all = append(all, h.value...)
		headers[i] = queue.Header{Key: h.key, Value: part(from)}
	}
	from := len(all)
	all = received.AppendFormat(all, time.RFC3339Nano)
	headers[3] = queue.Header{Key: queue.HeaderReceivedAt, Value: part(from)}
	return queue.Record{Key: recordKey, Value: raw, Headers: headers, Time: received}
}

// recordKey is the tenant, and what the event is kept in order by.
func recordKey(t *tenant.Tenant, head *survey.Head) string {
	order := t.Rules.OrderKey(head.UserID, head.AnonymousID, head.AccountID)
	// The key has the bare id, so that any Kafka client finds a user's partition.
	_, id, ok := strings.Cut(order, ":")
	if !ok {
		id = head.EventID
	}
	return string(t.ID) + "/" + bounded(id)
}

// bounded returns the id, or its hash if it is too long.
func bounded(id string) string {
	if len(id) <= maxKeyBytes {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(sum[:])
}
