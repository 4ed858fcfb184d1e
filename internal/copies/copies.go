// Package copies knows the last events of a partition, so that the copy of one that
// a sender, or the client of the log, sent twice is told from a new event
// (invariant 7).
package copies

import (
	"context"
	"errors"
	"hash/maphash"

	"refinersource/internal/queue"
	"refinersource/internal/survey"
)

// Reason is why a copy is ignored.
const Reason survey.Ignored = "duplicate"

// DefaultWindow is how many events of a partition are remembered.
const DefaultWindow = 8192

// Bounds of Warm: warmBytes of what is read again to know what came before.
const (
	warmBytes = 16 << 20
	warmFirst = 256
)

// Window knows the last events of a partition. A sender that had no answer sends
// again, and so does the client of the log: without it the copy would bring old
// answers back after newer ones. Use New. Not safe for concurrent use.
type Window struct {
	seeds [2]maphash.Seed
	size  int
	ring  [][2]uint64 // keys in the order in which they came; from size on, the oldest is at next
	next  int
	// table finds keys in the ring: 1 + their index, at the place that their hash names
	// or the first free one behind it; 0 is free. A map would take three times as much,
	// and a worker has a window for each of its partitions.
	table []int32
}

// minTable is a table's least size; it grows with the ring, and half of it is free.
const minTable = 256

// New returns a window of so many events.
func New(size int) *Window {
	return &Window{
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		size:  size,
		table: make([]int32, minTable),
	}
}

// key is that of a record: tenant, source and bytes; and if it was put back after it
// had been given up, that redrive, which is no copy of the first delivery.
func (w *Window) key(r *queue.Record) (k [2]uint64) {
	for i, seed := range w.seeds {
		var h maphash.Hash
		h.SetSeed(seed)
		_, _ = h.Write(r.HeaderBytes(queue.HeaderTenant))
		_ = h.WriteByte(0)
		_, _ = h.Write(r.HeaderBytes(queue.HeaderSource))
		_ = h.WriteByte(0)
		_, _ = h.Write(r.HeaderBytes(queue.HeaderRedrive))
		_ = h.WriteByte(0)
		_, _ = h.Write(r.Value)
		k[i] = h.Sum64()
	}
	return k
}

// Add remembers a record, and tells whether its very bytes came before.
func (w *Window) Add(r *queue.Record) bool { return w.addKey(w.key(r)) }

func (w *Window) addKey(k [2]uint64) bool {
	if w.table[w.find(k)] != 0 {
		return true
	}
	at := len(w.ring)
	if at < w.size {
		w.ring = append(w.ring, k)
		w.grow()
	} else {
		at = w.next
		w.forget(w.ring[at])
		w.ring[at], w.next = k, (at+1)%w.size
	}
	w.table[w.find(k)] = int32(at + 1)
	return false
}

// grow makes the table one of which half is free.
func (w *Window) grow() {
	if 2*len(w.ring) <= len(w.table) {
		return
	}
	w.table = make([]int32, 2*len(w.table))
	for i, k := range w.ring {
		w.table[w.find(k)] = int32(i + 1)
	}
}

// find returns the place of a key in the table, or the free one where it belongs.
func (w *Window) find(k [2]uint64) int {
	mask := len(w.table) - 1
	at := int(k[0]) & mask
	for w.table[at] != 0 && w.ring[w.table[at]-1] != k {
		at = (at + 1) & mask
	}
	return at
}

// forget takes a key out of the table, and moves up those behind it that would
// otherwise not be found any more.
func (w *Window) forget(k [2]uint64) {
	mask := len(w.table) - 1
	free := w.find(k)
	for at := (free + 1) & mask; w.table[at] != 0; at = (at + 1) & mask {
		home := int(w.ring[w.table[at]-1][0]) & mask
		if (at-home)&mask >= (at-free)&mask {
			w.table[free], free = w.table[at], at
		}
	}
	w.table[free] = 0
}

// Warm reads what stands in the log before an offset, and from start on: the last
// events first, and by their size as many as the window takes and 16 MiB allow.
func (w *Window) Warm(ctx context.Context, log *queue.Log, topic string, partition int, before, start queue.Offset) error {
	first := max(start, before-warmFirst)
	late, bytes, err := w.keys(ctx, log, topic, partition, first, before)
	if err != nil || len(late) == 0 {
		return err
	}
	more := min(int64(w.size), warmBytes/max(1, bytes/int64(len(late)))) - int64(len(late))
	early, _, err := w.keys(ctx, log, topic, partition, max(start, first-queue.Offset(max(0, more))), first)
	for _, k := range append(early, late...) {
		w.addKey(k)
	}
	return err
}

// keys returns the keys of the records in a range, and their bytes.
func (w *Window) keys(ctx context.Context, log *queue.Log, topic string, partition int, from, to queue.Offset) (keys [][2]uint64, bytes int64, err error) {
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
				keys = append(keys, w.key(&b.Records[i]))
				bytes += int64(len(b.Records[i].Value))
			}
		}
		if len(b.Records) == 0 && b.End <= r.Offset() {
			break
		}
	}
	return keys, bytes, nil
}
