package tenant

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"refinersource/internal/attribution"
)

// MaxIntegrationsBytes bounds integrations as JSON, since each call carries them.
const MaxIntegrationsBytes = 4096

// field is a key that a tenant may have. set puts the value into the tenant, or
// tells what is wrong with it by itself; Tenant.check does the rest.
type field struct {
	key      string
	required bool
	set      func(v value, e *entry)
}

// fields are all keys of a tenant. schemas/tenants.schema.json has the same.
var fields = [...]field{
	{"id", true, func(v value, e *entry) {
		s, _ := v.text()
		e.ID = ID(s)
	}},
	{"write_key", true, func(v value, e *entry) { e.WriteKey, _ = v.secret() }},
	{"endpoint", false, func(v value, e *entry) {
		if s, ok := v.text(); ok {
			e.Endpoint = s
			if s == "" {
				v.fault("is empty", "remove it for "+DefaultEndpoint)
			}
		}
	}},
	{"tokens", false, func(v value, e *entry) { e.Tokens = secrets(v, e) }},
	{"signing_secrets", false, func(v value, e *entry) {
		if all := secrets(v, e); !v.p.rulesAlone { // else they are not of a secret's form
			e.SigningSecrets = all
		}
	}},
	{"auth", false, func(v value, e *entry) {
		s, ok := v.text()
		e.NoAuth = s == "none"
		if ok && !e.NoAuth {
			v.fault("is not known", "give none, or remove it and give tokens")
		}
	}},
	{"prefix", false, func(v value, e *entry) {
		if s, ok := v.text(); ok {
			e.Rules.Prefix = s
		}
	}},
	{"names", false, func(v value, e *entry) { e.Rules.Names = names(v) }},
	{"account_properties", false, func(v value, e *entry) { e.Rules.AccountProperties = v.set() }},
	{"user_properties", false, func(v value, e *entry) { e.Rules.UserProperties = v.set() }},
	{"order_by", false, func(v value, e *entry) {
		if s, ok := v.text(); ok {
			e.Rules.OrderBy = attribution.OrderBy(s)
		}
	}},
	{"pairing", false, func(v value, e *entry) {
		if s, ok := v.text(); ok {
			e.Pairing = Pairing(s)
			if s == "" {
				v.fault("is empty", oneOf(Strict, Batch))
			}
		}
	}},
	{"pair_gap", false, func(v value, e *entry) {
		gap, err := time.ParseDuration(v.node.Value)
		if err != nil || v.node.Tag != "!!str" {
			v.fault("is no duration", "give a number and a unit, such as 500ms")
		}
		e.PairGap = gap
	}},
	{"partials", false, func(v value, e *entry) { e.Rules.Partials, _ = v.boolean() }},
	{"anonymous", false, func(v value, e *entry) {
		s, ok := v.text()
		e.Rules.EmitAnonymous = s == "emit"
		if ok && s != "emit" && s != "skip" {
			v.fault("is not known", oneOf("skip", "emit"))
		}
	}},
	{"forgotten", false, func(v value, e *entry) { e.Rules.Forgotten = v.set() }},
	{"track", false, func(v value, e *entry) { e.Rules.Track, _ = v.boolean() }},
	{"integrations", false, func(v value, e *entry) { e.Rules.Integrations = integrations(v) }},
	{"rate_limit", false, func(v value, e *entry) { e.RateLimit, _ = v.integer() }},
	{"quota", false, func(v value, e *entry) { e.Quota, _ = v.integer() }},
	{"paused", false, func(v value, e *entry) { e.Paused, _ = v.boolean() }},
	{"strict_body", false, func(v value, e *entry) { e.StrictBody, _ = v.boolean() }},
}

func knownKeys() []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	return keys
}

func secrets(v value, e *entry) []Secret {
	var all []Secret
	for _, v := range v.elements() {
		s, _ := v.secret()
		all = append(all, s) // a fault keeps its place, so that the indexes stay
		e.lines[v.key] = v.node.Line
	}
	return all
}

func names(v value) map[string]string {
	custom := make(map[string]string)
	for source, v := range v.members() {
		if s, ok := v.name(); ok {
			custom[source] = s
		}
	}
	return attribution.CompileNames(custom)
}

// integrations returns the value as a JSON object, nil if it is empty.
func integrations(v value) jsontext.Value {
	if v.node.Kind != yaml.MappingNode {
		v.fault("is not a mapping", "give keys and values, such as {Refiner: false}")
		return nil
	}
	if len(v.node.Content) == 0 {
		return nil
	}
	var object map[string]any
	if hasAlias(v.node) || v.node.Decode(&object) != nil {
		v.fault("is no JSON object", "give texts as keys, each once, and no aliases")
		return nil
	}
	text, err := json.Marshal(object, json.Deterministic(true))
	if err != nil {
		v.fault("is no JSON object", "give texts, numbers, true, false, lists and mappings")
		return nil
	}
	if len(text) > MaxIntegrationsBytes {
		v.fault("is over 4096 bytes as JSON, which each call carries", "leave out what is not needed")
		return nil
	}
	return text
}

func hasAlias(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || slices.ContainsFunc(n.Content, hasAlias)
}
