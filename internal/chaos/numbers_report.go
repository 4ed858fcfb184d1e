package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"refinersource/internal/checker"
)

// NumbersReport is what RunNumbers measured.
type NumbersReport struct {
	Seed     uint64         `json:"seed"`
	Took     time.Duration  `json:"took_ns"`
	Rows     []Row          `json:"rows"`
	Problems []string       `json:"problems"`
	Check    checker.Report `json:"check"`
}

// Row is one number.
type Row struct {
	Part     string `json:"part"`
	What     string `json:"what"`
	Gate     string `json:"gate"` // "" is told for completeness
	Measured string `json:"measured"`
	OK       bool   `json:"ok"`
}

// Failed reports whether a gate was missed, or the run broke the promise.
func (r *NumbersReport) Failed() bool {
	return len(r.Problems) > 0 || slices.ContainsFunc(r.Rows, func(row Row) bool { return !row.OK })
}

// Write writes the table for people.
func (r *NumbersReport) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, err := fmt.Fprintln(t, "OK\tPART\tWHAT\tGATE\tMEASURED")
	for _, row := range r.Rows {
		ok := "ok"
		switch {
		case row.Gate == "":
			ok = ""
		case !row.OK:
			ok = "NOT"
		}
		_, e := fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", ok, row.Part, row.What, row.Gate, row.Measured)
		err = errors.Join(err, e)
	}
	err = errors.Join(err, t.Flush())
	for _, p := range r.Problems {
		_, e := fmt.Fprintln(w, "PROBLEM:", p)
		err = errors.Join(err, e)
	}
	_, e := fmt.Fprintf(w, "seed %d, %v\n", r.Seed, r.Took.Round(time.Second))
	return errors.Join(err, e, r.Check.Write(w))
}

func (r *NumbersReport) write(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "numbers.json"), text, 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// The gates.
const (
	latencyGrace     = 100 * time.Millisecond
	suspendWithin    = 5 * time.Second
	recoverWithin    = time.Minute
	metadataLimit    = 4096
	cursorsAtLeast   = 250
	memoryGrowth     = 50 << 20
	rateAtLeast      = 0.95
	undecidedAtHeal  = suspendWithin + time.Second // who begins to fail so late may heal first
	faultsInAProblem = 10
)

// rows makes the table, also of what the run has left in its directory.
type rows struct {
	n           *numbers
	suspensions map[place][]int64
	metadata    int // the largest
	all         []Row
}

func (n *numbers) report(check checker.Report) (*NumbersReport, error) {
	suspensions, err := n.suspensions()
	if err != nil {
		return nil, err
	}
	longest, err := n.longestMetadata()
	if err != nil {
		return nil, err
	}
	t := &rows{n: n, suspensions: suspensions, metadata: longest}
	if n.live != nil {
		t.baseline()
	}
	if n.o.does(failingPart) {
		t.failing()
	}
	if n.o.does(recoveryPart) {
		t.recovery()
	}
	if n.o.does(suspendedPart) {
		t.suspended()
	}
	if n.o.does(badPart) {
		t.bad()
	}
	violations := Violations(check)
	t.add("all", "the checker", "0 violations", violations == 0, "%d violations in %d events, %d calls sent again", violations, check.Events, check.Repeats.Calls)
	return &NumbersReport{Seed: n.o.Seed, Rows: t.all, Problems: append([]string{}, n.injector.problems...), Check: check}, nil
}

func (t *rows) add(part, what, gate string, ok bool, format string, args ...any) {
	t.all = append(t.all, Row{part, what, gate, fmt.Sprintf(format, args...), ok || gate == ""})
}

// bound is what a p99 may be.
func bound(baseline Quantiles, ratio float64) time.Duration {
	return max(time.Duration(ratio*float64(baseline.P99)), baseline.P99+latencyGrace)
}

// meanwhile is the row of the healthy tenants' latency in a window.
func (t *rows) meanwhile(part, what string, in window, gated bool) {
	took, missing := t.n.watch.latencies(t.n.o.healthy(), in)
	before, _ := t.n.watch.latencies(t.n.o.healthy(), t.n.baseline)
	q, most := quantiles(took), bound(quantiles(before), t.n.o.Ratio)
	gate := ""
	if gated {
		gate = fmt.Sprintf("p99 <= %v", short(most))
	}
	t.add(part, what, gate, q.N > 0 && q.P99 <= most && missing == 0, "%v; %d not delivered", q, missing)
}

func (t *rows) baseline() {
	n := t.n
	o := n.o
	all := span(0, o.Active)
	took, missing := n.watch.latencies(all, n.baseline)
	q := quantiles(took)
	lasted := n.baseline.to.Sub(n.baseline.from).Seconds()
	rate := float64(q.N+missing) / lasted
	served := 0
	for _, i := range all {
		if one, _ := n.watch.latencies([]int{i}, window{time.Unix(0, 0), n.baseline.to}); len(one) > 0 {
			served++
		}
	}
	t.add(tenantsPart, "tenants configured and active", fmt.Sprintf("%d and %d", o.Tenants, o.Active), served == o.Active, "%d configured, %d delivered to", len(n.fleet.tenants), served)
	t.add(tenantsPart, "steady load, events a second", fmt.Sprintf(">= %.0f", rateAtLeast*o.Rate), rate >= rateAtLeast*o.Rate, "%.0f over %.0f s, the machine %.0f %% busy", rate, lasted, 100*n.busy)
	t.add(tenantsPart, "from 202 to delivered", "", true, "%v; %d not delivered", q, missing)
}

func (t *rows) failing() {
	n := t.n
	tr := &n.trouble
	t.meanwhile(failingPart, fmt.Sprintf("healthy tenants while %d %% fail", n.o.Failing), tr.window, true)
	t.add(failingPart, "healthy tenants suspended in the whole run", "none", len(t.healthySuspended()) == 0, "%d: %s", len(t.healthySuspended()), strings.Join(t.healthySuspended(), " "))
	inTime := window{tr.from, tr.to.Add(-undecidedAtHeal)}
	var fail []int
	for _, i := range tr.tenants {
		if tr.modes[i] != "slow" {
			fail = append(fail, i)
		}
	}
	failed := n.watch.first(fail, inTime, func(a attempt) bool { return !a.applied })
	lanes, tenants, slowest := t.suspendedAfter(failed, tr.to)
	var all []time.Duration
	for _, d := range tenants {
		if d >= 0 {
			all = append(all, d)
		}
	}
	never := len(tenants) - len(all)
	q := quantiles(all)
	t.add(failingPart, "first failed attempt to suspended, by tenant", fmt.Sprintf("each <= %v", suspendWithin),
		never == 0 && len(tenants) == len(fail) && q.Max <= suspendWithin,
		"%v; %d of %d never failed, %d not suspended%s", q, len(fail)-len(tenants), len(fail), never, slowest)
	t.add(failingPart, "the same, by tenant and partition", "", true, "%v", quantiles(lanes))
}

// suspendedAfter is how long after their first failed attempt places, and the
// first place of each tenant, were suspended: -1 is never. It names one that was
// late.
func (t *rows) suspendedAfter(failed map[place]attempt, until time.Time) (lanes []time.Duration, tenants map[int]time.Duration, slowest string) {
	tenants = make(map[int]time.Duration)
	begun := make(map[int]int64)
	for at, a := range failed {
		if b, ok := begun[at.tenant]; !ok || a.ended < b {
			begun[at.tenant] = a.ended
		}
	}
	for tenant := range begun {
		tenants[tenant] = -1
	}
	for at, a := range failed {
		times := t.suspensions[at]
		i, _ := slices.BinarySearch(times, a.begun)
		if i == len(times) || times[i] > until.UnixNano() {
			continue
		}
		// The worker may have written that before we have seen the end of it.
		lanes = append(lanes, max(0, time.Duration(times[i]-a.ended)))
		d := max(0, time.Duration(times[i]-begun[at.tenant]))
		if before := tenants[at.tenant]; before < 0 || d < before {
			tenants[at.tenant] = d
		}
	}
	worst := -1
	for tenant, d := range tenants {
		if (d > suspendWithin || d < 0) && (worst < 0 || tenant < worst) {
			worst = tenant
		}
	}
	if worst >= 0 {
		slowest = fmt.Sprintf("; %s (%s): %v", tenantName(worst), t.n.trouble.modes[worst], short(tenants[worst]))
	}
	return lanes, tenants, slowest
}

// healthySuspended are the healthy tenants that were suspended.
func (t *rows) healthySuspended() []string {
	healthy := make(map[int]bool)
	for _, i := range t.n.o.healthy() {
		healthy[i] = true
	}
	found := make(map[string]bool)
	for at := range t.suspensions {
		if healthy[at.tenant] {
			found[tenantName(at.tenant)] = true
		}
	}
	var names []string
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (t *rows) recovery() {
	n := t.n
	rec := &n.recovery
	tenants := n.o.recovering()
	took := rec.done.to.Sub(rec.done.from)
	what := fmt.Sprintf("%d tenants with %d waiting each, healed after %v", len(tenants), n.o.Waiting, short(rec.to.Sub(rec.from)))
	after := window{rec.to, time.Now()}
	probes := n.watch.first(tenants, after, func(attempt) bool { return true })
	var lanes []time.Duration
	first := make(map[int]time.Duration)
	for at, a := range probes {
		d := time.Duration(a.begun - rec.to.UnixNano())
		lanes = append(lanes, d)
		if before, ok := first[at.tenant]; !ok || d < before {
			first[at.tenant] = d
		}
	}
	var byTenant []time.Duration
	for _, d := range first {
		byTenant = append(byTenant, d)
	}
	probed := quantiles(lanes)
	t.add(recoveryPart, what, fmt.Sprintf("delivered <= %v after the heal", recoverWithin), rec.delivered && took <= recoverWithin, "%v; %d left", short(took), rec.left)
	t.add(recoveryPart, "heal to first probe", "", true, "by tenant %v; by tenant and partition %v", quantiles(byTenant), probed)
	t.add(recoveryPart, "last first probe to all delivered", "", true, "%v", short(took-probed.Max))
	t.meanwhile(recoveryPart, "healthy tenants meanwhile", rec.done, true)
	t.meanwhile(recoveryPart, "healthy tenants while it fills", rec.window, false)
}

func (t *rows) suspended() {
	s := &t.n.suspended
	want := len(s.tenants)
	t.add(suspendedPart, "tenants suspended at once", fmt.Sprintf(">= %d", want), s.seen.tenants() >= want, "%d, in %d of %d places", s.seen.tenants(), len(s.seen.places), s.planned)
	partitions := make([]int, 0, len(s.seen.cursors))
	for _, n := range s.seen.cursors {
		partitions = append(partitions, n)
	}
	slices.Sort(partitions)
	least := min(cursorsAtLeast, s.planned/max(1, t.n.o.Partitions))
	t.add(suspendedPart, "cursors in a partition", fmt.Sprintf("some >= %d", least), s.seen.most() >= least, "%v", partitions)
	t.add(suspendedPart, "largest metadata, bytes", fmt.Sprintf("<= %d", metadataLimit), t.metadata > 0 && t.metadata <= metadataLimit, "%d then, %d in the run", s.seen.longest, t.metadata)
	left := t.n.watch.waiting(s.tenants)
	t.add(suspendedPart, "events of theirs lost", "0", left == 0, "%d not delivered", left)
	t.meanwhile(suspendedPart, "healthy tenants meanwhile", window{s.from, s.to}, false)
}

func (t *rows) bad() {
	b := &t.n.bad
	gate := "no 5xx, no hang"
	shown := b.faults[:min(len(b.faults), faultsInAProblem)]
	t.add(badPart, fmt.Sprintf("%d variants and %d cases of the list", t.n.o.Variants, b.list), gate, len(b.faults) == 0, "answers %s; %d faults %s", b.summary(), len(b.faults), strings.Join(shown, "; "))
	t.add(badPart, "the ingress", "alive and ready", b.alive, "%v", b.alive)
	t.add(badPart, "peak memory, from the warm-up on", fmt.Sprintf("<= %d MiB more", memoryGrowth>>20), b.warm > 0 && b.after > 0 && b.after-b.warm <= memoryGrowth,
		"%d MiB at the start, %d warm, %d at the end", b.started>>20, b.warm>>20, b.after>>20)
	t.add(badPart, "events accepted among them", "", true, "%d, each with its outcome if the checker found nothing", b.accepted)
}
