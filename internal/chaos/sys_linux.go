package chaos

import (
	"os"
	"syscall"
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
