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

// CursorStates are the states of the events of a tenant, or of a key of it that is
// set apart, from the cursor on, which follow
// each other in the log, by the metadata of a commit, and where the cursor stands;
// ok is false without one.
func CursorStates(metadata, tenant, key string, events int) (from, split int64, states []uint8, ok bool, err error) {
	m, err := decodeMetadata(metadata)
	if err != nil {
		return 0, 0, nil, false, err
	}
	id := cursorID{tenant: tagOf(tenant)}
	if key != "" {
		id.key = tagOf(key)
	}
	split, _ = m.splitOf(id)
	c, ok := m.cursors[id]
	for i := range events {
		states = append(states, c.state(int64(i), c.from+int64(i)))
	}
	return c.from, split, states, ok, nil
}

// FindFault finds the first of the faults that was on between two times, with one of the
// effects.
func FindFault(faults []Fault, from, to Time, effects ...Effect) int {
	c := &checking{h: &History{Faults: faults}, faults: indexFaults(faults)}
	return c.fault(from, to, func(*Fault) bool { return true }, effects...)
}
