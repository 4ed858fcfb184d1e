package checker

import (
	"crypto/sha256"
	"hash/maphash"
	"slices"
	"time"
)

// reasons are those of dead letters that stand in an event by their index.
var reasons = []string{"", undecodable, badIdentity, ambiguousIdentity, noIdentity, tooLarge, unknownTenant}

var sources = []string{"", "refiner-webhook", "survey-event"}

func code(of []string, s string) uint8 { return uint8(max(0, slices.Index(of, s))) }

// index reads the log and makes the tables of what must come of it. It reports
// false if the history cannot be checked.
func (c *checking) index() bool {
	c.tenantOf = make(map[string]int32)
	c.strangers = make(map[string]int32)
	c.tagged = make(map[tag]int32)
	for i := range c.h.Tenants {
		t := &c.h.Tenants[i]
		r, err := newRules(t, c.o.LibraryVersion)
		if err != nil {
			c.breach(Recorded, 0, "tenant %s: %v", t.ID, err)
			return false
		}
		s := tenantState{Tenant: t, rules: r, tag: tagOf(t.ID)}
		if other, ok := c.tagged[s.tag]; ok {
			c.breach(Recorded, 0, "tenants %s and %s cannot be told apart in a commit, or are one", c.tenants[other].ID, t.ID)
			return false
		}
		c.tagged[s.tag] = int32(i)
		c.tenantOf[t.ID] = int32(i)
		c.tenants = append(c.tenants, s)
	}
	c.parts = make(map[int]*partition)
	for _, b := range c.h.Bounds {
		c.parts[b.Partition] = &partition{start: b.Start, end: b.End}
	}
	c.laneOf = make(map[laneID]int32)
	c.callOf = make(map[uuid]int32)
	c.again = make(map[int32][]lateCopy)
	x := indexing{
		checking: c, keyOf: make(map[string]int32), copies: make(map[origin]int32), seed: maphash.MakeSeed(),
	}
	if err := c.h.eachRecord(x.record); err != nil {
		c.breach(Recorded, 0, "%v", err)
		return false
	}
	for _, b := range c.h.Bounds {
		if p := c.parts[b.Partition]; len(p.events) > 0 && c.events[p.events[len(p.events)-1]].offset >= b.End {
			c.breach(Recorded, 0, "partition %d ends at %d, but a record stands at %d", b.Partition, b.End, c.events[p.events[len(p.events)-1]].offset)
		}
	}
	for i := range c.lanes {
		if l := &c.lanes[i]; len(l.strands) == 1 {
			l.strands[0].events = l.events
		}
	}
	at := int32(0)
	for i := range c.keys {
		c.keys[i].start = at
		at += c.keys[i].calls
	}
	c.keyCalls = make([]int32, at)
	for i := range c.calls {
		if e := &c.events[c.calls[i].event]; e.key >= 0 {
			c.keyCalls[c.keys[e.key].start+c.calls[i].seq] = int32(i)
		}
	}
	c.report.Events = len(c.events)
	c.report.Expected = len(c.calls)
	return true
}

// origin tells events apart: two records with one are copies.
type origin struct {
	body   [16]byte
	tenant int32 // or stranger
	source uint8
}

// indexing is what only the making of the tables needs.
type indexing struct {
	*checking
	keyOf  map[string]int32
	copies map[origin]int32 // the last record of each
	buf    []byte
	seed   maphash.Seed
}

func (x *indexing) record(r *Record) {
	p, ok := x.parts[r.Partition]
	if !ok {
		x.breach(Recorded, r.Time, "the log has a record in partition %d, which has no bounds", r.Partition)
		return
	}
	if n := len(p.events); n > 0 && x.events[p.events[n-1]].offset >= r.Offset {
		x.breach(Recorded, r.Time, "the records of partition %d are not in the order of their offsets at %d", r.Partition, r.Offset)
		return
	}
	id := int32(len(x.events))
	e := event{
		offset: r.Offset, partition: int32(r.Partition), tenant: -1, key: -1, lane: -1,
		source: code(sources, r.Headers["source"]), first: int32(len(x.calls)),
	}
	received := receivedAt(r)
	e.accepted = received.UnixNano()
	sum := sha256.Sum256(r.Value)
	copy(e.body[:], sum[:])
	p.events = append(p.events, id)
	name := r.Headers["tenant"]
	t, known := x.tenantOf[name]
	if known {
		e.tenant = t
	} else {
		t = x.stranger(name)
	}
	e.lane, e.inLane = x.join(laneID{r.Partition, t}, name, id)
	if l := &x.lanes[e.lane]; len(l.strands) > 1 {
		l.add(r.Key, id)
	}
	switch {
	case x.copied(&e, t, id):
	case known:
		x.fates(&e, id, r, received)
	default:
		e.fate, e.reason = isDead, code(reasons, unknownTenant)
	}
	x.events = append(x.events, e)
}

// receivedAt is when an event was accepted.
func receivedAt(r *Record) time.Time {
	if t, err := time.Parse(time.RFC3339Nano, r.Headers["received-at"]); err == nil {
		return t.UTC()
	}
	return time.Unix(0, r.Time).UTC()
}

// stranger numbers the text of a tenant header that names no tenant.
func (x *indexing) stranger(name string) int32 {
	t, ok := x.strangers[name]
	if !ok {
		t = int32(-2 - len(x.strangers))
		x.strangers[name] = t
		if _, taken := x.tagged[tagOf(name)]; !taken {
			x.tagged[tagOf(name)] = t
		}
	}
	return t
}

// join puts an event at the end of its lane.
func (x *indexing) join(lid laneID, name string, e int32) (at, inLane int32) {
	at, ok := x.laneOf[lid]
	if !ok {
		at = int32(len(x.lanes))
		x.laneOf[lid] = at
		l := lane{laneID: lid, name: name, tag: tagOf(name), strands: make([]strand, 1)}
		for _, key := range x.apart[tagged{lid.partition, l.tag}] {
			l.strands = append(l.strands, strand{key: key})
		}
		x.lanes = append(x.lanes, l)
	}
	l := &x.lanes[at]
	l.events = append(l.events, e)
	return at, int32(len(l.events) - 1)
}

// fates says what must come of an event.
func (x *indexing) fates(e *event, id int32, r *Record, received time.Time) {
	d := derive(r.Headers["source"], r.Value, x.tenants[e.tenant].rules, received)
	switch {
	case d.dead != "":
		e.fate, e.reason = isDead, code(reasons, d.dead)
		return
	case d.ignored != "":
		e.fate = isIgnored
		return
	}
	e.forgotten = d.forgotten
	e.key = x.key(e, d.key)
	k := &x.keys[e.key]
	if k.partition != e.partition {
		x.breach(Order, e.accepted, "%s of tenant %s has events in partitions %d and %d, at %d: nothing keeps them in order",
			d.key, x.tenants[e.tenant].ID, k.partition, e.partition, e.offset)
	}
	for i := range d.calls {
		x.expect(&d.calls[i], id, e, k)
	}
	e.calls = uint16(len(x.calls) - int(e.first))
	e.left = e.calls
}

// copied makes an event that stood in the log before a copy of that. One that
// comes long after may be delivered again, and so may one whose original retention
// took: who reads it then cannot know that it is a copy.
func (x *indexing) copied(e *event, tenant, id int32) bool {
	o := origin{e.body, tenant, e.source}
	earlier, again := x.copies[o]
	x.copies[o] = id
	if !again {
		return false
	}
	before := &x.events[earlier]
	e.fate, e.reason = isCopy, before.reason
	e.first, e.calls, e.forgotten = before.first, before.calls, before.forgotten
	near := before.partition == e.partition && e.offset-before.offset <= x.o.CopyWindow && !x.trimmed(before)
	for i := range int32(e.calls) {
		if !near {
			x.again[e.first+i] = append(x.again[e.first+i], lateCopy{event: id, came: e.accepted})
		}
	}
	return true
}

func (x *indexing) key(e *event, of string) int32 {
	name := x.tenants[e.tenant].ID + "\x00" + of
	k, ok := x.keyOf[name]
	if !ok {
		k = int32(len(x.keys))
		x.keyOf[name] = k
		x.keys = append(x.keys, key{partition: e.partition, tenant: e.tenant})
	}
	return k
}

// expect puts a call into the tables.
func (x *indexing) expect(d *expected, id int32, e *event, k *key) {
	at := int32(len(x.calls))
	if _, taken := x.callOf[d.id]; taken {
		x.breach(Recorded, 0, "two different events have the message id %s, the later at %d/%d: a history must not have one event with two contents",
			d.id, e.partition, e.offset)
		return
	}
	x.callOf[d.id] = at
	d.value.comparable("")
	x.buf = d.value.appendCanonical(x.buf[:0])
	sum := sha256.Sum256(x.buf)
	cl := call{event: id, seq: k.calls, kind: uint8(d.kind), traits: uint32(len(x.traits)), nTraits: uint16(len(d.traits))}
	copy(cl.want[:], sum[:])
	k.calls++
	x.calls = append(x.calls, cl)
	for i := range d.traits {
		t := &d.traits[i]
		x.buf = append(append(x.buf[:0], kindNames[d.kind]...), 0)
		x.buf = append(append(x.buf, d.of...), 0)
		x.buf = append(x.buf, t.name...)
		name := maphash.Bytes(x.seed, x.buf)
		x.buf = t.value.appendCanonical(x.buf[:0])
		x.traits = append(x.traits, folded{uint32(name), uint32(maphash.Bytes(x.seed, x.buf))})
	}
}
