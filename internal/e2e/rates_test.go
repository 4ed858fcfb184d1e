package e2e_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"refinersource/internal/queue"
)

// TestRatesOfReplayAndTrace measures what a worker, a dry run of a replay and a trace
// make of E2E_EVENTS events on the Kafka of KAFKA_BROKERS, and says so. Each is a
// process of its own; the receiver, which answers at once, and Kafka share its machine:
//
//	E2E_EVENTS=1000000 scripts/kafka run-with 1 -- go test -count=1 -v -timeout 60m -run TestRates ./internal/e2e
func TestRatesOfReplayAndTrace(t *testing.T) {
	if os.Getenv("E2E_EVENTS") == "" {
		t.Skip("it measures, and needs a number of events: E2E_EVENTS")
	}
	n := number(t, "E2E_EVENTS", 0)
	c := newCounter(t, 2*n)
	const tenants = 50
	s := &system{t: t, brokers: brokers(t), tenants: tenantsFile(t, tenants, c.url, "rate_limit: 0")}
	id := strconv.FormatInt(time.Now().UnixNano(), 36)
	s.prefix, s.group = "rates-"+id+".", "rates-"+id
	installed := []string{"--brokers", s.brokers, "--topic-prefix", s.prefix}
	output(t, append([]string{"topics", "ensure", "--partitions", "12", "--replication", "1"}, installed...)...)
	begun := time.Now()
	s.fill(n, tenants)
	t.Logf("%d events are in the log after %.1f s", n, time.Since(begun).Seconds())

	s.addWorker()
	c.await(t)
	live := float64(n) / c.took().Seconds()
	s.workers[0].terminate()
	t.Logf("worker: %d events in %.1f s: %.0f events/s; %s", n, c.took().Seconds(), live, processor(s.workers[0].cmd, n))

	begun = time.Now()
	lines, cmd := count(t, append([]string{"replay", "--dry-run", "--tenants", s.tenants}, installed...)...)
	took := time.Since(begun)
	if lines != 2*n {
		t.Errorf("the dry run printed %d calls, want %d", lines, 2*n)
	}
	dry := float64(n) / took.Seconds()
	t.Logf("dry run: %d events in %.1f s: %.0f events/s, %.2f times the worker's; %s", n, took.Seconds(), dry, dry/live, processor(cmd, n))

	for _, u := range []int{0, n / 2, n - 1} {
		begun = time.Now()
		story := output(t, append([]string{"trace", eventOf(u), "--group", s.group, "--output", "json"}, installed...)...)
		t.Logf("trace %s: %.2f s", eventOf(u), time.Since(begun).Seconds())
		if !strings.Contains(story, `"delivered"`) {
			t.Errorf("trace says:\n%s", story)
		}
	}
}

// counter is a receiver that only counts the calls.
type counter struct {
	url   string
	want  int64
	calls atomic.Int64
	all   chan struct{}

	mu          sync.Mutex
	first, last time.Time
}

func newCounter(t *testing.T, want int) *counter {
	t.Helper()
	c := &counter{want: int64(want), all: make(chan struct{})}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *counter) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	now := time.Now()
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	c.mu.Lock()
	if c.first.IsZero() {
		c.first = now
	}
	c.last = time.Now()
	c.mu.Unlock()
	calls := int64(bytes.Count(body, []byte(`"userId"`)))
	_, _ = io.WriteString(w, `{"success":true}`)
	if after := c.calls.Add(calls); after >= c.want && after-calls < c.want {
		close(c.all)
	}
}

// took is how long it was from the first request to the last.
func (c *counter) took() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.Sub(c.first)
}

// await waits for all calls, as long as some come.
func (c *counter) await(t *testing.T) {
	t.Helper()
	tick := time.NewTicker(patience)
	defer tick.Stop()
	for had := int64(-1); ; {
		select {
		case <-c.all:
			return
		case <-tick.C:
		}
		if had == c.calls.Load() {
			t.Fatalf("%d of %d calls came, and none for %v", had, c.want, patience)
		}
		had = c.calls.Load()
	}
}

func userOf(i int) string  { return fmt.Sprintf("user-%d", i) }
func eventOf(i int) string { return fmt.Sprintf("r-%s-1", userOf(i)) }

// fill publishes so many events, one of each user.
func (s *system) fill(n, tenants int) {
	s.t.Helper()
	log := s.open()
	publisher := log.Publisher(s.topics().Events(), queue.PublisherOptions{})
	g, ctx := errgroup.WithContext(s.t.Context())
	g.SetLimit(1024)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			tenant, now := tenantID(i%tenants), time.Now().UTC()
			_, err := publisher.Publish(ctx, queue.Record{
				Key: []byte(tenant + "/" + userOf(i)), Value: webhook(userOf(i), i/10, 1), Time: now,
				Headers: []queue.Header{
					{Key: queue.HeaderTenant, Value: []byte(tenant)},
					{Key: queue.HeaderSource, Value: []byte("refiner-webhook")},
					{Key: queue.HeaderEventID, Value: []byte(eventOf(i))},
					{Key: queue.HeaderReceivedAt, Value: now.AppendFormat(nil, time.RFC3339Nano)},
				},
			})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		s.t.Fatal(err)
	}
	if err := publisher.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// lineCounter counts lines.
type lineCounter int

func (l *lineCounter) Write(b []byte) (int, error) {
	*l += lineCounter(bytes.Count(b, []byte("\n")))
	return len(b), nil
}

// processor says how much of the processor a command that has ended took for so many
// events: that hardly depends on what else the machine does.
func processor(cmd *exec.Cmd, n int) string {
	took := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return fmt.Sprintf("%.1f s of the processor, %.0f µs an event", took.Seconds(), float64(took.Microseconds())/float64(n))
}

// count runs a command of the binary to its end, and returns how many lines it printed.
func count(t *testing.T, args ...string) (int, *exec.Cmd) {
	t.Helper()
	var lines lineCounter
	var said bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = &lines, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, said.String())
	}
	return int(lines), cmd
}
