package deadletter_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
)

// log is a publisher that keeps the last record.
type log struct {
	last queue.Record
	err  error
}

func (l *log) Publish(_ context.Context, r queue.Record) (queue.Position, error) {
	if l.err != nil {
		return queue.Position{}, l.err
	}
	l.last = r
	return queue.Position{Topic: r.Topic, Partition: 3, Offset: 9}, nil
}

func TestWriteKeepsTheKeyAndSaysTheReasonInAHeader(t *testing.T) {
	t.Parallel()
	var l log
	position, err := deadletter.NewWriter(&l, "refiner.dead").Write(t.Context(), full())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(queue.Position{Topic: "refiner.dead", Partition: 3, Offset: 9}, position); diff != "" {
		t.Errorf("position (-want +got)\n%s", diff)
	}
	value, err := deadletter.Encode(full())
	if err != nil {
		t.Fatal(err)
	}
	want := queue.Record{
		Position: queue.Position{Topic: "refiner.dead"},
		Key:      full().Key,
		Value:    value,
		Headers: []queue.Header{
			{Key: "tenant", Value: []byte("acme")},
			{Key: "source", Value: []byte("refiner-webhook")},
			{Key: "event-id", Value: []byte("eb117cb0-49cf-11ed-b050-03a44b32151c")},
			{Key: "reason", Value: []byte("rejected")},
		},
		Time: full().DeadAt,
	}
	if diff := cmp.Diff(want, l.last); diff != "" {
		t.Errorf("record (-want +got)\n%s", diff)
	}
}

func TestWriteSaysWhenTheLogDidNotTakeTheLetter(t *testing.T) {
	t.Parallel()
	down := errors.New("no leader")
	l := log{err: down}
	if _, err := deadletter.NewWriter(&l, "refiner.dead").Write(t.Context(), full()); !errors.Is(err, down) {
		t.Errorf("got %v, want %v", err, down)
	}
	l.err = nil
	broken := full()
	broken.Reason = ""
	if _, err := deadletter.NewWriter(&l, "refiner.dead").Write(t.Context(), broken); err == nil {
		t.Error("a letter without a reason: no error")
	}
	if l.last.Value != nil {
		t.Error("a letter without a reason was published")
	}
}

// An event of 700 KiB makes a record that the log takes, whatever its headers
// and its bytes: the ingress accepts less than half of that.
func TestLetterOfALargeEventIsWithinTheLogsBound(t *testing.T) {
	t.Parallel()
	worst := strings.Repeat("\x01", 2_000) // six bytes each in JSON
	letter := full()
	letter.Tenant, letter.Source, letter.EventID, letter.Traceparent, letter.Detail = worst, worst, worst, worst, worst
	letter.Key = bytes.Repeat([]byte{0xff}, 1<<10)
	letter.Raw = bytes.Repeat([]byte{0xff}, 700<<10)
	var l log
	if _, err := deadletter.NewWriter(&l, "refiner.dead").Write(t.Context(), letter); err != nil {
		t.Fatal(err)
	}
	const framing = 1 << 10
	size := framing + len(l.last.Key) + len(l.last.Value)
	for _, h := range l.last.Headers {
		size += len(h.Key) + len(h.Value)
	}
	if size > queue.DefaultMaxRecordBytes {
		t.Errorf("record of %d bytes is over %d", size, queue.DefaultMaxRecordBytes)
	}
}
