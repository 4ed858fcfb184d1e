package tenant_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"refinersource/internal/attribution"
	"refinersource/internal/tenant"
)

const signingSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"

// reveal compares secrets by what they are.
var reveal = cmp.Comparer(func(a, b tenant.Secret) bool { return a.Reveal() == b.Reveal() })

func TestEveryFieldIsRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("from-file\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := tenant.Parse("tenants.yaml", []byte(`
installation: production
tenants:
  - id: acme
    write_key: a-${KEY}-z
    endpoint: https://events.example.com:8443/path/
    tokens: ["${TOKEN}", "file:`+path+`"]
    signing_secrets: [`+signingSecret+`]
    prefix: acme_survey_
    names: {"How big is your team?": team_size, " plan ": tier}
    account_properties: [employee_count, industry]
    user_properties: ["1"]
    order_by: account
    pairing: strict
    pair_gap: 1.5s
    partials: true
    anonymous: emit
    forgotten: [user-17, " user-18 "]
    track: true
    integrations: {Refiner: false, All: true, Other: {x: [1, 2.5, "a"]}}
    rate_limit: 0
    quota: 50
    paused: true
    strict_body: true
  - id: open
    write_key: k
    auth: none
`), env(map[string]string{"KEY": "${NOT_AGAIN}", "TOKEN": "t1"}))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Installation(); got != "production" {
		t.Errorf("the installation is %q, want production", got)
	}
	acme, _ := r.Get("acme")
	rules := attribution.DefaultRules()
	rules.Prefix = "acme_survey_"
	rules.Names = attribution.CompileNames(map[string]string{"How big is your team?": "team_size", "plan": "tier"})
	rules.AccountProperties = map[string]struct{}{"employee_count": {}, "industry": {}}
	rules.UserProperties = map[string]struct{}{"1": {}}
	rules.OrderBy = attribution.ByAccount
	rules.Partials, rules.EmitAnonymous, rules.Track = true, true, true
	rules.Forgotten = map[string]struct{}{"user-17": {}, "user-18": {}}
	rules.Integrations = []byte(`{"All":true,"Other":{"x":[1,2.5,"a"]},"Refiner":false}`)
	want := &tenant.Tenant{
		ID: "acme", WriteKey: tenant.NewSecret("a-${NOT_AGAIN}-z"), Endpoint: "https://events.example.com:8443/path",
		Tokens:         []tenant.Secret{tenant.NewSecret("t1"), tenant.NewSecret("from-file")},
		SigningSecrets: []tenant.Secret{tenant.NewSecret(signingSecret)},
		Rules:          rules, Pairing: tenant.Strict, PairGap: 1500 * time.Millisecond, Quota: 50, Paused: true, StrictBody: true,
	}
	want.RulesOf = tenant.Fingerprint(&want.Rules)
	if diff := cmp.Diff(want, acme, reveal); diff != "" {
		t.Errorf("acme (-want +got):\n%s", diff)
	}
	open, _ := r.Get("open")
	want = &tenant.Tenant{
		ID: "open", WriteKey: tenant.NewSecret("k"), Endpoint: tenant.DefaultEndpoint, NoAuth: true,
		Rules: attribution.DefaultRules(), Pairing: tenant.Strict, RateLimit: tenant.DefaultRateLimit,
	}
	want.RulesOf = tenant.Fingerprint(&want.Rules)
	if diff := cmp.Diff(want, open, reveal); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

// TestEveryFaultHasItsLineAndRemedy gives each bad line of a tenant and where its
// fault must point: the field, and the line counted from the tenant's first.
func TestEveryFaultHasItsLineAndRemedy(t *testing.T) {
	t.Parallel()
	const canary = "canary-77e0"
	for name, c := range map[string]struct {
		lines  string // of the tenant; "" between is its first line
		field  string
		line   int // 1 is the first of lines
		remedy string
	}{
		"unknown key":                  {"id: a\nwrite_key: k\nendpiont: https://x", "endpiont", 3, "did you mean endpoint?"},
		"unknown key, none near":       {"id: a\nwrite_key: k\nfavourite: x", "favourite", 3, "remove it"},
		"key twice":                    {"id: a\nwrite_key: k\npaused: true\npaused: false", "paused", 4, "remove one"},
		"id missing":                   {"write_key: k", "id", 1, "give one"},
		"id upper case":                {"id: Acme\nwrite_key: k", "id", 1, "a-z"},
		"id too long":                  {"id: " + strings.Repeat("a", 64) + "\nwrite_key: k", "id", 1, "63"},
		"id number":                    {"id: 17\nwrite_key: k", "id", 1, "quotes"},
		"write key missing":            {"id: a", "write_key", 1, "give one"},
		"write key empty":              {"id: a\nwrite_key: ''", "write_key", 2, "${VARIABLE}"},
		"write key null":               {"id: a\nwrite_key:", "write_key", 2, "give one"},
		"write key with newline":       {"id: a\nwrite_key: \"" + canary + "\\n\"", "write_key", 2, "white space"},
		"write key an unset variable":  {"id: a\nwrite_key: " + canary + "${UNSET}", "write_key", 2, "set it"},
		"write key an empty variable":  {"id: a\nwrite_key: ${EMPTY}", "write_key", 2, "${VARIABLE}"},
		"write key an unclosed one":    {"id: a\nwrite_key: " + canary + "${X", "write_key", 2, "${VARIABLE}"},
		"write key no such file":       {"id: a\nwrite_key: file:/no/such/file", "write_key", 2, "create it"},
		"write key a relative file":    {"id: a\nwrite_key: file:secret", "write_key", 2, "file:/path"},
		"write key an alias":           {"id: &x a\nwrite_key: *x", "write_key", 2, "the value itself"},
		"endpoint ftp":                 {"id: a\nwrite_key: k\nendpoint: ftp://x", "endpoint", 3, tenant.DefaultEndpoint},
		"endpoint without scheme":      {"id: a\nwrite_key: k\nendpoint: api.segment.io", "endpoint", 3, tenant.DefaultEndpoint},
		"endpoint without host":        {"id: a\nwrite_key: k\nendpoint: https:///x", "endpoint", 3, tenant.DefaultEndpoint},
		"endpoint empty":               {"id: a\nwrite_key: k\nendpoint: ''", "endpoint", 3, tenant.DefaultEndpoint},
		"endpoint with user":           {"id: a\nwrite_key: k\nendpoint: https://u:" + canary + "@x", "endpoint", 3, tenant.DefaultEndpoint},
		"endpoint with bad user":       {"id: a\nwrite_key: k\nendpoint: 'https://u:" + canary + "%zz@x'", "endpoint", 3, tenant.DefaultEndpoint},
		"endpoint with query":          {"id: a\nwrite_key: k\nendpoint: https://x?a=b", "endpoint", 3, tenant.DefaultEndpoint},
		"endpoint with bare ?":         {"id: a\nwrite_key: k\nendpoint: https://x?", "endpoint", 3, tenant.DefaultEndpoint},
		"endpoint with fragment":       {"id: a\nwrite_key: k\nendpoint: https://x#a", "endpoint", 3, tenant.DefaultEndpoint},
		"endpoint with bare #":         {"id: a\nwrite_key: k\nendpoint: https://x#", "endpoint", 3, tenant.DefaultEndpoint},
		"endpoint with port 0":         {"id: a\nwrite_key: k\nendpoint: https://x:0", "endpoint", 3, tenant.DefaultEndpoint},
		"endpoint with port 65536":     {"id: a\nwrite_key: k\nendpoint: https://x:65536", "endpoint", 3, tenant.DefaultEndpoint},
		"endpoint with batch path":     {"id: a\nwrite_key: k\nendpoint: https://x/v1/batch/", "endpoint", 3, tenant.DefaultEndpoint},
		"tokens no list":               {"id: a\nwrite_key: k\ntokens: " + canary, "tokens", 3, "[one, two]"},
		"token empty":                  {"id: a\nwrite_key: k\ntokens:\n- t\n- ''", "tokens[1]", 5, "${VARIABLE}"},
		"token unset":                  {"id: a\nwrite_key: k\ntokens:\n- t\n- ${UNSET}", "tokens[1]", 5, "set it"},
		"token a number":               {"id: a\nwrite_key: k\ntokens: [12345]", "tokens[0]", 3, "quotes"},
		"too many tokens":              {"id: a\nwrite_key: k\ntokens: [a, b, c, d, e, f, g, h, i]", "tokens", 3, "remove"},
		"signing secret without whsec": {"id: a\nwrite_key: k\nsigning_secrets: [" + canary + "]", "signing_secrets[0]", 3, "openssl rand"},
		"too many signing secrets":     {"id: a\nwrite_key: k\nsigning_secrets: [" + strings.Repeat(signingSecret+",", 5) + "]", "signing_secrets", 3, "remove"},
		"auth unknown":                 {"id: a\nwrite_key: k\nauth: basic", "auth", 3, "none"},
		"auth none with tokens":        {"id: a\nwrite_key: k\nauth: none\ntokens: [t]", "auth", 3, "remove one"},
		"prefix upper case":            {"id: a\nwrite_key: k\nprefix: Acme_", "prefix", 3, "a-z"},
		"prefix without underscore":    {"id: a\nwrite_key: k\nprefix: acme", "prefix", 3, "underscore"},
		"prefix with two underscores":  {"id: a\nwrite_key: k\nprefix: acme__", "prefix", 3, "one underscore"},
		"prefix begins with digit":     {"id: a\nwrite_key: k\nprefix: 1a_", "prefix", 3, "letter"},
		"prefix too long":              {"id: a\nwrite_key: k\nprefix: " + strings.Repeat("a", 64) + "_", "prefix", 3, "64 bytes"},
		"prefix empty":                 {"id: a\nwrite_key: k\nprefix: ''", "prefix", 3, "letter"},
		"names no mapping":             {"id: a\nwrite_key: k\nnames: [x]", "names", 3, "keys and values"},
		"name blank":                   {"id: a\nwrite_key: k\nnames:\n  Why not?: ' '", `names["Why not?"]`, 4, "give a name"},
		"name twice":                   {"id: a\nwrite_key: k\nnames:\n  x: a\n  x: b", "names.x", 5, "remove one"},
		"name with a list as key":      {"id: a\nwrite_key: k\nnames:\n  ? [x]\n  : b", "names", 4, "simple key"},
		"property blank":               {"id: a\nwrite_key: k\nuser_properties: ['']", "user_properties[0]", 3, "give a name"},
		"property in both":             {"id: a\nwrite_key: k\naccount_properties: [x]\nuser_properties: [x]", "user_properties", 4, "one of them"},
		"order_by unknown":             {"id: a\nwrite_key: k\norder_by: tenant", "order_by", 3, "user or account"},
		"pairing unknown":              {"id: a\nwrite_key: k\npairing: loose", "pairing", 3, "strict or batch"},
		"pairing empty":                {"id: a\nwrite_key: k\npairing: ''", "pairing", 3, "strict or batch"},
		"pair gap without unit":        {"id: a\nwrite_key: k\npair_gap: 3", "pair_gap", 3, "500ms"},
		"pair gap a list":              {"id: a\nwrite_key: k\npair_gap: [1s]", "pair_gap", 3, "500ms"},
		"pair gap no duration":         {"id: a\nwrite_key: k\npair_gap: soon", "pair_gap", 3, "500ms"},
		"pair gap negative":            {"id: a\nwrite_key: k\npair_gap: -1s", "pair_gap", 3, "0s"},
		"pair gap too long":            {"id: a\nwrite_key: k\npair_gap: 31s", "pair_gap", 3, "30s"},
		"pair gap with batch":          {"id: a\nwrite_key: k\npairing: batch\npair_gap: 1s", "pair_gap", 4, "pairing: strict"},
		"partials no boolean":          {"id: a\nwrite_key: k\npartials: yes", "partials", 3, "true or false"},
		"anonymous unknown":            {"id: a\nwrite_key: k\nanonymous: drop", "anonymous", 3, "skip or emit"},
		"track a number":               {"id: a\nwrite_key: k\ntrack: 1", "track", 3, "true or false"},
		"integrations a list":          {"id: a\nwrite_key: k\nintegrations: [a]", "integrations", 3, "keys and values"},
		"integrations not a number":    {"id: a\nwrite_key: k\nintegrations: {a: .nan}", "integrations", 3, "give texts"},
		"integrations a key twice":     {"id: a\nwrite_key: k\nintegrations: {a: 1, a: 2}", "integrations", 3, "each once"},
		"integrations with an alias":   {"id: a\nwrite_key: k\nintegrations: {a: &x 1, b: *x}", "integrations", 3, "no aliases"},
		"integrations too large":       {"id: a\nwrite_key: k\nintegrations: {a: " + strings.Repeat("x", 4096) + "}", "integrations", 3, "leave out"},
		"rate limit negative":          {"id: a\nwrite_key: k\nrate_limit: -1", "rate_limit", 3, "0 for no limit"},
		"quota negative":               {"id: a\nwrite_key: k\nquota: -1", "quota", 3, "0 for no limit"},
		"rate limit a fraction":        {"id: a\nwrite_key: k\nrate_limit: 1.5", "rate_limit", 3, "digits"},
		"rate limit too large":         {"id: a\nwrite_key: k\nrate_limit: 99999999999999999999", "rate_limit", 3, "digits"},
		"strict_body text":             {"id: a\nwrite_key: k\nstrict_body: 1", "strict_body", 3, "true or false"},
		"paused text":                  {"id: a\nwrite_key: k\npaused: 'true'", "paused", 3, "true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The second tenant, from the file's fifth line on.
			file := "# tenants\ntenants:\n- id: first\n  write_key: k\n-\n  " + strings.ReplaceAll(c.lines, "\n", "\n  ") + "\n"
			_, err := tenant.Parse("tenants.yaml", []byte(file), env(map[string]string{"EMPTY": ""}))
			faults, ok := errors.AsType[tenant.Faults](err)
			if !ok || len(faults) != 1 {
				t.Fatalf("got %v, want one fault", err)
			}
			got := faults[0]
			if want := "tenants[1]." + c.field; got.Field != want {
				t.Errorf("field: got %s, want %s", got.Field, want)
			}
			if want := 5 + c.line; got.Line != want {
				t.Errorf("line: got %d, want %d", got.Line, want)
			}
			if !strings.Contains(got.Remedy, c.remedy) {
				t.Errorf("remedy: got %q, want one with %q", got.Remedy, c.remedy)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestFileThatIsNoListOfTenantsIsAFault(t *testing.T) {
	t.Parallel()
	const one = "tenants: [{id: a, write_key: k}]\n"
	for name, c := range map[string]struct {
		file  string
		field string
		line  int
	}{
		"empty":           {"", "", 1},
		"only a comment":  {"# nothing\n", "", 1},
		"null":            {"null\n", "", 1},
		"a list":          {"\n- id: a\n", "", 2},
		"no tenants":      {"{}\n", "", 1},
		"tenants null":    {"tenants:\n", "tenants", 1},
		"tenants empty":   {"\ntenants: []\n", "tenants", 2},
		"tenants mapping": {"tenants: {a: b}\n", "tenants", 1},
		"tenant a text":   {"tenants:\n- a\n", "tenants[0]", 2},
		"tenant null":     {"tenants:\n-\n", "tenants[0]", 2},
		"unknown key":     {one + "tenant: x\n", "tenant", 2},
		"second document": {one + "---\n" + one, "", 2},
		"no YAML":         {"tenants:\n  - id: a\n   write_key: k\n", "", 3},
		"no YAML, later":  {"tenants:\n- id: a\n  write_key: k\n- id: b\n  tokens: [x\n  write_key: k\n- id: c\n- id: d\n", "", 7},
		"unknown anchor":  {"tenants:\n- id: a\n  write_key: *canary-77e0\n", "", 3},
		"duplicate id":    {"tenants:\n- {id: a, write_key: k}\n- {id: b, write_key: k}\n- {id: a, write_key: k}\n", "tenants[2].id", 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := tenant.Parse("tenants.yaml", []byte(c.file), noEnv)
			faults, _ := errors.AsType[tenant.Faults](err)
			want := tenant.Faults{{Line: c.line, Field: c.field}}
			if diff := cmp.Diff(want, faults, cmpopts.IgnoreFields(tenant.Fault{}, "Problem", "Remedy")); diff != "" {
				t.Errorf("faults (-want +got):\n%s\n%v", diff, err)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestAllFaultsAreToldAtOnceInTheOrderOfTheFile(t *testing.T) {
	t.Parallel()
	_, err := tenant.Parse("tenants.yaml", []byte(`tenants:
  - id: A
    write_key: ${UNSET}
    colour: red
    endpoint: nowhere
  - write_key: k
    tokens: ["", "${UNSET}", ok, ""]
`), noEnv)
	faults, _ := errors.AsType[tenant.Faults](err)
	var got []string
	for _, f := range faults {
		got = append(got, fmt.Sprintf("%d %s", f.Line, f.Field))
	}
	want := []string{
		"2 tenants[0].id", "3 tenants[0].write_key", "4 tenants[0].colour", "5 tenants[0].endpoint",
		"6 tenants[1].id", "7 tenants[1].tokens[1]", "7 tenants[1].tokens[0]", "7 tenants[1].tokens[3]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestLoadForSendersTellsWhoCannotSendWithAllElse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tenants.yaml")
	if err := os.WriteFile(path, []byte(`tenants:
  - {id: nobody, write_key: k, colour: red}
  - {id: open, write_key: k, auth: none}
  - {id: broken, write_key: k, tokens: none}
  - {id: nobody, write_key: k}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := tenant.LoadForSenders(path, noEnv)
	faults, _ := errors.AsType[tenant.Faults](err)
	var got []string
	for _, f := range faults {
		got = append(got, fmt.Sprintf("%d %s", f.Line, f.Field))
	}
	want := []string{"2 tenants[0].colour", "2 tenants[0].tokens", "4 tenants[2].tokens", "5 tenants[3].tokens", "5 tenants[3].id"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestLoadRulesNeedsNoSecret(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tenants.yaml")
	if err := os.WriteFile(path, []byte(`tenants:
  - id: acme
    write_key: file:/no/such/file
    tokens: ["${UNSET}", "canary"]
    signing_secrets: ["${UNSET}"]
    track: true
`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := tenant.LoadRules(path)
	if err != nil {
		t.Fatal(err)
	}
	acme, _ := r.Get("acme")
	if !acme.Rules.Track || acme.HasToken("canary") {
		t.Errorf("got rules %+v and the file's token %v, want the rules and no token", acme.Rules, acme.HasToken("canary"))
	}
	if err := os.WriteFile(path, []byte("tenants:\n  - {id: acme, write_key: 17, trak: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if faults, _ := errors.AsType[tenant.Faults](func() error { _, err := tenant.LoadRules(path); return err }()); len(faults) != 2 {
		t.Errorf("got faults %v, want those of the secret's type and the unknown key", faults)
	}
}

func TestLoadOfAnUnreadableFileIsNoFault(t *testing.T) {
	t.Parallel()
	_, err := tenant.Load(filepath.Join(t.TempDir(), "none.yaml"), noEnv)
	if _, ok := errors.AsType[tenant.Faults](err); ok || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want one that is os.ErrNotExist and no fault", err)
	}
}

func BenchmarkParse10000(b *testing.B) {
	var file strings.Builder
	file.WriteString("tenants:\n")
	for i := range 10_000 {
		fmt.Fprintf(&file, "  - id: tenant-%d\n    write_key: ${KEY}\n    tokens: [\"${KEY}\"]\n    names: {\"How big is your team?\": size}\n", i)
	}
	for b.Loop() {
		if _, err := tenant.Parse("tenants.yaml", []byte(file.String()), env(map[string]string{"KEY": "k"})); err != nil {
			b.Fatal(err)
		}
	}
}
