package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// What follows a fold comes with message ids of its own: a receiver that has it from
// live traffic, and drops repeats by their ids, would be left with the fold's older
// values. Track calls are history, which a fold leaves out.
func TestWhatFollowsAFoldIsTakenAsNew(t *testing.T) {
	t.Parallel()
	w := newReplayWorld(t)
	file, err := os.ReadFile(w.tenants)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.tenants, []byte(strings.ReplaceAll(string(file), "auth: none", "auth: none, track: true")), 0o600); err != nil {
		t.Fatal(err)
	}
	history, said, code := w.run("--tenants", w.tenants, "--dry-run")
	if code != exitDone || !strings.Contains(history, `"type":"track"`) {
		t.Fatalf("the history has no track calls, exit code %d: %s", code, said)
	}
	first := ids(t, history)
	for partition := range 3 {
		span := []string{"--tenants", w.tenants, "--latest", "--partition", fmt.Sprint(partition), "--to-offset", "1"}
		before := len(w.capture.Calls())
		if _, said, code := w.run(append(span, "--yes", "--id", fmt.Sprintf("p%d", partition))...); code != exitDone || !strings.Contains(said, "--latest --from") {
			t.Fatalf("the fold: exit code %d: %s", code, said)
		}
		rows := make(map[string][]string)
		for _, c := range w.capture.Calls()[before:] {
			rows[c.UserID] = append(rows[c.UserID], c.Type)
			if slices.Contains(first, c.MessageID) {
				t.Errorf("the message id %s of a %s of %s is one of the first delivery", c.MessageID, c.Type, c.UserID)
			}
		}
		if len(rows) != 1 {
			t.Errorf("partition %d: %d users had calls, want 1", partition, len(rows))
		}
		for user, row := range rows {
			if got := strings.Join(row, " "); got != "identify group identify group identify group" {
				t.Errorf("%s got %s, want what is folded, and two events since", user, got)
			}
		}
	}
}
