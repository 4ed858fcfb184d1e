package lane_test

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"refinersource/internal/lane"
)

// at is a time that a cursor can have.
func at(seconds int64) time.Time { return time.Unix(1_700_000_000+seconds, 0).UTC() }

func encode(t testing.TB, m lane.Metadata) (text string, complete bool) {
	t.Helper()
	text, complete, err := m.Encode()
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	if len(text) > lane.MaxText {
		t.Fatalf("text of %d characters", len(text))
	}
	return text, complete
}

func decode(t testing.TB, text string) lane.Metadata {
	t.Helper()
	m, err := lane.Decode(text)
	if err != nil {
		t.Fatalf("decode %q: %v", text, err)
	}
	return m
}

// text is what stands in a commit with the payload.
func text(payload ...byte) string {
	sum := crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli))
	return "r1." + base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint32(payload, sum))
}

// many makes n cursors, each so far behind the one before, with what fill adds.
func many(n int, gap lane.Offset, fill func(i int, c *lane.Cursor)) lane.Metadata {
	m := lane.Metadata{Partitions: 96}
	for i := range n {
		c := lane.Cursor{Tag: lane.TagOf(fmt.Sprint("tenant-", i)), From: gap * lane.Offset(i+1)}
		if fill != nil {
			fill(i, &c)
		}
		m.Cursors = append(m.Cursors, c)
	}
	return m
}

var (
	acme  = lane.TagOf("acme")
	other = lane.TagOf("other")
	third = lane.TagOf("third")
)

// golden are texts of which each shows a feature, with the bytes that
// docs/decisions/0010-tenant-cursors.md describes. Commits with them stand in logs:
// a text that changes needs another version.
var golden = []struct {
	name     string
	metadata lane.Metadata
	payload  []byte // but for the checksum
	text     string
}{
	{
		"working",
		lane.Metadata{Partitions: 12},
		[]byte{0, 12, 0},
		"r1.AAwAs_oBHg",
	},
	{
		"clean",
		lane.Metadata{Partitions: 96, Owner: lane.Clean},
		[]byte{1, 96, 0},
		"r1.AWAARbkUAg",
	},
	{
		"cut, 300 partitions, runs left out",
		lane.Metadata{Partitions: 300, Owner: lane.Cut, RunsLeftOut: true},
		[]byte{2 | 8, 0xac, 2, 0},
		"r1.CqwCAOrtLcY",
	},
	{
		"of an installation",
		lane.Metadata{Partitions: 12, Owner: lane.Clean, Installation: acme},
		slices.Concat([]byte{1 | 32, 12}, acme[:], []byte{0}),
		"r1.IQyCKzOth8EA03J7Bw",
	},
	{
		"two cursors",
		lane.Metadata{Partitions: 12, Cursors: []lane.Cursor{{Tag: acme, From: 5}, {Tag: other, From: 1005}}},
		slices.Concat([]byte{0, 12, 2}, acme[:], []byte{5 << 2}, other[:], []byte{0xa0, 0x1f}), "r1.AAwCgiszrYfBFNkpihDRsKAfwIrfKQ",
	},
	{
		"runs, and what is done behind them",
		lane.Metadata{Partitions: 12, Cursors: []lane.Cursor{
			{Tag: acme, From: 5, Runs: []lane.Run{{Events: 1, State: lane.Pending}, {Events: 20, State: lane.Done}}},
			{Tag: other, From: 6, Until: 206, Runs: []lane.Run{
				{Events: 2, State: lane.AfterFirst}, {Events: 3, State: lane.AfterSecond}, {Events: 1, State: lane.Pending},
			}},
		}},
		slices.Concat([]byte{0, 12, 2}, acme[:], []byte{5<<2 | 2}, other[:], []byte{1<<2 | 3},
			[]byte{1<<3 | 1, 0xa2, 1}, []byte{0xc8, 1, 2<<3 | 2<<1 | 1, 3<<3 | 3<<1 | 1, 1 << 3}), "r1.AAwCgiszrYfBFtkpihDRsAcJogHIARUfCESXLiQ",
	},
	{
		"keys that are set apart",
		lane.Metadata{Partitions: 12, Cursors: []lane.Cursor{
			{Tag: acme, From: 5},
			{Tag: acme, Key: other, Split: 4, From: 6},
			{Tag: other, From: 7},
			{Tag: other, Key: third, From: 8},
		}},
		slices.Concat([]byte{16, 12, 4}, acme[:], []byte{5 << 2}, acme[:], []byte{1 << 2}, other[:], []byte{1 << 2}, other[:], []byte{1 << 2},
			[]byte{2, 1}, other[:], []byte{2, 1}, third[:], []byte{8}), "r1.EAwEgiszrYfBFIIrM62HwQTZKYoQ0bAE2SmKENGwBAIB2SmKENGwAgGx6ZMkUFsIWyg-8Q",
	},
	{
		"since when and why",
		lane.Metadata{Partitions: 12, Cursors: []lane.Cursor{
			{Tag: other, From: 5, Since: at(3), Cause: lane.CauseThrottled},
			{Tag: acme, From: 6, Since: at(0), Cause: lane.CauseLetters},
			{Tag: third, From: 7, Cause: lane.CausePaused},
		}},
		slices.Concat([]byte{4, 12, 3}, other[:], []byte{5 << 2}, acme[:], []byte{1 << 2}, third[:], []byte{1 << 2},
			[]byte{0x80, 0xe2, 0xcf, 0xaa, 6, 4<<4 | 2, 1<<4 | 7, 5}), "r1.BAwD2SmKENGwFIIrM62HwQSx6ZMkUFsEgOLPqgZCFwXiveGu",
	},
}

func TestTextsStayAsTheyAre(t *testing.T) {
	t.Parallel()
	expect(t, "tag", acme.String(), "822b33ad87c1")
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			got, complete := encode(t, g.metadata)
			expect(t, "text", got, g.text)
			expect(t, "text of the bytes", text(g.payload...), g.text)
			expect(t, "complete", complete, true)
			expect(t, "decoded", decode(t, g.text), g.metadata)
		})
	}
}

func TestEmptyTextIsTheZeroMetadata(t *testing.T) {
	t.Parallel()
	expect(t, "decoded", decode(t, ""), lane.Metadata{})
}

// One state has one text: empty and split runs, the order of the cursors and what
// goes without saying make no other.
func TestOneStateHasOneText(t *testing.T) {
	t.Parallel()
	want, _ := encode(t, lane.Metadata{Cursors: []lane.Cursor{
		{Tag: acme, From: 5, Runs: []lane.Run{{Events: 3, State: lane.Done}}},
		{Tag: other, From: 5},
	}})
	in := lane.Metadata{Cursors: []lane.Cursor{
		{Tag: other, From: 5, Until: 9, Since: time.Unix(1<<40, 0), Runs: []lane.Run{{Events: 0, State: lane.Done}}},
		{Tag: acme, From: 5, Runs: []lane.Run{
			{Events: 1, State: lane.Done},
			{Events: 0, State: lane.Pending},
			{Events: 2, State: lane.Done},
			{Events: 1, State: lane.Pending},
			{Events: 4, State: lane.Pending},
		}},
	}}
	if other.String() < acme.String() {
		t.Fatal("the tags sort otherwise")
	}
	got, complete := encode(t, in)
	expect(t, "text", got, want)
	expect(t, "complete", complete, true)
	expect(t, "first cursor of the input", in.Cursors[0].Tag, other)
}

func TestWhatCannotBeToldApartIsNotEncoded(t *testing.T) {
	t.Parallel()
	one := func(c lane.Cursor) lane.Metadata { return lane.Metadata{Cursors: []lane.Cursor{c}} }
	for name, m := range map[string]lane.Metadata{
		"two cursors of a lane":    {Cursors: []lane.Cursor{{Tag: acme, From: 9}, {Tag: other, From: 5}, {Tag: acme, From: 1}}},
		"negative partitions":      {Partitions: -1},
		"too many partitions":      {Partitions: 1 << 31},
		"owner":                    {Owner: lane.Finished + 1},
		"negative offset":          one(lane.Cursor{From: -1}),
		"offset":                   one(lane.Cursor{From: 1 << 62}),
		"cause":                    one(lane.Cursor{Cause: lane.CauseLetters + 1}),
		"negative run":             one(lane.Cursor{Runs: []lane.Run{{Events: -1, State: lane.Done}}}),
		"run":                      one(lane.Cursor{Runs: []lane.Run{{Events: 1<<40 + 1, State: lane.Done}}}),
		"run in parts":             one(lane.Cursor{Runs: []lane.Run{{Events: 1 << 40, State: lane.Done}, {Events: 1, State: lane.Done}}}),
		"state":                    one(lane.Cursor{Runs: []lane.Run{{Events: 1, State: lane.AfterSecond + 1}}}),
		"state of a run of nobody": one(lane.Cursor{Runs: []lane.Run{{Events: 0, State: lane.AfterSecond + 1}}}),
	} {
		if text, complete, err := m.Encode(); !errors.Is(err, lane.ErrMetadata) || text != "" || complete {
			t.Errorf("%s: got %q, %v and error %v, want ErrMetadata", name, text, complete, err)
		}
	}
	largest := lane.Metadata{Partitions: 1<<31 - 1, Cursors: []lane.Cursor{
		{Tag: acme, From: 1<<62 - 1, Since: time.Unix(1<<40-1, 0).UTC(), Runs: []lane.Run{{Events: 1 << 40, State: lane.AfterSecond}}},
	}}
	text, _ := encode(t, largest)
	expect(t, "largest", decode(t, text), largest)
}

// hungry makes the most cursors there may be, with the offsets below 2^40 that take
// most bytes.
func hungry(n int) lane.Metadata {
	m := lane.Metadata{Partitions: 1<<31 - 1, Installation: lane.TagOf("an installation")}
	from := lane.Offset(0)
	for i := range n {
		// The least gap of six bytes, as long as the least of five is left for the others.
		gap := lane.Offset(1 << 33)
		if from+gap+lane.Offset(n-i)<<26 >= 1<<40 {
			gap = 1 << 26
		}
		from += gap
		c := lane.Cursor{Tag: lane.TagOf(fmt.Sprint(i)), From: from}
		if i >= n-lane.MaxApart {
			c.Key = lane.TagOf("a key") // split off at the log's start, which takes most bytes
		}
		m.Cursors = append(m.Cursors, c)
	}
	return m
}

func TestAsManyCursorsFitAsPromised(t *testing.T) {
	t.Parallel()
	if lane.MaxCursors < 250 {
		t.Fatalf("%d cursors are promised, want 250", lane.MaxCursors)
	}
	m := hungry(lane.MaxCursors)
	if last := m.Cursors[len(m.Cursors)-1].From; last >= 1<<40 {
		t.Fatalf("the last cursor is at %d", last)
	}
	text, complete := encode(t, m)
	expect(t, "complete", complete, true)
	expect(t, "decoded", decode(t, text), m)

	m = hungry(lane.MaxCursors + 10)
	if text, complete, err := m.Encode(); !errors.Is(err, lane.ErrNoRoom) || text != "" || complete {
		t.Errorf("%d cursors: got %q, %v and error %v, want ErrNoRoom", len(m.Cursors), text, complete, err)
	}
}

// The text may be as long as it may be, and no longer.
func TestRoomIsUsedToTheLastByte(t *testing.T) {
	t.Parallel()
	longest := 0
	for n := 300; ; n++ {
		// The offset of the last one tunes the size byte by byte.
		for _, last := range []lane.Offset{1, 1 << 10, 1 << 20, 1 << 27, 1 << 34, 1 << 41, 1 << 48, 1 << 55} {
			m := many(n, 100, nil)
			m.Cursors[n-1].From += last
			text, _, err := m.Encode()
			if errors.Is(err, lane.ErrNoRoom) {
				if longest < lane.MaxText-1 {
					t.Fatalf("the longest text has %d characters", longest)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			longest = max(longest, len(text))
			if got := decode(t, text); len(got.Cursors) != n {
				t.Fatalf("%d of %d cursors are decoded", len(got.Cursors), n)
			}
		}
	}
}

func TestWaitsUseTheRoomToTheLastByte(t *testing.T) {
	t.Parallel()
	longest := 0
	for long := range 280 { // waits of two bytes, which the others make of one
		text, complete := encode(t, many(280, 10_000, func(i int, c *lane.Cursor) {
			if c.Since = at(0); i < long {
				c.Since = at(100)
			}
		}))
		if complete {
			longest = max(longest, len(text))
		}
	}
	expect(t, "longest", longest, lane.MaxText-1)
}

func TestRunsAreLeftOutBeforeTheWaits(t *testing.T) {
	t.Parallel()
	waits := func(i int, c *lane.Cursor) { c.Since, c.Cause = at(int64(i)), lane.CauseUnavailable }
	runs := func(i int, c *lane.Cursor) {
		waits(i, c)
		c.Runs = slices.Repeat([]lane.Run{{Events: 1, State: lane.Pending}, {Events: 1, State: lane.Done}}, 1+i%7)
		c.Until = c.From + 50
	}
	whole := many(200, 1000, runs)
	text, complete := encode(t, whole)
	got := decode(t, text)
	expect(t, "complete", complete, false)
	expect(t, "left out", got.RunsLeftOut, true)
	kept := make([]int, 7) // by length
	begun := 0
	for i, c := range got.Cursors {
		w := whole.Cursors[i]
		if !c.Since.Equal(w.Since) || c.Cause != w.Cause {
			t.Fatalf("cursor %d waits since %v, %v", i, c.Since, c.Cause)
		}
		if (c.Until == w.Until) != (len(c.Runs) == len(w.Runs)) {
			t.Errorf("cursor %d has until %d, with %d of %d runs", i, c.Until, len(c.Runs), len(w.Runs))
		}
		if c.Until > 0 {
			kept[i%7]++
		} else if len(c.Runs) > 0 {
			begun++
		}
	}
	expect(t, "cursors with the beginning of their runs", begun, 1)
	// All of the short ones, some of one length, none of the longer ones.
	expect(t, "cursors with all their runs", kept, []int{29, 29, 29, 29, 28, 4, 0})

	text, complete = encode(t, many(290, 100_000, waits))
	expect(t, "complete", complete, false)
	expect(t, "decoded", decode(t, text), many(290, 100_000, nil))
	expect(t, "runs left out", decode(t, text).RunsLeftOut, false)
}

func TestOfLongRunsTheBeginningIsKept(t *testing.T) {
	t.Parallel()
	long := slices.Repeat([]lane.Run{{Events: 1, State: lane.AfterFirst}, {Events: 1, State: lane.Done}}, 10_000)
	m := lane.Metadata{Cursors: []lane.Cursor{{Tag: acme, From: 7, Until: 9, Runs: long}}}
	text, complete := encode(t, m)
	expect(t, "complete", complete, false)
	expect(t, "characters", len(text), lane.MaxText-1) // the most that base64 makes of whole bytes
	got := decode(t, text).Cursors[0]
	expect(t, "until", got.Until, lane.Offset(0))
	expect(t, "runs", got.Runs, long[:len(got.Runs)])
}

// states are what a cursor says about the lane's events from From on, and about
// those behind: before until, and from there on.
func states(c lane.Cursor) (events []lane.RunState, passed, later lane.RunState) {
	for _, r := range c.Runs {
		events = append(events, slices.Repeat([]lane.RunState{r.State}, r.Events)...)
	}
	if c.Until > c.From && len(events) > 0 {
		return events, lane.Done, lane.Pending
	}
	return events, lane.Pending, lane.Pending
}

// Whatever has to be left out, every cursor comes back where it was, and an event
// is at worst pending again.
func TestNothingIsLostForWantOfRoom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := drawMetadata(t)
		text, complete, err := m.Encode()
		if errors.Is(err, lane.ErrNoRoom) && len(m.Cursors) > lane.MaxCursors {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > lane.MaxText || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("text of %d characters: %q", len(text), text)
		}
		got, err := lane.Decode(text)
		if err != nil {
			t.Fatalf("decode %q: %v", text, err)
		}
		if again, _, err := got.Encode(); err != nil || again != text {
			t.Fatalf("encoded again: %q and error %v, want %q", again, err, text)
		}
		if got.Partitions != m.Partitions || got.Owner != m.Owner || len(got.Cursors) != len(m.Cursors) {
			t.Fatalf("got %d partitions, %v, %d cursors", got.Partitions, got.Owner, len(got.Cursors))
		}
		want := make(map[[2]lane.Tag]lane.Cursor)
		for _, c := range m.Cursors {
			want[[2]lane.Tag{c.Tag, c.Key}] = c
		}
		lost := false
		for i, c := range got.Cursors {
			if i > 0 && c.From < got.Cursors[i-1].From {
				t.Fatalf("cursor %d is out of order", i)
			}
			lost = compare(t, c, want[[2]lane.Tag{c.Tag, c.Key}], complete) || lost
		}
		if lost && !got.RunsLeftOut || got.RunsLeftOut && complete {
			t.Fatalf("runs lost: %v; says so: %v; complete: %v", lost, got.RunsLeftOut, complete)
		}
	})
}

// compare fails unless got says about every event what want says, or less. It
// returns whether it says less.
func compare(t *rapid.T, got, want lane.Cursor, complete bool) (less bool) {
	if got.Tag != want.Tag || got.From != want.From || got.Split != want.Split {
		t.Fatalf("got cursor %v from %d, split off at %d, want %v from %d, %d", got.Tag, got.From, got.Split, want.Tag, want.From, want.Split)
	}
	if known := !got.Since.IsZero() || got.Cause != 0; (known || complete) && (!got.Since.Equal(want.Since) || got.Cause != want.Cause) {
		t.Fatalf("waits since %v, %v, want %v, %v", got.Since, got.Cause, want.Since, want.Cause)
	}
	g, gPassed, gLater := states(got)
	w, wPassed, wLater := states(want)
	for _, passed := range []bool{false, true} {
		gRest, wRest := gLater, wLater
		if passed {
			gRest, wRest = gPassed, wPassed
		}
		for n := range max(len(g), len(w)) + 1 {
			is, was := gRest, wRest
			if n < len(g) {
				is = g[n]
			}
			if n < len(w) {
				was = w[n]
			}
			if is != was && (complete || is != lane.Pending) {
				t.Fatalf("event %d of %v (passed: %v) is %v, want %v (complete: %v)", n, got.Tag, passed, is, was, complete)
			}
			less = less || is != was
		}
	}
	return less
}

func drawMetadata(t *rapid.T) lane.Metadata {
	m := lane.Metadata{
		Partitions: rapid.IntRange(0, 5000).Draw(t, "partitions"),
		Owner:      rapid.SampledFrom([]lane.Owner{lane.Working, lane.Clean, lane.Cut, lane.Finished}).Draw(t, "owner"),
	}
	if rapid.Bool().Draw(t, "named") {
		m.Installation = lane.TagOf("production")
	}
	n := rapid.SampledFrom([]int{0, 1, 2, 3, 10, 100, lane.MaxCursors, 350}).Draw(t, "cursors")
	highest := rapid.SampledFrom([]int64{10, 1 << 20, 1<<40 - 1}).Draw(t, "highest offset")
	maxRuns := rapid.SampledFrom([]int{0, 1, 5, 50, 8000}).Draw(t, "most runs")
	maxRuns = min(maxRuns, 10_000/max(1, n))
	waits := rapid.Bool().Draw(t, "waits")
	// From here on one number is drawn for all: rapid is slow with thousands of them.
	seed := rapid.Uint64().Draw(t, "seed")
	pick := func(below int64) int64 { // xorshift
		seed |= 1
		seed ^= seed << 13
		seed ^= seed >> 7
		seed ^= seed << 17
		return int64(seed>>1) % below
	}
	for i := range n {
		c := lane.Cursor{
			Tag:  lane.TagOf(fmt.Sprint(i)),
			From: lane.Offset(pick(highest + 1)),
		}
		if i < lane.MaxApart && pick(2) == 0 {
			c.Tag, c.Key = lane.TagOf(fmt.Sprint(i/3)), lane.TagOf(fmt.Sprint("key", i))
			c.Split = c.From - lane.Offset(pick(int64(c.From)+1))
		}
		if pick(2) == 0 {
			c.Until = c.From + lane.Offset(pick(100_000))
		}
		if waits && pick(10) > 0 {
			c.Since, c.Cause = at(pick(1_000_000)), lane.Cause(pick(8))
		}
		for range pick(int64(maxRuns) + 1) {
			c.Runs = append(c.Runs, lane.Run{Events: int(pick(30)), State: lane.RunState(pick(4))})
		}
		m.Cursors = append(m.Cursors, c)
	}
	return m
}

func TestEveryChangedCharacterIsAnError(t *testing.T) {
	t.Parallel()
	sample := golden[len(golden)-1].text
	for i := range len(sample) {
		for b := range 256 {
			if byte(b) == sample[i] {
				continue
			}
			changed := sample[:i] + string([]byte{byte(b)}) + sample[i+1:]
			if m, err := lane.Decode(changed); !errors.Is(err, lane.ErrMetadata) || m.Cursors != nil {
				t.Fatalf("%q passes: %v and error %v", changed, m, err)
			}
		}
	}
	for i := 1; i < len(sample); i++ {
		for _, changed := range []string{sample[:i], sample[i:], sample[:i] + "\n" + sample[i:], sample[:i] + "A" + sample[i:], sample + sample[:i]} {
			if m, err := lane.Decode(changed); !errors.Is(err, lane.ErrMetadata) {
				t.Fatalf("%q passes: %v and error %v", changed, m, err)
			}
		}
	}
}

func TestDecodeSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	cursor := func(rest ...byte) []byte { return slices.Concat([]byte{0, 12, 1}, acme[:], rest) }
	offset := binary.AppendUvarint(nil, (1<<62-1)<<2)
	for _, c := range []struct{ name, text, says string }{
		{"another version", "r2.AAwA", `unknown version: it begins with "r2.AAwA", want "r1."`},
		{"text of others", "stored by somebody\x1b[2J", `unknown version: it begins with "stored b"`},
		{"not base64url", "r1.A+/A", "base64"},
		{"padding", "r1.AAwAs_oBHg==", "base64"},
		{"nothing", "r1.", "too short"},
		{"only a checksum", text(), "too short"},
		{"checksum", "r1.AAwAAAAAAA", "wrong checksum"},
		{"too long", "r1." + strings.Repeat("A", lane.MaxText), "characters, want at most 4096"},
		{"no count", text(0, 12), "too short"},
		{"half a varint", text(0, 12, 0x80), "too short"},
		{"a varint over 64 bits", text(append([]byte{0}, slices.Repeat([]byte{0xff}, 11)...)...), "too short"},
		{"bytes left over", text(0, 12, 0, 0), "1 bytes too many"},
		{"unknown flag", text(64, 12, 0), "unknown flags 0x40"},
		{"installation cut short", text(32, 12, 0), "too short"},
		{"installation of no name", text(32, 12, 0, 0, 0, 0, 0, 0, 0), "one form"},
		{"partitions", text(0, 0x80, 0x80, 0x80, 0x80, 8, 0), "2147483648 is too large"},
		{"count beyond the bytes", text(0, 12, 200, 1, 0), "200 is too large"},
		{"longer varint than need be", text(0, 0x8c, 0, 0), "one form"},
		{"cursor cut short", text(cursor()...), "too short"},
		{"waits cut short", text(slices.Concat([]byte{4, 12, 1}, acme[:], []byte{0, 0})...), "too short"},
		{"nothing known in the waits", text(slices.Concat([]byte{4, 12, 1}, acme[:], []byte{0, 0, 0})...), "one form"},
		{"base is not the least", text(slices.Concat([]byte{4, 12, 1}, acme[:], []byte{0, 9, 2<<4 | 1})...), "one form"},
		{"unknown cause", text(slices.Concat([]byte{4, 12, 1}, acme[:], []byte{0, 9, 1<<4 | 8})...), "one form"},
		{"since too late", text(slices.Concat([]byte{4, 12, 1}, acme[:], []byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 16})...), "one form"},
		{"until without runs", text(cursor(1, 5)...), "one form"},
		{"until of nothing", text(cursor(3, 0, 8|2)...), "one form"},
		{"runs are missing", text(cursor(2)...), "too short"},
		{"runs go on and end", text(cursor(2, 8|2|1)...), "too short"},
		{"empty run", text(cursor(2, 2)...), "one form"},
		{"neighbours in one state", text(cursor(2, 8|2|1, 8|2)...), "one form"},
		{"pending at the end", text(cursor(2, 8)...), "one form"},
		{"run too long", text(cursor(append([]byte{2}, binary.AppendUvarint(nil, 1<<44|2)...)...)...), "one form"},
		{"out of order", text(slices.Concat([]byte{0, 12, 2}, other[:], []byte{0}, acme[:], []byte{0})...), "one form"},
		{"two of a lane", text(slices.Concat([]byte{0, 12, 2}, acme[:], []byte{0}, acme[:], []byte{4})...), "one form"},
		{"offset", text(slices.Concat([]byte{0, 12, 2}, acme[:], offset, other[:], []byte{4})...), "offset too large"},
		{"keys of none", text(slices.Concat([]byte{16, 12, 1}, acme[:], []byte{0, 0})...), "one form"},
		{"a key of no cursor", text(slices.Concat([]byte{16, 12, 1}, acme[:], []byte{0, 1, 1}, other[:], []byte{0})...), "a key of no cursor"},
		{"too many keys", text(slices.Concat([]byte{16, 12, 1}, acme[:], []byte{0, 9})...), "9 is too large"},
		{"split off behind its beginning", text(slices.Concat([]byte{16, 12, 1}, acme[:], []byte{8 << 2, 1, 0}, other[:], []byte{9})...), "9 is too large"},
		{"key cut short", text(slices.Concat([]byte{16, 12, 1}, acme[:], []byte{8 << 2, 1, 0}, other[:3])...), "too short"},
	} {
		m, err := lane.Decode(c.text)
		if !errors.Is(err, lane.ErrMetadata) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got error %v, want one that says %q", c.name, err, c.says)
		}
		expect(t, c.name, m, lane.Metadata{})
	}
}

// FuzzDecode: it never panics, and what it takes is what Encode makes of it.
func FuzzDecode(f *testing.F) {
	for _, g := range golden {
		f.Add([]byte(g.text), false)
		f.Add(g.payload, true)
	}
	f.Add([]byte(nil), false)
	f.Fuzz(func(t *testing.T, in []byte, payload bool) {
		s := string(in)
		if payload { // with a checksum that holds, so that more than that is tried
			s = text(slices.Clip(in)...)
		}
		m, err := lane.Decode(s)
		if err != nil {
			if !errors.Is(err, lane.ErrMetadata) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if s == "" {
			return
		}
		again, complete := encode(t, m)
		if again != s || !complete {
			t.Fatalf("%q is decoded and encoded as %q, complete: %v", s, again, complete)
		}
		if d := cmp.Diff(m, decode(t, again)); d != "" {
			t.Fatal(d)
		}
	})
}

func TestWordsOfStatesAreSafeToShow(t *testing.T) {
	t.Parallel()
	expect(t, "owners", fmt.Sprint(lane.Working, lane.Clean, lane.Cut, lane.Finished, lane.Finished+1), "working clean cut finished invalid")
	expect(t, "states", fmt.Sprint(lane.Pending, lane.Done, lane.AfterFirst, lane.AfterSecond), "pending done after first after second")
	var causes []string
	for c := lane.CauseUnknown; c <= lane.CauseLetters+1; c++ {
		causes = append(causes, c.String())
	}
	expect(t, "causes", causes, []string{"", "unavailable", "throttled", "misconfigured", "refusing", "paused", "slow", "letters", "invalid"})
}

// typical makes metadata as an outage of n tenants does.
func typical(n int) lane.Metadata {
	return many(n, 40, func(i int, c *lane.Cursor) {
		c.Since, c.Cause = at(int64(i%60)), lane.CauseUnavailable
		if i%10 == 0 {
			c.Runs = []lane.Run{{Events: 2, State: lane.Pending}, {Events: 1, State: lane.AfterFirst}, {Events: 1, State: lane.Done}}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	for _, n := range []int{0, 10, 250} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			m := typical(n)
			for b.Loop() {
				text, _, err := m.Encode()
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(text)), "chars")
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{0, 10, 250} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			text, _ := encode(b, typical(n))
			for b.Loop() {
				if _, err := lane.Decode(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
