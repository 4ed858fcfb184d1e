package lane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
)

// Decode is the reverse of Encode. Of "", which others commit, it makes the zero
// Metadata. Any other text that Encode does not make fails with ErrMetadata: one of
// another version, one that was changed. Cursors are in the order of From, then Tag.
func Decode(text string) (Metadata, error) {
	if text == "" {
		return Metadata{}, nil
	}
	m, err := decode(text)
	if err != nil {
		return Metadata{}, fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	// There is one text for one state, so what Encode makes otherwise is not ours.
	if again, complete, err := m.Encode(); err != nil || !complete || again != text {
		return Metadata{}, fmt.Errorf("%w: not in its one form", ErrMetadata)
	}
	return m, nil
}

func decode(text string) (Metadata, error) {
	if len(text) > MaxText {
		return Metadata{}, fmt.Errorf("%d characters, want at most %d", len(text), MaxText)
	}
	rest, found := strings.CutPrefix(text, version)
	if !found {
		return Metadata{}, fmt.Errorf("unknown version: it begins with %.8q, want %q", text, version)
	}
	b, err := encoding.DecodeString(rest)
	if err != nil {
		return Metadata{}, fmt.Errorf("decode base64url: %w", err)
	}
	n := len(b) - checksumSize
	if n < 0 {
		return Metadata{}, errShort
	}
	if binary.BigEndian.Uint32(b[n:]) != crc32.Checksum(b[:n], castagnoli) {
		return Metadata{}, errors.New("wrong checksum")
	}
	return (&decoder{rest: b[:n]}).metadata()
}

// errShort says that the bytes end too early.
var errShort = errors.New("too short")

// decoder takes a payload apart. After its first error it gives zeros. What stands
// in other than the one form is found afterwards, by encoding it again.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) metadata() (Metadata, error) {
	flags := d.byte()
	m := Metadata{
		Owner:       Owner(flags & 3),
		Partitions:  int(d.below(maxParts + 1)),
		RunsLeftOut: flags&flagLeftOut != 0,
	}
	if flags>>6 != 0 {
		return Metadata{}, fmt.Errorf("unknown flags %#x", flags)
	}
	if flags&flagNamed != 0 {
		m.Installation = d.tag()
	}
	runs, until := d.cursors(&m)
	if flags&flagKeys != 0 {
		d.keys(m.Cursors)
	}
	if flags&flagWaits != 0 {
		d.waits(m.Cursors)
	}
	for i := range m.Cursors {
		if until[i] {
			m.Cursors[i].Until = m.Cursors[i].From + Offset(d.below(maxOffset))
		}
		if runs[i] {
			m.Cursors[i].Runs = d.runs()
		}
	}
	if d.err == nil && len(d.rest) > 0 {
		d.err = fmt.Errorf("%d bytes too many", len(d.rest))
	}
	return m, d.err
}

// cursors reads the cursors and tells which of them have runs, and which an until.
func (d *decoder) cursors(m *Metadata) (runs, until []bool) {
	n := d.below(uint64(len(d.rest)))
	if n == 0 || d.err != nil {
		return nil, nil
	}
	m.Cursors = make([]Cursor, n)
	runs, until = make([]bool, n), make([]bool, n)
	before := uint64(0)
	for i := range m.Cursors {
		c := &m.Cursors[i]
		c.Tag = d.tag()
		v := d.varint()
		before += v >> 2
		if before > maxOffset {
			d.fail(errors.New("offset too large"))
		}
		c.From, runs[i], until[i] = Offset(before), v&2 != 0, v&1 != 0
	}
	return runs, until
}

func (d *decoder) keys(cursors []Cursor) {
	at := uint64(0)
	for n := d.below(MaxApart + 1); n > 0 && d.err == nil; n-- {
		if at += d.below(maxParts); at >= uint64(len(cursors)) {
			d.fail(errors.New("a key of no cursor"))
			return
		}
		c := &cursors[at]
		c.Key, c.Split = d.tag(), c.From-Offset(d.below(uint64(c.From)+1))
		at++
	}
}

func (d *decoder) waits(cursors []Cursor) {
	base := d.varint()
	for i := range cursors {
		v := d.varint()
		cursors[i].Cause = Cause(v & 15)
		if s := v >> 4; s > 0 {
			cursors[i].Since = time.Unix(int64(base+s-1), 0).UTC()
		}
	}
}

func (d *decoder) runs() []Run {
	var runs []Run
	for d.err == nil {
		v := d.varint()
		runs = append(runs, Run{Events: int(v >> 3), State: RunState(v >> 1 & 3)})
		if v&1 == 0 {
			break
		}
	}
	return runs
}

func (d *decoder) tag() (t Tag) {
	for i := range t {
		t[i] = d.byte()
	}
	return t
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail(errShort)
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) varint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail(errShort)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// below is a varint that must be below the bound.
func (d *decoder) below(bound uint64) uint64 {
	v := d.varint()
	if v >= bound && v > 0 {
		d.fail(fmt.Errorf("%d is too large", v))
		return 0
	}
	return v
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err, d.rest = err, nil
	}
}
