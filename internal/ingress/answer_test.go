package ingress_test

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"refinersource/internal/ingress"
)

// TestReceiptIsJSONWhateverTheIDIs: what is hostile in an id is escaped, also for HTML.
func TestReceiptIsJSONWhateverTheIDIs(t *testing.T) {
	t.Parallel()
	for _, id := range []string{
		"evt-1", "", "<script>alert(1)</script>", `"],"accepted":7`, `back\slash`, "a&b", "tab\tand\u0001", "日本語", "a\u2028b", "\x7f",
		strings.Repeat("x", 600), // its hash stands there
	} {
		quoted, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		w := post(t, newHandler(t, &fakeLog{}, ingress.Options{}), eventsPath,
			strings.Replace(canonical, `"evt-1"`, string(quoted), 1))
		if w.Code != http.StatusAccepted {
			t.Fatalf("id %q: got %d %s", id, w.Code, w.Body)
		}
		type event struct {
			ID        string `json:"id"`
			Partition int    `json:"partition"`
			Offset    int    `json:"offset"`
		}
		var got struct {
			Accepted int     `json:"accepted"`
			Ignored  int     `json:"ignored"`
			Events   []event `json:"events"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("id %q: %v in %s", id, err, w.Body)
		}
		if len(got.Events) != 1 || id != "" && len(id) < 500 && got.Events[0].ID != id {
			t.Errorf("id %q: got events %v", id, got.Events)
		}
		want, err := json.Marshal(got, jsontext.EscapeForHTML(true))
		if err != nil {
			t.Fatal(err)
		}
		if w.Body.String() != string(want) {
			t.Errorf("id %q: got %s, want %s", id, w.Body, want)
		}
	}
}

// TestReceiptOfABatchHasTheAcceptedAndTheRejected in one answer.
func TestReceiptOfABatchHasTheAcceptedAndTheRejected(t *testing.T) {
	t.Parallel()
	w := post(t, newHandler(t, &fakeLog{}, ingress.Options{}), eventsPath, "["+canonical+`,{"id":"<b>"},`+canonical+"]")
	id, at := "evt-1", len("acme/user-17")%3
	want := fmt.Sprintf(`{"accepted":2,"ignored":0,"events":[{"id":%[1]q,"partition":%[2]d,"offset":0},{"id":%[1]q,"partition":%[2]d,"offset":1}],`+
		`"rejected":[{"index":1,"detail":"neither a user id nor an anonymous id; send one of them"}]}`, id, at)
	if w.Code != http.StatusAccepted || w.Body.String() != want {
		t.Errorf("got %d %s, want %s", w.Code, w.Body, want)
	}
}
