package attribution_test

import (
	"encoding/json"
	"encoding/json/jsontext"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/segmentio/analytics-go/v3"
	"pgregory.net/rapid"

	"refinersource/internal/attribution"
)

// analyticsJSON is what analytics-go encodes of a call.
func analyticsJSON(t interface{ Fatal(...any) }, c *attribution.Call) string {
	context := &analytics.Context{Library: analytics.LibraryInfo{Name: attribution.LibraryName, Version: c.Library}}
	if c.Kind != attribution.Group {
		context.GroupID = c.GroupID
	}
	traits := make(map[string]any, len(c.Traits))
	for _, trait := range c.Traits {
		traits[string(trait.Name)] = trait.Value
	}
	var integrations analytics.Integrations
	if len(c.Integrations) > 0 {
		fields := make(map[string]json.RawMessage)
		if err := json.Unmarshal(c.Integrations, &fields); err != nil {
			t.Fatal(err)
		}
		integrations = analytics.NewIntegrations()
		for name, value := range fields {
			integrations[name] = value
		}
	}
	var message any
	switch c.Kind {
	case attribution.Identify:
		message = analytics.Identify{
			Type: "identify", MessageId: c.MessageID, AnonymousId: c.AnonymousID, UserId: c.UserID,
			Timestamp: c.Timestamp, Context: context, Traits: traits, Integrations: integrations,
		}
	case attribution.Group:
		message = analytics.Group{
			Type: "group", MessageId: c.MessageID, AnonymousId: c.AnonymousID, UserId: c.UserID, GroupId: c.GroupID,
			Timestamp: c.Timestamp, Context: context, Traits: traits, Integrations: integrations,
		}
	case attribution.Track:
		message = analytics.Track{
			Type: "track", MessageId: c.MessageID, AnonymousId: c.AnonymousID, UserId: c.UserID, Event: c.Event,
			Timestamp: c.Timestamp, Context: context, Properties: traits, Integrations: integrations,
		}
	default:
		t.Fatal("unknown kind", c.Kind)
	}
	text, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// calls draws a call of any kind with hostile strings and values.
func calls() *rapid.Generator[attribution.Call] {
	text := rapid.OneOf(rapid.Just(""), rapid.String(), rapid.SampledFrom([]string{"<&>\u2028\u2029", "\"\\/\b\f\n\r\t\x01\x7f", "日本語 😀", "\xff", "â€¨"}))
	value := rapid.Custom(func(t *rapid.T) jsontext.Value {
		s, err := json.Marshal(text.Draw(t, "text"))
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := jsontext.AppendQuote(nil, text.Draw(t, "raw text"))
		return rapid.SampledFrom([]jsontext.Value{
			s, raw, []byte("1e999"), []byte("-0"), []byte("9007199254740993"), []byte("4.50"), []byte("true"),
			[]byte(`{"b": [1, 2 , {"<": "&"}],"a":` + string(raw) + "\t}\n"), []byte(` [ "a b" , "\\\" <" ] `),
		}).Draw(t, "value")
	})
	name := rapid.StringMatching(`refiner(_[a-z0-9]{1,3}){1,2}`)
	return rapid.Custom(func(t *rapid.T) attribution.Call {
		c := attribution.Call{
			Kind:        rapid.SampledFrom([]attribution.Kind{attribution.Identify, attribution.Group, attribution.Track}).Draw(t, "kind"),
			MessageID:   text.Draw(t, "message id"),
			UserID:      text.Draw(t, "user id"),
			AnonymousID: text.Draw(t, "anonymous id"),
			GroupID:     text.Draw(t, "group id"),
			Event:       text.Draw(t, "event"),
			Library:     text.Draw(t, "library"),
			Timestamp:   time.Unix(rapid.Int64Range(-62135596799, 253402300799).Draw(t, "seconds"), rapid.Int64Range(0, 999999999).Draw(t, "nanoseconds")).UTC(),
		}
		for _, n := range rapid.SliceOfNDistinct(name, 0, 5, rapid.ID[string]).Draw(t, "names") {
			c.Traits = append(c.Traits, attribution.Trait{Name: attribution.TraitName(n), Value: value.Draw(t, "trait")})
		}
		sortTraits(c.Traits)
		c.Integrations = rapid.SampledFrom([]jsontext.Value{nil, []byte("{}"), []byte("{ }"), []byte(`{"All": true, "Refiner":false,"a<b":{"x":"\u2028"}}`)}).Draw(t, "integrations")
		return c
	})
}

// The limits are checked on what AppendJSON appends, so that must be what
// analytics-go sends, byte for byte.
func TestAppendJSONIsWhatAnalyticsGoEncodes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		call := calls().Draw(t, "call")
		want := analyticsJSON(t, &call)
		got := string(call.AppendJSON([]byte("before ")))
		if diff := cmp.Diff("before "+want, got); diff != "" {
			t.Fatalf("-analytics-go +AppendJSON:\n%s", diff)
		}
		if call.Size() != len(want) {
			t.Fatalf("size is %d, want %d", call.Size(), len(want))
		}
	})
}
