package checker

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// effectsOf are the effects of the faults of the proof's list, for an injector
// that does not state them.
var effectsOf = map[string][]Effect{
	"F1": {Unclean}, "F2": {Unclean}, "F3": {Restart},
	"F4": {AnswersLost}, "F5": {Frozen}, "F6": {Unclean}, "F7": {AnswersLost},
	"F8": {Harmless}, "F9": {Harmless},
	"F10": {Unclean}, "F11": {Unclean}, "F12": {Unclean}, "F13": {Unclean}, "F14": {Unclean},
	"F15": {Unclean}, "F16": {Unclean}, "F17": {Unclean}, "F18": {Unclean}, "F19": {Harmless},
	"F20": {Restart}, "F21": {Unclean},
	"F22": {Harmless}, "F23": {AnswersLost}, "F24": {AnswersLost}, "F25": {Harmless},
	"F26": {AnswersLost}, "F27": {AnswersLost}, "F28": {AnswersLost}, "F29": {AnswersLost},
	"F30": {Harmless}, "F31": {Harmless}, "F32": {Harmless}, "F33": {Harmless}, "F34": {Harmless}, "F35": {Harmless},
	"F36": {Harmless}, "F37": {Harmless}, "F38": {Trimmed}, "F39": {Unclean}, "F40": {Harmless}, "F41": {Unclean},
	"F42": {Unclean}, "F43": {AnswersLost}, "F45": {Frozen}, "F46": {Unclean}, "F47": {Unclean}, "F48": {Unclean},
	"F49": {Restart}, "F51": {Harmless}, "F52": {Harmless}, "F54": {Restart}, "F55": {Unclean}, "F56": {Unclean},
}

// FaultEffects returns the effects that a fault has if its injector does not
// state any: those of its name in the proof's list (F1, F2, …), Unclean for all
// other names. A name may go on behind the number: "F1 kill one worker".
func FaultEffects(name string) []Effect {
	number := name
	for i, c := range name {
		if i > 0 && (c < '0' || c > '9') {
			number = name[:i]
			break
		}
	}
	if e, ok := effectsOf[number]; ok {
		return e
	}
	return []Effect{Unclean}
}

// faultIndex finds the faults that were on at some time without looking at all of them.
type faultIndex struct {
	byTime []int      // indexes of the faults, by their beginnings
	reach  []Time     // the latest end of those up to each place in byTime
	has    [][]Effect // of each fault, Unclean with Frozen
}

func indexFaults(faults []Fault) faultIndex {
	x := faultIndex{byTime: make([]int, len(faults)), reach: make([]Time, len(faults)), has: make([][]Effect, len(faults))}
	for i := range faults {
		x.byTime[i] = i
		x.has[i] = faults[i].Effects
		if len(x.has[i]) == 0 {
			x.has[i] = FaultEffects(faults[i].Fault)
		}
		if slices.Contains(x.has[i], Frozen) {
			x.has[i] = append(slices.Clone(x.has[i]), Unclean)
		}
	}
	slices.SortStableFunc(x.byTime, func(a, b int) int { return cmp.Compare(faults[a].At, faults[b].At) })
	last := Time(math.MinInt64)
	for n, i := range x.byTime {
		last = max(last, faults[i].end())
		x.reach[n] = last
	}
	return x
}

// has reports whether a fault has one of the effects.
func (c *checking) has(fault int, effects []Effect) bool {
	for _, e := range effects {
		if slices.Contains(c.faults.has[fault], e) {
			return true
		}
	}
	return false
}

// any reports whether a fault of the run had one of the effects.
func (c *checking) any(effects ...Effect) bool {
	for i := range c.h.Faults {
		if c.has(i, effects) {
			return true
		}
	}
	return false
}

// during reports whether a fault with one of the effects was on at some time
// between two; about a tenant, if it is one of the fault's.
func (c *checking) during(from, to Time, tenant string, effects ...Effect) bool {
	return c.fault(from, to, func(f *Fault) bool { return f.about(tenant) }, effects...) >= 0
}

// latest is the fault that began last of those that were on between two times, with
// one of the effects, or any where none is named, and about the tenant: one that
// names it before one that is about all. It is counted from 1; 0 is none.
func (c *checking) latest(from, to Time, tenant string, effects ...Effect) (found int32) {
	var best *Fault
	for i := range c.h.Faults {
		f := &c.h.Faults[i]
		if f.At > to || f.end() < from || !f.about(tenant) || len(effects) > 0 && !c.has(i, effects) {
			continue
		}
		names := tenant != "" && len(f.Tenants) > 0
		if best == nil || names && len(best.Tenants) == 0 || names == (len(best.Tenants) > 0 && tenant != "") && f.At >= best.At {
			best, found = f, int32(i)+1
		}
	}
	return found
}

// nearest is, of the faults with one of the effects that were on between two times or
// in the time before that Settle gives, the one whose beginning is nearest to the first:
// what kept a call that was made then from being committed. It is counted from 1; 0 is
// none of them.
func (c *checking) nearest(from, to Time, effects ...Effect) (found int32) {
	best := Time(0)
	for i := range c.h.Faults {
		f := &c.h.Faults[i]
		if f.At > to || f.end() < from-int64(c.o.Settle) || !c.has(i, effects) {
			continue
		}
		if away := max(f.At-from, from-f.At); found == 0 || away < best {
			best, found = away, int32(i)+1
		}
	}
	return found
}

// trimmed reports whether retention took an event, as a fault said.
func (c *checking) trimmed(e *event) bool {
	return e.offset < c.parts[int(e.partition)].start && c.any(Trimmed)
}

// trimmedBy reports whether retention may have taken an event by a time.
func (c *checking) trimmedBy(e *event, by Time) bool {
	return e.offset < c.parts[int(e.partition)].start && c.during(0, by, "", Trimmed)
}

// fault finds the first fault of the history, with one of the effects, that was on at some
// time between two and that is wanted; -1 if there is none.
func (c *checking) fault(from, to Time, wanted func(*Fault) bool, effects ...Effect) int {
	x := &c.faults
	n, _ := slices.BinarySearchFunc(x.byTime, to, func(i int, to Time) int {
		if c.h.Faults[i].At <= to {
			return -1
		}
		return 1
	})
	found := -1
	for n--; n >= 0 && x.reach[n] >= from; n-- {
		i := x.byTime[n]
		if f := &c.h.Faults[i]; f.end() >= from && c.has(i, effects) && wanted(f) && (found < 0 || i < found) {
			found = i
		}
	}
	return found
}

func (f *Fault) end() Time { return max(f.At, f.Until) }

func (f *Fault) about(tenant string) bool {
	return tenant == "" || len(f.Tenants) == 0 || slices.Contains(f.Tenants, tenant)
}

// ofWorkers reports whether a fault is done to workers, not to others.
func (f *Fault) ofWorkers() bool { return f.Target == "" || strings.Contains(f.Target, "worker") }

// strikes reports whether a fault is about what a worker does: all are that name none,
// or where it is not known whose it was.
func (f *Fault) strikes(worker string) bool {
	one := strings.HasPrefix(f.Target, "worker-")
	return !one || worker == "" || f.Target == worker
}
