package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/simulation"
)

// seedsPerProcess is how many seeds a process runs, one after another.
const seedsPerProcess = 20

// simulateFlags are the flags of simulate.
type simulateFlags struct {
	seed     uint64
	runs     int
	mode     string
	window   int
	only     []int
	parallel int
	patience time.Duration
	output   string
	process  bool
}

func newSimulate() *cobra.Command {
	f := &simulateFlags{}
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Run the whole system in virtual time under random faults, and check its promise",
		Long: `Runs the ingress, workers, an embedded broker and receivers in virtual time, with
faults that the seed decides: receivers that refuse, are slow, flap or die, a
broker that errs, workers that join, leave, crash and freeze, a log that is
trimmed. What everybody saw is held against the promise: nothing lost, nothing
overtaken, each tenant by itself.

In mode safety all faults are mended in the end, and every event must have its
outcome. In mode liveness some tenants stay broken for ever, and the others must
be done in bounded time.

It needs no Kafka and no network, and leaves no files. A seed that fails is
printed with what it violates, the fewest faults that still fail, and the command
that runs it again. A seed decides everything but the interleaving of goroutines:
run one that fails several times before you call it unreproducible.`,
		Example: `  refiner-source simulate --runs 500
  refiner-source simulate --runs 100 --mode liveness --output json
  refiner-source simulate --seed 123 --runs 1 --only 3,7`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.Uint64Var(&f.seed, "seed", 0, "first seed")
	flags.IntVar(&f.runs, "runs", 100, "how many seeds from it on")
	flags.StringVar(&f.mode, "mode", string(simulation.Safety), "safety or liveness")
	flags.IntVar(&f.window, "window", 0, "events that a partition holds in memory; 0 is what the seed says")
	flags.IntSliceVar(&f.only, "only", nil, "have these faults of the schedule alone, by their numbers")
	flags.IntVar(&f.parallel, "parallel", runtime.NumCPU(), "how many runs at once")
	flags.DurationVar(&f.patience, "patience", 2*time.Minute, "how long a run may take on the wall clock; one that takes longer fails")
	flags.StringVar(&f.output, "output", "table", "table or json")
	flags.BoolVar(&f.process, "in-process", false, "run the seeds in this process and report each as a line of JSON")
	_ = flags.MarkHidden("in-process") // the flag is there
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		if err := f.validate(); err != nil {
			return err
		}
		if f.process {
			return runBubbles(f, cmd.OutOrStdout())
		}
		return f.run(cmd.Context(), cmd.OutOrStdout())
	})
	return cmd
}

func (f *simulateFlags) validate() error {
	switch {
	case !slices.Contains(simulation.Modes(), simulation.Mode(f.mode)):
		return usagef("--mode %q: want safety or liveness", f.mode)
	case f.runs < 1:
		return usagef("--runs %d: want at least 1", f.runs)
	case f.window < 0:
		return usagef("--window %d: want a positive number, or 0", f.window)
	case f.parallel < 1:
		return usagef("--parallel %d: want at least 1", f.parallel)
	case f.patience <= 0:
		return usagef("--patience %v: want a positive time", f.patience)
	case f.output != "table" && f.output != "json":
		return usagef("--output %q: want table or json", f.output)
	}
	return nil
}

// failedRun is a seed with violations.
type failedRun struct {
	Seed       uint64   `json:"seed"`
	Violations []string `json:"violations"`
	Schedule   []string `json:"schedule,omitempty"`
	Command    string   `json:"command"`
}

// simulated is what all runs came to.
type simulated struct {
	Runs       int         `json:"runs"`
	Events     int         `json:"events"`
	Calls      int         `json:"calls"`
	Requests   int         `json:"requests"`
	Repeats    int         `json:"repeats"`
	Faults     int         `json:"faults"`
	Letters    int         `json:"letters"`
	Virtual    float64     `json:"virtual_seconds"`
	Real       float64     `json:"real_seconds"`
	Violations int         `json:"violations"`
	Failed     []failedRun `json:"failed"`
	virtual    time.Duration
}

// run runs the seeds in processes of their own, so that a run that panics or
// hangs is one failure and not the end.
func (f *simulateFlags) run(ctx context.Context, out io.Writer) error {
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	var mu sync.Mutex
	sum := simulated{Failed: []failedRun{}}
	from := time.Now()
	chunks := make(chan []uint64)
	var running sync.WaitGroup
	for range f.parallel {
		running.Go(func() {
			for seeds := range chunks {
				for len(seeds) > 0 && ctx.Err() == nil {
					done := f.process1(ctx, executable, seeds, func(l simulateLine) {
						mu.Lock()
						defer mu.Unlock()
						sum.add(f, l)
					})
					seeds = seeds[done:]
				}
			}
		})
	}
	for at := 0; at < f.runs; at += seedsPerProcess {
		seeds := make([]uint64, min(seedsPerProcess, f.runs-at))
		for i := range seeds {
			seeds[i] = f.seed + uint64(at+i)
		}
		select {
		case chunks <- seeds:
		case <-ctx.Done():
		}
	}
	close(chunks)
	running.Wait()
	sum.Real = time.Since(from).Seconds()
	slices.SortFunc(sum.Failed, func(a, b failedRun) int { return int(min(1, max(-1, int64(a.Seed)-int64(b.Seed)))) })
	if err := sum.print(out, f.output); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("ended after %d of %d runs: %w", sum.Runs, f.runs, ctx.Err())
	}
	if len(sum.Failed) > 0 {
		return errReported
	}
	return nil
}

// simulateLine is what a process says of a seed. A line with Shrunk follows that
// of a run that failed.
type simulateLine struct {
	Report *simulation.Report `json:"report,omitempty"`
	Shrunk *simulation.Report `json:"shrunk,omitempty"`
	Only   []int              `json:"only,omitzero"` // empty is none, nil all
}

// process1 runs seeds in one process and returns how many of them have ended one
// way or the other.
func (f *simulateFlags) process1(ctx context.Context, executable string, seeds []uint64, tell func(simulateLine)) (done int) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := []string{
		"simulate", "--in-process", "--seed", strconv.FormatUint(seeds[0], 10), "--runs", strconv.Itoa(len(seeds)), "--mode", f.mode,
		"--window", strconv.Itoa(f.window),
	}
	if f.only != nil {
		args = append(args, "--only", list(f.only))
	}
	cmd := exec.CommandContext(ctx, executable, args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1") // the fewer interleavings, the better a seed reproduces
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	other := &limited{to: &said, left: 64 << 10}
	cmd.Stderr = other
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	fail := func(what string) {
		r := simulation.Report{Seed: seeds[done], Mode: simulation.Mode(f.mode), Violations: []string{what}}
		tell(simulateLine{Report: &r})
		done++
	}
	if err != nil {
		fail("the process of the run did not start: " + err.Error())
		return done
	}
	hung := make(chan struct{})
	patience := time.AfterFunc(f.patience, func() { close(hung); cancel() })
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		patience.Reset(f.patience)
		var l simulateLine
		if json.Unmarshal(lines.Bytes(), &l) != nil || l.Report == nil && l.Shrunk == nil {
			_, _ = fmt.Fprintln(other, lines.Text()) // what package testing says
			continue
		}
		if l.Report != nil {
			done++
		}
		tell(l)
	}
	patience.Stop()
	err = cmd.Wait()
	if done == len(seeds) || ctx.Err() != nil && !isClosed(hung) {
		return done
	}
	switch {
	case isClosed(hung):
		fail(fmt.Sprintf("the run had not ended after %v on the wall clock", f.patience))
	default:
		fail(fmt.Sprintf("the run ended its process (%v): %s", err, firstLines(said.String(), 12)))
	}
	return done
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func firstLines(text string, n int) string {
	lines := strings.SplitN(text, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "\n")
}

func list(numbers []int) string {
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ",")
}

// limited drops what is over a bound. It is safe for concurrent use.
type limited struct {
	mu   sync.Mutex
	to   io.Writer
	left int
}

// Write implements io.Writer.
func (l *limited) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	part := b[:min(len(b), l.left)]
	l.left -= len(part)
	if _, err := l.to.Write(part); err != nil {
		return 0, err
	}
	return len(b), nil
}

// add counts a run, and keeps it if it failed.
func (s *simulated) add(f *simulateFlags, l simulateLine) {
	if l.Shrunk != nil {
		for i := range s.Failed {
			if s.Failed[i].Seed == l.Shrunk.Seed {
				s.Failed[i].Schedule = l.Shrunk.Schedule
				s.Failed[i].Command = f.command(l.Shrunk.Seed, l.Only)
			}
		}
		return
	}
	r := l.Report
	s.Runs++
	s.Events += r.Events
	s.Calls += r.Calls
	s.Requests += r.Requests
	s.Repeats += r.Repeats
	s.Faults += r.Faults
	s.Letters += r.Letters
	s.Violations += len(r.Violations)
	s.virtual += r.Virtual
	s.Virtual = s.virtual.Seconds()
	if len(r.Violations) > 0 {
		s.Failed = append(s.Failed, failedRun{r.Seed, r.Violations, r.Schedule, f.command(r.Seed, f.only)})
	}
}

// command runs a seed again. only is nil for all of its faults.
func (f *simulateFlags) command(seed uint64, only []int) string {
	text := fmt.Sprintf("refiner-source simulate --seed %d --runs 1 --mode %s", seed, f.mode)
	if f.window > 0 {
		text += fmt.Sprintf(" --window %d", f.window)
	}
	switch {
	case only == nil:
	case len(only) == 0:
		text += " --only 0" // none: their numbers begin with 1
	default:
		text += " --only " + list(only)
	}
	return text
}

func (s *simulated) print(out io.Writer, output string) error {
	if output == "json" {
		return json.NewEncoder(out).Encode(s)
	}
	var errs []error
	say := func(format string, args ...any) {
		_, err := fmt.Fprintf(out, format, args...)
		errs = append(errs, err)
	}
	for _, r := range s.Failed {
		say("seed %d: %d violations: %s\n", r.Seed, len(r.Violations), r.Command)
		for _, v := range r.Violations[:min(10, len(r.Violations))] {
			say("  %s\n", strings.ReplaceAll(v, "\n", "\n    "))
		}
		for _, line := range r.Schedule {
			say("    %s\n", line)
		}
	}
	say("%d runs, %d failed: %d events, %d calls in %d requests, %d repeats, %d dead letters, %d faults, %d violations; %v of virtual time in %.1f s\n",
		s.Runs, len(s.Failed), s.Events, s.Calls, s.Requests, s.Repeats, s.Letters, s.Faults, s.Violations, s.virtual.Round(time.Second), s.Real)
	return errors.Join(errs...)
}
