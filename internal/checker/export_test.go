package checker

import (
	"encoding/json"
	"time"
)

// Derived is what the rules make of an event, for the tests.
type Derived struct {
	ID, Dead, Ignored string
	Calls             []json.RawMessage
}

// Derive makes the calls of an event as a sender would write them.
func Derive(t *Tenant, source string, body []byte, received time.Time, version string) (Derived, error) {
	r, err := newRules(t, version)
	if err != nil {
		return Derived{}, err
	}
	d := derive(source, body, r, received)
	out := Derived{ID: d.id, Dead: d.dead, Ignored: d.ignored}
	for i := range d.calls {
		v := d.calls[i].value
		out.Calls = append(out.Calls, v.appendText(nil))
	}
	return out, nil
}

// Comparable is the text by which two writings of one call are compared.
func Comparable(raw []byte, version string) (string, error) {
	n, err := parse(raw)
	if err != nil {
		return "", err
	}
	n.comparable(version)
	return string(n.appendCanonical(nil)), nil
}

// DecodeMetadata tells whether a commit's metadata can be read, and of its
// cursors where they stand.
func DecodeMetadata(text string) (map[[6]byte]int64, error) {
	m, err := decodeMetadata(text)
	from := make(map[[6]byte]int64, len(m.cursors))
	for t, c := range m.cursors {
		from[t] = c.from
	}
	return from, err
}
