package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Process is a program of the installation, in a process group of its own.
type Process struct {
	Name  string
	cmd   *exec.Cmd
	begun time.Time
	done  chan struct{} // closed when it has ended
	err   error         // of its end, once done is closed
	told  atomic.Bool   // to end, by a signal of ours
}

// supervisor starts processes and ends all that it started.
type supervisor struct {
	logs string // directory of their outputs

	mu      sync.Mutex
	running map[*Process]struct{}
	closed  bool
}

func newSupervisor(logs string) (*supervisor, error) {
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of logs: %w", err)
	}
	return &supervisor{logs: logs, running: make(map[*Process]struct{})}, nil
}

// start starts a program; its output is appended to NAME.log.
func (s *supervisor) start(name string, command ...string) (*Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("start %s: everything is being ended", name)
	}
	out, err := os.OpenFile(filepath.Join(s.logs, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", name, err)
	}
	defer func() { _ = out.Close() }() // the process has its own
	p := &Process{Name: name, begun: time.Now(), done: make(chan struct{})}
	p.cmd = exec.Command(command[0], command[1:]...) //nolint:noctx // it is ended by signals, and by closing the supervisor
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = apart()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s.running[p] = struct{}{}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
		s.mu.Lock()
		delete(s.running, p)
		s.mu.Unlock()
	}()
	return p, nil
}

// close kills everything that is still running and waits for its end.
func (s *supervisor) close() {
	s.mu.Lock()
	s.closed = true
	left := make([]*Process, 0, len(s.running))
	for p := range s.running {
		left = append(left, p)
	}
	s.mu.Unlock()
	for _, p := range left {
		p.signal(sigKill)
	}
	for _, p := range left {
		<-p.done
	}
}

// signal sends a signal to the process and its children; one that has ended
// does not mind.
func (p *Process) signal(s syscall.Signal) {
	select {
	case <-p.done: // its number may be somebody else's by now
	default:
		if s != sigStop && s != sigCont {
			p.told.Store(true)
		}
		_ = signalGroup(p.cmd.Process, s)
	}
}

// fell reports whether the process ended by itself, and with which code.
func (p *Process) fell() (code int, fell bool) {
	if !p.ended() || p.told.Load() {
		return 0, false
	}
	return p.cmd.ProcessState.ExitCode(), true
}

// kill ends the process with SIGKILL.
func (p *Process) kill() {
	p.signal(sigKill)
	<-p.done
}

// ended reports whether the process has ended.
func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// errHung says that a process did not end in time.
var errHung = errors.New("did not end in time; its goroutines are in its log")

// terminate sends SIGTERM and waits for exit code 0. A process that does not end
// within patience writes its goroutines into its log and is killed.
func (p *Process) terminate(patience time.Duration) (time.Duration, error) {
	begun := time.Now()
	p.signal(sigTerm)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
		if p.err != nil {
			return time.Since(begun), fmt.Errorf("end %s by SIGTERM: %w, want exit code 0", p.Name, p.err)
		}
		return time.Since(begun), nil
	case <-timer.C:
		p.dump()
		p.kill()
		return time.Since(begun), fmt.Errorf("end %s by SIGTERM: %w", p.Name, errHung)
	}
}

// dump makes a Go process write its goroutines into its log, which ends it.
func (p *Process) dump() {
	p.signal(sigCont)
	p.signal(sigQuit)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
	}
}

// await polls until ok, the process ended, or ctx did.
func await(ctx context.Context, what string, every time.Duration, ok func(context.Context) bool) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
	return nil
}

// isReady asks /readyz, as an orchestrator does.
func isReady(ctx context.Context, admin string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", nil)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// ports hands out ports below those that the system gives to outgoing
// connections: a server that is down for a while finds its own again.
type ports struct{ next int }

// newPorts begins somewhere else in each program, so that two that run at the same
// time seldom take each other's.
func newPorts() *ports { return &ports{next: firstPort + os.Getpid()%100*100} }

const (
	firstPort = 20000
	lastPort  = 32000
)

// take returns a free address.
func (p *ports) take() (string, error) {
	for ; p.next < lastPort; p.next++ {
		address := fmt.Sprintf("127.0.0.1:%d", p.next)
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		_ = l.Close()
		p.next++
		return address, nil
	}
	return "", fmt.Errorf("no free port from %d to %d", firstPort, lastPort)
}
