package chaos

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Injection is one fault of a schedule.
type Injection struct {
	At, For time.Duration // from the beginning of the load
	Fault   string        // its name in the proof's list
	Track   string        // injections of one track come one after another
	Mode    string        // of the receiver, where it is it that fails
	Tenants []string      // whom it fails
	Target  int           // a number to choose the worker or broker by
	Seed    uint64        // of what else is drawn
}

// kind is a kind of fault as the schedule draws it.
type kind struct {
	fault, mode string
	modes       []string // in place of mode: one after another
	least, most time.Duration
	tenants     int // how many at the receiver; -10 is a tenth of the active
	long        bool
	past        bool // the session's time comes on top
	lone        bool // of a broker, also where there is one alone
}

// deckFor returns what of a kind was asked for: all of it, or none, or some of its
// modes.
func (k kind) deckFor(o ScheduleOptions, wanted map[string]bool, brokers bool) (kind, bool) {
	if k.long && !o.Long || brokers && o.Brokers < 3 && !k.lone {
		return k, false
	}
	if len(wanted) == 0 {
		return k, true
	}
	if wanted[k.fault] {
		return k, true
	}
	k.modes = slices.DeleteFunc(slices.Clone(k.modes), func(mode string) bool { return !wanted[k.fault+":"+mode] })
	return k, len(k.modes) > 0 || k.mode != "" && wanted[k.fault+":"+k.mode]
}

// tracks are the faults by what they strike. Several tracks go on at once.
var tracks = map[string][]kind{
	"workers": {
		{fault: "F1", least: time.Second, most: 20 * time.Second},
		{fault: "F1", least: time.Second, most: 5 * time.Second},
		{fault: "F2", least: time.Second, most: 5 * time.Second},
		{fault: "F3", least: 5 * time.Second, most: 10 * time.Second},
		{fault: "F4", least: 8 * time.Second, most: 10 * time.Second},
		{fault: "F5", least: 13 * time.Second, most: 15 * time.Second, past: true},
		{fault: "F6", least: 13 * time.Second, most: 15 * time.Second, past: true},
		{fault: "F15", modes: workerMoments, least: time.Second, most: 5 * time.Second},
		{fault: "F15", modes: workerMoments, least: time.Second, most: 5 * time.Second},
		{fault: "F16", modes: []string{"once", "all"}, least: 3 * time.Second, most: 8 * time.Second},
		{fault: "F20", least: 15 * time.Second, most: 30 * time.Second},
		{fault: "F40", mode: "full-device", least: 5 * time.Second, most: 10 * time.Second},
		{fault: "F41", mode: "little-memory", least: 10 * time.Second, most: 15 * time.Second},
		{fault: "F43", mode: "worker", least: 10 * time.Second, most: 15 * time.Second},
		{fault: "F54", least: 5 * time.Second, most: 15 * time.Second},
		{fault: "F45", least: 13 * time.Second, most: 15 * time.Second, past: true, long: true},
	},
	"sinks": {
		{fault: "F7", least: 10 * time.Second, most: 20 * time.Second},
		{fault: "F26", mode: "link", least: 5 * time.Second, most: 10 * time.Second},
		{fault: "F27", mode: "link", least: 5 * time.Second, most: 10 * time.Second},
	},
	"ingress": {
		{fault: "F8", least: 100 * time.Millisecond, most: 3 * time.Second},
		{fault: "F9", modes: []string{"after_ack", "before_ack", "after_202"}, least: 100 * time.Millisecond, most: 3 * time.Second},
		{fault: "F19", modes: []string{"lost", "too-large"}, least: 3 * time.Second, most: 8 * time.Second},
		{fault: "F43", mode: "ingress", least: 10 * time.Second, most: 15 * time.Second},
	},
	"brokers": {
		{fault: "F10", least: 10 * time.Second, most: 20 * time.Second},
		{fault: "F11", least: 8 * time.Second, most: 15 * time.Second},
		{fault: "F12", least: time.Second, most: 8 * time.Second},
		{fault: "F13", least: 5 * time.Second, most: 15 * time.Second},
		{fault: "F14", least: 5 * time.Second, most: 15 * time.Second},
		{fault: "F39", least: 5 * time.Second, most: 15 * time.Second},
		{fault: "F46", least: 10 * time.Second, most: 15 * time.Second},
		{fault: "F47", least: 10 * time.Second, most: 20 * time.Second},
		{fault: "F48", least: 6 * time.Second, most: 15 * time.Second, lone: true},
	},
	"receiver": {
		{fault: "F22", mode: "500", least: 30 * time.Second, most: 60 * time.Second, tenants: 1},
		{fault: "F23", mode: "mixed", least: 20 * time.Second, most: 40 * time.Second, tenants: -10},
		{fault: "F25", mode: "flap", least: 20 * time.Second, most: 40 * time.Second, tenants: 3},
		{fault: "F26", mode: "lost", least: 5 * time.Second, most: 10 * time.Second, tenants: 3},
		{fault: "F26", mode: "half-body", least: 5 * time.Second, most: 10 * time.Second, tenants: 3},
		{fault: "F26", mode: "applied-500", least: 5 * time.Second, most: 10 * time.Second, tenants: 2},
		{fault: "F28", mode: "loris", least: 10 * time.Second, most: 30 * time.Second, tenants: 3},
		{fault: "F29", mode: "garbage", least: 5 * time.Second, most: 15 * time.Second, tenants: 3},
		{fault: "F30", mode: "retry-after", least: 10 * time.Second, most: 20 * time.Second, tenants: 4},
		{fault: "F30", mode: "retry-after-hours", least: 5 * time.Second, most: 10 * time.Second, tenants: 2, long: true},
		{fault: "F33", mode: "rotate", least: 3 * time.Second, most: 8 * time.Second, tenants: 2},
		{fault: "F32", mode: "400all", least: 5 * time.Second, most: 15 * time.Second, tenants: 1},
		{fault: "F51", mode: "500", least: 10 * time.Second, most: 20 * time.Second, tenants: 1},
		{fault: "F38", mode: "500", least: 15 * time.Second, most: 25 * time.Second, tenants: 2, long: true},
	},
	"events": {
		{fault: "F31", mode: "400", least: 0, most: time.Second},
		{fault: "F31", mode: "500", least: 0, most: time.Second},
		{fault: "F36", least: 0, most: time.Second},
		{fault: "F37", least: 10 * time.Second, most: 20 * time.Second},
		{fault: "F52", least: 10 * time.Second, most: 20 * time.Second},
		{fault: "F24", least: 10 * time.Second, most: 25 * time.Second},
		{fault: "F42", least: 10 * time.Second, most: 15 * time.Second},
	},
}

// mixed are the ways to fail of F23.
var mixed = []string{"500", "5xx", "429", "408", "401", "403", "404", "302", "reset", "silent", "slow", "501", "lost-silent"}

// gaps are the pauses between two injections of a track.
var gaps = map[string][2]time.Duration{
	"workers": {4 * time.Second, 8 * time.Second}, "sinks": {10 * time.Second, 30 * time.Second}, "ingress": {10 * time.Second, 30 * time.Second}, "brokers": {25 * time.Second, 40 * time.Second},
	"receiver": {time.Second, 5 * time.Second}, "events": {5 * time.Second, 20 * time.Second},
}

// ScheduleOptions say what a schedule is drawn from.
type ScheduleOptions struct {
	Seed     uint64
	Duration time.Duration
	Active   int    // tenants with load
	Brokers  int    // with fewer than three no broker is struck
	Faults   string // safety: all; none; or names with commas between them, each with a mode if that alone is meant: F15:mid_commit
	Long     bool   // with those that take long
	// Session is how long a group waits for a member that is gone. After a fault
	// that leaves such a one the next of its track waits as long, so that work is
	// done between them.
	Session time.Duration
}

// leavers are the faults after which a group waits for members that are gone.
var leavers = []string{"F1", "F2", "F5", "F6", "F12", "F13", "F15", "F20", "F45"}

// Schedule draws the faults of a run: the same seed, the same faults. Each kind of
// a track comes once before any comes again.
func Schedule(o ScheduleOptions) ([]Injection, error) {
	if o.Faults == "none" || o.Faults == "liveness" {
		return nil, nil
	}
	wanted := map[string]bool{}
	if o.Faults != "safety" {
		for name := range strings.SplitSeq(o.Faults, ",") {
			wanted[strings.TrimSpace(name)] = true
		}
	}
	known := map[string]bool{}
	var all []Injection
	for i, track := range []string{"workers", "brokers", "receiver", "receiver-2", "events", "sinks", "ingress"} {
		r := rand.New(rand.NewPCG(o.Seed, uint64(i)))
		source, second, _ := strings.Cut(track, "-")
		var deck []kind
		for _, k := range tracks[source] {
			for _, mode := range slices.Concat(k.modes, []string{k.mode}) {
				known[k.fault], known[k.fault+":"+mode] = true, true
			}
			if k, ok := k.deckFor(o, wanted, source == "brokers"); ok {
				deck = append(deck, k)
			}
		}
		if len(deck) == 0 {
			continue
		}
		// The tenants of the two receiver tracks are not the same.
		half := o.Active / 2
		first := 0
		if second != "" {
			first = half
		}
		all = append(all, deal(r, track, deck, gaps[source], o, first, half)...)
	}
	for name := range wanted {
		if !known[name] {
			return nil, fmt.Errorf("there is no fault %q", name)
		}
	}
	slices.SortStableFunc(all, func(a, b Injection) int { return cmp.Compare(a.At, b.At) })
	return all, nil
}

// deal draws from a deck until the time is over.
func deal(r *rand.Rand, track string, deck []kind, gap [2]time.Duration, o ScheduleOptions, first, tenants int) []Injection {
	var all []Injection
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(r.Int64N(int64(most-least)+1))
	}
	at := between(time.Second, gap[1])
	dealt := make(map[string]int) // by fault: how many of its modes
	for {
		fits := false
		for _, n := range r.Perm(len(deck)) {
			k := deck[n]
			in := Injection{At: at, For: between(k.least, k.most), Fault: k.fault, Track: track, Mode: k.mode, Target: r.IntN(1 << 20), Seed: r.Uint64()}
			if k.past {
				in.For += o.Session
			}
			if in.At+in.For > o.Duration {
				continue // a shorter one may fit
			}
			fits = true
			if len(k.modes) > 0 {
				in.Mode = k.modes[(dealt[k.fault]+int(o.Seed%uint64(len(k.modes))))%len(k.modes)]
				dealt[k.fault]++
			}
			count := k.tenants
			if count < 0 {
				count = max(1, 2*tenants/-count)
			}
			if count > 0 && tenants > 0 {
				for _, t := range r.Perm(tenants)[:min(count, tenants)] {
					in.Tenants = append(in.Tenants, fmt.Sprintf("t%04d", first+t))
				}
				slices.Sort(in.Tenants)
			}
			all = append(all, in)
			at += in.For + between(gap[0], gap[1])
			if slices.Contains(leavers, k.fault) {
				at += o.Session
			}
		}
		if !fits {
			return all
		}
	}
}
