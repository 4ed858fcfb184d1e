package main

import (
	"strconv"
	"strings"
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

// parseWhen reads the time of a flag; "" is the zero time.
func parseWhen(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d <= 0 {
		return now.Add(d), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, usagef("--%s %q: want a time as 2026-11-01T12:00:00Z, or how long ago, as -24h", flag, text)
	}
	return at, nil
}

// printable is hostile text for a terminal: what is not to be seen is escaped.
func printable(s string) string {
	q := strconv.QuoteToGraphic(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
