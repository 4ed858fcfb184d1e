package checker_test

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"refinersource/internal/checker"
	"refinersource/internal/lane"
)

// The decoder was written from the document alone; that it reads what the
// service writes shows that the document says all.
func TestMetadataIsReadAsTheServiceWritesIt(t *testing.T) {
	t.Parallel()
	const events, passed = 50, 45
	tenants := [2]string{"TENANT", "OTHER"}
	rapid.Check(t, func(t *rapid.T) {
		m := lane.Metadata{Partitions: rapid.IntRange(1, 100).Draw(t, "partitions"), Owner: lane.Owner(rapid.IntRange(0, 2).Draw(t, "owner"))}
		if rapid.Bool().Draw(t, "named") {
			m.Installation = lane.TagOf("production")
		}
		names := rapid.SliceOfNDistinct(rapid.StringMatching("[a-z]{1,8}"), 0, 12, func(s string) string { return s }).Draw(t, "names")
		for i, name := range names {
			c := lane.Cursor{Tag: lane.TagOf(name), From: lane.Offset(rapid.Int64Range(0, 1<<40).Draw(t, "from"))}
			if i < lane.MaxApart && rapid.Bool().Draw(t, "key") {
				c.Tag, c.Key = lane.TagOf(tenants[i%2]), lane.TagOf(name)
				c.Split = c.From - lane.Offset(rapid.Int64Range(0, int64(c.From)).Draw(t, "back"))
			}
			if rapid.Bool().Draw(t, "until") {
				c.Until = c.From + passed
			}
			for range rapid.IntRange(0, 4).Draw(t, "runs") {
				c.Runs = append(c.Runs, lane.Run{Events: rapid.IntRange(1, 9).Draw(t, "events"), State: lane.RunState(rapid.IntRange(0, 3).Draw(t, "state"))})
			}
			if len(c.Runs) == 0 {
				c.Until = 0 // says nothing that is kept
			}
			m.Cursors = append(m.Cursors, c)
		}
		text, complete, err := m.Encode()
		if err != nil || !complete {
			t.Fatalf("complete %v, %v", complete, err)
		}
		for _, c := range m.Cursors {
			var want []uint8
			for _, r := range c.Runs {
				for range r.Events {
					want = append(want, uint8(r.State))
				}
			}
			for len(want) < events {
				state := uint8(lane.Pending)
				if c.Until > 0 && len(want) < passed {
					state = uint8(lane.Done)
				}
				want = append(want, state)
			}
			i := slices.IndexFunc(m.Cursors, func(o lane.Cursor) bool { return o.Tag == c.Tag && o.Key == c.Key })
			name, key := names[i], ""
			if c.Key != (lane.Tag{}) {
				name, key = tenants[i%2], names[i]
			}
			from, split, got, ok, err := checker.CursorStates(text, name, key, events)
			if err != nil || !ok || from != int64(c.From) || split != int64(c.Split) || !slices.Equal(got, want) {
				t.Fatalf("%s, key %s: from %d, split off at %d, ok %v, %v, states %v, want from %d, split off at %d, %v",
					name, key, from, split, ok, err, got, c.From, c.Split, want)
			}
		}
	})
}

func TestChangedMetadataIsRefused(t *testing.T) {
	t.Parallel()
	m := lane.Metadata{Partitions: 12, Cursors: []lane.Cursor{
		{Tag: lane.TagOf("acme"), From: 1000, Runs: []lane.Run{{Events: 3, State: lane.Pending}, {Events: 1, State: lane.Done}}},
		{Tag: lane.TagOf("bolt"), From: 2000, Cause: lane.CauseThrottled},
	}}
	text, _, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read := func(text string) error {
		_, _, _, _, err := checker.CursorStates(text, "acme", "", 1)
		return err
	}
	if err := read(text); err != nil {
		t.Fatal(err)
	}
	for i := range text {
		changed := []byte(text)
		changed[i] ^= 1
		if read(string(changed)) == nil {
			t.Errorf("a changed character %d is read", i)
		}
		if i > 0 && read(text[:i]) == nil {
			t.Errorf("a text cut off at %d is read", i)
		}
	}
	// Payloads with a good checksum that are not in the one form.
	for name, payload := range map[string][]byte{
		"nothing":                    {},
		"an unknown flag":            {0x20, 1, 0},
		"keys of no cursor":          {16, 1, 0},
		"no keys":                    {16, 1, 1, 1, 2, 3, 4, 5, 6, 0, 0},
		"a key of the cursor behind": {16, 1, 1, 1, 2, 3, 4, 5, 6, 0, 1, 1, 1, 2, 3, 4, 5, 6, 0},
		"a second key of no cursor":  {16, 1, 1, 1, 2, 3, 4, 5, 6, 0, 2, 0, 1, 2, 3, 4, 5, 6, 0, 0, 1, 2, 3, 4, 5, 6, 0},
		"a key that is cut off":      {16, 1, 1, 1, 2, 3, 4, 5, 6, 0, 1, 0, 1, 2, 3},
		"a key of zeros":             {16, 1, 1, 1, 2, 3, 4, 5, 6, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0},
		"split off below the log":    {16, 1, 1, 1, 2, 3, 4, 5, 6, 8, 1, 0, 1, 2, 3, 4, 5, 6, 3},
		"nine keys":                  keyed(9),
		"a key twice":                {16, 1, 2, 1, 2, 3, 4, 5, 6, 4, 1, 2, 3, 4, 5, 6, 4, 2, 0, 1, 2, 3, 4, 5, 6, 0, 0, 1, 2, 3, 4, 5, 6, 0},
		"keys out of order":          {16, 1, 2, 1, 2, 3, 4, 5, 6, 4, 1, 2, 3, 4, 5, 6, 0, 2, 0, 2, 2, 3, 4, 5, 6, 0, 0, 1, 2, 3, 4, 5, 6, 0},
		"a key before its tenant":    {16, 1, 2, 1, 2, 3, 4, 5, 6, 4, 1, 2, 3, 4, 5, 6, 0, 1, 0, 2, 2, 3, 4, 5, 6, 0},
		"tenants out of order":       {0, 1, 2, 2, 2, 3, 4, 5, 6, 4, 1, 2, 3, 4, 5, 6, 0},
		"an unknown owner":           {3, 1, 0},
		"bytes left over":            {0, 1, 0, 0},
		"a number in a longer form":  {0, 0x81, 0, 0},
		"a cursor that is cut off":   {0, 1, 1, 1, 2, 3},
		"a tag twice":                {0, 1, 2, 1, 2, 3, 4, 5, 6, 4, 1, 2, 3, 4, 5, 6, 4},
		"live without runs":          {0, 1, 1, 1, 2, 3, 4, 5, 6, 1},
		"a run of nothing":           {0, 1, 1, 1, 2, 3, 4, 5, 6, 2, 2},
		"neighbours of one state":    {0, 1, 1, 1, 2, 3, 4, 5, 6, 2, 1<<3 | 2 | 1, 1<<3 | 2},
		"pending at the end":         {0, 1, 1, 1, 2, 3, 4, 5, 6, 2, 1 << 3},
		"an unknown cause":           {4, 1, 1, 1, 2, 3, 4, 5, 6, 0, 0, 15},
		"more cursors than can fit":  {0, 1, 0xff, 0x7f},
		"more partitions than there": {0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0},
	} {
		sum := binary.BigEndian.AppendUint32(nil, crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli)))
		if read("r1."+base64.RawURLEncoding.EncodeToString(append(payload, sum...))) == nil {
			t.Errorf("%s is read", name)
		}
	}
	for name, payload := range map[string][]byte{
		"eight keys":      keyed(8),
		"a key in order":  {16, 1, 2, 1, 2, 3, 4, 5, 6, 4, 1, 2, 3, 4, 5, 6, 0, 1, 1, 2, 2, 3, 4, 5, 6, 1},
		"the second only": {16, 1, 2, 1, 2, 3, 4, 5, 6, 4, 1, 2, 3, 4, 5, 6, 4, 1, 1, 2, 2, 3, 4, 5, 6, 2},
	} {
		sum := binary.BigEndian.AppendUint32(nil, crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli)))
		if err := read("r1." + base64.RawURLEncoding.EncodeToString(append(payload, sum...))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, _, ok, err := checker.CursorStates("", "acme", "", 1); ok || err != nil {
		t.Errorf("no metadata is read as a cursor %v, %v", ok, err)
	}
}

// keyed has so many cursors, all of keys.
func keyed(n byte) []byte {
	b := []byte{16, 1, n}
	for i := range n {
		b = append(b, 1, 2, 3, 4, 5, i, 4)
	}
	b = append(b, n)
	for i := range n {
		b = append(b, 0, 1, 2, 3, 4, 5, i, 0)
	}
	return b
}
