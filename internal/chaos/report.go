package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"refinersource/internal/checker"
)

// Report is what a run did and found.
type Report struct {
	Seed     uint64        `json:"seed"`
	Load     time.Duration `json:"load_ns"`
	Drain    time.Duration `json:"drain_ns"`
	Session  time.Duration `json:"session_ns"`
	Events   int64         `json:"events"`   // posted
	Accepted int64         `json:"accepted"` // answered 202
	GivenUp  int64         `json:"given_up"`
	Posts    int64         `json:"posts"`
	Maybe    int64         `json:"unanswered_posts"`
	Records  int           `json:"records"` // in the log
	Letters  int           `json:"letters"`

	Requests int         `json:"requests"`
	Calls    int         `json:"calls"` // accepted
	Statuses map[int]int `json:"statuses"`

	Injections int            `json:"injections"`
	Faults     map[string]int `json:"faults"`
	// Takeovers is how long after a worker was killed its partitions were committed
	// by another, where no broker was struck at that time; Terminations how long a worker took to drain; Recoveries how long
	// after a tenant's trouble its first request was accepted.
	Takeovers    []time.Duration `json:"takeovers_ns"`
	Terminations []time.Duration `json:"terminations_ns"`
	Recoveries   []time.Duration `json:"recoveries_ns"`

	// Problems are what went wrong that the history does not show.
	Problems []string       `json:"problems"`
	Check    checker.Report `json:"check"`
}

func (r *run) report() *Report {
	counts, j := r.receiver.figures(), r.injector
	report := &Report{
		Seed: r.o.Seed, Load: r.took.load, Drain: r.took.drain, Session: r.session,
		Events: r.load.Events.Load(), Accepted: r.load.Accepted.Load(), GivenUp: r.load.GivenUp.Load(),
		Posts: r.load.Posts.Load(), Maybe: r.load.Unanswered.Load(), Records: r.log, Letters: r.letters,
		Requests: counts.Requests, Calls: counts.Calls, Statuses: counts.Statuses,
		Faults: make(map[string]int), Terminations: j.terminations, Recoveries: r.receiver.recovered(), Problems: j.problems,
	}
	for _, f := range j.faults {
		report.Injections++
		report.Faults[f.Fault]++
	}
	for _, k := range j.kills {
		if j.brokersStruckAround(k.at, r.session) {
			continue // nobody could take over in time
		}
		report.Takeovers = append(report.Takeovers, takeovers(k, r.commits)...)
	}
	return report
}

// brokersStruckAround reports whether a broker was struck in the time that a
// takeover takes.
func (j *injector) brokersStruckAround(at time.Time, session time.Duration) bool {
	from, to := at.Add(-30*time.Second).UnixNano(), at.Add(session+15*time.Second).UnixNano()
	return slices.ContainsFunc(j.faults, func(f checker.Fault) bool {
		switch f.Fault {
		case "F10", "F11", "F12", "F13", "F14", "F20", "F39", "F42", "F46", "F47", "F48":
			return f.At < to && f.Until > from
		default:
			return false
		}
	})
}

// takeovers are the times from a kill to the next commit of each partition that
// the worker had.
func takeovers(k kill, commits []checker.Commit) []time.Duration {
	var all []time.Duration
	for _, p := range k.partitions {
		for _, c := range commits {
			// What the killed worker sent last may be written a moment after its end.
			if d := time.Unix(0, c.At).Sub(k.at); c.Partition == p && d > time.Second {
				all = append(all, d)
				break
			}
		}
	}
	return all
}

// write writes the report into the run's directory, for people and for programs.
func (r *Report) write(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), text, 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	f, err := os.Create(filepath.Join(dir, "report.txt"))
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := errors.Join(r.Write(f), f.Close()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// Failed reports whether the run found anything wrong.
func (r *Report) Failed() bool { return len(r.Problems) > 0 || Violations(r.Check) > 0 }

// Violations is how many breaches of the promise a check has found.
func Violations(c checker.Report) int {
	n := 0
	for _, of := range c.Counts {
		n += of
	}
	return n
}

// Write writes the report for people.
func (r *Report) Write(w io.Writer) error {
	var errs []error
	line := func(format string, args ...any) {
		_, err := fmt.Fprintf(w, format+"\n", args...)
		errs = append(errs, err)
	}
	line("seed %d: %d events posted in %v (%.0f/s), %d accepted, %d given up; %d POSTs, %d of them unanswered",
		r.Seed, r.Events, r.Load.Round(time.Second), float64(r.Events)/r.Load.Seconds(), r.Accepted, r.GivenUp, r.Posts, r.Maybe)
	line("%d records, %d dead letters; %d requests, %d calls accepted; answers %s", r.Records, r.Letters, r.Requests, r.Calls, counted(r.Statuses))
	line("%d faults: %s", r.Injections, counted(r.Faults))
	line("drained in %v; takeover after kill -9 (session %v): %s; drain on SIGTERM: %s; first request after a tenant's trouble: %s",
		r.Drain.Round(time.Second), r.Session, spread(r.Takeovers), spread(r.Terminations), spread(r.Recoveries))
	for _, p := range r.Problems {
		line("PROBLEM: %s", p)
	}
	return errors.Join(append(errs, r.Check.Write(w))...)
}

func counted[K int | string](m map[K]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%v×%d", k, m[k]))
	}
	return strings.Join(parts, " ")
}

func spread(all []time.Duration) string {
	if len(all) == 0 {
		return "none"
	}
	sorted := slices.Sorted(slices.Values(all))
	return fmt.Sprintf("%d times, median %v, longest %v", len(sorted), sorted[len(sorted)/2].Round(time.Millisecond), sorted[len(sorted)-1].Round(time.Millisecond))
}
