package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
)

// fronts are the runs of bench ingress.
type fronts []front

func (all fronts) spread(system string, connections int, of func(*front) float64) spread {
	var values []float64
	for i := range all {
		if r := &all[i]; r.System == system && r.Connections == connections && !r.failed() {
			values = append(values, of(r))
		}
	}
	return spreadOf(values)
}

// efficiency is how many requests the ingress answers per second of processor
// time over how many the bare server does, run by run.
func (all fronts) efficiency(connections int) spread {
	var ratios []float64
	for i := range all {
		for j := range all {
			a, b := &all[i], &all[j]
			if a.System == "ingress" && b.System == "bare" && a.Run == b.Run && a.Connections == connections && b.Connections == connections &&
				!a.failed() && !b.failed() && a.CPU > 0 {
				ratios = append(ratios, b.CPU/a.CPU)
			}
		}
	}
	return spreadOf(ratios)
}

func (f *ingressFlags) gates(all fronts) []gate {
	var gates []gate
	for _, connections := range f.Connections {
		if len(f.Brokers) > 0 { // the embedded one acknowledges what real ones have to replicate
			p99 := all.spread("half", connections, func(r *front) float64 { return r.P99 })
			gates = append(gates, atMost(fmt.Sprintf("ingress at %d connections and half its peak: p99 ms", connections), p99, 25, 1))
		}
		gates = append(gates, atLeast(fmt.Sprintf("ingress / bare at %d connections: requests per CPU second", connections), all.efficiency(connections), 0.7, 2))
	}
	return measured(gates...)
}

func (f *ingressFlags) write(out io.Writer, kind string, all fronts) error {
	m := thisMachine()
	gates := f.gates(all)
	if f.output == "json" {
		r := report{Machine: m, Broker: kind, What: f, Gates: gates, Runs: all}
		return r.json(out)
	}
	fmt.Fprintf(out, "Events of about 1 kB, one a request, %v; %s; %s, %s, %d CPUs shared by all\n", f.Duration, kind, m.Go, m.OS, m.CPUs)
	fmt.Fprintf(out, "Median of %d runs (lowest–highest). CPU and memory are of the server's process alone.\n\n", f.Runs)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "connections\tserver\trequests/s\tCPU µs/request\tp50 ms\tp99 ms\tp99.9 ms\tpeak RSS MB\t202 and in the log")
	for _, connections := range f.Connections {
		for _, system := range []string{"ingress", "half", "bare"} {
			fmt.Fprintf(t, "%d\t%s\t", connections, system)
			for _, column := range []struct {
				of     func(*front) float64
				digits int
			}{
				{func(r *front) float64 { return r.Rate }, 0},
				{func(r *front) float64 { return r.CPU }, 1},
				{func(r *front) float64 { return r.P50 }, 1},
				{func(r *front) float64 { return r.P99 }, 1},
				{func(r *front) float64 { return r.P999 }, 1},
				{func(r *front) float64 { return float64(r.PeakRSS) / 1e6 }, 0},
			} {
				fmt.Fprintf(t, "%s\t", all.spread(system, connections, column.of).format(column.digits))
			}
			fmt.Fprintln(t, all.verdict(system, connections))
		}
	}
	return errors.Join(t.Flush(), writeGates(out, gates))
}

// verdict says whether every answer was honest.
func (all fronts) verdict(system string, connections int) string {
	if system == "bare" {
		return "–"
	}
	var refused int64
	broken, failed := 0, false
	for i := range all {
		if r := &all[i]; r.System == system && r.Connections == connections && r.failed() {
			failed, refused, broken = true, refused+r.Refused, broken+r.Broken
		}
	}
	if !failed {
		return "all"
	}
	return fmt.Sprintf("FAILED: %d not accepted, %d not in the log", refused, broken)
}
