package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"refinersource/internal/app"
	"refinersource/internal/attribution"
	"refinersource/internal/broker"
	"refinersource/internal/console"
	"refinersource/internal/queue"
	"refinersource/internal/sample"
	"refinersource/internal/tenant"
)

type devFlags struct {
	log           *logFlags
	listen, admin string
	data, tenants string
	samples       int
	receipts      *bool
}

func newDev() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything in one process, with a broker of its own",
		Long: `Run everything in one process: a broker that keeps its data, ingress, worker and
live page. Without --tenants there is one tenant, demo, whose calls are captured
instead of sent. Every call is printed on stdout, one JSON object a line.`,
		Example: "  refiner-source dev --sample 20",
		Args:    cobra.NoArgs,
	}
	f := &devFlags{log: addLogFlags(cmd)}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:8080", "address for senders")
	flags.StringVar(&f.admin, "admin-listen", "127.0.0.1:8081", "address of health, metrics and the live page")
	flags.StringVar(&f.data, "data", ".refiner-source", "directory of the broker's data; it survives a restart")
	flags.StringVar(&f.tenants, "tenants", "", "tenants file (YAML); calls are then sent to the tenants' endpoints")
	flags.IntVar(&f.samples, "sample", 0, "submit so many generated surveys at the start")
	f.receipts = addReceiptsFlag(cmd)
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		if f.samples < 0 {
			return usagef("--sample is %d; give 0 or more", f.samples)
		}
		return f.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
	})
	return cmd
}

func (f *devFlags) run(ctx context.Context, stdout, stderr io.Writer) error {
	log, err := f.log.logger()
	if err != nil {
		return err
	}
	calls := &callPrinter{w: stdout}
	a, err := app.New(app.Options{
		Ingress:     &app.IngressOptions{Listen: f.listen, AllowNoTokens: true},
		Worker:      &app.WorkerOptions{OnCall: calls.print, NoReceipts: !*f.receipts, Anew: true},
		Embedded:    &broker.Options{DataDir: filepath.Join(f.data, "broker")},
		Topics:      queue.Topics{Prefix: queue.DefaultTopicPrefix},
		TenantsFile: f.tenants,
		Env:         os.LookupEnv,
		AdminListen: f.admin,
		Console:     console.Options{Role: "dev", Version: version, TryIt: f.tryIt()},
		Logger:      log,
	})
	if err != nil {
		return usageError{err}
	}
	switch err := a.Start(ctx); {
	case err == nil:
	case ctx.Err() != nil:
		return nil //nolint:nilerr // it was ended while it started
	default:
		return configured(err)
	}
	_, _ = fmt.Fprintf(stderr, "Live page:    http://%s/\n", a.AdminAddr())
	target, found := newTarget(a.PublicAddr().String(), a.Tenants().All())
	if found {
		_, _ = fmt.Fprintf(stderr, "Your survey:  %s\n", target.curl())
	}
	_, _ = fmt.Fprintf(stderr, "Ctrl-C ends it; the data stays in %s.\n\n", f.data)
	switch {
	case f.samples == 0:
	case !found:
		err = usagef("--sample %d: every tenant of %s wants signed requests; give one of them tokens", f.samples, f.tenants)
	default:
		err = target.submit(ctx, f.samples)
	}
	if err != nil && ctx.Err() == nil {
		return errors.Join(err, a.Stop())
	}
	return a.Wait(ctx)
}

// target is where dev's own surveys go: the first tenant who does not want them
// signed.
type target struct {
	url   string
	token tenant.Secret
}

func newTarget(listen string, tenants iter.Seq[*tenant.Tenant]) (to target, found bool) {
	for t := range tenants {
		if len(t.Tokens) > 0 || !t.HasCredentials() {
			return newTargetOf(listen, t), true
		}
	}
	return target{}, false
}

func newTargetOf(listen string, t *tenant.Tenant) target {
	to := target{url: "http://" + listen + "/v1/webhooks/refiner/" + string(t.ID)}
	if len(t.Tokens) > 0 {
		to.token = t.Tokens[0]
	}
	return to
}

// curl is a command that sends a survey as Refiner does. It shows no token.
func (t target) curl() string {
	auth := ""
	if !t.token.IsZero() {
		auth = ` -H "Authorization: Bearer $TOKEN"`
	}
	return "curl -sS" + auth + " -H 'Content-Type: application/json' " + t.url + ` -d '` + exampleEvent + `'`
}

const exampleEvent = `{"remote_id":"user-17","email":"ann@example.com",` +
	`"account":{"remote_id":"acc-9","attributes":{"industry":"accounting"}},` +
	`"response":{"uuid":"my-first-response","completed_at":"2026-10-12T02:05:55.000000Z","data":{"what_is_your_job_role":"CEO"}}}`

// submit sends n generated surveys over HTTP, one after another, as a sender would.
func (t target) submit(ctx context.Context, n int) error {
	now := time.Now()
	surveys := sample.New(sample.Options{Seed: uint64(now.UnixNano()), Start: now.Add(-time.Duration(n+1) * time.Second)})
	for range n {
		if err := t.post(ctx, surveys.Next().Body); err != nil {
			return fmt.Errorf("submit a sample: %w", err)
		}
	}
	return nil
}

func (t target) post(ctx context.Context, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if !t.token.IsZero() {
		r.Header.Set("Authorization", "Bearer "+t.token.Reveal())
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusAccepted {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		return fmt.Errorf("the ingress answered %s: %s", answer.Status, text)
	}
	return nil
}

// callPrinter prints calls as JSON lines. It is safe for concurrent use.
type callPrinter struct {
	mu   sync.Mutex
	w    io.Writer
	line []byte
}

func (p *callPrinter) print(_ tenant.ID, c *attribution.Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line = append(c.AppendJSON(p.line[:0]), '\n')
	_, _ = p.w.Write(p.line)
}

// tryIt is the command that the live page shows while there is nothing to see.
func (f *devFlags) tryIt() string {
	if f.tenants != "" {
		return ""
	}
	return newTargetOf(f.listen, &tenant.Tenant{ID: app.DemoTenant}).curl()
}
