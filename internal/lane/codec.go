package lane

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"slices"
)

// The layout, and why it is so, is in docs/decisions/0010-tenant-cursors.md.

// MaxCursors is how many cursors fit into a commit whatever their tags and
// offsets, as long as these are below 2^40.
const MaxCursors = (maxPayload - 1 - 5 - len(Tag{}) - 2 - checksumSize - 1<<7 - 1 - MaxApart*(2+len(Tag{})+6)) / (len(Tag{}) + 5)

// MaxApart is how many of them may be of keys that are set apart.
const MaxApart = 8

// MaxText bounds the text of a commit's metadata, in characters of ASCII.
const MaxText = 4096

const (
	version      = "r1."
	maxPayload   = (MaxText - len(version)) * 3 / 4
	checksumSize = 4

	flagWaits    = 1 << 2 // the waits are there
	flagLeftOut  = 1 << 3 // runs were left out
	flagKeys     = 1 << 4 // the keys are there
	flagNamed    = 1 << 5 // the installation is there
	maxParts     = 1<<31 - 1
	maxOffset    = 1<<62 - 1
	maxRunEvents = 1 << 40
	maxSince     = 1 << 40
)

var (
	// ErrNoRoom says that the cursors themselves do not fit. The commit has to wait.
	ErrNoRoom = errors.New("too many cursors for a commit")
	// ErrMetadata says that metadata is not what Encode makes, or cannot be encoded.
	ErrMetadata = errors.New("metadata is not valid")
)

var (
	encoding   = base64.RawURLEncoding
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// entry is a cursor on its way into the text.
type entry struct {
	*Cursor
	runs []Run // in their one form; fewer where the room ends
	size int   // of all the runs, and of until, in bytes
	// until is Until less From; 0 if there is none.
	until uint64
}

// Encode makes the text of m, which is ASCII, at most MaxText long, and the same
// for the same m. It is complete when nothing was left out; otherwise runs were, or
// all that is said about since when and why. The error is ErrNoRoom when the cursors
// do not fit even so, or ErrMetadata.
func (m *Metadata) Encode() (text string, complete bool, err error) {
	entries, err := m.entries()
	if err != nil {
		return "", false, err
	}
	size := 1 + length(uint64(m.Partitions)) + length(uint64(len(entries))) + checksumSize
	before := Offset(0)
	for i := range entries {
		size += len(Tag{}) + length(uint64(entries[i].From-before)<<2)
		before = entries[i].From
	}
	named := m.Installation != (Tag{})
	if named {
		size += len(m.Installation)
	}
	keys, err := appendKeys(nil, entries)
	if err != nil {
		return "", false, err
	}
	size += len(keys)
	if size > maxPayload {
		return "", false, fmt.Errorf("%w: %d take %d bytes of %d", ErrNoRoom, len(entries), size, maxPayload)
	}
	flags := byte(m.Owner)
	if len(keys) > 0 {
		flags |= flagKeys
	}
	if named {
		flags |= flagNamed
	}
	complete = true
	var space [maxPayload]byte
	waits := appendWaits(space[:0], entries)
	switch {
	case len(waits) == 0:
	case size+len(waits) > maxPayload:
		waits, complete = nil, false
	default:
		flags |= flagWaits
		size += len(waits)
	}
	runs, whole := fit(entries, maxPayload-size)
	if !whole {
		complete = false
		flags |= flagLeftOut
	}
	if m.RunsLeftOut {
		flags |= flagLeftOut
	}
	b := append(make([]byte, 0, size+runs), flags)
	b = binary.AppendUvarint(b, uint64(m.Partitions))
	if named {
		b = append(b, m.Installation[:]...)
	}
	b = appendCursors(b, entries)
	b = append(b, keys...)
	b = append(b, waits...)
	return seal(appendRuns(b, entries)), complete, nil
}

// entries are the cursors in the order of the text, checked.
func (m *Metadata) entries() ([]entry, error) {
	if m.Partitions < 0 || m.Partitions > maxParts || m.Owner > Finished {
		return nil, fmt.Errorf("%w: %d partitions, owner %d", ErrMetadata, m.Partitions, m.Owner)
	}
	if len(m.Cursors) == 0 {
		return nil, nil
	}
	entries := make([]entry, len(m.Cursors))
	for i := range m.Cursors {
		c := &m.Cursors[i]
		if c.From < 0 || c.From > maxOffset || c.Cause > CauseLetters {
			return nil, fmt.Errorf("%w: cursor %v from %d, cause %d", ErrMetadata, c.Tag, c.From, c.Cause)
		}
		runs, err := merged(c.Runs)
		if err != nil {
			return nil, fmt.Errorf("cursor %v: %w", c.Tag, err)
		}
		e := entry{Cursor: c}
		if c.Until > c.From && len(runs) > 0 {
			e.until = uint64(c.Until - c.From)
		}
		e.runs = trimmed(runs, e.until > 0)
		e.size = sizeOf(e.runs) + e.untilSize()
		entries[i] = e
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(bytes.Compare(a.Tag[:], b.Tag[:]), bytes.Compare(a.Key[:], b.Key[:]))
	})
	for i := range entries[1:] {
		if c := entries[i]; c.Tag == entries[i+1].Tag && c.Key == entries[i+1].Key {
			return nil, fmt.Errorf("%w: two cursors of lane %v, key %v", ErrMetadata, c.Tag, c.Key)
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.From, b.From) })
	return entries, nil
}

// merged is the runs with neighbours that differ, none of them empty.
func merged(runs []Run) ([]Run, error) {
	same := true
	for i, r := range runs {
		if r.Events < 0 || r.Events > maxRunEvents || r.State > AfterSecond {
			return nil, fmt.Errorf("%w: run of %d events, state %d", ErrMetadata, r.Events, r.State)
		}
		same = same && r.Events > 0 && (i == 0 || runs[i-1].State != r.State)
	}
	if same {
		return runs, nil
	}
	out := make([]Run, 0, len(runs))
	for _, r := range runs {
		switch last := len(out) - 1; {
		case r.Events == 0:
		case last >= 0 && out[last].State == r.State:
			if out[last].Events += r.Events; out[last].Events > maxRunEvents {
				return nil, fmt.Errorf("%w: run of %d events", ErrMetadata, out[last].Events)
			}
		default:
			out = append(out, r)
		}
	}
	return out, nil
}

// trimmed is the runs without what is said about the events behind them anyway.
func trimmed(runs []Run, until bool) []Run {
	if n := len(runs); n > 0 && !until && runs[n-1].State == Pending {
		return runs[:n-1]
	}
	return runs
}

// fit makes the runs take at most room bytes, and returns how many they take and
// whether they are all there. It keeps the shortest, and of those that do not fit
// the beginning. A cursor that loses runs loses its until: behind those that
// are left everything is pending.
func fit(entries []entry, room int) (size int, whole bool) {
	for i := range entries {
		size += entries[i].size
	}
	if size <= room {
		return size, true
	}
	shortest := make([]*entry, len(entries))
	for i := range entries {
		shortest[i] = &entries[i]
	}
	slices.SortStableFunc(shortest, func(a, b *entry) int { return cmp.Compare(a.size, b.size) })
	size = 0
	for _, e := range shortest {
		if size+e.size <= room {
			size += e.size
			continue
		}
		kept := 0
		for n := size; kept < len(e.runs) && n+e.runs[kept].size() <= room; kept++ {
			n += e.runs[kept].size()
		}
		e.runs, e.until = trimmed(e.runs[:kept], false), 0
		size += sizeOf(e.runs)
	}
	return size, false
}

// untilSize is how many bytes until takes.
func (e *entry) untilSize() int {
	if e.until == 0 {
		return 0
	}
	return length(e.until)
}

func sizeOf(runs []Run) int {
	n := 0
	for _, r := range runs {
		n += r.size()
	}
	return n
}

func (r Run) size() int { return length(uint64(r.Events) << 3) }

// length is how many bytes the varint of v takes.
func length(v uint64) int { return max(1, (bits.Len64(v)+6)/7) }

// appendWaits appends since when and why the cursors wait, or nothing if that is
// not known of any.
func appendWaits(b []byte, entries []entry) []byte {
	var base int64
	known := false
	for i := range entries {
		if s := entries[i].since(); s > 0 && (base == 0 || s < base) {
			base = s
		}
		known = known || entries[i].Cause != CauseUnknown
	}
	if base == 0 && !known {
		return b
	}
	b = binary.AppendUvarint(b, uint64(base))
	for i := range entries {
		v := uint64(entries[i].Cause)
		if s := entries[i].since(); s > 0 {
			v |= uint64(s-base+1) << 4
		}
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// since is in seconds since 1970; 0 if it is not known.
func (e *entry) since() int64 {
	if s := e.Since.Unix(); s > 0 && s < maxSince {
		return s
	}
	return 0
}

// appendCursors appends the number of cursors and where they are.
func appendCursors(b []byte, entries []entry) []byte {
	b = binary.AppendUvarint(b, uint64(len(entries)))
	before := Offset(0)
	for i := range entries {
		e := &entries[i]
		v := uint64(e.From-before) << 2
		before = e.From
		if len(e.runs) > 0 {
			v |= 2
		}
		if e.until > 0 {
			v |= 1
		}
		b = append(b, e.Tag[:]...)
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// appendKeys appends which cursors are of keys that are set apart, or nothing if
// none is.
func appendKeys(b []byte, entries []entry) ([]byte, error) {
	n := 0
	for i := range entries {
		if entries[i].Key != (Tag{}) {
			n++
		} else if entries[i].Split != 0 {
			return nil, fmt.Errorf("%w: cursor %v of no key is split off at %d", ErrMetadata, entries[i].Tag, entries[i].Split)
		}
	}
	if n == 0 {
		return b, nil
	}
	if n > MaxApart {
		return nil, fmt.Errorf("%w: %d of keys that are set apart, want at most %d", ErrNoRoom, n, MaxApart)
	}
	b = binary.AppendUvarint(b, uint64(n))
	next := 0
	for i := range entries {
		e := &entries[i]
		if e.Key == (Tag{}) {
			continue
		}
		if e.Split < 0 || e.Split > e.From {
			return nil, fmt.Errorf("%w: cursor %v from %d, split off at %d", ErrMetadata, e.Tag, e.From, e.Split)
		}
		b = binary.AppendUvarint(b, uint64(i-next))
		b = append(b, e.Key[:]...)
		b = binary.AppendUvarint(b, uint64(e.From-e.Split))
		next = i + 1
	}
	return b, nil
}

// appendRuns appends the runs of the cursors that have some.
func appendRuns(b []byte, entries []entry) []byte {
	for i := range entries {
		runs := entries[i].runs
		if entries[i].until > 0 {
			b = binary.AppendUvarint(b, entries[i].until)
		}
		for j, r := range runs {
			v := uint64(r.Events)<<3 | uint64(r.State)<<1
			if j < len(runs)-1 {
				v |= 1
			}
			b = binary.AppendUvarint(b, v)
		}
	}
	return b
}

// seal makes text of the bytes and their checksum.
func seal(b []byte) string {
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	text := make([]byte, 0, MaxText)
	return string(encoding.AppendEncode(append(text, version...), b))
}
