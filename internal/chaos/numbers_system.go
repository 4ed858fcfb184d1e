package chaos

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// processorTime is what the machine's processors did, in ticks since its start.
type processorTime struct{ busy, all float64 }

// processorTimes asks the system; false where it does not tell.
func processorTimes() (t processorTime, ok bool) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, false
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return t, false
	}
	for i, f := range fields[1:8] {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return t, false
		}
		t.all += v
		if i != 3 && i != 4 { // idle, and waiting for a disk
			t.busy += v
		}
	}
	return t, true
}

// busyUntil is the busy share of the time between.
func (t processorTime) busyUntil(later processorTime) float64 {
	if later.all <= t.all {
		return 0
	}
	return (later.busy - t.busy) / (later.all - t.all)
}

// peakMemory is the most memory that a process has had since it started, in bytes.
func peakMemory(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of a process: %w", err)
	}
	return peakIn(string(text))
}

func peakIn(status string) (int64, error) {
	_, rest, ok := strings.Cut(status, "VmHWM:")
	line, _, _ := strings.Cut(rest, "\n")
	fields := strings.Fields(line)
	if !ok || len(fields) != 2 || fields[1] != "kB" {
		return 0, fmt.Errorf("read the memory of a process: no VmHWM in kB")
	}
	kb, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the memory of a process: %w", err)
	}
	return kb << 10, nil
}
