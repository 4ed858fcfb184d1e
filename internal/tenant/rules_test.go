package tenant_test

import (
	"encoding/json/jsontext"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/attribution"
	"refinersource/internal/tenant"
)

// everyRule are rules with every field set, so that a text that forgets one shows.
func everyRule() attribution.Rules {
	return attribution.Rules{
		Prefix:            "refiner_x_",
		Names:             attribution.CompileNames(map[string]string{"How big is your team?": "team_size", "b": "<&>\u2028"}),
		AccountProperties: map[string]struct{}{"industry": {}, "size": {}},
		UserProperties:    map[string]struct{}{"role": {}},
		OrderBy:           attribution.ByAccount,
		Partials:          true,
		EmitAnonymous:     true,
		Track:             true,
		Integrations:      jsontext.Value(`{"Refiner":false}`),
		LibraryVersion:    attribution.Version,
	}
}

func TestRulesComeBackFromTheirText(t *testing.T) {
	t.Parallel()
	for _, want := range []attribution.Rules{everyRule(), attribution.DefaultRules()} {
		text := tenant.RulesText(&want)
		got, err := tenant.ParseRules(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("of %s (-want +got)\n%s", text, diff)
		}
	}
}

// The fingerprint of the default rules is in receipts that are in the log: a change
// of the text makes new ones of all.
func TestTextOfRulesIsThis(t *testing.T) {
	t.Parallel()
	r := attribution.DefaultRules()
	if got, want := string(tenant.RulesText(&r)), `{"prefix":"refiner_","order_by":"user","anonymous":"skip"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := tenant.Fingerprint(&r), "303ee3f65172a04d"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEveryRuleChangesTheFingerprint(t *testing.T) {
	t.Parallel()
	seen := make(map[string]string)
	for name, change := range map[string]func(*attribution.Rules){
		"nothing":            func(*attribution.Rules) {},
		"prefix":             func(r *attribution.Rules) { r.Prefix = "refiner_" },
		"names":              func(r *attribution.Rules) { r.Names = map[string]string{"a": "b"} },
		"account_properties": func(r *attribution.Rules) { r.AccountProperties = nil },
		"user_properties":    func(r *attribution.Rules) { r.UserProperties = nil },
		"order_by":           func(r *attribution.Rules) { r.OrderBy = attribution.ByUser },
		"partials":           func(r *attribution.Rules) { r.Partials = false },
		"anonymous":          func(r *attribution.Rules) { r.EmitAnonymous = false },
		"track":              func(r *attribution.Rules) { r.Track = false },
		"integrations":       func(r *attribution.Rules) { r.Integrations = nil },
	} {
		r := everyRule()
		change(&r)
		f := tenant.Fingerprint(&r)
		if other, ok := seen[f]; ok {
			t.Errorf("%s and %s have the same fingerprint", name, other)
		}
		seen[f] = name
	}
	r := everyRule()
	if r.LibraryVersion = "9"; seen[tenant.Fingerprint(&r)] != "nothing" {
		t.Error("a new version of the program changes the fingerprint")
	}
	r = everyRule()
	if r.Forgotten = map[string]struct{}{"user-17": {}}; seen[tenant.Fingerprint(&r)] != "nothing" || strings.Contains(string(tenant.RulesText(&r)), "user-17") {
		t.Error("who is to be forgotten is in the rules' text, which is written to the log")
	}
}

func TestRegistrySetsTheFingerprintOfTheRulesAlone(t *testing.T) {
	t.Parallel()
	a, b := newTenant("a"), newTenant("b")
	b.WriteKey, b.RateLimit = tenant.NewSecret("other"), 7
	r, err := tenant.NewRegistry(a, b)
	if err != nil {
		t.Fatal(err)
	}
	for t1 := range r.All() {
		if want := tenant.Fingerprint(&t1.Rules); t1.RulesOf != want || len(want) != 16 {
			t.Errorf("%s: fingerprint %q, want %q", t1.ID, t1.RulesOf, want)
		}
	}
}

func TestParseRulesRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{``, `[]`, `{"prefix":"refiner_","order_by":"user","anonymous":"skip","more":1}`, `{"prefix":"","order_by":"user"}`, `{"prefix":"refiner_","order_by":"x"}`} {
		if _, err := tenant.ParseRules([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
