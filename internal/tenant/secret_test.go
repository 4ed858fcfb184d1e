package tenant_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"refinersource/internal/tenant"
)

func TestSecretIsNeverShown(t *testing.T) {
	t.Parallel()
	const value = "canary-4f1d"
	s := tenant.NewSecret(value)
	all := struct{ A, B any }{s, &s}
	asJSON, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	logged, err := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()).EncodeEntry(zapcore.Entry{},
		[]zap.Field{zap.Any("any", s), zap.Stringer("stringer", s), zap.Reflect("reflect", tenant.Tenant{WriteKey: s})})
	if err != nil {
		t.Fatal(err)
	}
	for form, shown := range map[string]string{
		"%v": fmt.Sprintf("%v", s), "%+v": fmt.Sprintf("%+v", all), "%#v": fmt.Sprintf("%#v", all), "%s": fmt.Sprintf("%s", s),
		"%q": fmt.Sprintf("%q", s), "%x": fmt.Sprintf("%x", s), "%d": fmt.Sprintf("%d", s),
		"JSON": string(asJSON), "YAML": string(asYAML), "zap": logged.String(),
	} {
		if strings.Contains(shown, value) || strings.Contains(shown, fmt.Sprintf("%x", value)) {
			t.Errorf("%s shows the secret: %s", form, shown)
		}
		if !strings.Contains(shown, "[redacted:") && form != "%v" && form != "%#v" && form != "%+v" {
			t.Errorf("%s does not show that something is redacted: %s", form, shown)
		}
	}
	if got := s.Reveal(); got != value {
		t.Errorf("Reveal: got %q, want %q", got, value)
	}
}

func TestHasTokenAcceptsEachTokenAndNothingElse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.SliceOfN(rapid.StringN(1, 20, -1), 0, tenant.MaxTokens).Draw(t, "tokens")
		given := rapid.OneOf(rapid.StringN(0, 20, -1), rapid.SampledFrom(append(tokens, ""))).Draw(t, "given")
		var tn tenant.Tenant
		want := false
		for _, token := range tokens {
			tn.Tokens = append(tn.Tokens, tenant.NewSecret(token))
			want = want || token == given
		}
		if got := tn.HasToken(given); got != want {
			t.Fatalf("HasToken(%q) of %q: got %v, want %v", given, tokens, got, want)
		}
	})
	var unknown *tenant.Tenant
	if unknown.HasToken("") || unknown.HasToken("x") {
		t.Error("a tenant that does not exist has a token")
	}
}

func TestSigningKeyIsWhatStandsInBase64BehindWhsec(t *testing.T) {
	t.Parallel()
	key := []byte("0123456789abcdef01234567")
	got, err := tenant.NewSecret("whsec_" + base64.StdEncoding.EncodeToString(key)).SigningKey()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(key, got); diff != "" {
		t.Errorf("key (-want +got):\n%s", diff)
	}
	for name, secret := range map[string]string{
		"no prefix": base64.StdEncoding.EncodeToString(key),
		"no base64": "whsec_not base64 at all, is it",
		"too short": "whsec_" + base64.StdEncoding.EncodeToString(key[:23]),
		"too long":  "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65)),
		"empty":     "",
	} {
		if _, err := tenant.NewSecret(secret).SigningKey(); err == nil {
			t.Errorf("%s: accepted", name)
		} else if secret != "" && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}
