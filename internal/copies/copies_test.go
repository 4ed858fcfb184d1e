package copies_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"refinersource/internal/broker"
	"refinersource/internal/copies"
	"refinersource/internal/queue"
)

func record(tenant, source, value string) *queue.Record {
	return &queue.Record{Value: []byte(value), Headers: []queue.Header{
		{Key: queue.HeaderTenant, Value: []byte(tenant)}, {Key: queue.HeaderSource, Value: []byte(source)},
	}}
}

func TestCopyIsTheSameBytesOfTheSameTenantAndSource(t *testing.T) {
	t.Parallel()
	w := copies.New(8)
	for i, c := range []struct {
		r    *queue.Record
		copy bool
	}{
		{record("acme", "webhook", "a"), false},
		{record("acme", "webhook", "a"), true},
		{record("beta", "webhook", "a"), false},
		{record("acme", "event", "a"), false},
		{record("acme", "webhook", "b"), false},
		{record("acmew", "ebhook", "a"), false}, // no two lists make one
		{record("acme", "webhook", "b"), true},
	} {
		if got := w.Add(c.r); got != c.copy {
			t.Errorf("record %d: a copy %v, want %v", i, got, c.copy)
		}
	}
}

func TestWindowForgetsTheOldest(t *testing.T) {
	t.Parallel()
	w := copies.New(3)
	for _, v := range []string{"a", "b", "c", "d"} {
		w.Add(record("acme", "", v))
	}
	for _, v := range []string{"b", "c", "d"} {
		if !w.Add(record("acme", "", v)) {
			t.Errorf("%s is one of the last three, and was not known", v)
		}
	}
	if w.Add(record("acme", "", "a")) {
		t.Error("a is older than the last three, and was known")
	}
}

func TestWarmWindowKnowsWhatCameBefore(t *testing.T) {
	t.Parallel()
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	log, err := queue.Open(queue.Options{Brokers: b.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := log.EnsureTopics(ctx, []queue.TopicSpec{{Name: "events", Partitions: 1, Replication: 1}}); err != nil {
		t.Fatal(err)
	}
	p := log.Publisher("events", queue.PublisherOptions{})
	t.Cleanup(func() { _ = p.Close() })
	const records = 600
	for i := range records {
		r := record("acme", "webhook", fmt.Sprint(i))
		if _, err := p.Publish(ctx, *r); err != nil {
			t.Fatal(err)
		}
	}
	w := copies.New(500)
	if err := w.Warm(ctx, log, "events", 0, records-50, 0); err != nil {
		t.Fatal(err)
	}
	// The new one comes last: it takes the place of the oldest.
	for _, c := range []struct {
		i     int
		known bool
	}{{records - 51, true}, {records - 50 - 500, true}, {records - 50, false}} {
		if got := w.Add(record("acme", "webhook", fmt.Sprint(c.i))); got != c.known {
			t.Errorf("record %d is known: %v, want %v", c.i, got, c.known)
		}
	}
}

// A window of any size knows what a list of the last events knows.
func TestWindowKnowsTheLastEvents(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 400).Draw(t, "size")
		w := copies.New(size)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var last []int // distinct, the oldest first
		for range 4 * size {
			v := r.IntN(2 * size)
			known := slices.Contains(last, v)
			if got := w.Add(record("acme", "", fmt.Sprint(v))); got != known {
				t.Fatalf("%d is a copy: %v, want %v, of the last %v", v, got, known, last)
			}
			if !known {
				last = append(last, v)
				last = last[max(0, len(last)-size):]
			}
		}
	})
}
