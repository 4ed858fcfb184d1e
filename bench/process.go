package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// process is a program that is measured: its processor time and memory are its
// alone.
type process struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
	err   error // of its end; read after ended
}

// usage is what a process took, from its start to its end.
type usage struct {
	CPU     time.Duration // user and system
	PeakRSS int64         // bytes; 0 where the system does not say
}

// patience is how long a process may take to end when it was told to.
const patience = 30 * time.Second

// start starts a program whose output goes to a file.
func start(ctx context.Context, dir, name string, args ...string) (*process, error) {
	log, err := os.CreateTemp(dir, filepath.Base(name)+"-*.log")
	if err != nil {
		return nil, fmt.Errorf("make log: %w", err)
	}
	defer func() { _ = log.Close() }()
	p := &process{cmd: exec.CommandContext(ctx, name, args...), log: log.Name(), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = log, log, dir
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// stop tells the process to end as an operator would, and waits for it.
func (p *process) stop() (usage, error) {
	u := usage{PeakRSS: p.peakRSS()}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	if s := p.cmd.ProcessState; s != nil {
		u.CPU = s.UserTime() + s.SystemTime()
	}
	if p.err != nil {
		return u, fmt.Errorf("%s: %w: …%s", filepath.Base(p.cmd.Path), p.err, p.tail())
	}
	return u, nil
}

// cpu is the processor time that a running process has taken so far; 0 where the
// system does not say.
func (p *process) cpu() time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, after, _ := bytes.Cut(stat, []byte(") ")) // behind the program's name
	fields := bytes.Fields(after)
	const user, system = 11, 12
	if len(fields) <= system {
		return 0
	}
	var ticks int
	for _, field := range [][]byte{fields[user], fields[system]} {
		n, err := strconv.Atoi(string(field))
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100) // as Linux counts for processes, whatever its own tick
}

// peakRSS reads the most memory that a running process ever held. The one that
// wait4 tells would be that of the process that started it, if this had more.
func (p *process) peakRSS() int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, after, _ := bytes.Cut(status, []byte("VmHWM:"))
	line, _, _ := bytes.Cut(after, []byte("kB"))
	kilobytes, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 64)
	if err != nil {
		return 0
	}
	return kilobytes << 10
}

// tail is the end of what the process wrote.
func (p *process) tail() []byte {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return nil
	}
	return text[max(0, len(text)-2000):]
}
