package checker

import (
	"bytes"
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

// maxApart is how many cursors of a commit may be of keys that are set apart.
const maxApart = 8

// tag names a tenant, or the key of a record, in a commit.
type tag [6]byte

func tagOf[T string | []byte](name T) (t tag) {
	sum := sha256.Sum256([]byte(name))
	copy(t[:], sum[:])
	return t
}

// cursorID tells the cursors of a commit apart: the key is zero in that of a
// tenant, and otherwise one whose events were set apart from the tenant's.
type cursorID struct {
	tenant, key tag
}

func (id cursorID) compare(other cursorID) int {
	if c := bytes.Compare(id.tenant[:], other.tenant[:]); c != 0 {
		return c
	}
	return bytes.Compare(id.key[:], other.key[:])
}

// keyCursor says from where on the events of a key are a lane of their own.
type keyCursor struct {
	cursorID
	split int64
}

// cursor is where a lane goes on (docs/decisions/0010-tenant-cursors.md).
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
	clean      bool  // the owner drained
	cursors    map[cursorID]cursor
	keys       []keyCursor // which of them are of keys
}

// splitOf is from where on the events of a tenant's key are a lane of their own;
// ok is false if they are not.
func (m *metadata) splitOf(id cursorID) (split int64, ok bool) {
	for i := range m.keys {
		if m.keys[i].cursorID == id {
			return m.keys[i].split, true
		}
	}
	return 0, false
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
	m.partitions, m.leftOut, m.clean = int64(r.varint()), flags&8 != 0, flags&3 == 1
	if flags&32 != 0 && tag(r.take(6)) == (tag{}) { // the installation, which nothing here depends on
		r.bad = true
	}
	count := r.varint()
	if flags&0xc0 != 0 || flags&3 == 3 || m.partitions >= 1<<31 || count > maxMetadata {
		r.bad = true
		return m
	}
	var order []cursorID
	var froms []int64
	var withRuns, withUntil []bool
	from := uint64(0)
	for range count {
		t := tag(r.take(6))
		v := r.varint()
		from += v >> 2
		if from >= 1<<62 {
			r.bad, from = true, 0
		}
		order, froms = append(order, cursorID{tenant: t}), append(froms, int64(from))
		withRuns, withUntil = append(withRuns, v&2 != 0), append(withUntil, v&1 != 0)
	}
	if flags&16 != 0 {
		m.keys = r.keys(order, froms)
	}
	m.cursors = make(map[cursorID]cursor, len(order))
	for i, id := range order {
		if _, twice := m.cursors[id]; twice || i > 0 && froms[i-1] == froms[i] && order[i-1].compare(id) > 0 {
			r.bad = true
		}
		m.cursors[id] = cursor{from: froms[i]}
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

// keys reads which of the cursors are of keys, and says so in their ids.
func (r *reader) keys(order []cursorID, froms []int64) (keys []keyCursor) {
	n := r.varint()
	if n < 1 || n > maxApart {
		r.bad = true
		return nil
	}
	next := uint64(0)
	for range n {
		gap := r.varint()
		if gap >= uint64(len(order))-next {
			r.bad = true
			return nil
		}
		at := next + gap
		order[at].key = tag(r.take(6))
		back := r.varint()
		if order[at].key == (tag{}) || back > uint64(froms[at]) {
			r.bad = true
			return nil
		}
		keys = append(keys, keyCursor{order[at], froms[at] - int64(back)})
		next = at + 1
	}
	return keys
}

// hasKeys reports whether metadata has cursors of keys, as far as its first byte says.
func hasKeys(text string) bool {
	const flags = len("r1.")
	if len(text) <= flags {
		return false
	}
	high := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", text[flags])
	return high >= 0 && high<<2&16 != 0
}

// state is that of the nth of the lane's events from the cursor on, which stands
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
