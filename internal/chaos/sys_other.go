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

var errNotLinux = errors.New("chaos freezes, kills and limits processes as Linux does; run it there")

func signalGroup(*os.Process, syscall.Signal) error { return errNotLinux }

func letWriteNothing(*os.Process) error { return errNotLinux }
