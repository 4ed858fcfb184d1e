package main

import (
	"bufio"
	"context"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"refinersource/internal/queue"
	"refinersource/internal/refiner"
	"refinersource/internal/tenant"
)

func newImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "import",
		Short:   "Put events from before into the log",
		Example: "  refiner-source import refiner --tenant acme --since 2026-01-01 --dry-run --tenants tenants.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Help()
			return usagef("name where from: import refiner")
		},
	}
	cmd.AddCommand(newImportRefiner())
	return cmd
}

// importFlags are those of import refiner.
type importFlags struct {
	kafka       *kafkaFlags
	tenants     string
	tenant      string
	since       string
	until       string
	key         string
	baseURL     string
	rate        float64
	pageLength  int
	patience    time.Duration
	maxDayBytes int
	state       string
	dryRun      bool
	output      string
}

func newImportRefiner() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "refiner",
		Short: "Put a tenant's responses into the log, from Refiner's REST API",
		Long: "Put a tenant's responses into the log, from Refiner's REST API, as if they had come by webhook.\n\n" +
			"Days are read in order, and the responses of a day are sorted by when Refiner received them, so that what a\n" +
			"user answered last comes last. What comes behind an answer that is in the log already is delivered after it,\n" +
			"though: import before webhooks are switched on, or --until the day on which they were, for users who have not\n" +
			"answered the same question since.\n\n" +
			"With --state an import that was ended goes on where it was, and one that was done brings what is new. A response\n" +
			"that comes twice has the same message ids. It fails if a response would be refused by the webhook's route, and\n" +
			"goes on with the others.",
		Example: "  refiner-source import refiner --tenant acme --since 2026-01-01 --tenants tenants.yaml \\\n" +
			"    --api-key file:/run/secrets/refiner --state acme.import --brokers localhost:9092\n" +
			"  refiner-source import refiner --tenant acme --since 2026-01-01 --tenants tenants.yaml --api-key '${KEY}' --dry-run |\n" +
			"    refiner-source map --tenants tenants.yaml --tenant acme",
		Args: cobra.NoArgs,
	}
	f := &importFlags{kafka: addKafkaFlags(cmd)}
	flags := cmd.Flags()
	flags.StringVar(&f.tenants, "tenants", "", "tenants file (YAML), for the tenant's rules")
	flags.StringVar(&f.tenant, "tenant", "", "the tenant's id")
	flags.StringVar(&f.since, "since", "", "first day, as 2026-01-31, as the project counts its days")
	flags.StringVar(&f.until, "until", "", "last day, as 2026-01-31; default all there is")
	flags.StringVar(&f.key, "api-key", "", "Refiner's API key: ${ENV} or file:/path; a bare key is seen by other users of the machine")
	flags.StringVar(&f.baseURL, "base-url", refiner.DefaultBaseURL, "address of the API")
	flags.Float64Var(&f.rate, "rate", refiner.DefaultRate, "requests a second at most")
	flags.IntVar(&f.pageLength, "page-length", refiner.DefaultPageLength, "responses a request")
	flags.DurationVar(&f.patience, "patience", refiner.DefaultPatience, "how long a request is tried again for")
	flags.IntVar(&f.maxDayBytes, "max-day-bytes", refiner.DefaultMaxDayBytes, "memory for the responses of one day")
	flags.StringVar(&f.state, "state", "", "file that says how far the import is")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print the events, one JSON object a line, instead of publishing them")
	flags.StringVar(&f.output, "output", "table", "form of the summary: table or json")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error { return f.run(cmd) })
	return cmd
}

func (f *importFlags) run(cmd *cobra.Command) error {
	i, err := f.plan()
	if err != nil {
		return err
	}
	client, err := refiner.NewClient(refiner.ClientOptions{
		BaseURL: f.baseURL, Key: tenant.NewSecret(f.key), Rate: f.rate, PageLength: f.pageLength, Patience: f.patience,
		OnRetry: func(err error, pause time.Duration) {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%v; again in %v\n", err, pause.Round(100*time.Millisecond))
		},
	})
	if err != nil {
		return usageError{err}
	}
	defer client.Close()
	i.Client = client
	i.OnRejected = func(id string, err error) {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "response %s is left out: %v\n", printable(id), err)
	}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		i.OnProgress = func(p refiner.Progress) {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "\r\x1b[K%s  %d published", p.Day.Format(time.DateOnly), p.Published)
		}
	}
	if f.dryRun {
		return f.print(cmd, i)
	}
	return f.publish(cmd, i)
}

// plan checks the flags and says what is to be imported.
func (f *importFlags) plan() (*refiner.Import, error) {
	switch {
	case f.output != "table" && f.output != "json":
		return nil, usagef("--output %q: want table or json", f.output)
	case f.tenants == "":
		return nil, usagef("--tenants is missing; give the tenants file")
	case f.tenant == "":
		return nil, usagef("--tenant is missing; name whose responses they are")
	case f.since == "":
		return nil, usagef("--since is missing; give the first day, as 2026-01-31")
	case f.key == "":
		return nil, usagef("--api-key or %s is missing; give Refiner's API key as ${ENV} or file:/path", envName("api-key"))
	case f.rate <= 0, f.pageLength <= 0, f.patience <= 0, f.maxDayBytes <= 0:
		return nil, usagef("--rate, --page-length, --patience and --max-day-bytes: want positive numbers")
	}
	i := &refiner.Import{MaxDayBytes: f.maxDayBytes, Until: time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, 2)}
	var err error
	if i.Since, err = parseDay("since", f.since); err != nil {
		return nil, err
	}
	if f.until != "" {
		last, err := parseDay("until", f.until)
		if err != nil {
			return nil, err
		}
		if day := last.AddDate(0, 0, 1); day.Before(i.Until) {
			i.Until = day
		}
	}
	if !i.Since.Before(i.Until) {
		return nil, usagef("--since %s: want a day that has begun, and that is not after --until", f.since)
	}
	if f.key, err = resolveSecret(f.key); err != nil {
		return nil, usagef("--api-key: %w", err)
	}
	if i.Tenant, err = loadTenant(f.tenants, f.tenant); err != nil {
		return nil, err
	}
	if i.State, err = f.stateFile().load(); err != nil {
		return nil, err
	}
	return i, nil
}

// loadTenant takes the tenant, without its secrets, from the file.
func loadTenant(file, id string) (*tenant.Tenant, error) {
	registry, err := tenant.LoadRules(file)
	if err != nil {
		return nil, usageError{err}
	}
	t, ok := registry.Get(tenant.ID(id))
	if !ok {
		return nil, usagef("--tenant %q: %s has no tenant of this id", id, file)
	}
	return t, nil
}

func parseDay(flag, text string) (time.Time, error) {
	day, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return day, usagef("--%s %q: want a day as 2026-01-31", flag, text)
	}
	return day, nil
}

var variable = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*\}`)

// resolveSecret returns what ${ENV} or file:/path stand for, as in the tenants file.
// Its errors show no value.
func resolveSecret(text string) (string, error) {
	var missing []string
	text = variable.ReplaceAllStringFunc(text, func(v string) string {
		value, ok := os.LookupEnv(v[2 : len(v)-1])
		if !ok {
			missing = append(missing, v)
		}
		return value
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("%s is not set: set it", strings.Join(missing, ", "))
	}
	path, ok := strings.CutPrefix(text, "file:")
	if !ok {
		return text, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return "", errors.New("the file cannot be opened: create it, and let this user read it")
	}
	defer func() { _ = file.Close() }() // only read from
	value, err := io.ReadAll(io.LimitReader(file, 64<<10))
	if err != nil {
		return "", errors.New("the file cannot be read: let this user read it")
	}
	return strings.TrimRight(string(value), "\r\n"), nil
}

// print prints the events, each on a line of its own.
func (f *importFlags) print(cmd *cobra.Command, i *refiner.Import) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	i.Print = func(raw []byte) error {
		line := jsontext.Value(raw).Clone()
		if err := line.Compact(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
			return fmt.Errorf("print event: %w", err)
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("print event: %w", err)
		}
		return out.Flush()
	}
	p, err := i.Run(cmd.Context())
	f.clearLine(cmd)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d events would be published, %d are left out.\n", p.Published, p.Rejected)
	return rejected(p)
}

func (f *importFlags) publish(cmd *cobra.Command, i *refiner.Import) error {
	log, topics, err := f.kafka.open(nil)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := reachable(cmd.Context(), log, topics.Events()); err != nil {
		return err
	}
	publisher := log.Publisher(topics.Events(), queue.PublisherOptions{})
	i.Publisher = patient{publisher}
	if f.state != "" {
		i.Save = f.stateFile().save
	}
	p, err := i.Run(cmd.Context())
	err = errors.Join(err, publisher.Close())
	f.clearLine(cmd)
	if err != nil {
		return fmt.Errorf("%w\n%d events are in the log. %s", err, p.Published, f.goOn(p))
	}
	if f.output == "json" {
		err = printJSON(cmd.OutOrStdout(), map[string]any{
			"tenant": f.tenant, "published": p.Published, "rejected": p.Rejected, "skipped": p.Skipped,
		})
	} else {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d events are in the log, %d were there by the state, %d are left out.\n", p.Published, p.Skipped, p.Rejected)
	}
	if err != nil {
		return err
	}
	return rejected(p)
}

func rejected(p refiner.Progress) error {
	if p.Rejected > 0 {
		return errReported
	}
	return nil
}

// goOn says how an import that was ended goes on.
func (f *importFlags) goOn(p refiner.Progress) string {
	switch {
	case f.state != "":
		return "Run the same command again: it goes on where it was."
	case p.Day.IsZero():
		return "Run the same command again."
	default:
		return fmt.Sprintf("Run it again with --since %s; with --state FILE it goes on by itself.", p.Day.Format(time.DateOnly))
	}
}

func (f *importFlags) clearLine(cmd *cobra.Command) {
	if term.IsTerminal(int(os.Stderr.Fd())) {
		_, _ = fmt.Fprint(cmd.ErrOrStderr(), "\r\x1b[K")
	}
}

// publishTimeout is how long the log may take for one event.
const publishTimeout = 30 * time.Second

// patient publishes with a time limit for each record.
type patient struct{ *queue.Publisher }

func (p patient) Publish(ctx context.Context, r queue.Record) (queue.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return p.Publisher.Publish(ctx, r)
}

// reachable fails soon where the log or its topic is not there.
func reachable(ctx context.Context, log *queue.Log, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	_, err := log.Bounds(ctx, topic)
	return err
}
