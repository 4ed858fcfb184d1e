package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/term"

	"refinersource/internal/app"
	"refinersource/internal/queue"
	"refinersource/internal/replay"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// replayFlags are those of a replay.
type replayFlags struct {
	kafka   *kafkaFlags
	log     *logFlags
	tenants string
	group   string

	only                 []string
	from, to, user       string
	partition            int
	fromOffset, toOffset int64

	dryRun, latest, yes bool
	id, label, rules    string
	rate                int

	diff diffFlags
}

func newReplay() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Send a range of the log again",
		Long: "Send a range of the log again, by the rules of today.\n\n" +
			"It says first what the range holds, and asks. The message ids are those of the first delivery,\n" +
			"so that a receiver which knows them takes nothing twice; --new-ids makes others. Who has an event\n" +
			"in the range is followed beyond it, up to now, so that nobody is left with old answers.\n\n" +
			"--latest fills a new destination without the history: of each user and account it sends the latest\n" +
			"value of each trait over the range, and after that what the users have answered since.\n\n" +
			"A replay has an id. Started again with --id alone it goes on where it was; started on several\n" +
			"machines they share it. Live traffic goes first: a tenant is sent at most half of its rate limit,\n" +
			"or --rate, and nothing where the live group is behind.",
		Example: "  refiner-source replay --brokers kafka:9092 --tenants tenants.yaml --tenant acme --from -24h --dry-run\n" +
			"  refiner-source replay --brokers kafka:9092 --tenants tenants.yaml --tenant acme --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z\n" +
			"  refiner-source replay --brokers kafka:9092 --tenants tenants.yaml --tenant acme --latest --new-ids new-crm\n" +
			"  refiner-source replay --brokers kafka:9092 --tenants tenants.yaml --id night-of-the-8th\n" +
			"  refiner-source replay status --brokers kafka:9092",
		Args: cobra.NoArgs,
	}
	f := &replayFlags{kafka: addKafkaFlags(cmd), log: addLogFlags(cmd)}
	flags := cmd.Flags()
	flags.StringVar(&f.tenants, "tenants", "", "tenants file (YAML)")
	flags.StringVar(&f.group, "group", app.DefaultGroup, "consumer group of the live workers")
	flags.StringSliceVar(&f.only, "tenant", nil, "only events of this tenant; may be given more than once")
	flags.StringVar(&f.from, "from", "", "only events from this time on: RFC 3339, or -24h for a day ago")
	flags.StringVar(&f.to, "to", "", "only events before this time")
	flags.StringVar(&f.user, "user", "", "only events of the user with this id")
	flags.IntVar(&f.partition, "partition", -1, "only events of this partition")
	flags.Int64Var(&f.fromOffset, "from-offset", 0, "with --partition: from this offset on")
	flags.Int64Var(&f.toOffset, "to-offset", 0, "with --partition: before this offset; 0 is the end")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print the calls as JSON lines, and send nothing")
	flags.BoolVar(&f.latest, "latest", false, "fold the range: one identify for each user and one group for each user and account, with the latest value of each trait")
	flags.StringVar(&f.rules, "rules", "", "with --dry-run or --diff: a tenants file that is not in force yet")
	flags.StringVar(&f.id, "id", "", "the replay's id; with nothing else: go on with that replay")
	flags.StringVar(&f.label, "new-ids", "", "make other message ids with this label, for receivers that must take the calls as new")
	flags.IntVar(&f.rate, "rate", 0, "calls a second to a tenant; 0 is half of its rate limit")
	flags.BoolVar(&f.yes, "yes", false, "do not ask")
	f.diff.add(cmd)
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error { return f.run(cmd) })
	cmd.AddCommand(newReplayStatus())
	return cmd
}

// span is the range that the flags name.
func (f *replayFlags) span(cmd *cobra.Command, now time.Time) (r replay.Range, err error) {
	for _, id := range f.only {
		r.Tenants = append(r.Tenants, tenant.ID(id))
	}
	r.User = f.user
	if r.From, err = parseWhen("from", f.from, now); err != nil {
		return r, err
	}
	if r.To, err = parseWhen("to", f.to, now); err != nil {
		return r, err
	}
	if r.Offsets = f.partition >= 0; r.Offsets {
		r.Partition, r.FromOffset, r.ToOffset = f.partition, queue.Offset(f.fromOffset), queue.Offset(f.toOffset)
	} else if cmd.Flags().Changed("from-offset") || cmd.Flags().Changed("to-offset") {
		return r, usagef("--from-offset and --to-offset need --partition: offsets are those of one partition")
	}
	if err := r.Validate(); err != nil {
		return r, usageError{err}
	}
	return r, nil
}

func (f *replayFlags) run(cmd *cobra.Command) error {
	if f.diff.on {
		return f.runDiff(cmd)
	}
	if !f.dryRun && f.rules != "" {
		return usagef("--rules is for --dry-run and --diff: nothing is sent by a tenants file that is not in force; once it is, --tenants has it")
	}
	if f.tenants == "" && f.rules == "" {
		return usagef("--tenants is missing; give the tenants file")
	}
	r, err := f.span(cmd, time.Now())
	if err != nil {
		return err
	}
	logger, err := f.log.logger()
	if err != nil {
		return err
	}
	log, topics, err := f.kafka.open(logger)
	if err != nil {
		return err
	}
	defer log.Close()
	if f.dryRun {
		return f.show(cmd, log, topics, r)
	}
	file, err := tenant.OpenFile(f.tenants, os.LookupEnv)
	if err != nil {
		return usageError{err}
	}
	plan, err := f.plan(cmd, log, topics, r, file.Current())
	if err != nil || plan.ID == "" {
		return err
	}
	go func() { _ = file.Watch(cmd.Context(), func(*tenant.Registry, error) {}) }()
	return f.send(cmd, log, topics, plan, file, logger)
}

// show prints the calls of the range, and sends nothing.
func (f *replayFlags) show(cmd *cobra.Command, log *queue.Log, topics queue.Topics, r replay.Range) error {
	path := f.rules
	if path == "" {
		path = f.tenants
	}
	tenants, err := tenant.LoadRules(path)
	if err != nil {
		return usageError{err}
	}
	if tenants, err = labelled(tenants, f.label); err != nil {
		return err
	}
	out := bufio.NewWriterSize(cmd.OutOrStdout(), 1<<20)
	scan, gaps := f.scan(cmd, log, topics, r, tenants)
	spans, err := r.Spans(cmd.Context(), log, topics.Events())
	if err != nil {
		return err
	}
	if f.latest {
		if err := printLatest(cmd, scan, spans, out); err != nil {
			return err
		}
	} else {
		lines := replay.NewLines(out)
		if err := scan.Run(cmd.Context(), spans, func(int) replay.Visitor { return lines.Partition() }); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write calls: %w", err)
	}
	return gaps()
}

// labelled are the tenants with the label in their message ids.
func labelled(tenants *tenant.Registry, label string) (*tenant.Registry, error) {
	if label == "" {
		return tenants, nil
	}
	var all []tenant.Tenant
	for t := range tenants.All() {
		changed := *t
		changed.Rules.IDLabel = label
		all = append(all, changed)
	}
	return tenant.NewRegistry(all...)
}

// scan is a scan of the range, and what tells of the gaps that it met.
func (f *replayFlags) scan(cmd *cobra.Command, log *queue.Log, topics queue.Topics, r replay.Range, tenants *tenant.Registry) (*replay.Scan, func() error) {
	gaps := make(chan *queue.GapError, 1024)
	s := &replay.Scan{
		Log: log, Topic: topics.Events(), Range: r, Tenants: tenants,
		OnGap: func(g *queue.GapError) {
			select {
			case gaps <- g:
			default:
			}
		},
	}
	return s, func() error {
		close(gaps)
		lost := false
		for g := range gaps {
			lost = true
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "the log no longer has %v\n", g)
		}
		if lost {
			return errReported
		}
		return nil
	}
}

// plan finds the plan that goes on, or makes a new one when that is wanted; one
// without an id if not.
func (f *replayFlags) plan(cmd *cobra.Command, log *queue.Log, topics queue.Topics, r replay.Range, tenants *tenant.Registry) (replay.Plan, error) {
	ctx := cmd.Context()
	ranged := false
	for _, name := range []string{"tenant", "from", "to", "user", "partition", "latest", "new-ids", "rate"} {
		ranged = ranged || cmd.Flags().Changed(name)
	}
	if f.id != "" && !ranged {
		p, err := replay.Find(ctx, log, topics, f.id)
		if errors.Is(err, replay.ErrNoPlan) {
			return p, usageError{fmt.Errorf("%w; name a range to begin one, or see `replay status`", err)}
		}
		return p, err
	}
	for _, id := range r.Tenants {
		if _, ok := tenants.Get(id); !ok {
			return replay.Plan{}, usagef("--tenant %q: the tenants file has no tenant of this id", id)
		}
	}
	spans, err := r.Spans(ctx, log, topics.Events())
	if err != nil {
		return replay.Plan{}, err
	}
	now := time.Now().UTC()
	p := replay.Plan{
		Version: 1, ID: f.id, Created: now, Tenants: r.Tenants, User: r.User, Spans: spans, Latest: f.latest,
		Label: f.label, Rate: f.rate, Live: f.group,
	}
	if p.ID == "" {
		p.ID = "r" + strings.ToLower(now.Format("20060102-150405"))
	}
	if err := p.Validate(); err != nil {
		return replay.Plan{}, usageError{err}
	}
	if ok, err := f.confirm(cmd, log, topics, r, tenants, spans); err != nil || !ok {
		return replay.Plan{}, err
	}
	if err := replay.Save(ctx, log, topics, &p); errors.Is(err, replay.ErrExists) {
		return replay.Plan{}, usageError{fmt.Errorf("%w; give another --id, or that alone to go on with it", err)}
	} else if err != nil {
		return replay.Plan{}, err
	}
	return p, nil
}

// confirm tells what the range holds, and asks whether to send it.
func (f *replayFlags) confirm(cmd *cobra.Command, log *queue.Log, topics queue.Topics, r replay.Range, tenants *tenant.Registry, spans []replay.Span) (bool, error) {
	scan, gaps := f.scan(cmd, log, topics, r, tenants)
	summary := replay.NewSummary()
	places := (&replay.Plan{Spans: spans}).Events()
	if f.latest {
		places *= latestPasses
	}
	read := showReading(cmd.ErrOrStderr(), scan, places)
	if err := scan.Run(cmd.Context(), spans, func(int) replay.Visitor { return summary.Partition() }); err != nil {
		return false, err
	}
	if f.latest {
		if err := countLatest(cmd, scan, spans, summary); err != nil {
			return false, err
		}
	}
	read()
	if err := gaps(); err != nil && !errors.Is(err, errReported) {
		return false, err
	}
	all := summary.Tenants()
	total := replay.Total(all)
	if total.Calls == 0 {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "nothing in the range makes a call; see --from, --to, --tenant and --user")
		return false, errReported
	}
	took := summary.Duration(func(id tenant.ID) int {
		t, ok := tenants.Get(id)
		switch {
		case f.rate > 0:
			return f.rate
		case !ok:
			return 0
		default:
			return (t.RateLimit + 1) / 2
		}
	})
	if err := preview(cmd.ErrOrStderr(), all, total, took); err != nil {
		return false, err
	}
	if f.yes {
		return true, nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return false, usagef("nobody can be asked here: give --yes to send it, or --dry-run to see it")
	}
	_, _ = fmt.Fprint(cmd.ErrOrStderr(), "Send it? [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	return slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer))), nil
}

// preview prints what a range holds.
func preview(out io.Writer, all []replay.Counts, total replay.Counts, took time.Duration) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "TENANT\tEVENTS\tUSERS\tCALLS\tIGNORED\tNO CALLS (FAULTS)\tFIRST\tLAST")
	const most = 20
	for i, c := range append(all[:min(len(all), most):min(len(all), most)], total) {
		name := printable(string(c.Tenant))
		if i == min(len(all), most) {
			name = fmt.Sprintf("all %d", len(all))
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", name, c.Events, c.Users, c.Calls, ignored(c.Ignored), c.Faults,
			c.First.UTC().Format(time.RFC3339), c.Last.UTC().Format(time.RFC3339))
	}
	_, _ = fmt.Fprintf(w, "\nat the rate limits it takes at least %v, and longer where live traffic goes first\n", took.Round(time.Second))
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the preview: %w", err)
	}
	return nil
}

func ignored(by map[survey.Ignored]int) (n int) {
	for _, m := range by {
		n += m
	}
	return n
}

// send replays the plan until it is over, or a signal.
func (f *replayFlags) send(cmd *cobra.Command, log *queue.Log, topics queue.Topics, p replay.Plan, file *tenant.File, logger *zap.Logger) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, func() {
		stop() // a second signal ends it at once
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "finish what is under way; a second signal does not wait for it, and is safe")
	})()
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "replay %s: %d places of the log; to go on with it: --id %s\n", p.ID, p.Events(), p.ID)
	watching, end := context.WithCancel(ctx)
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		progress(watching, cmd.ErrOrStderr(), log, topics, &p)
	}()
	err := app.Replay(ctx, app.ReplayOptions{Log: log, Topics: topics, Plan: p, Tenants: file.Current, Logger: logger})
	end()
	<-shown
	if err != nil {
		return err
	}
	after, err := p.Progress(context.WithoutCancel(ctx), log, topics)
	if err != nil {
		return err
	}
	if !after.Over {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "replay %s: %d of %d, not over; to go on with it: --id %s\n", p.ID, after.Done, after.All, p.ID)
		return errReported
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "replay %s is over\n", p.ID)
	sayWhatIsLeft(cmd.ErrOrStderr(), &p)
	return nil
}
