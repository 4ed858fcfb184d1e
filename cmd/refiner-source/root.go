package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit codes of every command.
const (
	exitDone   = 0
	exitFailed = 1 // the work failed or found a fault
	exitUsage  = 2 // wrong usage or configuration
)

// usageError is an error in how the command was called or configured.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// usagef makes a usageError.
func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errReported ends a command with exitFailed when all that is to be said has
// been printed.
var errReported = errors.New("reported")

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "refiner-source",
		Short:         "Completed Refiner surveys as Segment identify and group calls",
		SilenceUsage:  true,
		SilenceErrors: true,
		Example:       "  refiner-source dev --sample 20",
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Help()
			return usagef("name a command")
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(
		newDev(), newIngress(), newWorker(),
		newMap(), newTenants(), newTopics(), newOffsets(), newReplay(), newCapture(), newSimulate(), newTrace(), newAudit(), newDead(), newImport(), newVersion(),
	)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return bindEnv(cmd.Flags()) }
	return root
}

// execute runs the command line and returns the exit code.
func execute(ctx context.Context, root *cobra.Command, stderr io.Writer) int {
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if !errors.Is(err, errReported) {
		_, _ = fmt.Fprintln(stderr, "refiner-source:", err)
	}
	if _, ok := errors.AsType[usageError](err); ok || isCobraUsage(err) {
		return exitUsage
	}
	return exitFailed
}

// isCobraUsage tells cobra's own complaints about the command line, which have
// no type: they come before any command's RunE ran.
func isCobraUsage(err error) bool {
	_, ran := errors.AsType[ranError](err)
	return !ran && !errors.Is(err, errReported)
}

// ranError marks an error that a command's RunE returned.
type ranError struct{ error }

func (e ranError) Unwrap() error { return e.error }

// work wraps a command's function, so that its errors are told from cobra's.
func work(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := f(cmd, args); err != nil {
			return ranError{err}
		}
		return nil
	}
}

// envName is the variable of a flag: REFINER_SOURCE_ADMIN_LISTEN of --admin-listen.
func envName(flag string) string {
	return "REFINER_SOURCE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// bindEnv gives each flag that the command line did not set the value of its
// variable.
func bindEnv(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" {
			return
		}
		if v, ok := os.LookupEnv(envName(f.Name)); ok {
			if err := flags.Set(f.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", envName(f.Name), err))
			}
		}
	})
	if len(errs) > 0 {
		return usageError{errors.Join(errs...)}
	}
	return nil
}
