package survey_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"refinersource/internal/survey"
)

// checkPeek holds Peek to Decode: the same head and the same fault.
func checkPeek(t interface{ Fatalf(string, ...any) }, source survey.Source, raw []byte) {
	c, decodeErr := survey.Decode(source, raw)
	head, peekErr := survey.Peek(source, raw)
	want := survey.Head{EventID: c.ID, UserID: c.UserID, AnonymousID: c.AnonymousID, AccountID: c.AccountID, Ignored: c.Ignored}
	if diff := cmp.Diff(want, head); diff != "" {
		t.Fatalf("of %s: -Decode +Peek:\n%s", raw, diff)
	}
	if diff := cmp.Diff(decodeErr, peekErr); diff != "" {
		t.Fatalf("of %s: -Decode +Peek:\n%s", raw, diff)
	}
}

// events draws an event of either source, mostly well-formed, whose parts are
// often missing, twice, empty or of the wrong kind.
func events() *rapid.Generator[[]byte] {
	text := rapid.OneOf(rapid.SampledFrom([]string{`"user-17"`, `"user-18"`, `" "`, `""`, `"2026-10-12T02:05:55Z"`, `"user"`, `"\u0000"`, "\"\xff\""}), rapid.Map(rapid.String(), quote))
	scalar := rapid.OneOf(text, rapid.SampledFrom([]string{"null", "true", "12", "1.5", "[]", "{}", "[ ]", `{"a":1}`, `[1]`, "nul", ""}))
	object := func(members func(t *rapid.T) string) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			if rapid.IntRange(0, 9).Draw(t, "wrong kind") == 0 {
				return scalar.Draw(t, "value")
			}
			n := rapid.IntRange(0, 6).Draw(t, "members")
			all := make([]string, n)
			for i := range all {
				all[i] = members(t)
			}
			return "{" + strings.Join(all, ",") + "}"
		})
	}
	member := func(t *rapid.T, value *rapid.Generator[string], names ...string) string {
		return quote(rapid.SampledFrom(names).Draw(t, "name")) + ":" + value.Draw(t, "value")
	}
	plain := object(func(t *rapid.T) string { return member(t, scalar, "a", "b", "name", "uuid", "id") })
	account := object(func(t *rapid.T) string {
		if rapid.Bool().Draw(t, "attributes") {
			return member(t, plain, "attributes")
		}
		return member(t, scalar, "id", "remote_id", "uuid")
	})
	user := object(func(t *rapid.T) string {
		if rapid.IntRange(0, 3).Draw(t, "account") == 0 {
			return member(t, account, "account", "attributes")
		}
		return member(t, scalar, "id", "anonymous_id", "remote_id", "cookie_uuid", "uuid", "email")
	})
	response := object(func(t *rapid.T) string {
		if rapid.Bool().Draw(t, "data") {
			return member(t, plain, "data")
		}
		return member(t, scalar, "uuid", "completed_at", "last_data_reception_at", "received_at")
	})
	answer := object(func(t *rapid.T) string { return member(t, scalar, "question", "property", "belongs_to", "value") })
	answers := rapid.Map(rapid.SliceOfN(answer, 0, 3), func(a []string) string { return "[" + strings.Join(a, ",") + "]" })
	event := object(func(t *rapid.T) string {
		switch rapid.IntRange(0, 7).Draw(t, "part") {
		case 0:
			return member(t, account, "account")
		case 1:
			return member(t, user, "user", "contact")
		case 2:
			return member(t, response, "response")
		case 3:
			return member(t, plain, "form", "survey", "data", "attributes")
		case 4:
			return member(t, answers, "answers")
		default:
			return member(t, scalar, "id", "remote_id", "uuid", "cookie_uuid", "email", "completed_at", "last_data_reception_at", "data", "answers")
		}
	})
	return rapid.Map(event, func(s string) []byte { return []byte(s) })
}

func quote(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always has a JSON form
	}
	return string(text)
}

func TestPeekAgreesWithDecode(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		source := rapid.SampledFrom([]survey.Source{survey.RefinerWebhook, survey.SurveyEvent}).Draw(t, "source")
		checkPeek(t, source, events().Draw(t, "event"))
	})
}

// The golden cases are the events whose heads matter most.
func TestPeekAgreesWithDecodeOnGoldenCases(t *testing.T) {
	t.Parallel()
	for _, c := range goldenCases(t) {
		checkPeek(t, c.source, c.event)
	}
}

// The scanner and jsontext make the same of an event, whatever it is.
func TestScannerAgreesWithJSONText(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		source := rapid.SampledFrom([]survey.Source{survey.RefinerWebhook, survey.SurveyEvent}).Draw(t, "source")
		checkScanner(t, source, events().Draw(t, "event"))
	})
	for _, c := range goldenCases(t) {
		checkScanner(t, c.source, c.event)
	}
	// That it is too deep is said before all else, also where a fault comes first.
	checkScanner(t, survey.RefinerWebhook, []byte(`{"response":5,"deep":`+strings.Repeat("[", 70)+strings.Repeat("]", 70)+`}`))
}

func checkScanner(t interface{ Fatalf(string, ...any) }, source survey.Source, raw []byte) {
	want, wantErr := survey.DecodeWithJSONText(source, raw)
	got, err := survey.Decode(source, raw)
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s\n-jsontext +scanner\n%s", raw, diff)
	}
	if diff := cmp.Diff(wantErr, err); diff != "" {
		t.Fatalf("%s\n-jsontext +scanner\n%s", raw, diff)
	}
}

func TestOrdinaryEventsNeedTheScannerAlone(t *testing.T) {
	t.Parallel()
	for source, raw := range map[survey.Source]string{survey.RefinerWebhook: oneKB, survey.SurveyEvent: canonicalKB} {
		if !survey.IsScanned(source, []byte(raw)) {
			t.Errorf("%s: the event of 1 kB is read again with jsontext", source)
		}
	}
	scanned, sound := 0, 0
	for _, c := range goldenCases(t) {
		if _, err := survey.Decode(c.source, c.event); err != nil {
			continue
		}
		sound++
		if survey.IsScanned(c.source, c.event) {
			scanned++
		}
	}
	if 10*scanned < 8*sound {
		t.Errorf("of %d golden cases without a fault %d are read by the scanner alone, want eight of ten", sound, scanned)
	}
}

// FuzzDecode promises of any bytes: no panic; a fault is a *Fault and holds a
// pointer that is one; strings and values are valid UTF-8 without NUL; the same
// bytes decode to the same completion; Peek agrees, and so does jsontext alone.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		oneKB, `{}`, `[]`, ``, `{"a":`, `{"response":{"data":{"q":[{"a":"\ud800\u0000"}]}}}`,
		`{"contact":{"remote_id":1e3},"data":[],"completed_at":"2020-09-02 21:53:33"}`,
		`{"user":{"id":"u"},"account":{"id":"a"},"answers":[{"question":"q","value":{"a":{"b":1}}}]}`,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, webhook bool) {
		source := survey.SurveyEvent
		if webhook {
			source = survey.RefinerWebhook
		}
		c, err := survey.Decode(source, raw)
		if fault, ok := errors.AsType[*survey.Fault](err); err != nil && (!ok || fault.Pointer != "" && fault.Pointer[0] != '/') {
			t.Fatalf("fault is %#v", err)
		}
		checkClean(t, &c)
		again, _ := survey.Decode(source, raw)
		if diff := cmp.Diff(c, again); diff != "" {
			t.Fatalf("-first +again:\n%s", diff)
		}
		checkPeek(t, source, raw)
		checkScanner(t, source, raw)
	})
}

func checkClean(t *testing.T, c *survey.Completion) {
	t.Helper()
	texts := append([]string{c.ID, c.Revision, c.SurveyID, c.SurveyName, c.UserID, c.AnonymousID, c.Email, c.AccountID}, c.UserAttributes...)
	for _, a := range c.AccountAttributes {
		texts = append(texts, a.Name)
		checkValue(t, a.Value)
	}
	for _, a := range c.Answers {
		texts = append(texts, a.Property, a.Question)
		checkValue(t, a.Value)
	}
	for _, s := range texts {
		if s != strings.ToValidUTF8(s, "") || strings.Contains(s, "\x00") || s != strings.TrimSpace(s) {
			t.Errorf("text is not clean: %q", s)
		}
	}
}

func checkValue(t *testing.T, v json.RawMessage) {
	t.Helper()
	if !json.Valid(v) || string(v) != strings.ToValidUTF8(string(v), "") || strings.Contains(string(v), `\u0000`) && !strings.Contains(string(v), `\\u0000`) {
		t.Errorf("value is not clean: %q", v)
	}
}
