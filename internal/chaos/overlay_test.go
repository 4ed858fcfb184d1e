package chaos_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"refinersource/internal/chaos"
)

func TestOverlayReplacesWhatIsEdited(t *testing.T) {
	t.Parallel()
	root, dir := t.TempDir(), t.TempDir()
	source := filepath.Join(root, "a.go")
	if err := os.WriteFile(source, []byte("one two three"), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := chaos.WriteOverlay(root, dir, []chaos.Edit{{"a.go", "one", "1"}, {"a.go", "three", "3"}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var overlay struct{ Replace map[string]string }
	if err := json.Unmarshal(text, &overlay); err != nil {
		t.Fatal(err)
	}
	mutated, err := os.ReadFile(overlay.Replace[source])
	if err != nil || string(mutated) != "1 two 3" {
		t.Errorf("the overlay %s gives %q (%v), want both edits", text, mutated, err)
	}
	if left, _ := os.ReadFile(source); string(left) != "one two three" {
		t.Errorf("the source itself is %q now", left)
	}
}

func TestOverlayRefusesAnEditThatDoesNotFit(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "a.go"), []byte("one two two"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		edit chaos.Edit
		want string
	}{
		{chaos.Edit{"a.go", "three", "3"}, "0 times"},
		{chaos.Edit{"a.go", "two", "2"}, "2 times"},
		{chaos.Edit{"a.go", "one", "one"}, "changes nothing"},
		{chaos.Edit{"b.go", "one", "1"}, "no such file"},
	} {
		if _, err := chaos.WriteOverlay(root, t.TempDir(), []chaos.Edit{c.edit}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("edit %v: error %v, want one that says %q", c.edit, err, c.want)
		}
	}
}

// A mutant whose text has gone from the source would prove nothing. Bring it up to
// date with the code that took over its part.
func TestMutantsFitTheSource(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	for _, m := range chaos.Mutants() {
		if _, err := chaos.WriteOverlay(filepath.Join("..", ".."), t.TempDir(), m.Edits); err != nil {
			t.Errorf("mutant %s: %v", m.Name, err)
		}
		if names[m.Name] || m.Why == "" || len(m.Rules) == 0 || !slices.Contains(chaos.Scenarios(), m.Scenario) {
			t.Errorf("mutant %+v: want a name of its own, a reason, a rule and a scenario that there is", m)
		}
		names[m.Name] = true
	}
}

func TestProofNamesEveryMutantAndFault(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "proof.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range chaos.Mutants() {
		if !strings.Contains(string(text), "| "+m.Name+": "+m.Why+" |") || !strings.Contains(string(text), "in `"+m.Scenario+"` | `refiner-chaos mutants --only "+m.Name+"` |") {
			t.Errorf("docs/proof.md does not say of the mutant %s why it is one and how it is found: %s; %s", m.Name, m.Why, m.Scenario)
		}
	}
	faults := regexp.MustCompile(`\bF\d+\b`).FindAllString(string(text), -1)
	for _, in := range schedule(t, chaos.ScheduleOptions{Duration: time.Hour, Active: 80, Brokers: 3, Faults: "safety", Long: true}) {
		if !slices.Contains(faults, in.Fault) {
			t.Fatalf("docs/proof.md does not tell of %s", in.Fault)
		}
	}
}

func TestCursorsAreCountedInACommit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		metadata string
		want     int
		fails    bool
	}{
		{"", 0, false},
		{"r1.AAwAAAAAAA", 0, false},
		{"r1.AAwDAQEBAQEBBAICAgICAgQDAwMDAwMEAAAAAA", 3, false},
		{"r1.IAwBAgMEBQYDAQEBAQEBBAICAgICAgQDAwMDAwMEAAAAAA", 3, false}, // of an installation
		{"r1.AAwDAAAAAAAA", 0, true},                                    // cut short
		{"r2.AAwAAAAAAA", 0, true},
		{"r1.!", 0, true},
		{"r1.AAw", 0, true},
	} {
		if got, err := chaos.CursorsIn(c.metadata); got != c.want || (err != nil) != c.fails {
			t.Errorf("%q has %d cursors (%v), want %d", c.metadata, got, err, c.want)
		}
	}
}
