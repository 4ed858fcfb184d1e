package main

import (
	"cmp"
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/app"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

func newOffsets() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "offsets",
		Short:   "Show how far the workers are and which tenants wait, or move the commits",
		Example: "  refiner-source offsets show --brokers localhost:9092 --tenants tenants.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Help()
			return usagef("name a command: offsets show or offsets reset")
		},
	}
	cmd.AddCommand(newOffsetsShow(), newOffsetsReset())
	return cmd
}

func newOffsetsShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the group's commits, its lag and the tenants that wait",
		Long: "Show the group's commits, its lag and the tenants that wait, from what Kafka holds.\n\n" +
			"A tenant that waits goes on at its cursor. The margin is how long the event there is still kept;\n" +
			"after that it is lost, unless the tenant recovers. It fails where a commit cannot be understood,\n" +
			"or does not lie within the log, or the event at a cursor is gone.",
		Example: "  refiner-source offsets show --brokers localhost:9092 --tenants tenants.yaml\n" +
			"  refiner-source offsets show --brokers localhost:9092 --output json",
		Args: cobra.NoArgs,
	}
	kafka := addKafkaFlags(cmd)
	group := cmd.Flags().String("group", app.DefaultGroup, "consumer group")
	tenants := cmd.Flags().String("tenants", "", "tenants file (YAML), for the names of tenants; without it they are shown by their tags")
	output := cmd.Flags().String("output", "table", "table or json")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		switch {
		case *output != "table" && *output != "json":
			return usagef("--output %q: want table or json", *output)
		case *group == "":
			return usagef("--group is empty")
		}
		names, err := tenantNames(*tenants)
		if err != nil {
			return err
		}
		log, topics, err := kafka.open(nil)
		if err != nil {
			return err
		}
		defer log.Close()
		g := groupView{log: log, group: *group, topic: topics.Events(), names: names, now: time.Now()}
		report, err := g.report(cmd.Context())
		if err != nil {
			return err
		}
		if err := report.print(cmd.OutOrStdout(), *output); err != nil {
			return err
		}
		if report.faulty() {
			return errReported
		}
		return nil
	})
	return cmd
}

// tenantNames are the tenants of the file, if there is one, and its installation, by their
// tags.
func tenantNames(file string) (map[lane.Tag]tenant.ID, error) {
	if file == "" {
		return nil, nil
	}
	r, err := tenant.Load(file, os.LookupEnv)
	if err != nil {
		return nil, usageError{err}
	}
	names := make(map[lane.Tag]tenant.ID, r.Len())
	for t := range r.All() {
		names[lane.TagOf(string(t.ID))] = t.ID
	}
	if name := r.Installation(); name != "" {
		names[lane.TagOf(name)] = tenant.ID(name)
	}
	return names, nil
}

// offsetsReport is what offsets show --output json prints.
type offsetsReport struct {
	Group string `json:"group"`
	Topic string `json:"topic"`
	// Installation is whose group it is, by the commits: its name if the tenants file has
	// it, else its tag; absent if it has no name.
	Installation string `json:"installation,omitzero"`
	// RetentionSeconds is how long events are kept; absent if for ever.
	RetentionSeconds *int64            `json:"retention_seconds,omitzero"`
	RetentionBytes   *int64            `json:"retention_bytes,omitzero"` // of a partition; absent if not bounded
	Partitions       []partitionReport `json:"partitions"`
	Suspended        []cursorReport    `json:"suspended"`
}

type partitionReport struct {
	Partition int           `json:"partition"`
	Commit    *queue.Offset `json:"commit,omitzero"` // absent without a commit
	Start     queue.Offset  `json:"start"`
	End       queue.Offset  `json:"end"`
	Lag       queue.Offset  `json:"lag"`
	Owner     string        `json:"owner,omitzero"` // working, clean or cut; absent if the worker did not commit
	Error     string        `json:"error,omitzero"`
}

// cursorReport is a tenant that waits in a partition.
type cursorReport struct {
	Tenant    tenant.ID    `json:"tenant,omitzero"` // absent if the tenants file does not have it
	Tag       string       `json:"tag"`
	Key       string       `json:"key,omitzero"` // of the one record key that waits, where it is not all of the tenant's
	Partition int          `json:"partition"`
	Cursor    queue.Offset `json:"cursor"`
	Since     time.Time    `json:"since,omitzero"` // absent if not known
	Cause     string       `json:"cause,omitzero"` // absent if not known
	// EventTime is that of the event at the cursor; absent, as what follows from it,
	// if that event is gone.
	EventTime  time.Time `json:"event_time,omitzero"`
	AgeSeconds *int64    `json:"event_age_seconds,omitzero"`
	// MarginSeconds is how long the event at the cursor is still kept; absent if for
	// ever.
	MarginSeconds *int64 `json:"retention_margin_seconds,omitzero"`
	Error         string `json:"error,omitzero"`
}

// groupView looks at a group from outside.
type groupView struct {
	log   *queue.Log
	group string
	topic string
	names map[lane.Tag]tenant.ID
	now   time.Time
}

// report asks Kafka for all of it.
func (g *groupView) report(ctx context.Context) (*offsetsReport, error) {
	retention, err := g.log.Retention(ctx, g.topic)
	if err != nil {
		return nil, err
	}
	committed, err := g.committed(ctx)
	if err != nil {
		return nil, err
	}
	bounds, err := g.log.Bounds(ctx, g.topic) // after the commits, so that they lie within
	if err != nil {
		return nil, err
	}
	r := &offsetsReport{Group: g.group, Topic: g.topic, Partitions: []partitionReport{}, Suspended: []cursorReport{}}
	if retention.Time >= 0 {
		r.RetentionSeconds = seconds(retention.Time)
	}
	if retention.Bytes >= 0 {
		r.RetentionBytes = &retention.Bytes
	}
	for partition := range len(bounds) {
		c, found := committed[partition]
		p, cursors := g.partition(partition, c, found, bounds[partition], len(bounds))
		if m, err := lane.Decode(c.Metadata); err == nil && m.Installation != (lane.Tag{}) {
			r.Installation = cmp.Or(string(g.names[m.Installation]), "tag "+m.Installation.String())
		}
		r.Partitions = append(r.Partitions, p)
		r.Suspended = append(r.Suspended, cursors...)
	}
	if err := g.readEvents(ctx, r.Suspended, retention); err != nil {
		return nil, err
	}
	slices.SortStableFunc(r.Suspended, func(a, b cursorReport) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Tag, b.Tag))
	})
	return r, nil
}

const (
	commitsPause   = 250 * time.Millisecond
	commitsTimeout = 10 * time.Second
)

// committed asks again for a while: the group's coordinator may be on its way, as
// in a new cluster or after the loss of a broker.
func (g *groupView) committed(ctx context.Context) (map[int]queue.Committed, error) {
	ctx, cancel := context.WithTimeout(ctx, commitsTimeout)
	defer cancel()
	again := time.NewTicker(commitsPause)
	defer again.Stop()
	for {
		c, err := g.log.Committed(ctx, g.group, g.topic)
		if !errors.Is(err, queue.ErrUnavailable) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-again.C:
		}
	}
}

// partition says what the commit says.
func (g *groupView) partition(n int, c queue.Committed, found bool, b queue.Bounds, partitions int) (partitionReport, []cursorReport) {
	p := partitionReport{Partition: n, Start: b.Start, End: b.End, Lag: b.End - b.Start}
	if !found {
		return p, nil
	}
	p.Commit, p.Lag = &c.Offset, max(0, b.End-c.Offset)
	m, err := lane.Decode(c.Metadata)
	switch {
	case err != nil:
		p.Error = err.Error()
		return p, nil
	case c.Offset < b.Start:
		p.Error = fmt.Sprintf("events %d to %d are gone from the log, and were not delivered", c.Offset, b.Start-1)
	case c.Offset > b.End:
		p.Error = fmt.Sprintf("the log ends before the commit, at %d", b.End)
	case m.Partitions > 0 && m.Partitions != partitions:
		p.Error = fmt.Sprintf("the topic had %d partitions when this was committed, and has %d", m.Partitions, partitions)
	}
	if c.Metadata != "" {
		p.Owner = m.Owner.String()
	}
	cursors := make([]cursorReport, 0, len(m.Cursors))
	for _, cursor := range m.Cursors {
		report := cursorReport{
			Tenant: g.names[cursor.Tag], Tag: cursor.Tag.String(), Partition: n,
			Cursor: queue.Offset(cursor.From), Since: cursor.Since, Cause: cursor.Cause.String(),
		}
		if cursor.Key != (lane.Tag{}) {
			if report.Cursor >= c.Offset {
				continue // nothing of the key waits
			}
			report.Key = cursor.Key.String()
		}
		switch from := report.Cursor; {
		case from < b.Start:
			report.Error = fmt.Sprintf("events from %d up to %d are gone from the log", from, b.Start-1)
		case from >= b.End:
			report.Error = fmt.Sprintf("the log ends before the cursor, at %d", b.End)
		}
		cursors = append(cursors, report)
	}
	return p, cursors
}

const (
	eventReaders = 8                // at the same time
	eventTimeout = 10 * time.Second // for one of them
)

// readEvents fills in what follows from the events at the cursors.
func (g *groupView) readEvents(ctx context.Context, cursors []cursorReport, retention queue.Retention) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan *cursorReport)
	var readers sync.WaitGroup
	for range min(eventReaders, len(cursors)) {
		readers.Go(func() {
			for c := range next {
				if err := g.readEvent(ctx, c, retention); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range cursors {
		if cursors[i].Error == "" {
			next <- &cursors[i]
		}
	}
	close(next)
	readers.Wait()
	return context.Cause(ctx)
}

func (g *groupView) readEvent(ctx context.Context, c *cursorReport, retention queue.Retention) error {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	r := g.log.Reader(g.topic, c.Partition, c.Cursor, queue.ReaderOptions{MaxBytes: 1}) // one batch comes all the same
	for {
		b, err := r.Next(ctx)
		if errors.Is(err, queue.ErrGap) || errors.Is(err, queue.ErrOffsetOutOfRange) { // since the bounds were asked for
			c.Error = err.Error()
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the event at the cursor: %w", err)
		}
		if len(b.Records) > 0 {
			age := g.now.Sub(b.Records[0].Time)
			c.EventTime, c.AgeSeconds = b.Records[0].Time.UTC(), seconds(age)
			if retention.Time >= 0 {
				c.MarginSeconds = seconds(retention.Time - age)
			}
			return nil
		}
	}
}

func seconds(d time.Duration) *int64 { return new(int64(d / time.Second)) }

// faulty tells whether something needs somebody to look after it.
func (r *offsetsReport) faulty() bool {
	return slices.ContainsFunc(r.Partitions, func(p partitionReport) bool { return p.Error != "" }) ||
		slices.ContainsFunc(r.Suspended, func(c cursorReport) bool { return c.Error != "" })
}

func (r *offsetsReport) print(out io.Writer, output string) error {
	if output == "json" {
		if err := json.MarshalWrite(out, r, jsontext.WithIndent("  ")); err != nil {
			return err
		}
		_, err := fmt.Fprintln(out)
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "PARTITION\tCOMMIT\tEND\tLAG\tOWNER\tERROR")
	for _, p := range r.Partitions {
		commit := "-"
		if p.Commit != nil {
			commit = strconv.FormatInt(int64(*p.Commit), 10)
		}
		_, _ = fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%s\t%s\n", p.Partition, commit, p.End, p.Lag, cmp.Or(p.Owner, "-"), cmp.Or(p.Error, "-"))
	}
	_, _ = fmt.Fprintln(w)
	if r.Installation != "" {
		_, _ = fmt.Fprintf(w, "The group is of installation %s.\n", r.Installation)
	}
	if len(r.Suspended) == 0 {
		_, _ = fmt.Fprintln(w, "No tenant waits.")
		return w.Flush()
	}
	_, _ = fmt.Fprintln(w, "TENANT\tPARTITION\tCURSOR\tSINCE\tWHY\tEVENT AGE\tMARGIN\tERROR")
	for i := range r.Suspended {
		c := &r.Suspended[i]
		since := "-"
		if !c.Since.IsZero() {
			since = c.Since.Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(string(c.Tenant), "tag "+c.Tag), c.Partition, c.Cursor,
			since, cmp.Or(c.Cause, "-"), span(c.AgeSeconds, "-"), c.margin(), cmp.Or(c.Error, "-"))
	}
	return w.Flush()
}

func (c *cursorReport) margin() string {
	if c.AgeSeconds != nil {
		return span(c.MarginSeconds, "for ever")
	}
	return "-"
}

// span is seconds for people.
func span(s *int64, none string) string {
	if s == nil {
		return none
	}
	return (time.Duration(*s) * time.Second).String()
}
