package attribution_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"refinersource/internal/attribution"
	"refinersource/internal/survey"
)

var update = flag.Bool("update", false, "rewrite the expected parts of the golden cases")

// What a case says unless it says otherwise.
const (
	goldenTenant   = "acme"
	goldenReceived = "2026-10-12T02:06:00Z"
	goldenLibrary  = "1.0.0"
)

// TestGolden runs the cases of testdata, which are the specification of the
// mapping in examples. The first line of a case says the rule. Its files are
//
//	event.json    the raw event
//	source        its source, where it is not refiner-webhook
//	tenant.json   the tenant's rules, where they are not the default ones
//	received      when the event was accepted, where it is not 2026-10-12T02:06:00Z
//
// and what is expected, which -update rewrites: calls.jsonl, or ignored, or
// fault; and notes, where there are any.
func TestGolden(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("testdata/*_*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) < 100 {
		t.Fatalf("got %d cases in testdata, want all", len(cases))
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			testGolden(t, path)
		})
	}
}

func testGolden(t *testing.T, path string) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(bytes.TrimSpace(archive.Comment)) == 0 {
		t.Error("the case does not say its rule")
	}
	files := make(map[string]string)
	var input []txtar.File
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
		switch f.Name {
		case "event.json", "source", "tenant.json", "received":
			input = append(input, f)
		case "calls.jsonl", "ignored", "fault", "notes":
		default:
			t.Errorf("unknown file %s", f.Name)
		}
	}
	output := runGolden(t, files)
	got := &txtar.Archive{Comment: archive.Comment, Files: append(input, output...)}
	if *update {
		if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(txtar.Format(archive)), string(txtar.Format(got))); diff != "" {
		t.Errorf("-want +got; if the change is meant, run go test -update:\n%s", diff)
	}
}

// runGolden maps the event of a case and returns what came of it.
func runGolden(t *testing.T, files map[string]string) []txtar.File {
	t.Helper()
	source := survey.RefinerWebhook
	if s, ok := files["source"]; ok {
		source = survey.Source(strings.TrimSpace(s))
	}
	received := goldenReceived
	if s, ok := files["received"]; ok {
		received = strings.TrimSpace(s)
	}
	at, err := time.Parse(time.RFC3339, received)
	if err != nil {
		t.Fatal(err)
	}
	rules := goldenRules(t, files["tenant.json"])
	raw := []byte(strings.TrimSuffix(files["event.json"], "\n"))

	c, err := survey.Decode(source, raw)
	if err != nil {
		return goldenFault(t, err)
	}
	res, err := attribution.Attribute(c, &rules, goldenTenant, at)
	if err != nil {
		return append(goldenFault(t, err), goldenNotes(&res.Notes)...)
	}
	if res.Ignored != survey.NotIgnored {
		return []txtar.File{{Name: "ignored", Data: []byte(res.Ignored + "\n")}}
	}
	var calls []byte
	for i := range res.Calls {
		calls = append(res.Calls[i].AppendJSON(calls), '\n')
	}
	return append([]txtar.File{{Name: "calls.jsonl", Data: calls}}, goldenNotes(&res.Notes)...)
}

func goldenFault(t *testing.T, err error) []txtar.File {
	t.Helper()
	fault, ok := errors.AsType[*survey.Fault](err)
	if !ok {
		t.Fatalf("error is no fault: %v", err)
	}
	return []txtar.File{{Name: "fault", Data: []byte(fault.Error() + "\n")}}
}

func goldenNotes(n *attribution.Notes) []txtar.File {
	var b strings.Builder
	for _, name := range n.WithheldNoAccount {
		fmt.Fprintf(&b, "withheld, no account: %s\n", name)
	}
	if n.Unnamed > 0 {
		fmt.Fprintf(&b, "unnamed: %d\n", n.Unnamed)
	}
	if n.NameCollisions > 0 {
		fmt.Fprintf(&b, "name collisions: %d\n", n.NameCollisions)
	}
	if n.FutureTimestamp {
		b.WriteString("future timestamp\n")
	}
	if n.UnreadableTime {
		b.WriteString("unreadable time\n")
	}
	if b.Len() == 0 {
		return nil
	}
	return []txtar.File{{Name: "notes", Data: []byte(b.String())}}
}

// goldenRules are the default rules with what a case's tenant.json says, in the
// words of the tenants file.
func goldenRules(t *testing.T, text string) attribution.Rules {
	t.Helper()
	rules := attribution.DefaultRules()
	rules.LibraryVersion = goldenLibrary
	if text == "" {
		return rules
	}
	var file struct {
		Prefix            string            `json:"prefix"`
		Names             map[string]string `json:"names"`
		AccountProperties []string          `json:"account_properties"`
		UserProperties    []string          `json:"user_properties"`
		OrderBy           string            `json:"order_by"`
		Partials          bool              `json:"partials"`
		Anonymous         string            `json:"anonymous"`
		Forgotten         []string          `json:"forgotten"`
		Track             bool              `json:"track"`
		Integrations      json.RawMessage   `json:"integrations"`
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&file); err != nil {
		t.Fatalf("decode tenant.json: %v", err)
	}
	if file.Prefix != "" {
		rules.Prefix = file.Prefix
	}
	if file.OrderBy != "" {
		rules.OrderBy = attribution.OrderBy(file.OrderBy)
	}
	rules.Names = attribution.CompileNames(file.Names)
	rules.AccountProperties = setOf(file.AccountProperties)
	rules.UserProperties = setOf(file.UserProperties)
	rules.Partials = file.Partials
	rules.EmitAnonymous = file.Anonymous == "emit"
	rules.Forgotten = setOf(file.Forgotten)
	rules.Track = file.Track
	rules.Integrations = []byte(file.Integrations)
	return rules
}

func setOf(names []string) map[string]struct{} {
	set := make(map[string]struct{}, len(names))
	for _, name := range names {
		set[name] = struct{}{}
	}
	return set
}
