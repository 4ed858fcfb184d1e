package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// spread is the median of the runs and how far they lie apart.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := sorted[len(sorted)/2]
	if len(sorted)%2 == 0 {
		middle = (middle + sorted[len(sorted)/2-1]) / 2
	}
	return spread{Median: middle, Min: sorted[0], Max: sorted[len(sorted)-1]}
}

// format shows a spread with so many digits behind the point.
func (s spread) format(digits int) string {
	switch {
	case s == spread{}:
		return "–"
	case s.Min == s.Max:
		return fmt.Sprintf("%.*f", digits, s.Median)
	default:
		return fmt.Sprintf("%.*f (%.*f–%.*f)", digits, s.Median, digits, s.Min, digits, s.Max)
	}
}

// machine is where it ran.
type machine struct {
	Go   string `json:"go"`
	OS   string `json:"os"`
	CPUs int    `json:"cpus"`
}

func thisMachine() machine {
	return machine{Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU()}
}

// figure is one measured quantity of a system.
type figure struct {
	name   string
	of     func(*result) float64
	digits int
}

// The figures of a run, as columns.
var (
	eventsPerSecond = figure{"events/s", func(r *result) float64 { return r.Rate }, 0}
	cpuPerEvent     = figure{"CPU µs/event", func(r *result) float64 { return r.CPU }, 1}
	peakMegabytes   = figure{"peak RSS MB", func(r *result) float64 { return float64(r.PeakRSS) / 1e6 }, 0}
	requestsMade    = figure{"requests", func(r *result) float64 { return float64(r.Requests) }, 0}
	latencyP50      = figure{"p50 ms", func(r *result) float64 { return r.P50 }, 1}
	latencyP99      = figure{"p99 ms", func(r *result) float64 { return r.P99 }, 1}
)

// results are those of all runs.
type results []result

// values are a figure's of a system at a delay, by run. Failed runs have none.
func (all results) values(system string, delay time.Duration, f figure) []float64 {
	var out []float64
	for i := range all {
		if r := &all[i]; r.System == system && r.Delay == delay && !r.failed() {
			if v := f.of(r); v != 0 {
				out = append(out, v)
			}
		}
	}
	return out
}

// ratio is one system's figure over another's, run by run.
func (all results) ratio(over, under string, overDelay, underDelay time.Duration, f figure) spread {
	var ratios []float64
	for i := range all {
		for j := range all {
			a, b := &all[i], &all[j]
			if a.Run == b.Run && a.System == over && b.System == under && a.Delay == overDelay && b.Delay == underDelay &&
				!a.failed() && !b.failed() && f.of(a) != 0 && f.of(b) != 0 {
				ratios = append(ratios, f.of(a)/f.of(b))
			}
		}
	}
	return spreadOf(ratios)
}

// systems are the systems in the order in which they first ran.
func (all results) systems() []string {
	var names []string
	for i := range all {
		if !slices.Contains(names, all[i].System) {
			names = append(names, all[i].System)
		}
	}
	return names
}

func (all results) delays() []time.Duration {
	var delays []time.Duration
	for i := range all {
		if !slices.Contains(delays, all[i].Delay) {
			delays = append(delays, all[i].Delay)
		}
	}
	slices.SortFunc(delays, cmp.Compare[time.Duration])
	return delays
}

// broken counts the runs that failed.
func (all results) broken() int {
	n := 0
	for i := range all {
		if all[i].failed() {
			n++
		}
	}
	return n
}

// table writes a line for each system and delay with the figures' spreads.
func (all results) table(w io.Writer, title string, figures ...figure) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\n%s\n", title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "receiver\tsystem\t")
	for _, f := range figures {
		fmt.Fprintf(t, "%s\t", f.name)
	}
	fmt.Fprintln(t, "order, loss, duplicates")
	for _, delay := range all.delays() {
		for _, system := range all.systems() {
			fmt.Fprintf(t, "%v\t%s\t", delay, system)
			for _, f := range figures {
				fmt.Fprintf(t, "%s\t", spreadOf(all.values(system, delay, f)).format(f.digits))
			}
			fmt.Fprintln(t, all.verdict(system, delay))
		}
	}
	return t.Flush()
}

// verdict says whether the runs of a system kept the promise.
func (all results) verdict(system string, delay time.Duration) string {
	var found violations
	var behind int64
	failure := ""
	for i := range all {
		if r := &all[i]; r.System == system && r.Delay == delay && r.failed() {
			found.Order += r.Found.Order
			found.Duplicates += r.Found.Duplicates
			found.Lost += r.Found.Lost
			found.Wrong += r.Found.Wrong
			behind += r.Behind
			failure = "FAILED"
		}
	}
	if failure == "" {
		return "kept"
	}
	return fmt.Sprintf("%s: %d out of order, %d twice, %d lost, %d wrong, %d not committed",
		failure, found.Order, found.Duplicates, found.Lost, found.Wrong, behind)
}

// gate is a bound that a figure is held to.
type gate struct {
	Name   string  `json:"name"`
	Got    spread  `json:"got"`
	AtMost float64 `json:"at_most,omitempty"`
	Least  float64 `json:"at_least,omitempty"`
	Met    bool    `json:"met"` // by the median
	digits int
}

func atMost(name string, got spread, bound float64, digits int) gate {
	return gate{Name: name, Got: got, AtMost: bound, Met: got.Median <= bound, digits: digits}
}

func atLeast(name string, got spread, bound float64, digits int) gate {
	return gate{Name: name, Got: got, Least: bound, Met: got.Median >= bound, digits: digits}
}

// writeGates writes the gates that were measured.
func writeGates(w io.Writer, gates []gate) error {
	if len(gates) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "gate\tbound\tgot\t")
	for _, g := range gates {
		bound, met := fmt.Sprintf("≤ %g", g.AtMost), "missed"
		if g.AtMost == 0 {
			bound = fmt.Sprintf("≥ %g", g.Least)
		}
		if g.Met {
			met = "met"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", g.Name, bound, g.Got.format(g.digits), met)
	}
	return t.Flush()
}

// measured drops the gates of what was not run.
func measured(gates ...gate) []gate {
	return slices.DeleteFunc(gates, func(g gate) bool { return g.Got == spread{} })
}

// report is what is written as JSON.
type report struct {
	Machine machine `json:"machine"`
	Broker  string  `json:"broker"`
	What    any     `json:"settings"`
	Gates   []gate  `json:"gates"`
	Runs    any     `json:"runs"`
}

func (r *report) json(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
