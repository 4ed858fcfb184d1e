package chaos

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Signals that a process is sent.
const (
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
	sigTerm = syscall.SIGTERM
	sigKill = syscall.SIGKILL
	sigQuit = syscall.SIGQUIT
)

// apart puts a process into a group of its own, so that an interrupt at the
// terminal reaches it through us alone, and ends it when we die.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// signalGroup sends a signal to a process that was started apart, and to its
// children.
func signalGroup(p *os.Process, s syscall.Signal) error { return syscall.Kill(-p.Pid, s) }

// letWriteNothing lets a process make no file longer: a write fails, as on a disk that is
// full.
func letWriteNothing(p *os.Process) error {
	return unix.Prlimit(p.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1, Max: unix.RLIM_INFINITY}, nil)
}
