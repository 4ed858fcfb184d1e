// Command bench measures refiner-source, and beside it what the same machine can
// do: see README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// errBroken is of a benchmark in which a run broke the promise.
var errBroken = errors.New("a run broke the promise or did not end well; its figures do not count")

// usageError is of flags that cannot be meant.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func main() { os.Exit(run()) }

// run returns 0 if every run kept the promise, 1 if one did not or could not be
// made, and 2 for wrong usage.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "bench",
		Short:         "Measure refiner-source",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newWorker(), newMemory(), newIngress(), newScaling())
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}
