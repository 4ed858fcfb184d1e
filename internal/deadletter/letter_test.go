package deadletter_test

import (
	"bytes"
	"encoding/json/v2"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
	"refinersource/internal/survey"
)

const schemaFile = "../../schemas/dead-letter.schema.json"

// full is a letter with every field set, so that a form that forgets one shows.
func full() deadletter.Letter {
	return deadletter.Letter{
		Tenant:         "acme",
		Source:         string(survey.RefinerWebhook),
		EventID:        "eb117cb0-49cf-11ed-b050-03a44b32151c",
		Traceparent:    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		ReceivedAt:     time.Date(2026, 10, 12, 2, 5, 55, 123456789, time.UTC),
		Reason:         deadletter.Rejected,
		Stage:          deadletter.StageGroup,
		Detail:         "the receiver refused it when it was sent alone: 400",
		Attempts:       7,
		Status:         400,
		RulesVersion:   1,
		FirstAttemptAt: time.Date(2026, 10, 12, 2, 5, 56, 0, time.UTC),
		DeadAt:         time.Date(2026, 10, 12, 2, 6, 1, 5, time.UTC),
		Origin:         queue.Position{Topic: "refiner.events", Partition: 3, Offset: 42},
		Key:            []byte("acme/user-17"),
		Raw:            []byte("{\"uuid\":\"x\"}\n\x00\xff"),
	}
}

func TestLetterInTheLogIsThisJSON(t *testing.T) {
	t.Parallel()
	got, err := deadletter.Encode(full())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"version":1,"tenant":"acme","source":"refiner-webhook","event_id":"eb117cb0-49cf-11ed-b050-03a44b32151c",` +
		`"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","received_at":"2026-10-12T02:05:55.123456789Z",` +
		`"reason":"rejected","stage":"group","detail":"the receiver refused it when it was sent alone: 400","attempts":7,"status":400,` +
		`"rules":1,"first_attempt_at":"2026-10-12T02:05:56Z","dead_at":"2026-10-12T02:06:01.000000005Z",` +
		`"origin":{"topic":"refiner.events","partition":3,"offset":42},"key":"YWNtZS91c2VyLTE3","raw":"eyJ1dWlkIjoieCJ9CgD/"}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestDecodeGivesBackWhatWasEncodedAndTheSchemaAcceptsIt(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t)
	rapid.Check(t, func(t *rapid.T) {
		want := drawLetter(t)
		value, err := deadletter.Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := deadletter.Decode(value)
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

func drawLetter(t *rapid.T) deadletter.Letter {
	text := rapid.StringN(-1, -1, 1024)
	moment := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(0, 253_402_300_799).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanos")).UTC()
	})
	maybe := rapid.OneOf(rapid.Just(time.Time{}), moment)
	raw := rapid.SliceOf(rapid.Byte())
	place := rapid.Custom(func(t *rapid.T) queue.Offset { return queue.Offset(rapid.Int64Min(0).Draw(t, "offset")) })
	return deadletter.Letter{
		First:          rapid.Ptr(place, true).Draw(t, "first"),
		Tenant:         text.Draw(t, "tenant"),
		Source:         text.Draw(t, "source"),
		EventID:        text.Draw(t, "event id"),
		Traceparent:    text.Draw(t, "traceparent"),
		ReceivedAt:     maybe.Draw(t, "received at"),
		Reason:         rapid.SampledFrom(deadletter.Reasons()).Draw(t, "reason"),
		Stage:          rapid.SampledFrom(deadletter.Stages()).Draw(t, "stage"),
		Detail:         text.Draw(t, "detail"),
		Attempts:       rapid.IntRange(0, 1000).Draw(t, "attempts"),
		Status:         rapid.OneOf(rapid.Just(0), rapid.IntRange(100, 599)).Draw(t, "status"),
		RulesVersion:   rapid.IntRange(0, 9).Draw(t, "rules"),
		FirstAttemptAt: maybe.Draw(t, "first attempt at"),
		DeadAt:         moment.Draw(t, "dead at"),
		Origin: queue.Position{
			Topic:     text.Draw(t, "topic"),
			Partition: rapid.IntRange(0, 1000).Draw(t, "partition"),
			Offset:    queue.Offset(rapid.Int64Min(0).Draw(t, "offset")),
		},
		Key: raw.Draw(t, "key"),
		Raw: raw.Draw(t, "raw"),
	}
}

func TestTextsAreMadeValidAndCut(t *testing.T) {
	t.Parallel()
	l := full()
	l.Tenant = "a\xffb"
	l.Detail = strings.Repeat("é", 600) // 1,200 bytes; byte 1,024 ends a character
	l.EventID = "x" + l.Detail          // byte 1,024 is within one
	value, err := deadletter.Encode(l)
	if err != nil {
		t.Fatal(err)
	}
	got, err := deadletter.Decode(value)
	if err != nil {
		t.Fatal(err)
	}
	want := l
	want.Tenant, want.Detail, want.EventID = "a\uFFFDb", strings.Repeat("é", 512), "x"+strings.Repeat("é", 511)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A record's timestamp is its producer's; a letter is written whatever it says.
func TestTimesBeyondTheCalendarAreLeftOut(t *testing.T) {
	t.Parallel()
	l := full()
	l.ReceivedAt = time.UnixMilli(math.MaxInt64)
	l.FirstAttemptAt = time.UnixMilli(math.MinInt64)
	value, err := deadletter.Encode(l)
	if err != nil {
		t.Fatal(err)
	}
	got, err := deadletter.Decode(value)
	if err != nil {
		t.Fatal(err)
	}
	want := full()
	want.ReceivedAt, want.FirstAttemptAt = time.Time{}, time.Time{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestReasonsAndStagesAreThoseOfTheSchema(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties struct {
			Reason struct{ Enum []deadletter.Reason } `json:"reason"`
			Stage  struct{ Enum []deadletter.Stage }  `json:"stage"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(data, &schema, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(schema.Properties.Reason.Enum, deadletter.Reasons()); diff != "" {
		t.Errorf("reasons (-schema +code)\n%s", diff)
	}
	if diff := cmp.Diff(schema.Properties.Stage.Enum, deadletter.Stages()); diff != "" {
		t.Errorf("stages (-schema +code)\n%s", diff)
	}
}

func TestReasonsOfDecodingAndAttributionAreReasonsOfLetters(t *testing.T) {
	t.Parallel()
	for _, r := range []survey.Reason{
		survey.Undecodable, survey.BadIdentity, survey.AmbiguousIdentity, survey.NoIdentity, survey.TooLarge,
	} {
		if !slices.Contains(deadletter.Reasons(), deadletter.Reason(r)) {
			t.Errorf("%q is no reason of a letter", r)
		}
	}
}

func TestEncodeRefusesWhatTheSchemaDoesNotKnow(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*deadletter.Letter){
		"reason":        func(l *deadletter.Letter) { l.Reason = "bored" },
		"stage":         func(l *deadletter.Letter) { l.Stage = "" },
		"time of death": func(l *deadletter.Letter) { l.DeadAt = time.Time{} },
	} {
		l := full()
		spoil(&l)
		if _, err := deadletter.Encode(l); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDecodeRefusesWhatIsNoLetter(t *testing.T) {
	t.Parallel()
	value, err := deadletter.Encode(full())
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string]string{
		"empty":          "",
		"no JSON":        "{",
		"another shape":  `{"version":1}`,
		"later version":  strings.Replace(string(value), `"version":1`, `"version":2`, 1),
		"unknown reason": strings.Replace(string(value), `"rejected"`, `"bored"`, 1),
		"unknown stage":  strings.Replace(string(value), `"group"`, `"bored"`, 1),
		"broken base64":  strings.Replace(string(value), `"eyJ1`, `"-`, 1),
		"field twice":    strings.Replace(string(value), `"version":1`, `"version":1,"version":1`, 1),
	} {
		if broken == string(value) {
			t.Errorf("%s: nothing was broken", name)
		}
		if _, err := deadletter.Decode([]byte(broken)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDecodeIgnoresWhatALaterVersionAdds(t *testing.T) {
	t.Parallel()
	value, err := deadletter.Encode(full())
	if err != nil {
		t.Fatal(err)
	}
	got, err := deadletter.Decode(bytes.Replace(value, []byte(`{`), []byte(`{"mood":"fine",`), 1))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full(), got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestErrorsDoNotQuoteTheLetter(t *testing.T) {
	t.Parallel()
	_, err := deadletter.Decode([]byte(`{"version":1,"raw":"ann@example.com"`))
	if err == nil || strings.Contains(err.Error(), "ann") {
		t.Errorf("got %v", err)
	}
}

// FuzzDecode: Decode never panics; what it accepts, Encode takes, and Decode
// gives back.
func FuzzDecode(f *testing.F) {
	value, err := deadletter.Encode(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add([]byte(`{"version":1,"reason":"rejected","stage":"track","dead_at":"0000-01-01T00:00:00+02:00"}`))
	f.Add([]byte(`{"version":1,"reason":"rejected","stage":"track","dead_at":"2026-10-12T02:05:55+02:00"}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		want, err := deadletter.Decode(value)
		if err != nil {
			return
		}
		again, err := deadletter.Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := deadletter.Decode(again)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Raw, want.Raw) || !bytes.Equal(got.Key, want.Key) || got.Origin != want.Origin || !got.DeadAt.Equal(want.DeadAt) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	compiler.AssertContent()
	schema, err := compiler.Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func validate(schema *jsonschema.Schema, value []byte) error {
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
	if err != nil {
		return errors.New("not JSON")
	}
	return schema.Validate(instance)
}
