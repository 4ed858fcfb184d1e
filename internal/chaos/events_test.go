package chaos_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/chaos"
)

// shape is what a test reads of an event of either form.
type shape struct {
	ID       string `json:"id"`
	RemoteID string `json:"remote_id"`
	User     struct {
		ID string `json:"id"`
	} `json:"user"`
	Response *struct {
		UUID        string         `json:"uuid"`
		CompletedAt string         `json:"completed_at"`
		DismissedAt string         `json:"dismissed_at"`
		Data        map[string]any `json:"data"`
	} `json:"response"`
}

func TestEventsAreThoseOfTheirSeed(t *testing.T) {
	t.Parallel()
	a, b := chaos.Generate(5, 2, 8, 500, ""), chaos.Generate(5, 2, 8, 500, "")
	for i := range a {
		if d := cmp.Diff(a[i], b[i]); d != "" {
			t.Fatalf("one seed, two loads; event %d:\n%s", i, d)
		}
	}
	if slices.Equal(a, chaos.Generate(6, 2, 8, 500, "")) {
		t.Error("two seeds have one load")
	}
}

func TestSendersShareNoUser(t *testing.T) {
	t.Parallel()
	owner := make(map[string]int)
	for sender := range 4 {
		for _, g := range chaos.Generate(1, sender, 4, 1000, "") {
			var s shape
			if err := json.Unmarshal([]byte(g.Body), &s); err != nil {
				t.Fatalf("%s: %v", g.Body, err)
			}
			user := g.Tenant + "/" + s.RemoteID + s.User.ID
			if s.RemoteID+s.User.ID == "" {
				continue
			}
			if of, ok := owner[user]; ok && of != sender {
				t.Fatalf("senders %d and %d both send events of %s: they have no order", of, sender, user)
			}
			owner[user] = sender
		}
	}
}

func TestLoadHasEveryKindOfEvent(t *testing.T) {
	t.Parallel()
	var completed, dismissed, partial, anonymous, other, canonical int
	ids := make(map[string]bool)
	for _, g := range chaos.Generate(1, 0, 4, 5000, "") {
		var s shape
		if err := json.Unmarshal([]byte(g.Body), &s); err != nil {
			t.Fatalf("%s: %v", g.Body, err)
		}
		if key := g.Tenant + "/" + g.ID; ids[key] {
			t.Fatalf("the id %s comes twice", key)
		} else {
			ids[key] = true
		}
		switch {
		case g.Source == "survey-event":
			canonical++
		case s.Response == nil:
			other++
		case s.Response.DismissedAt != "":
			dismissed++
		case s.Response.CompletedAt == "":
			partial++
		case s.RemoteID == "":
			anonymous++
		default:
			completed++
		}
	}
	if completed < 4000 || dismissed == 0 || partial == 0 || anonymous == 0 || other == 0 || canonical == 0 {
		t.Errorf("%d completed, %d dismissed, %d partial, %d anonymous, %d other, %d canonical: want most completed, and some of each",
			completed, dismissed, partial, anonymous, other, canonical)
	}
}

func TestPoisonIsACompletion(t *testing.T) {
	t.Parallel()
	for _, g := range chaos.Generate(1, 0, 4, 300, "400") {
		if !strings.Contains(g.Body, `"poison":"400"`) || g.Source != "refiner-webhook" {
			t.Fatalf("an event that is to be poison is none: %s", g.Body)
		}
		var s shape
		if err := json.Unmarshal([]byte(g.Body), &s); err != nil || s.Response == nil || s.Response.CompletedAt == "" || s.RemoteID == "" {
			t.Fatalf("an event that is to be poison makes no call: %s", g.Body)
		}
	}
}
