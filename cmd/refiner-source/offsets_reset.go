package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"refinersource/internal/app"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

// resetFlags are those of offsets reset.
type resetFlags struct {
	kafka      *kafkaFlags
	group      string
	tenants    string
	partitions []int

	toTime           string
	toOffset         int64
	toEarliest       bool
	toLatest         bool
	forgetUnreadable bool
	execute          bool
	yes              bool
	output           string
}

func newOffsetsReset() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Move the group's commits, while no worker runs",
		Long: "Move the group's commits: back, so that events are sent again, or forward, so that they are skipped.\n" +
			"Without --execute it says what it would do. With it, it asks first, unless --yes.\n\n" +
			"Back, everything from there on is sent again in order, with the message ids of the first time. A cursor of a\n" +
			"tenant that waits is void if it lies there or behind; one that lies before stays, and from it on all of its\n" +
			"tenant's events are sent again. To send a part of the log again while workers run, see `replay`.\n\n" +
			"Forward, all cursors stay: what a tenant waits with is delivered all the same. All other events up to there are\n" +
			"skipped. Nobody delivers those any more, and audit names them.\n\n" +
			"Kafka itself refuses it while the group has members. When it was ended half-way, run it again.",
		Example: "  refiner-source offsets reset --to-time 2026-11-01T12:00:00Z --brokers localhost:9092 --tenants tenants.yaml\n" +
			"  refiner-source offsets reset --to-offset 4200 --partition 3 --execute --brokers localhost:9092\n" +
			"  refiner-source offsets reset --to-latest --execute --yes --brokers localhost:9092",
		Args: cobra.NoArgs,
	}
	f := &resetFlags{kafka: addKafkaFlags(cmd)}
	flags := cmd.Flags()
	flags.StringVar(&f.group, "group", app.DefaultGroup, "consumer group")
	flags.StringVar(&f.tenants, "tenants", "", "tenants file (YAML), for the names of tenants; without it they are shown by their tags")
	flags.IntSliceVar(&f.partitions, "partition", nil, "only this partition; may be given more than once")
	flags.StringVar(&f.toTime, "to-time", "", "to the first event from this time on: RFC 3339, or -24h for a day ago")
	flags.Int64Var(&f.toOffset, "to-offset", 0, "to this offset, of the one --partition")
	flags.BoolVar(&f.toEarliest, "to-earliest", false, "to the oldest event that the log has")
	flags.BoolVar(&f.toLatest, "to-latest", false, "to the end of the log")
	flags.BoolVar(&f.forgetUnreadable, "forget-unreadable", false, "also move commits that cannot be understood: who waits by them is not known, and forgotten")
	flags.BoolVar(&f.execute, "execute", false, "do it; without it nothing is changed")
	flags.BoolVar(&f.yes, "yes", false, "do not ask")
	flags.StringVar(&f.output, "output", "table", "table or json")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error { return f.run(cmd) })
	return cmd
}

// check finds what is wrong in how the command is called.
func (f *resetFlags) check(cmd *cobra.Command) (at time.Time, err error) {
	places := 0
	for _, given := range []bool{f.toTime != "", cmd.Flags().Changed("to-offset"), f.toEarliest, f.toLatest} {
		if given {
			places++
		}
	}
	switch {
	case f.output != "table" && f.output != "json":
		return at, usagef("--output %q: want table or json", f.output)
	case f.group == "":
		return at, usagef("--group is empty")
	case strings.Contains(f.group, ".replay."):
		return at, usagef("--group %q is that of a replay: go on with it, or begin another, by `replay`", f.group)
	case places != 1:
		return at, usagef("name one place to move to: --to-time, --to-offset, --to-earliest or --to-latest")
	case cmd.Flags().Changed("to-offset") && len(f.partitions) != 1:
		return at, usagef("--to-offset needs one --partition: offsets are those of one partition")
	}
	return parseWhen("to-time", f.toTime, time.Now())
}

func (f *resetFlags) run(cmd *cobra.Command) error {
	at, err := f.check(cmd)
	if err != nil {
		return err
	}
	names, err := tenantNames(f.tenants)
	if err != nil {
		return err
	}
	log, topics, err := f.kafka.open(nil)
	if err != nil {
		return err
	}
	defer log.Close()
	r := &reset{
		flags: f, cmd: cmd, at: at,
		view: groupView{log: log, group: f.group, topic: topics.Events(), names: names, now: time.Now()},
	}
	report, err := r.plan(cmd.Context())
	if err != nil {
		return err
	}
	if f.output == "table" {
		if err := report.table(cmd.OutOrStdout()); err != nil {
			return err
		}
	}
	refused := report.refused()
	if refused == nil && f.execute {
		refused = r.execute(cmd.Context(), report)
	}
	if f.output == "json" {
		return errors.Join(refused, printJSON(cmd.OutOrStdout(), report))
	}
	if refused != nil {
		return refused
	}
	return report.sum(cmd.OutOrStdout())
}

// resetReport is what offsets reset --output json prints.
type resetReport struct {
	Group      string           `json:"group"`
	Topic      string           `json:"topic"`
	Members    int              `json:"members"`    // of the group; where it has some nothing is moved
	Executed   bool             `json:"executed"`   // all of it
	SentAgain  int64            `json:"sent_again"` // events
	Skipped    int64            `json:"skipped"`    // events that are never delivered
	Partitions []resetPartition `json:"partitions"`
	Cursors    []resetCursor    `json:"cursors"`
}

type resetPartition struct {
	Partition int           `json:"partition"`
	Commit    *queue.Offset `json:"commit,omitzero"` // absent without a commit
	To        queue.Offset  `json:"to"`
	SentAgain int64         `json:"sent_again"`
	Skipped   int64         `json:"skipped"`
	Moved     bool          `json:"moved"` // it was done, or nothing was to be done
	Error     string        `json:"error,omitzero"`

	before queue.Committed
	after  queue.Commit
}

// What becomes of a cursor.
const (
	cursorKept    = "kept"
	cursorForgets = "forgets" // it stays where it is; what was done behind it is sent again
	cursorVoid    = "void"    // what it holds is read again with the rest
)

// resetCursor is what becomes of a tenant that waits in a partition.
type resetCursor struct {
	Tenant    tenant.ID    `json:"tenant,omitzero"` // absent if the tenants file does not have it
	Tag       string       `json:"tag"`
	Key       string       `json:"key,omitzero"` // of the one record key that waits, where it is not all of the tenant's
	Partition int          `json:"partition"`
	Cursor    queue.Offset `json:"cursor"`
	Becomes   string       `json:"becomes"`
	SentAgain int64        `json:"sent_again"` // events of its tenant, in this partition
}

// reset is a run of the command.
type reset struct {
	flags *resetFlags
	cmd   *cobra.Command
	at    time.Time
	view  groupView
}

// plan says what would be done. It changes nothing.
func (r *reset) plan(ctx context.Context) (*resetReport, error) {
	committed, err := r.view.committed(ctx)
	if err != nil {
		return nil, err
	}
	members, err := r.view.log.Members(ctx, r.flags.group)
	if err != nil {
		return nil, err
	}
	bounds, err := r.view.log.Bounds(ctx, r.view.topic)
	if err != nil {
		return nil, err
	}
	places, err := r.places(ctx, bounds)
	if err != nil {
		return nil, err
	}
	report := &resetReport{
		Group: r.flags.group, Topic: r.view.topic, Members: members,
		Partitions: make([]resetPartition, len(places)), Cursors: []resetCursor{},
	}
	cursors := make([][]resetCursor, len(places))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(eventReaders)
	for i, place := range places {
		g.Go(func() (err error) {
			c, found := committed[place.Partition]
			report.Partitions[i], cursors[i], err = r.partition(ctx, place, c, found, bounds)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range report.Partitions {
		report.SentAgain += report.Partitions[i].SentAgain
		report.Skipped += report.Partitions[i].Skipped
		report.Cursors = append(report.Cursors, cursors[i]...)
	}
	return report, nil
}

// places are where the partitions go, by partition.
func (r *reset) places(ctx context.Context, bounds map[int]queue.Bounds) ([]queue.Position, error) {
	f := r.flags
	var byTime map[int]queue.Offset
	if f.toTime != "" {
		var err error
		if byTime, err = r.view.log.OffsetsAt(ctx, r.view.topic, r.at); err != nil {
			return nil, err
		}
	}
	wanted := slices.Compact(slices.Sorted(slices.Values(f.partitions)))
	if len(wanted) == 0 {
		for p := range len(bounds) {
			wanted = append(wanted, p)
		}
	}
	places := make([]queue.Position, len(wanted))
	for i, p := range wanted {
		b, found := bounds[p]
		if !found {
			return nil, usagef("--partition %d: %s has the partitions 0 to %d", p, r.view.topic, len(bounds)-1)
		}
		places[i] = queue.Position{Topic: r.view.topic, Partition: p}
		switch to := &places[i].Offset; {
		case f.toEarliest:
			*to = b.Start
		case f.toLatest:
			*to = b.End
		case f.toTime != "":
			*to = min(max(byTime[p], b.Start), b.End)
		default:
			*to = queue.Offset(f.toOffset)
			if *to < b.Start || *to > b.End {
				return nil, usagef("--to-offset %d: partition %d goes from %d to %d", f.toOffset, p, b.Start, b.End)
			}
		}
	}
	return places, nil
}

// partition says what would be done to a partition, and to those who wait in it.
func (r *reset) partition(ctx context.Context, place queue.Position, c queue.Committed, found bool, bounds map[int]queue.Bounds) (resetPartition, []resetCursor, error) {
	p := resetPartition{Partition: place.Partition, To: place.Offset}
	b := bounds[place.Partition]
	from := b.Start // where a worker begins without a commit
	now := lane.Metadata{Partitions: len(bounds), Owner: lane.Clean}
	if found {
		from, p.Commit, p.before = c.Offset, &c.Offset, c
		m, err := lane.Decode(c.Metadata)
		switch {
		case err == nil && c.Metadata != "":
			now = m
		case err != nil && !r.flags.forgetUnreadable:
			p.Error = fmt.Sprintf("the commit cannot be understood, so who waits is not known: %v", err)
			return p, nil, nil
		case err != nil:
			now.Owner = lane.Cut // whose requests may be under way
		}
	}
	moved := now.Reset(lane.Offset(from), lane.Offset(p.To))
	text, _, err := moved.Encode()
	if err != nil {
		return p, nil, fmt.Errorf("encode the commit of partition %d: %w", p.Partition, err)
	}
	p.after = queue.Commit{Partition: p.Partition, Offset: p.To, Metadata: text}
	p.Moved = found && p.before == queue.Committed{Offset: p.To, Metadata: text}
	again, err := r.count(ctx, &p, from, b, &now, &moved)
	if err != nil {
		return p, nil, err
	}
	cursors := make([]resetCursor, 0, len(now.Cursors))
	for i := range now.Cursors {
		if c := &now.Cursors[i]; c.Key == (lane.Tag{}) || queue.Offset(c.From) < from { // otherwise nothing of the key waits
			cursors = append(cursors, r.cursor(c, &moved, p.Partition, again[c.Tag]))
		}
	}
	return p, cursors, nil
}

func (r *reset) cursor(c *lane.Cursor, moved *lane.Metadata, partition int, again int64) resetCursor {
	report := resetCursor{
		Tenant: r.view.names[c.Tag], Tag: c.Tag.String(), Partition: partition, Cursor: queue.Offset(c.From), Becomes: cursorVoid, SentAgain: again,
	}
	if c.Key != (lane.Tag{}) {
		report.Key = c.Key.String()
	}
	for i := range moved.Cursors {
		if m := &moved.Cursors[i]; m.Tag == c.Tag && m.Key == c.Key && m.From == c.From {
			if report.Becomes = cursorKept; len(m.Runs) < len(c.Runs) {
				report.Becomes = cursorForgets
			}
		}
	}
	return report
}

// count counts the events that would be sent again, or skipped, and those that would
// be sent again of each tenant. Only where some wait it has to read them.
func (r *reset) count(ctx context.Context, p *resetPartition, from queue.Offset, b queue.Bounds, now, moved *lane.Metadata) (again map[lane.Tag]int64, err error) {
	from = min(max(from, b.Start), b.End)
	if len(now.Cursors) == 0 {
		p.SentAgain, p.Skipped = int64(max(0, from-p.To)), int64(max(0, p.To-from))
		return nil, nil
	}
	again = make(map[lane.Tag]int64)
	before, after := now.Ledger(lane.Offset(from)), moved.Ledger(lane.Offset(p.To))
	first := min(p.To, queue.Offset(before.Start()))
	reader := r.view.log.Reader(r.view.topic, p.Partition, max(first, b.Start), queue.ReaderOptions{})
	for reader.Offset() < max(from, p.To) {
		batch, err := reader.Next(ctx)
		if errors.Is(err, queue.ErrGap) {
			reader.SkipGap()
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("count the events of partition %d: %w", p.Partition, err)
		}
		for i := range batch.Records {
			e := &batch.Records[i]
			if e.Offset >= max(from, p.To) {
				break
			}
			name := strings.ReplaceAll(e.Header(queue.HeaderTenant), "\x00", "\ufffd") // as the worker names its lane
			waited, waits := before.Waits(name, e.Key, lane.Offset(e.Offset)), after.Waits(name, e.Key, lane.Offset(e.Offset))
			switch {
			case waited && !waits:
				p.Skipped++
			case !waited && waits:
				p.SentAgain++
				again[lane.TagOf(name)]++
			}
		}
	}
	return again, nil
}

// refused is why the plan is not carried out as it is.
func (r *resetReport) refused() error {
	unreadable := 0
	for _, p := range r.Partitions {
		if p.Error != "" {
			unreadable++
		}
	}
	switch {
	case r.Members > 0:
		return fmt.Errorf("%w: %d of group %s; stop the workers first (one that was killed stays until its session is over, %v)",
			queue.ErrGroupActive, r.Members, r.Group, queue.DefaultSessionTimeout)
	case unreadable > 0:
		return fmt.Errorf("%d commits cannot be understood; a newer version may have made them. Leave them out by --partition, or give --forget-unreadable: "+
			"who waits by them is forgotten then, and is only sent what stands behind the new commit (--to-earliest: all that the log still has)", unreadable)
	default:
		return nil
	}
}

// execute moves the commits, if that is wanted and they are still those of the plan.
func (r *reset) execute(ctx context.Context, report *resetReport) error {
	var commits []queue.Commit
	for _, p := range report.Partitions {
		if !p.Moved {
			commits = append(commits, p.after)
		}
	}
	if len(commits) == 0 {
		report.Executed = true
		return nil
	}
	question := fmt.Sprintf("Move %d commits, send %d events again, and skip %d for good?", len(commits), report.SentAgain, report.Skipped)
	if !r.flags.yes {
		if r.flags.output == "json" {
			if err := report.table(r.cmd.ErrOrStderr()); err != nil {
				return err
			}
		}
		if ok, err := ask(r.cmd, question, fmt.Sprintf("move %d commits", len(commits))); err != nil {
			return err
		} else if !ok {
			return errors.New("nothing was moved")
		}
	}
	committed, err := r.view.committed(ctx)
	if err != nil {
		return err
	}
	for _, p := range report.Partitions {
		if c, found := committed[p.Partition]; c != p.before || found != (p.Commit != nil) {
			return fmt.Errorf("partition %d was committed since the plan was made: look at a new one", p.Partition)
		}
	}
	err = r.view.log.ResetCommits(ctx, r.flags.group, r.view.topic, commits)
	refused, partly := errors.AsType[*queue.CommitError](err)
	if err != nil && !partly {
		return fmt.Errorf("%w\nsome may be moved: see `offsets show`, and run it again", err)
	}
	moved := 0
	for i := range report.Partitions {
		p := &report.Partitions[i]
		if !p.Moved && (!partly || refused.Partitions[p.Partition] == nil) {
			p.Moved = true
			moved++
		}
	}
	switch {
	case !partly:
		report.Executed = true
		return nil
	case errors.Is(err, queue.ErrGroupActive):
		return fmt.Errorf("%w\n%d of %d commits are moved: stop the workers, and run it again", err, moved, len(commits))
	default:
		return fmt.Errorf("%w\n%d of %d commits are moved: run it again, it goes on with the others", err, moved, len(commits))
	}
}

// table prints the plan for people.
func (r *resetReport) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "PARTITION\tCOMMIT\tTO\tSENT AGAIN\tSKIPPED\tERROR")
	for _, p := range r.Partitions {
		commit, fault := "-", "-"
		if p.Commit != nil {
			commit = strconv.FormatInt(int64(*p.Commit), 10)
		}
		if p.Error != "" {
			fault = p.Error
		}
		_, _ = fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%d\t%s\n", p.Partition, commit, p.To, p.SentAgain, p.Skipped, fault)
	}
	_, _ = fmt.Fprintln(w)
	if len(r.Cursors) == 0 {
		_, _ = fmt.Fprintln(w, "No tenant waits.")
		return w.Flush()
	}
	_, _ = fmt.Fprintln(w, "TENANT\tPARTITION\tCURSOR\tBECOMES\tSENT AGAIN OF ITS TENANT")
	for i := range r.Cursors {
		c := &r.Cursors[i]
		name := string(c.Tenant)
		if name == "" {
			name = "tag " + c.Tag
		}
		if c.Key != "" {
			name += ", one user"
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%d\n", name, c.Partition, c.Cursor, c.Becomes, c.SentAgain)
	}
	return w.Flush()
}

// sum says it in a sentence.
func (r *resetReport) sum(out io.Writer) error {
	would, remedy := "would be ", "Add --execute to do it."
	if r.Executed {
		would, remedy = "are ", "It is done."
	}
	skipped := "none is skipped"
	if r.Skipped > 0 {
		skipped = fmt.Sprintf("%d %sskipped, and never delivered", r.Skipped, would)
	}
	_, err := fmt.Fprintf(out, "\n%d events %ssent again, %s. %s\n", r.SentAgain, would, skipped, remedy)
	return err
}
