package receipt_test

import (
	"bytes"
	"encoding/json/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"refinersource/internal/queue"
	"refinersource/internal/receipt"
)

const schemaFile = "../../schemas/receipt.schema.json"

// full is a receipt with every field set, so that a form that forgets one shows.
func full() receipt.Receipt {
	return receipt.Receipt{
		Tenant:    "acme",
		Source:    "refiner-webhook",
		EventID:   "eb117cb0-49cf-11ed-b050-03a44b32151c",
		Partition: 3,
		Offset:    42,
		Outcome:   receipt.Dead,
		Reason:    "rejected",
		Calls: []receipt.Call{
			{Type: "identify", ID: "6f0a1a2e-0000-5000-8000-000000000001", Digest: receipt.Digest{0, 1, 0xff, 15: 0xab}},
			{Type: "group", ID: "6f0a1a2e-0000-5000-8000-000000000002", Digest: receipt.Digest{7}},
		},
		Attempts:       7,
		ReceivedAt:     time.Date(2026, 10, 12, 2, 5, 55, 123456789, time.UTC),
		FirstAttemptAt: time.Date(2026, 10, 12, 2, 5, 56, 0, time.UTC),
		FinishedAt:     time.Date(2026, 10, 12, 2, 6, 1, 5, time.UTC),
		Rules:          1,
		RulesOf:        "0123456789abcdef",
		Library:        "0.1.0",
		Withheld:       []string{"refiner_industry", "refiner_size"},
		Replay:         "r1",
	}
}

func TestReceiptInTheLogIsThisJSON(t *testing.T) {
	t.Parallel()
	r := full()
	want := `{"version":1,"tenant":"acme","source":"refiner-webhook","event_id":"eb117cb0-49cf-11ed-b050-03a44b32151c",` +
		`"origin":{"partition":3,"offset":42},"outcome":"dead","reason":"rejected",` +
		`"calls":[{"type":"identify","id":"6f0a1a2e-0000-5000-8000-000000000001","digest":"0001ff000000000000000000000000ab"},` +
		`{"type":"group","id":"6f0a1a2e-0000-5000-8000-000000000002","digest":"07000000000000000000000000000000"}],` +
		`"attempts":7,"received_at":"2026-10-12T02:05:55.123456789Z","first_attempt_at":"2026-10-12T02:05:56Z",` +
		`"finished_at":"2026-10-12T02:06:01.000000005Z","rules":1,"rules_of":"0123456789abcdef","library":"0.1.0",` +
		`"withheld":["refiner_industry","refiner_size"],"replay":"r1"}`
	if diff := cmp.Diff(want, string(receipt.Append(nil, &r))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	r = receipt.Receipt{Tenant: "acme", Outcome: receipt.Delivered, FinishedAt: full().FinishedAt}
	want = `x{"version":1,"tenant":"acme","source":"","event_id":"","origin":{"partition":0,"offset":0},"outcome":"delivered",` +
		`"calls":[],"attempts":0,"finished_at":"2026-10-12T02:06:01.000000005Z","rules":0,"library":""}`
	if diff := cmp.Diff(want, string(receipt.Append([]byte("x"), &r))); diff != "" {
		t.Errorf("the least (-want +got)\n%s", diff)
	}
}

func TestParseGivesBackWhatWasAppendedAndTheSchemaAcceptsIt(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t)
	rapid.Check(t, func(t *rapid.T) {
		want := drawReceipt(t)
		value := receipt.Append(nil, &want)
		got, err := receipt.Parse(value)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if err := validate(schema, value); err != nil {
			t.Error(err)
		}
	})
}

func drawReceipt(t *rapid.T) receipt.Receipt {
	text := rapid.StringN(-1, -1, receipt.MaxTextBytes)
	said := rapid.StringN(1, -1, receipt.MaxTextBytes)
	moment := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(0, 253_402_300_799).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanos")).UTC()
	})
	maybe := rapid.OneOf(rapid.Just(time.Time{}), moment)
	call := rapid.Custom(func(t *rapid.T) receipt.Call {
		return receipt.Call{
			Type:   rapid.SampledFrom([]string{"identify", "group", "track"}).Draw(t, "type"),
			ID:     text.Draw(t, "id"),
			Digest: receipt.Digest(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "digest")),
		}
	})
	place := rapid.Custom(func(t *rapid.T) queue.Offset { return queue.Offset(rapid.Int64Min(0).Draw(t, "offset")) })
	r := receipt.Receipt{
		RedriveOf:      rapid.Ptr(place, true).Draw(t, "redrive of"),
		Tenant:         text.Draw(t, "tenant"),
		Source:         text.Draw(t, "source"),
		EventID:        text.Draw(t, "event id"),
		Partition:      rapid.IntRange(0, 1000).Draw(t, "partition"),
		Offset:         queue.Offset(rapid.Int64Min(0).Draw(t, "offset")),
		Outcome:        rapid.SampledFrom(receipt.Outcomes()).Draw(t, "outcome"),
		Calls:          rapid.SliceOfN(call, 0, 4).Draw(t, "calls"),
		Attempts:       rapid.IntRange(0, 1000).Draw(t, "attempts"),
		ReceivedAt:     maybe.Draw(t, "received at"),
		FirstAttemptAt: maybe.Draw(t, "first attempt at"),
		FinishedAt:     moment.Draw(t, "finished at"),
		Rules:          rapid.IntRange(0, 9).Draw(t, "rules"),
		RulesOf:        text.Draw(t, "rules of"),
		Library:        text.Draw(t, "library"),
		Withheld:       rapid.SliceOfN(text, 0, 3).Draw(t, "withheld"),
		Replay:         text.Draw(t, "replay"),
	}
	if r.Outcome != receipt.Delivered {
		r.Reason = said.Draw(t, "reason")
	}
	return r
}

func TestTextsAreMadeValidAndCut(t *testing.T) {
	t.Parallel()
	r := full()
	r.Tenant = "a\xffb\""
	r.Reason = strings.Repeat("é", 600) // 1,200 bytes; byte 1,024 ends a character
	r.EventID = "x" + r.Reason          // byte 1,024 is within one
	r.Source = strings.Repeat("x", 2000)
	r.Withheld = make([]string, 400)
	r.FirstAttemptAt = time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)
	got, err := receipt.Parse(receipt.Append(nil, &r))
	if err != nil {
		t.Fatal(err)
	}
	want := r
	want.Tenant, want.Reason, want.EventID = "a\uFFFDb\"", strings.Repeat("é", 512), "x"+strings.Repeat("é", 511)
	want.Source, want.Withheld, want.FirstAttemptAt = r.Source[:1024], r.Withheld[:300], time.Time{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	r := full()
	good := string(receipt.Append(nil, &r))
	for name, change := range map[string][2]string{
		"another version":      {`"version":1`, `"version":2`},
		"an unknown outcome":   {`"outcome":"dead"`, `"outcome":"lost"`},
		"a reason too many":    {`"outcome":"dead"`, `"outcome":"delivered"`},
		"a reason too few":     {`"reason":"rejected",`, ``},
		"no end":               {`"finished_at"`, `"finished"`},
		"a place outside":      {`"offset":42`, `"offset":-1`},
		"a digest that is cut": {`"07000000000000000000000000000000"`, `"0700000000000000"`},
		"no JSON":              {`{`, `[`},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := receipt.Parse([]byte(bad)); err == nil {
			t.Errorf("%s was taken: %s", name, bad)
		}
	}
	if _, err := receipt.Parse([]byte(strings.Replace(good, `{`, `{"more":true,`, 1))); err != nil {
		t.Errorf("a member of later was not ignored: %v", err)
	}
}

func TestOutcomesAreThoseOfTheSchema(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties struct {
			Outcome struct{ Enum []receipt.Outcome }
		}
	}
	if err := json.Unmarshal(data, &schema, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(schema.Properties.Outcome.Enum, receipt.Outcomes()); diff != "" {
		t.Errorf("(-schema +code)\n%s", diff)
	}
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	schema, err := compiler.Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func validate(schema *jsonschema.Schema, value []byte) error {
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
	if err != nil {
		return err
	}
	return schema.Validate(instance)
}

// Receipts may cost a tenth of a worker's time for an event; to write one down may
// cost no memory at all.
func TestAppendAllocatesNothing(t *testing.T) {
	r := full()
	dst := make([]byte, 0, 4<<10)
	if n := testing.AllocsPerRun(100, func() { dst = receipt.Append(dst[:0], &r) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkAppend(b *testing.B) {
	r := full()
	dst := make([]byte, 0, 4<<10)
	b.ReportAllocs()
	for b.Loop() {
		dst = receipt.Append(dst[:0], &r)
	}
}
