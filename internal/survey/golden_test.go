package survey_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"refinersource/internal/survey"
)

// goldenCase is the event of a golden case of package attribution, which
// specify decoding too.
type goldenCase struct {
	name   string
	source survey.Source
	event  []byte
}

func goldenCases(t *testing.T) []goldenCase {
	t.Helper()
	paths, err := filepath.Glob("../attribution/testdata/*_*.txtar")
	if err != nil || len(paths) < 100 {
		t.Fatalf("found %d golden cases: %v", len(paths), err)
	}
	cases := make([]goldenCase, len(paths))
	for i, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c := goldenCase{name: strings.TrimSuffix(filepath.Base(path), ".txtar"), source: survey.RefinerWebhook}
		for _, f := range archive.Files {
			switch f.Name {
			case "source":
				c.source = survey.Source(bytes.TrimSpace(f.Data))
			case "event.json":
				c.event = f.Data
			}
		}
		cases[i] = c
	}
	return cases
}
