//go:build !linux

package chaos

import (
	"errors"
	"os"
	"syscall"
)

// Signals that a process is sent.
const (
	sigStop = syscall.Signal(19)
	sigCont = syscall.Signal(18)
	sigTerm = syscall.SIGTERM
	sigKill = syscall.SIGKILL
	sigQuit = syscall.SIGQUIT
)

func apart() *syscall.SysProcAttr { return nil }

func signalGroup(*os.Process, syscall.Signal) error {
	return errors.New("chaos freezes and kills processes as Linux does; run it there")
}
