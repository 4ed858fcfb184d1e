package checker

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report is what Check found. Its JSON form is for programs.
type Report struct {
	Events   int `json:"events"`   // records in the log
	Expected int `json:"expected"` // calls that the rules give for them
	Sent     int `json:"sent"`     // events that were posted, every attempt
	Promised int `json:"promised"` // of these, answered 202
	// Unanswered is how many of the posts had no answer, so that nobody knows.
	Unanswered int     `json:"unanswered"`
	Requests   int     `json:"requests"`
	Received   int     `json:"received"` // calls in them
	Applied    int     `json:"applied"`  // calls that took effect, every time
	Commits    int     `json:"commits"`
	MaxCursors int     `json:"max_cursors"` // in one commit
	Asked      Asked   `json:"asked"`
	Letters    int     `json:"letters"`
	Trimmed    int     `json:"trimmed"` // events that retention took before their end
	Ended      Ended   `json:"ended"`
	Repeats    Repeats `json:"repeats"`
	Latency    Latency `json:"latency"`

	// Violations are the first of each rule; Counts has all.
	Violations []Violation  `json:"violations"`
	Counts     map[Rule]int `json:"counts"`
}

// Asked are the requests of workers for commits, where they were seen.
type Asked struct {
	Requests    int `json:"requests"`
	Refused     int `json:"refused"`     // partitions in them, by their answers
	Unanswered  int `json:"unanswered"`  // requests
	Generations int `json:"generations"` // that committed, each later than the ones before
}

// Ended is how the events of the log ended.
type Ended struct {
	Delivered int `json:"delivered"`
	Dead      int `json:"dead"`
	Ignored   int `json:"ignored"`
	Copies    int `json:"copies"`    // of an event before
	Forgotten int `json:"forgotten"` // not sent, or not whole: their respondents were to be
	Waiting   int `json:"waiting"`   // for a tenant that fails, held by its cursor or the commit
}

// Repeats are the calls that were applied again, by cause.
type Repeats struct {
	Calls int     `json:"calls"`
	Share float64 `json:"share"` // of the calls that were applied
	// Unavoidable are those of them that no sender can avoid: the first one of a call
	// whose request before had an outcome that its sender could not know. Avoidable is
	// the share of the others.
	Unavoidable int     `json:"unavoidable"`
	Avoidable   float64 `json:"avoidable"`
	Unknown     int     `json:"unknown"`   // the request before had an outcome that its sender did not know
	Takeover    int     `json:"takeover"`  // from the committed position, after an unclean end
	Continued   int     `json:"continued"` // behind one of these, in order
	Forgotten   int     `json:"forgotten"` // a commit had no room for all that was done, or retention tore it
	Late        int     `json:"late"`      // a request that was given up, or a frozen worker's, came in late
	Copies      int     `json:"copies"`    // the log has the event again, far behind
	Replayed    int     `json:"replayed"`  // by an operator
	Uncaused    int     `json:"uncaused"`  // violations
	// Faults are those of them that a fault of the history is the cause of, by its name:
	// where several were on, the one that began last.
	Faults map[string]int `json:"faults,omitempty"`
}

// Latency is from the promise to the acceptance of the last call, of the tenants
// whose requests were all taken.
type Latency struct {
	FailedTenants int    `json:"failed_tenants"` // the others
	Before        Spread `json:"before"`         // the first fault
	During        Spread `json:"during"`         // from the first fault to the end of the last
	After         Spread `json:"after"`
}

// Spread is a distribution.
type Spread struct {
	Events int           `json:"events"`
	P50    time.Duration `json:"p50_ns"`
	P99    time.Duration `json:"p99_ns"`
	Max    time.Duration `json:"max_ns"`
}

// OK reports whether nothing was violated.
func (r *Report) OK() bool { return len(r.Counts) == 0 }

// Write writes the report for people.
func (r *Report) Write(w io.Writer) error {
	p := &printing{w: w}
	p.line("events     %d in the log; %d of %d posts were promised, %d unanswered", r.Events, r.Promised, r.Sent, r.Unanswered)
	p.line("ended      %d delivered, %d dead, %d ignored, %d copies, %d forgotten, %d waiting, %d trimmed",
		r.Ended.Delivered, r.Ended.Dead, r.Ended.Ignored, r.Ended.Copies, r.Ended.Forgotten, r.Ended.Waiting, r.Trimmed)
	p.line("calls      %d expected, %d applied in %d requests", r.Expected, r.Applied, r.Requests)
	n := &r.Repeats
	p.line("repeats    %d (%.3f %%): %d unknown outcome, %d takeover, %d continued, %d forgotten, %d late, %d copies, %d replayed, %d uncaused",
		n.Calls, 100*n.Share, n.Unknown, n.Takeover, n.Continued, n.Forgotten, n.Late, n.Copies, n.Replayed, n.Uncaused)
	p.line("           %d once after an answer that was lost, which no sender can avoid; %d others (%.3f %%)", n.Unavoidable, n.Calls-n.Unavoidable, 100*n.Avoidable)
	if len(n.Faults) > 0 {
		p.line("           by fault: %s", byFault(n.Faults))
	}
	p.line("commits    %d, at most %d cursors in one; %d dead letters", r.Commits, r.MaxCursors, r.Letters)
	if a := &r.Asked; a.Requests > 0 {
		p.line("           of %d generations, asked for in %d requests: %d partitions refused, %d requests without an answer", a.Generations, a.Requests, a.Refused, a.Unanswered)
	}
	for _, s := range []struct {
		name string
		of   *Spread
	}{{"before", &r.Latency.Before}, {"during", &r.Latency.During}, {"after", &r.Latency.After}} {
		if s.of.Events > 0 {
			p.line("latency    of healthy tenants %s the faults: p50 %v, p99 %v, at most %v (%d events)", s.name, s.of.P50, s.of.P99, s.of.Max, s.of.Events)
		}
	}
	if r.OK() {
		p.line("violations none")
		return p.err
	}
	total := 0
	for _, rule := range Rules() {
		if n := r.Counts[rule]; n > 0 {
			p.line("violations %6d of rule %d, %s", n, int(rule), rule)
			total += n
		}
	}
	for _, v := range r.Violations {
		p.line("  %s", v)
	}
	if total > len(r.Violations) {
		p.line("  and %d more", total-len(r.Violations))
	}
	return p.err
}

// byFault are counts by name, the largest first.
func byFault(counts map[string]int) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(counts[b]-counts[a], strings.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", name, counts[name])
	}
	return strings.Join(names, ", ")
}

// printing writes lines until one fails.
type printing struct {
	w   io.Writer
	err error
}

func (p *printing) line(format string, args ...any) {
	_, err := fmt.Fprintf(p.w, format+"\n", args...)
	p.err = errors.Join(p.err, err)
}
