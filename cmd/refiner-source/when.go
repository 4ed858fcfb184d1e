package main

import (
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/audit"
)

// rangeFlags are --from and --to.
type rangeFlags struct{ from, to string }

func addRangeFlags(cmd *cobra.Command, of string) *rangeFlags {
	f := &rangeFlags{}
	cmd.Flags().StringVar(&f.from, "from", "", of+" from then on: a time as RFC 3339, or how long ago, as -24h")
	cmd.Flags().StringVar(&f.to, "to", "", of+" before then: a time as RFC 3339, or how long ago, as -1h")
	return f
}

// resolve returns the range as of now.
func (f *rangeFlags) resolve(now time.Time) (r audit.Range, err error) {
	if r.From, err = parseWhen("from", f.from, now); err != nil {
		return r, err
	}
	if r.To, err = parseWhen("to", f.to, now); err != nil {
		return r, err
	}
	if !r.From.IsZero() && !r.To.IsZero() && !r.From.Before(r.To) {
		return r, usagef("--from %s is not before --to %s", f.from, f.to)
	}
	return r, nil
}
