package checker_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"refinersource/internal/checker"
)

// The examples of the mapping were written for the service; that both agree with
// them is the point.
func TestDerivationAgreesWithTheExamplesOfTheMapping(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("../attribution/testdata/*_*.txtar")
	if err != nil || len(cases) < 100 {
		t.Fatalf("got %d cases, %v", len(cases), err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			file := make(map[string]string)
			for _, f := range archive.Files {
				file[f.Name] = strings.TrimSuffix(string(f.Data), "\n")
			}
			tenant := checker.Tenant{ID: "acme"}
			if s := file["tenant.json"]; s != "" {
				if err := json.Unmarshal([]byte(s), &tenant); err != nil {
					t.Fatal(err)
				}
			}
			source, at := "refiner-webhook", "2026-10-12T02:06:00Z"
			if s := file["source"]; s != "" {
				source = s
			}
			if s := file["received"]; s != "" {
				at = s
			}
			received, err := time.Parse(time.RFC3339, at)
			if err != nil {
				t.Fatal(err)
			}
			got, err := checker.Derive(&tenant, source, []byte(file["event.json"]), received, "1.0.0")
			if err != nil {
				t.Fatal(err)
			}
			fault := file["fault"]
			if i := strings.IndexAny(fault, " :\n"); i >= 0 {
				fault = fault[:i]
			}
			if got.Dead != fault || got.Ignored != file["ignored"] {
				t.Errorf("dead %q, ignored %q, want %q, %q", got.Dead, got.Ignored, fault, file["ignored"])
			}
			var want, have []string
			for line := range bytes.Lines([]byte(file["calls.jsonl"])) {
				want = append(want, canonical(t, bytes.TrimSpace(line)))
			}
			for _, call := range got.Calls {
				have = append(have, canonical(t, call))
			}
			if d := cmp.Diff(want, have); d != "" {
				t.Errorf("calls (-want +got):\n%s", d)
			}
		})
	}
}

func canonical(t *testing.T, raw []byte) string {
	t.Helper()
	s, err := checker.Comparable(raw, "1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	return s
}
