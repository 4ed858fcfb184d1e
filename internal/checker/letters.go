package checker

import (
	"bytes"
	"crypto/sha256"
	"encoding/json/v2"
	"time"
)

// letter is what matters of a dead letter.
type letter struct {
	Tenant string    `json:"tenant"`
	Reason string    `json:"reason"`
	Status int       `json:"status"`
	DeadAt time.Time `json:"dead_at"`
	Origin struct {
		Partition int   `json:"partition"`
		Offset    int64 `json:"offset"`
	} `json:"origin"`
	Raw []byte `json:"raw"`

	event int32
}

// evidence is what the receiver saw of an event that has a letter.
type evidence struct {
	refused   int // status of the refusal of a request with this event alone
	refusedAt Time
	failures  int  // requests with this event alone that failed as a receiver's trouble does
	failedAt  Time // the first of them
	others    bool // and another request of the tenant was taken since
	again     bool // some of these came when all its calls had been accepted
}

// letters reads the dead letters and finds the events that they are about.
func (c *checking) letters() {
	c.evidence = make(map[int32]*evidence)
	c.failing = make(map[int32][]int32)
	for i := range c.h.Letters {
		r := &c.h.Letters[i]
		c.report.Letters++
		v := Violation{Rule: DeadLetters, Partition: r.Partition, Offset: -1, At: r.Time}
		var l letter
		if err := json.Unmarshal(r.Value, &l); err != nil {
			c.note(v, "the dead letter at %d/%d cannot be read", r.Partition, r.Offset)
			continue
		}
		v.Tenant, v.Partition = l.Tenant, l.Origin.Partition
		id, ok := c.at(l.Origin.Partition, l.Origin.Offset)
		if !ok {
			c.note(v, "the dead letter at %d/%d is about %d/%d, where no event is", r.Partition, r.Offset, l.Origin.Partition, l.Origin.Offset)
			continue
		}
		e := &c.events[id]
		sum := sha256.Sum256(l.Raw)
		if !bytes.Equal(e.body[:], sum[:len(e.body)]) || c.lanes[e.lane].name != l.Tenant {
			c.breachOf(DeadLetters, id, r.Time, "its dead letter has other bytes or another tenant")
			continue
		}
		at := r.Time
		if at == 0 {
			at = l.DeadAt.UnixNano()
		}
		if !e.letter || at < e.letterAt {
			e.letter, e.letterAt = true, at
		}
		l.event, l.Raw = id, nil
		c.evidence[id] = new(evidence)
		c.dead = append(c.dead, l)
	}
}

// refusals are the answers that are about the request, so that an event which
// gets one alone is at fault.
func refusal(status int) bool {
	switch status {
	case 400, 413, 415, 421, 422, 431:
		return true
	default:
		return false
	}
}

// troubles are the answers and the silence of a receiver that may take it later.
func trouble(status int) bool {
	return status == 0 || status >= 500 || status == 408 || status == 425 || status == 460
}

// witness notes what a request says about events with letters. Alone is the event
// that it was about alone, -1 if there was none.
func (c *checking) witness(r *Request, tenant, alone int32) {
	taken := r.Applied > 0 && r.Status/100 == 2
	if taken && len(c.failing[tenant]) > 0 {
		kept := c.failing[tenant][:0]
		for _, e := range c.failing[tenant] {
			if e == alone {
				kept = append(kept, e)
				continue
			}
			c.evidence[e].others = true
		}
		c.failing[tenant] = kept
	}
	if alone < 0 {
		return
	}
	ev := c.evidence[alone]
	if ev == nil {
		return
	}
	refused := refusal(r.Status) || r.Status/100 == 2 && r.Applied == 0 // a 2xx whose body says that it was not taken
	ev.again = ev.again || c.events[alone].left == 0 && (refused || trouble(r.Status))
	switch {
	case refused:
		if ev.refused == 0 {
			ev.refused, ev.refusedAt = r.Status, r.Begun
		} else if r.Status == 413 {
			ev.refused = r.Status
		}
	case trouble(r.Status):
		if ev.failures++; ev.failures == 1 {
			ev.failedAt = r.Begun
			c.failing[tenant] = append(c.failing[tenant], alone)
		}
	}
}

// justify verifies that every dead letter is justified (DeadLetters).
func (c *checking) justify() {
	for i := range c.dead {
		l := &c.dead[i]
		e := &c.events[l.event]
		if why := c.unjustified(l, e, c.evidence[l.event]); why != "" {
			c.breachOf(DeadLetters, l.event, e.letterAt, "dead letter for the reason %s, %s", l.Reason, why)
		}
	}
}

// unjustified says why a letter is not justified, "" if it is.
func (c *checking) unjustified(l *letter, e *event, ev *evidence) string {
	if by := reasons[e.reason]; by != "" {
		if l.Reason != by {
			return "but by the rules it is " + by
		}
		return ""
	}
	if e.calls > 0 && e.left == 0 && e.delivered < e.letterAt {
		if !c.resumed(l.event, e.delivered, e.letterAt) {
			return "but all its calls had been accepted"
		}
		if !ev.again && l.Reason != outlived {
			return "but all its calls had been accepted, and they were not refused since"
		}
	}
	switch l.Reason {
	case "rejected":
		switch {
		case l.Status != 0 && !refusal(l.Status) && l.Status/100 != 2:
			return "by an answer of " + itoa(l.Status) + ", which is never an event's fault"
		case ev.refused == 0 || ev.refusedAt > e.letterAt+int64(c.o.ClockSlack):
			return "but it was never refused alone"
		}
		return ""
	case tooLarge:
		if ev.refused == 413 {
			return ""
		}
		return "but by the rules it is not, and it was never refused alone for its size"
	case "poison":
		switch {
		case ev.failures < 2:
			return "but it did not fail twice when it travelled alone"
		case !ev.others:
			return "but nothing else of its tenant was taken since it failed: that is the tenant's trouble"
		}
		return ""
	case outlived:
		if c.any(Trimmed) || e.offset < c.parts[int(e.partition)].start {
			return ""
		}
		return "but it is still in the log, and nothing was said to be trimmed"
	case undecodable, badIdentity, ambiguousIdentity, noIdentity, unknownTenant:
		return "but by the rules it makes calls, or is ignored"
	default:
		return "which is not known, or never justified"
	}
}
