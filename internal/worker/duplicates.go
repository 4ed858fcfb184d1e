package worker

import (
	"context"
	"errors"
	"hash/maphash"

	"refinersource/internal/queue"
	"refinersource/internal/survey"
)

// duplicate is the reason of an event whose very bytes came before.
const duplicate survey.Ignored = "duplicate"

// Bounds of the windows in which copies of an event are known.
const (
	// duplicateWindow is how many events of a partition are remembered; a lane that
	// catches up looks as far back as scanWindow.
	duplicateWindow = 8192
	scanWindow      = 1024
	// warmBytes bounds what is read again on assignment to know what came before.
	warmBytes = 16 << 20
	warmFirst = 256
)

// duplicates knows the last events of a partition. A sender that had no answer
// sends again, and so does the client of the log: without it the copy would bring
// old answers back after newer ones (invariant 7).
type duplicates struct {
	seeds [2]maphash.Seed
	ring  [][2]uint64
	next  int
	seen  map[[2]uint64]struct{}
}

func newDuplicates(size int) *duplicates {
	return &duplicates{
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		ring:  make([][2]uint64, 0, size),
		seen:  make(map[[2]uint64]struct{}, size),
	}
}

// key is that of a record: tenant, source and bytes.
func (d *duplicates) key(r *queue.Record) (k [2]uint64) {
	for i, seed := range d.seeds {
		var h maphash.Hash
		h.SetSeed(seed)
		_, _ = h.WriteString(r.Header(queue.HeaderTenant))
		_ = h.WriteByte(0)
		_, _ = h.WriteString(r.Header(queue.HeaderSource))
		_ = h.WriteByte(0)
		_, _ = h.Write(r.Value)
		k[i] = h.Sum64()
	}
	return k
}

// add remembers a record, and tells whether it came before.
func (d *duplicates) add(r *queue.Record) bool { return d.addKey(d.key(r)) }

func (d *duplicates) addKey(k [2]uint64) bool {
	if _, again := d.seen[k]; again {
		return true
	}
	d.seen[k] = struct{}{}
	if len(d.ring) < cap(d.ring) {
		d.ring = append(d.ring, k)
		return false
	}
	delete(d.seen, d.ring[d.next])
	d.ring[d.next] = k
	d.next = (d.next + 1) % len(d.ring)
	return false
}

// warm reads what stands in the log before an offset: the last events first, and
// by their size as many as the window takes and warmBytes allows.
func (d *duplicates) warm(ctx context.Context, log *queue.Log, topic string, partition int, before, start queue.Offset) error {
	first := max(start, before-warmFirst)
	late, bytes, err := d.keys(ctx, log, topic, partition, first, before)
	if err != nil || len(late) == 0 {
		return err
	}
	more := min(int64(cap(d.ring)), warmBytes/max(1, bytes/int64(len(late)))) - int64(len(late))
	early, _, err := d.keys(ctx, log, topic, partition, max(start, first-queue.Offset(max(0, more))), first)
	for _, k := range append(early, late...) {
		d.addKey(k)
	}
	return err
}

// keys returns the keys of the records in a range, and their bytes.
func (d *duplicates) keys(ctx context.Context, log *queue.Log, topic string, partition int, from, to queue.Offset) (keys [][2]uint64, bytes int64, err error) {
	r := log.Reader(topic, partition, from, queue.ReaderOptions{})
	for r.Offset() < to {
		b, err := r.Next(ctx)
		if errors.Is(err, queue.ErrGap) {
			r.SkipGap()
			continue
		}
		if err != nil {
			return keys, bytes, err
		}
		for i := range b.Records {
			if b.Records[i].Offset < to {
				keys = append(keys, d.key(&b.Records[i]))
				bytes += int64(len(b.Records[i].Value))
			}
		}
		if len(b.Records) == 0 && b.End <= r.Offset() {
			break
		}
	}
	return keys, bytes, nil
}
