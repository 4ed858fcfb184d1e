package tenant

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"maps"
	"slices"

	"refinersource/internal/attribution"
)

// fingerprintBytes is the length of a fingerprint, before it is written in hex.
const fingerprintBytes = 8

// rulesForm is a tenant's rules as JSON, under the names of the tenants file.
// Names are compiled; lists are sorted.
type rulesForm struct {
	Prefix            string            `json:"prefix"`
	Names             map[string]string `json:"names,omitempty"`
	AccountProperties []string          `json:"account_properties,omitempty"`
	UserProperties    []string          `json:"user_properties,omitempty"`
	OrderBy           string            `json:"order_by"`
	Partials          bool              `json:"partials,omitzero"`
	Anonymous         string            `json:"anonymous"`
	Track             bool              `json:"track,omitzero"`
	Integrations      jsontext.Value    `json:"integrations,omitempty"`
}

// RulesText returns the rules as JSON: what decides which calls an event makes, but
// for the version in context.library, and for who is to be forgotten: that is not to be
// written down in the log, and the receipts' reasons tell it. The same rules have the
// same text, which holds no secret of the tenant.
func RulesText(r *attribution.Rules) []byte {
	f := rulesForm{
		Prefix:            r.Prefix,
		Names:             r.Names,
		AccountProperties: slices.Sorted(maps.Keys(r.AccountProperties)),
		UserProperties:    slices.Sorted(maps.Keys(r.UserProperties)),
		OrderBy:           string(r.OrderBy),
		Partials:          r.Partials,
		Anonymous:         "skip",
		Track:             r.Track,
		Integrations:      r.Integrations,
	}
	if r.EmitAnonymous {
		f.Anonymous = "emit"
	}
	text, err := json.Marshal(f, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		// Integrations are JSON, as all that makes rules sees to.
		panic("tenant: rules that are no JSON: " + err.Error())
	}
	return text
}

// ParseRules returns the rules that RulesText made text of, with the version in
// context.library of this program.
func ParseRules(text []byte) (attribution.Rules, error) {
	var f rulesForm
	if err := json.Unmarshal(text, &f, json.RejectUnknownMembers(true)); err != nil {
		return attribution.Rules{}, errors.New("parse rules: they are not the JSON of rules")
	}
	t := defaults()
	r := &t.Rules
	r.Prefix, r.Names = f.Prefix, f.Names
	r.AccountProperties, r.UserProperties = setOf(f.AccountProperties), setOf(f.UserProperties)
	r.OrderBy = attribution.OrderBy(f.OrderBy)
	r.Partials, r.Track, r.Integrations = f.Partials, f.Track, f.Integrations
	r.EmitAnonymous = f.Anonymous == "emit"
	var errs []error
	t.checkRules(func(key, problem, _ string) { errs = append(errs, fmt.Errorf("%s %s", key, problem)) })
	if err := errors.Join(errs...); err != nil {
		return attribution.Rules{}, fmt.Errorf("parse rules: %w", err)
	}
	return *r, nil
}

func setOf(list []string) map[string]struct{} {
	if len(list) == 0 {
		return nil
	}
	set := make(map[string]struct{}, len(list))
	for _, s := range list {
		set[s] = struct{}{}
	}
	return set
}

// Fingerprint names rules by their text: 16 hex digits of its SHA-256.
func Fingerprint(r *attribution.Rules) string {
	sum := sha256.Sum256(RulesText(r))
	return hex.EncodeToString(sum[:fingerprintBytes])
}
