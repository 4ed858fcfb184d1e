package lane_test

import (
	"flag"
	"os"
	"testing"
)

// TestMain makes schedules long enough for windows to fill and lanes to fall
// behind, unless the command line says otherwise.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.steps", "80"); err != nil {
		panic(err)
	}
	flag.Parse()
	os.Exit(m.Run())
}
