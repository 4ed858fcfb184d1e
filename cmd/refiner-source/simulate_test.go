//go:build simulate

package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestSimulateScripts runs testdata/simulate, as TestScripts does testdata/script.
func TestSimulateScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{Dir: "testdata/simulate"})
}
