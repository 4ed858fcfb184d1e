package chaos

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"refinersource/internal/checker"
)

// bad is what came of the bad input.
type bad struct {
	mu       sync.Mutex
	statuses map[int]int // 0 is no answer
	accepted int         // events
	faults   []string    // answers that must not be

	list                 int   // cases of the list, besides the variants
	started, warm, after int64 // peaks of memory, in bytes
	alive                bool
}

func (b *bad) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, fmt.Sprintf(format, args...))
}

func (b *bad) count(status, accepted int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.statuses == nil {
		b.statuses = make(map[int]int)
	}
	b.statuses[status]++
	b.accepted += accepted
}

const (
	badPosters  = 8
	badPatience = 30 * time.Second // of a request, more than the ingress has
	warmRounds  = 12               // of each class, before memory is compared
)

// measureBad posts bad input to an ingress that was started anew.
func (n *numbers) measureBad(ctx context.Context) error {
	if n.live != nil {
		n.live.stop()
	}
	if _, err := n.front().terminate(drainPatience); err != nil {
		return err
	}
	if err := n.startIngress(); err != nil {
		return err
	}
	if err := n.awaitReady(ctx); err != nil {
		return err
	}
	process := n.front()
	pid := process.cmd.Process.Pid
	b := &n.bad
	for _, step := range []struct {
		peak *int64
		do   func()
	}{
		{&b.started, func() {}},
		{&b.warm, func() { n.postVariants(ctx, n.o.Variants, warmRounds*len(makers)) }},
		{&b.after, func() {
			var both sync.WaitGroup
			both.Go(func() { n.postList4g(ctx) })
			n.postVariants(ctx, 0, n.o.Variants)
			both.Wait()
		}},
	} {
		step.do()
		if b.alive = !process.ended(); !b.alive {
			b.fault("the ingress ended; see its log")
			return context.Cause(ctx)
		}
		var err error
		if *step.peak, err = peakMemory(pid); err != nil {
			n.injector.problem("%v", err)
		}
	}
	b.alive = n.front() == process && isReady(ctx, n.ingressAdmin)
	return context.Cause(ctx)
}

// postVariants posts the variants from one on, some at a time.
func (n *numbers) postVariants(ctx context.Context, from, count int) {
	client := &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: badPosters, DisableCompression: true},
		Timeout:       badPatience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	tenants := n.o.bad()
	var posting sync.WaitGroup
	for p := range badPosters {
		posting.Go(func() {
			for i := from + p; i < from+count && ctx.Err() == nil; i += badPosters {
				v := oneVariant(n.o.Seed, i)
				n.postVariant(ctx, client, i, &v, tenantName(tenants[p%len(tenants)]))
			}
		})
	}
	posting.Wait()
}

// mayCut are the classes to which the ingress may answer and close before all is
// sent, so that the answer may be lost.
var mayCut = []string{"large", "many-keys", "headers", "credentials", "routes", "nesting"}

func (n *numbers) postVariant(ctx context.Context, client *http.Client, i int, v *variant, tenant string) {
	q, err := v.request(ctx, n.load.url, tenant)
	if err != nil {
		n.bad.fault("variant %d (%s) cannot be sent: %v", i, v.class, err)
		return
	}
	at := time.Now().UnixNano()
	status, got, err := answerTo(client, q)
	events := v.events
	if events == nil {
		events = [][]byte{v.body}
	}
	n.noteAnswer(fmt.Sprintf("variant %d (%s)", i, v.class), at, status, got, tenant, v.source(), events)
	switch {
	case ctx.Err() != nil:
	case status >= 500:
		n.bad.fault("variant %d (%s): %d", i, v.class, status)
	case err != nil && !slices.Contains(mayCut, v.class):
		n.bad.fault("variant %d (%s): %d, %v", i, v.class, status, err)
	}
}

// noteAnswer writes into the history what the ingress has promised.
func (n *numbers) noteAnswer(what string, at int64, status int, got receipt, tenant, source string, events [][]byte) {
	n.bad.count(status, len(got.Events))
	if status != http.StatusAccepted {
		return
	}
	rejected := make(map[int]bool)
	for _, r := range got.Rejected {
		rejected[r.Index] = true
	}
	k := 0
	for i, event := range events {
		if rejected[i] {
			continue
		}
		if k < len(got.Events) {
			sum := sha256.Sum256(event)
			n.sent.write(&checker.Sent{
				At: at, Done: time.Now().UnixNano(), Tenant: tenant, Source: source, EventID: what, SHA256: sum[:],
				Status: status, Partition: got.Events[k].Partition, Offset: got.Events[k].Offset,
			})
		}
		k++
	}
	if k != len(got.Events) {
		n.bad.fault("%s: %d events, %d of them rejected, but %d accepted", what, len(events), len(rejected), len(got.Events))
	}
}

func (v *variant) source() string {
	if v.route == canonicalRoute {
		return canonicalSource
	}
	return webhookSource
}

// request is the request of a variant.
func (v *variant) request(ctx context.Context, to, tenant string) (*http.Request, error) {
	var body io.Reader = bytes.NewReader(v.body)
	switch {
	case v.slow:
		body = &slowReader{ctx: ctx, left: v.body}
	case v.chunked:
		body = struct{ io.Reader }{body}
	}
	q, err := http.NewRequestWithContext(ctx, v.method, to+v.route+tenant, body)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	if v.path != "" {
		q.URL = &url.URL{Scheme: "http", Host: q.URL.Host, Opaque: "//" + q.URL.Host + v.path}
	}
	q.Header.Set("Authorization", "Bearer token-of-"+tenant)
	maps.Copy(q.Header, v.header)
	return q, nil
}

// slowReader gives what it has in ten pieces, with pauses.
type slowReader struct {
	ctx  context.Context //nolint:containedctx // a Reader has no other way to be ended
	left []byte
	size int
}

// Read gives the next piece.
func (s *slowReader) Read(p []byte) (int, error) {
	if len(s.left) == 0 {
		return 0, io.EOF
	}
	if s.size == 0 {
		s.size = len(s.left)/10 + 1
	}
	if !pause(s.ctx, 100*time.Millisecond) {
		return 0, errors.New("ended")
	}
	n := copy(p[:min(len(p), s.size)], s.left)
	s.left = s.left[n:]
	return n, nil
}

// summary is the answers, for people.
func (b *bad) summary() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := strings.Replace(counted(b.statuses), "0×", "none×", 1)
	if len(b.statuses) == 0 || b.statuses[0] == 0 {
		text = counted(b.statuses)
	}
	return text
}
