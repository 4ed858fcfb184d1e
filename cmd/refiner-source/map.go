package main

import (
	"bufio"
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/attribution"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// demoTenant is the tenant of whom there is no file.
const demoTenant = "demo"

func newMap() *cobra.Command {
	var tenantsFile, tenantID, source, received string
	cmd := &cobra.Command{
		Use:   "map [FILE…]",
		Short: "Show the Segment calls that events make, offline",
		Long: "Show the Segment calls that events make, one JSON object a line, in the order in which they\n" +
			"would be sent. Nothing is sent and no secret is needed.\n\n" +
			"A file has one event a line, or is one event; - or no file is standard input. Of an event that\n" +
			"makes no call the reason goes to standard error, as does what was left out or renamed. The exit\n" +
			"code is 1 if an event would become a dead letter.\n\n" +
			"The same event, rules and --received give the same bytes.",
		Example: "  refiner-source map webhook.json\n" +
			"  refiner-source map --tenants tenants.yaml --tenant acme --source survey-event events.ndjson",
	}
	cmd.Flags().StringVar(&tenantsFile, "tenants", "", "tenants file with the rules; without it the default rules apply")
	cmd.Flags().StringVar(&tenantID, "tenant", "", "the tenant's id; needed with --tenants, else "+demoTenant)
	cmd.Flags().StringVar(&source, "source", string(survey.RefinerWebhook), string(survey.RefinerWebhook)+" or "+string(survey.SurveyEvent))
	cmd.Flags().StringVar(&received, "received", "", "when the events were accepted, RFC 3339; default now")
	cmd.RunE = work(func(cmd *cobra.Command, files []string) error {
		// Nothing here needs an orderly end: a signal ends the process at once,
		// also while it waits for standard input.
		signal.Reset(os.Interrupt, syscall.SIGTERM)
		m := mapper{
			source:   survey.Source(source),
			tenant:   tenantID,
			received: time.Now(),
			stdout:   bufio.NewWriter(cmd.OutOrStdout()),
			stderr:   cmd.ErrOrStderr(),
		}
		if m.source != survey.RefinerWebhook && m.source != survey.SurveyEvent {
			return usagef("--source %q: want %s or %s", source, survey.RefinerWebhook, survey.SurveyEvent)
		}
		if received != "" {
			var err error
			if m.received, err = time.Parse(time.RFC3339, received); err != nil {
				return usagef("--received %q: want a time as 2026-10-12T02:06:00Z", received)
			}
		}
		if err := m.loadRules(tenantsFile); err != nil {
			return err
		}
		return m.run(cmd.InOrStdin(), files)
	})
	return cmd
}

// mapper maps events to calls.
type mapper struct {
	source      survey.Source
	tenant      string
	rules       attribution.Rules
	received    time.Time
	stdout      *bufio.Writer
	stderr      io.Writer
	deadLetters int // events that would become one
}

// loadRules takes the rules from the tenants file, the default ones without a
// file.
func (m *mapper) loadRules(file string) error {
	m.rules = attribution.DefaultRules()
	switch {
	case file == "" && m.tenant == "":
		m.tenant = demoTenant
	case file == "":
	case m.tenant == "":
		return usagef("--tenants needs --tenant: name the tenant whose rules apply")
	default:
		registry, err := tenant.LoadRules(file)
		if err != nil {
			return usageError{err}
		}
		t, ok := registry.Get(tenant.ID(m.tenant))
		if !ok {
			return usagef("--tenant %q: %s has no tenant of this id", m.tenant, file)
		}
		m.rules = t.Rules
	}
	return nil
}

// run maps the files in order, standard input where there are none.
func (m *mapper) run(stdin io.Reader, files []string) error {
	if len(files) == 0 {
		files = []string{"-"}
	}
	for _, file := range files {
		if err := m.file(stdin, file); err != nil {
			return err
		}
	}
	if err := m.stdout.Flush(); err != nil {
		return fmt.Errorf("write calls: %w", err)
	}
	if m.deadLetters > 0 {
		return errReported
	}
	return nil
}

func (m *mapper) file(stdin io.Reader, file string) error {
	name, in := "stdin", stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("open events: %w", err)
		}
		defer func() { _ = f.Close() }() // only read from
		name, in = file, f
	}
	return eachEvent(in, func(line int, raw []byte) error {
		return m.event(name+":"+strconv.Itoa(line), raw)
	})
}

// event maps one event and says where it stands when there is something to say.
func (m *mapper) event(where string, raw []byte) error {
	c, err := survey.Decode(m.source, raw)
	var res attribution.Result
	if err == nil {
		res, err = attribution.Attribute(c, &m.rules, m.tenant, m.received)
	}
	var said []string
	if fault, ok := errors.AsType[*survey.Fault](err); ok {
		m.deadLetters++
		said = append(said, "dead letter: "+fault.Error())
	}
	if res.Ignored != survey.NotIgnored {
		said = append(said, "ignored: "+string(res.Ignored))
	}
	for _, s := range append(said, notes(&res.Notes)...) {
		if _, err := fmt.Fprintf(m.stderr, "%s: event %q: %s\n", where, c.ID, s); err != nil {
			return fmt.Errorf("write reason: %w", err)
		}
	}
	for i := range res.Calls {
		if _, err := m.stdout.Write(append(res.Calls[i].AppendJSON(m.stdout.AvailableBuffer()), '\n')); err != nil {
			return fmt.Errorf("write calls: %w", err)
		}
	}
	return nil
}

// notes puts into words what was left out or renamed.
func notes(n *attribution.Notes) []string {
	var said []string
	if len(n.WithheldNoAccount) > 0 {
		names := make([]string, len(n.WithheldNoAccount))
		for i, name := range n.WithheldNoAccount {
			names[i] = string(name)
		}
		said = append(said, "withheld, since there is no account id: "+strings.Join(names, ", "))
	}
	if n.Unnamed > 0 {
		said = append(said, fmt.Sprintf("left out for having no name: %d", n.Unnamed))
	}
	if n.NameCollisions > 0 {
		said = append(said, fmt.Sprintf("numbered, since the name was taken: %d", n.NameCollisions))
	}
	if n.FutureTimestamp {
		said = append(said, "its time is in the future: the acceptance's is taken")
	}
	if n.UnreadableTime {
		said = append(said, "a time cannot be read: the next best is taken")
	}
	return said
}

// eachEvent calls f with each event and its line, from 1. The input has one event
// a line. It is one event itself if its first line is no JSON value and the whole
// is, or if its first line only opens an object. Blank lines do not count.
func eachEvent(r io.Reader, f func(line int, raw []byte) error) error {
	in := bufio.NewReader(r)
	first := true
	for line := 1; ; line++ {
		raw, err := in.ReadBytes('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("read events: %w", err)
		}
		end := err == io.EOF
		event := bytes.TrimSpace(raw)
		if first && len(event) > 0 && !isValue(event) {
			rest, err := io.ReadAll(in)
			if err != nil {
				return fmt.Errorf("read events: %w", err)
			}
			if whole := bytes.TrimSpace(slices.Concat(raw, rest)); isValue(whole) || string(event) == "{" {
				return f(line, whole)
			}
			in.Reset(bytes.NewReader(rest))
		}
		if len(event) > 0 {
			first = false
			if err := f(line, event); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// isValue reports whether a text is one JSON value.
func isValue(text []byte) bool {
	d := jsontext.NewDecoder(bytes.NewReader(text), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if err := d.SkipValue(); err != nil {
		return false
	}
	_, err := d.ReadToken()
	return errors.Is(err, io.EOF)
}
