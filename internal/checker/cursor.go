package checker

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

// maxMetadata is how much text Kafka keeps beside an offset.
const maxMetadata = 4096

// tag names a tenant in a commit.
type tag [6]byte

func tagOf(tenant string) (t tag) {
	sum := sha256.Sum256([]byte(tenant))
	copy(t[:], sum[:])
	return t
}

// cursor is where a tenant goes on (docs/decisions/0010-tenant-cursors.md).
type cursor struct {
	from  int64
	until int64 // behind the runs, what lies before is done; 0 if that is nothing
	runs  []run
}

// run is so many events of a tenant in one state.
type run struct {
	events int64
	state  uint8
}

// States of the events of a run.
const (
	pending = iota
	done
	afterFirst
	afterSecond
)

// metadata is what stands beside a committed offset.
type metadata struct {
	partitions int64 // 0 if it is a commit by others
	leftOut    bool  // runs were left out for want of room
	cursors    map[tag]cursor
}

var errMalformed = errors.New("malformed")

// decodeMetadata reads the metadata of a commit.
func decodeMetadata(text string) (metadata, error) {
	if text == "" {
		return metadata{}, nil
	}
	encoded, ok := strings.CutPrefix(text, "r1.")
	switch {
	case !ok:
		return metadata{}, errors.New("of an unknown version")
	case len(text) > maxMetadata:
		return metadata{}, fmt.Errorf("%d characters, over %d", len(text), maxMetadata)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(b) < 4 {
		return metadata{}, errMalformed
	}
	b, sum := b[:len(b)-4], b[len(b)-4:]
	if crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(sum) {
		return metadata{}, errors.New("its checksum is wrong")
	}
	r := reader{b: b}
	m := r.metadata()
	if r.bad || len(r.b) > 0 {
		return metadata{}, errMalformed
	}
	return m, nil
}

// reader reads the payload; after a fault it only reads zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.bad, r.b = true, nil
		return make([]byte, n)
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) varint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 { // cut off, too large, or not in its shortest form
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) metadata() (m metadata) {
	flags := r.take(1)[0]
	m.partitions, m.leftOut = int64(r.varint()), flags&8 != 0
	count := r.varint()
	if flags&0xf0 != 0 || flags&3 == 3 || m.partitions >= 1<<31 || count > maxMetadata {
		r.bad = true
		return m
	}
	m.cursors = make(map[tag]cursor, count)
	var order []tag
	var withRuns, withUntil []bool
	from := uint64(0)
	for range count {
		t := tag(r.take(6))
		v := r.varint()
		from += v >> 2
		if _, twice := m.cursors[t]; twice || from >= 1<<63 {
			r.bad = true
		}
		m.cursors[t] = cursor{from: int64(from)}
		order, withRuns, withUntil = append(order, t), append(withRuns, v&2 != 0), append(withUntil, v&1 != 0)
	}
	if flags&4 != 0 {
		r.varint()
		for range count {
			if v := r.varint(); v&15 > 7 {
				r.bad = true
			}
		}
	}
	for i, t := range order {
		c := m.cursors[t]
		if withUntil[i] {
			behind := r.varint()
			if behind == 0 || behind >= 1<<63-uint64(c.from) {
				r.bad = true
			}
			c.until = c.from + int64(behind)
		}
		for more := withRuns[i]; more && !r.bad; {
			v := r.varint()
			n := run{int64(v >> 3), uint8(v >> 1 & 3)}
			if n.events < 1 || n.events > 1<<40 || len(c.runs) > 0 && c.runs[len(c.runs)-1].state == n.state {
				r.bad = true
			}
			c.runs = append(c.runs, n)
			more = v&1 != 0
		}
		if len(c.runs) == 0 && c.until > 0 || len(c.runs) > 0 && c.until == 0 && c.runs[len(c.runs)-1].state == pending {
			r.bad = true
		}
		m.cursors[t] = c
	}
	return m
}

// state is that of the nth of the tenant's events from the cursor on, which stands
// at the offset.
func (c *cursor) state(n, offset int64) uint8 {
	for _, r := range c.runs {
		if n < r.events {
			return r.state
		}
		n -= r.events
	}
	if offset < c.until {
		return done
	}
	return pending
}
