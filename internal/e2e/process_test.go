package e2e_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binary is the built service.
var binary string

func TestMain(m *testing.M) {
	if os.Getenv("KAFKA_BROKERS") == "" {
		os.Exit(m.Run()) // every test skips
	}
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "refiner-source")
	build := exec.Command("go", "build", "-o", binary, "refinersource/cmd/refiner-source")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// brokers skips the test where there is no real Kafka.
func brokers(t *testing.T) string {
	t.Helper()
	b := os.Getenv("KAFKA_BROKERS")
	if b == "" {
		t.Skip("KAFKA_BROKERS is not set; run: scripts/kafka run-with 1 -- go test -count=1 -v ./internal/e2e")
	}
	return b
}

// process is a running command of the binary.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	admin string
	log   string
	ended bool
}

// start runs a command of the binary and waits until it is ready.
func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	admin := freeAddr(t)
	p := launch(t, name, append(args, "--admin-listen", admin)...)
	p.admin = admin
	p.ready()
	return p
}

// launch runs a command of the binary.
func launch(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, log: filepath.Join(t.TempDir(), name+".log")}
	log, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(binary, args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !p.ended {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		if t.Failed() {
			text, _ := os.ReadFile(p.log)
			t.Logf("log of %s:\n%s", p.name, tail(string(text), 40))
		}
	})
	return p
}

// ready polls /readyz, as an orchestrator does.
func (p *process) ready() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	poll(ctx, p.t, p.name+" to be ready", func() bool {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+"/readyz", nil)
		if err != nil {
			p.t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(q)
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// partitions are those that a worker is assigned, as its metrics name them.
func (p *process) partitions() []int {
	p.t.Helper()
	q, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://"+p.admin+"/metrics", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	var ids []int
	for _, m := range regexp.MustCompile(`(?m)^refiner_source_lag_events\{partition="(\d+)"\}`).FindAllSubmatch(text, -1) {
		id, err := strconv.Atoi(string(m[1]))
		if err != nil {
			p.t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		p.t.Fatalf("the metrics of %s name no partition", p.name)
	}
	return ids
}

// terminate sends SIGTERM, and fails the test unless the process drains and
// exits with 0. It returns how long that took.
func (p *process) terminate() time.Duration {
	p.t.Helper()
	begun := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	p.ended = true
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("%s after SIGTERM: %v, want exit code 0", p.name, err)
	}
	return time.Since(begun)
}

// wait waits until the process ends by itself, and fails the test unless that is
// within the time and with 0.
func (p *process) wait(patience time.Duration) {
	p.t.Helper()
	late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	p.ended = true
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatalf("%s: %v, want exit code 0 within %v", p.name, err, patience)
	}
}

// kill ends the process with SIGKILL.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	p.ended = true
	if err := p.cmd.Wait(); err == nil {
		p.t.Errorf("%s ended by itself before it was killed", p.name)
	} else if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		p.t.Fatal(err)
	}
}

// output runs a command of the binary to its end and returns what it printed.
func output(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(binary, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// poll asks again and again until ok, or fails when ctx ends.
func poll(ctx context.Context, t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("gave up waiting for %s", what)
		case <-tick.C:
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
