package tenant_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"refinersource/internal/tenant"
)

const schemaFile = "../../schemas/tenants.schema.json"

func readSchema(t *testing.T) any {
	t.Helper()
	data, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// tenantSchema is the part of the schema that is about one tenant.
func tenantSchema(t *testing.T) map[string]any {
	t.Helper()
	defs := readSchema(t).(map[string]any)["$defs"].(map[string]any)
	return defs["tenant"].(map[string]any)["properties"].(map[string]any)
}

func TestSchemaAndParserKnowTheSameKeys(t *testing.T) {
	t.Parallel()
	want := slices.Sorted(maps.Keys(tenantSchema(t)))
	got := tenant.KnownKeys()
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys (-schema +parser):\n%s", diff)
	}
}

// TestSchemaDefaultsAreTheParsers writes the schema's defaults into a file and
// compares it with one that leaves them out.
func TestSchemaDefaultsAreTheParsers(t *testing.T) {
	t.Parallel()
	said := map[string]any{"id": "a", "write_key": "k"}
	for key, s := range tenantSchema(t) {
		if d, ok := s.(map[string]any)["default"]; ok {
			said[key] = d
		}
	}
	if len(said) < 8 {
		t.Fatalf("the schema has only %d defaults", len(said))
	}
	file, err := json.Marshal(map[string]any{"tenants": []any{said}}) // JSON is YAML
	if err != nil {
		t.Fatal(err)
	}
	var got [2]*tenant.Tenant
	for i, file := range []string{"tenants: [{id: a, write_key: k}]", string(file)} {
		r, err := tenant.Parse("tenants.yaml", []byte(file), noEnv)
		if err != nil {
			t.Fatal(err)
		}
		got[i], _ = r.Get("a")
	}
	if diff := cmp.Diff(got[0], got[1], reveal); diff != "" {
		t.Errorf("tenant (-left out +schema's defaults):\n%s", diff)
	}
}

// TestSchemaAndParserAgree has lines of a tenant that both accept, and such that
// both refuse. What only the parser can know is not here.
func TestSchemaAndParserAgree(t *testing.T) {
	t.Parallel()
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("tenants.json", readSchema(t)); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("tenants.json")
	if err != nil {
		t.Fatal(err)
	}
	prove := func(t *testing.T, file string, want bool) {
		t.Helper()
		var doc any
		if err := yaml.Unmarshal([]byte(file), &doc); err != nil {
			t.Fatal(err)
		}
		asJSON, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		doc, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(doc); (err == nil) != want {
			t.Errorf("schema: got %v, want valid %v of\n%s", err, want, file)
		}
		if _, err := tenant.Parse("tenants.yaml", []byte(file), noEnv); (err == nil) != want {
			t.Errorf("parser: got %v, want valid %v of\n%s", err, want, file)
		}
	}
	for _, valid := range []string{
		"", "endpoint: http://127.0.0.1:8090/", "endpoint: https://x/y", "endpoint: 'http://[::1]:8090'", "tokens: [a, b]", "tokens: []",
		"signing_secrets: [" + signingSecret + "]", "auth: none", "auth: none\ntokens: []", "prefix: acme_", "prefix: a1_2_", "names: {}",
		"names: {'What?': what}", "account_properties: [a]\nuser_properties: [b]", "order_by: account", "pairing: batch",
		"pairing: batch\npair_gap: 0s", "pair_gap: 250ms", "pair_gap: 1.5s", "pair_gap: 1s500ms", "pair_gap: '0'", "partials: true", "anonymous: emit", "forgotten: [user-17]", "forgotten: []",
		"track: true", "integrations: {}", "integrations: {All: false}", "rate_limit: 0", "quota: 100", "paused: true", "strict_body: true",
	} {
		prove(t, tenantFile("id: acme_1\nwrite_key: k", valid), true)
	}
	for _, invalid := range []string{
		"other: 1", "endpoint: ''", "endpoint: x.example", "endpoint: ftp://x", "endpoint: https://u@x", "endpoint: https://x?y", "endpoint: https://x#y",
		"tokens: x", "tokens: ['']", "tokens: [1]", "tokens: [a, b, c, d, e, f, g, h, i]", "signing_secrets: ['']",
		"signing_secrets: [a, b, c, d, e]", "auth: token", "auth: none\ntokens: [a]", "auth: none\nsigning_secrets: [" + signingSecret + "]",
		"prefix: refiner", "prefix: _", "prefix: A_", "prefix: a__", "prefix: " + strings.Repeat("a", 64) + "_", "names: []",
		"names: {a: ' '}", "names: {a: 1}", "account_properties: a", "account_properties: ['']", "user_properties: [1]", "order_by: ''",
		"order_by: org", "pairing: ''", "pair_gap: 1", "pair_gap: '5'", "pair_gap: -1s", "pair_gap: ''", "pairing: batch\npair_gap: 1ms", "partials: 1", "anonymous: ''", "forgotten: user-17", "forgotten: [17]", "forgotten: ['']",
		"track: maybe", "integrations: []", "integrations: null", "rate_limit: -1", "rate_limit: 1.5", "rate_limit: '1'", "quota: -1", "quota: '1'", "paused:", "strict_body: yes",
	} {
		prove(t, tenantFile("id: acme\nwrite_key: k", invalid), false)
	}
	for _, invalid := range []string{
		"", "id: a", "write_key: k", "id: a\nwrite_key: ''", "id: ''\nwrite_key: k", "id: A\nwrite_key: k", "id: 1\nwrite_key: k", "id: _a\nwrite_key: k",
		"id: " + strings.Repeat("a", 64) + "\nwrite_key: k",
	} {
		prove(t, tenantFile(invalid, ""), false)
	}
	prove(t, "tenants: []", false)
	prove(t, "tenants: [{id: a, write_key: k}]\nmore: 1", false)
	prove(t, "tenants: [{id: a, write_key: k}]\ninstallation: eu-1_a", true)
	for _, invalid := range []string{"''", "1", "Production", "-a", strings.Repeat("a", 64), "[a]"} {
		prove(t, "tenants: [{id: a, write_key: k}]\ninstallation: "+invalid, false)
	}
	prove(t, "{}", false)
}

// tenantFile is a file with one tenant of these lines.
func tenantFile(lines, more string) string {
	return "tenants:\n-\n  " + strings.ReplaceAll(strings.TrimSpace(lines+"\n"+more), "\n", "\n  ") + "\n"
}
