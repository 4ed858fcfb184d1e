package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this test binary the refiner-source that the scripts run.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"refiner-source": main})
}

// TestScripts runs testdata/script: what a command prints, and how it ends. The
// first line of each says what it shows.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}
