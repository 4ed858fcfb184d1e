// Command floor is what a worker on kafka-go costs at least: it reads the topic
// as a member of a group, posts the events as they are, in batches, and commits.
// It decodes nothing, maps nothing and survives nothing.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"
)

// batchEvents is how many events are posted together.
const batchEvents = 150

// floor is one member of the group.
type floor struct {
	brokers []string
	topic   string
	url     string
	client  *http.Client
}

func main() {
	brokers := flag.String("brokers", "", "host:port,…")
	topic := flag.String("topic", "", "topic of the events")
	group := flag.String("group", "", "consumer group")
	endpoint := flag.String("endpoint", "", "URL of the receiver")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	f := &floor{
		brokers: strings.Split(*brokers, ","), topic: *topic, url: *endpoint + "/v1/batch",
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 10 * time.Second},
	}
	if err := f.run(ctx, *group); err != nil {
		log.Fatal(err)
	}
}

// run reads the member's partitions until ctx ends.
func (f *floor) run(ctx context.Context, group string) error {
	members, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: group, Brokers: f.brokers, Topics: []string{f.topic}, StartOffset: kafka.FirstOffset,
	})
	if err != nil {
		return fmt.Errorf("open group: %w", err)
	}
	for {
		generation, err := members.Next(ctx)
		if err != nil {
			return errors.Join(ignore(ctx, err), members.Close())
		}
		for _, a := range generation.Assignments[f.topic] {
			generation.Start(func(inner context.Context) {
				inner, cancel := context.WithCancel(inner)
				defer cancel()
				defer context.AfterFunc(ctx, cancel)()
				if err := f.partition(inner, generation, a); ignore(inner, err) != nil {
					log.Fatal(err)
				}
			})
		}
	}
}

// ignore drops an error that is only the end of ctx.
func ignore(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// partition posts the events of a partition, one request after another.
func (f *floor) partition(ctx context.Context, generation *kafka.Generation, a kafka.PartitionAssignment) error {
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: f.brokers, Topic: f.topic, Partition: a.ID, MaxBytes: 1 << 20, MaxWait: 250 * time.Millisecond, QueueCapacity: 2 * batchEvents,
	})
	defer func() { _ = r.Close() }()
	if err := r.SetOffset(a.Offset); err != nil {
		return fmt.Errorf("set offset: %w", err)
	}
	committed, last := a.Offset, time.Now()
	commit := func(next int64) error {
		if next == committed {
			return nil
		}
		committed, last = next, time.Now()
		return generation.CommitOffsets(map[string]map[int]int64{f.topic: {a.ID: next}})
	}
	next := a.Offset
	for {
		if err := f.batch(ctx, r, &next); err != nil {
			return errors.Join(err, commit(next))
		}
		if time.Since(last) > time.Second {
			if err := commit(next); err != nil {
				return fmt.Errorf("commit: %w", err)
			}
		}
	}
}

// batch posts what comes next and moves next behind it.
func (f *floor) batch(ctx context.Context, r *kafka.Reader, next *int64) error {
	var body bytes.Buffer
	to := *next
	for range batchEvents {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		to = m.Offset + 1
		body.Write(m.Value)
		body.WriteByte('\n')
		if to >= m.HighWaterMark { // the end of the log: there is nothing to wait for
			break
		}
	}
	if err := f.post(context.WithoutCancel(ctx), body.Bytes()); err != nil { // what was begun is finished
		return err
	}
	*next = to
	return nil
}

func (f *floor) post(ctx context.Context, body []byte) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	res, err := f.client.Do(q)
	if err != nil {
		return fmt.Errorf("post: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, res.Body)
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("post: %s", res.Status)
	}
	return nil
}
