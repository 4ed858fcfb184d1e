package chaos_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/chaos"
)

func schedule(t *testing.T, o chaos.ScheduleOptions) []chaos.Injection {
	t.Helper()
	all, err := chaos.Schedule(o)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func safety(seed uint64, d time.Duration) chaos.ScheduleOptions {
	return chaos.ScheduleOptions{Seed: seed, Duration: d, Active: 80, Brokers: 3, Faults: "safety", Session: 12 * time.Second}
}

func TestScheduleIsThatOfItsSeed(t *testing.T) {
	t.Parallel()
	a, b := schedule(t, safety(7, 5*time.Minute)), schedule(t, safety(7, 5*time.Minute))
	if d := cmp.Diff(a, b); d != "" {
		t.Errorf("one seed, two schedules:\n%s", d)
	}
	if cmp.Equal(a, schedule(t, safety(8, 5*time.Minute))) {
		t.Error("two seeds have one schedule")
	}
}

// The run of the gate takes seven minutes.
func TestScheduleOfTheGateHasFortyKindsOfFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		kinds := make(map[string]bool)
		for _, in := range schedule(t, safety(seed, 7*time.Minute)) {
			kinds[in.Fault] = true
		}
		if len(kinds) < 40 {
			t.Errorf("seed %d: %d kinds of faults in seven minutes, want 40", seed, len(kinds))
		}
	}
}

func TestScheduleKeepsToItsTime(t *testing.T) {
	t.Parallel()
	const d = 4 * time.Minute
	for seed := range uint64(20) {
		last := make(map[string]time.Duration)
		busy := make(map[string]time.Duration) // by tenant
		for _, in := range schedule(t, safety(seed, d)) {
			if in.At < last[in.Track] {
				t.Errorf("seed %d: %s %s begins at %v, and the one before ends at %v", seed, in.Track, in.Fault, in.At, last[in.Track])
			}
			if last[in.Track] = in.At + in.For; last[in.Track] > d {
				t.Errorf("seed %d: %s ends at %v, after the load's %v", seed, in.Fault, last[in.Track], d)
			}
			for _, id := range in.Tenants {
				if in.At < busy[id] {
					t.Errorf("seed %d: %s at %v strikes tenant %s, which another fault has until %v", seed, in.Fault, in.At, id, busy[id])
				}
				busy[id] = in.At + in.For
			}
		}
	}
}

func TestScheduleDealsEachFaultBeforeItRepeatsOne(t *testing.T) {
	t.Parallel()
	got := make(map[string]bool)
	for _, in := range schedule(t, safety(3, 30*time.Minute)) {
		got[in.Fault] = true
	}
	want := []string{
		"F1", "F10", "F11", "F12", "F13", "F14", "F15", "F16", "F19", "F2", "F20", "F22", "F23", "F24", "F25", "F26", "F27", "F28", "F29", "F3",
		"F30", "F31", "F32", "F33", "F36", "F37", "F39", "F4", "F40", "F41", "F42", "F43", "F46", "F47", "F48", "F5", "F51", "F52", "F54", "F6", "F7", "F8", "F9",
	}
	if d := cmp.Diff(want, slices.Sorted(maps.Keys(got))); d != "" {
		t.Errorf("faults of half an hour (-want +got):\n%s", d)
	}
}

func TestScheduleDealsEachModeBeforeItRepeatsOne(t *testing.T) {
	t.Parallel()
	o := safety(5, 10*time.Minute)
	o.Faults = "F15"
	seen := make(map[string]int)
	for _, in := range schedule(t, o) {
		if seen[in.Mode]++; !slices.Contains(chaos.WorkerMoments, in.Mode) {
			t.Errorf("F15 has a mode %q", in.Mode)
		}
	}
	least, most := 1<<20, 0
	for _, mode := range chaos.WorkerMoments {
		least, most = min(least, seen[mode]), max(most, seen[mode])
	}
	if least == 0 || most-least > 1 {
		t.Errorf("modes %v: some come again before others have come", seen)
	}
}

func TestScheduleTakesModes(t *testing.T) {
	t.Parallel()
	o := safety(1, 10*time.Minute)
	o.Faults = "F15:mid_commit,F15:before_dlq,F26:link,F8"
	got := make(map[string]bool)
	for _, in := range schedule(t, o) {
		got[in.Fault+":"+in.Mode] = true
	}
	if d := cmp.Diff([]string{"F15:before_dlq", "F15:mid_commit", "F26:link", "F8:"}, slices.Sorted(maps.Keys(got))); d != "" {
		t.Errorf("faults (-want +got):\n%s", d)
	}
	o.Faults = "F15:never"
	if _, err := chaos.Schedule(o); err == nil {
		t.Error("a mode that there is not is taken")
	}
}

// Every moment that a schedule names must be one.
func TestMomentsAreKnown(t *testing.T) {
	t.Parallel()
	for _, in := range schedule(t, chaos.ScheduleOptions{Seed: 1, Duration: time.Hour, Active: 80, Brokers: 3, Faults: "F9,F15"}) {
		if !chaos.IsMoment(in.Mode) {
			t.Errorf("%s has no moment %q", in.Fault, in.Mode)
		}
	}
}

func TestScheduleTakesNames(t *testing.T) {
	t.Parallel()
	o := safety(1, 10*time.Minute)
	o.Faults = "F1, F10"
	got := make(map[string]bool)
	for _, in := range schedule(t, o) {
		got[in.Fault] = true
	}
	if !got["F1"] || !got["F10"] || len(got) != 2 {
		t.Errorf("faults %v, want F1 and F10", got)
	}
	o.Brokers = 1
	if all := schedule(t, o); slices.ContainsFunc(all, func(in chaos.Injection) bool { return in.Fault == "F10" }) {
		t.Error("a lone broker is killed")
	}
	o.Faults = "F48"
	if len(schedule(t, o)) == 0 {
		t.Error("a lone broker is not restarted")
	}
	o.Faults = "none"
	if all := schedule(t, o); len(all) != 0 {
		t.Errorf("%d faults, want none", len(all))
	}
	o.Faults = "F1,F999"
	if _, err := chaos.Schedule(o); err == nil || !strings.Contains(err.Error(), "F999") {
		t.Errorf("error %v, want one that names F999", err)
	}
}
