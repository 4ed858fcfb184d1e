package chaos

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"refinersource/internal/checker"
)

// Commands that start another with less than it is used to. A shell's limit holds
// for both kinds of limit, so that a program cannot raise it again.
var (
	fewFiles     = []string{"sh", "-c", `ulimit -n 32 && exec "$@"`, "sh"} // a dozen are always open
	fullDevice   = []string{"sh", "-c", `exec "$@" 2>/dev/full`, "sh"}
	littleMemory = []string{"env", "GOMEMLIMIT=40MiB"}
)

// starve gives a worker, all workers or the ingress less of something than they
// need, from one start in order to the next. Who ends in order repeats nothing.
func (j *injector) starve(ctx context.Context, in Injection, m *member, f *checker.Fault) error {
	f.Target, f.Effects = workerName(m.index), []checker.Effect{checker.Restart}
	switch {
	case in.Fault == "F41":
		f.Target = "all workers"
		return j.starveOfMemory(ctx, in)
	case in.Mode == "ingress":
		f.Target, f.Effects = "ingress", []checker.Effect{checker.Harmless}
		if err := j.replaceIngress(fewFiles...); err != nil {
			return err
		}
		pause(ctx, in.For)
		return j.replaceIngress()
	}
	within := fullDevice
	if in.Fault == "F43" {
		within = fewFiles
	}
	if err := j.replace(ctx, m, within...); err != nil {
		return err
	}
	pause(ctx, in.For)
	return j.replace(ctx, m)
}

// starveOfMemory ends all workers, so that events gather, and lets them go on with
// little memory.
func (j *injector) starveOfMemory(ctx context.Context, in Injection) error {
	errs := make([]error, len(j.workers))
	var ending sync.WaitGroup
	for i, m := range j.workers {
		ending.Go(func() { errs[i] = j.terminate(m) })
	}
	ending.Wait()
	pause(ctx, in.For/3)
	for _, m := range j.workers {
		errs = append(errs, j.startWorker(m, littleMemory...))
	}
	pause(ctx, in.For)
	for _, m := range j.workers {
		errs = append(errs, j.replace(ctx, m))
	}
	return errors.Join(errs...)
}

// replaceIngress ends the ingress as a roll-out does and starts it again, as the
// argument of a command if one is given.
func (j *injector) replaceIngress(within ...string) error {
	_, err := j.endInOrder(j.front())
	return errors.Join(err, j.startIngress(within...))
}

// spin keeps all processors busy: two processes for each that do nothing else.
func (j *injector) spin(ctx context.Context, in Injection) error {
	var all []*Process
	defer func() {
		for _, p := range all {
			p.kill()
		}
	}()
	for i := range max(4, 2*runtime.NumCPU()) {
		p, err := j.procs.start(fmt.Sprintf("spin-%d", i+1), "sh", "-c", "while :; do :; done")
		if err != nil {
			return err
		}
		all = append(all, p)
	}
	pause(ctx, in.For)
	return nil
}
