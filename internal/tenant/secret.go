package tenant

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Secret is a credential. However it is printed, logged or encoded, it shows
// "[redacted:" and eight hex digits of its SHA-256, never itself; Reveal is the
// only way to the value.
type Secret struct {
	value  string
	digest [sha256.Size]byte // of value; zero if there is no credential
}

// NewSecret wraps a credential.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{value, sha256.Sum256([]byte(value))}
}

// Reveal returns the credential. Its result goes into a request or a
// comparison, nowhere else.
func (s Secret) Reveal() string { return s.value }

// IsZero reports whether there is no credential.
func (s Secret) IsZero() bool { return s.value == "" }

// String returns the redacted form.
func (s Secret) String() string {
	if s.value == "" {
		return "[none]"
	}
	return "[redacted:" + hex.EncodeToString(s.digest[:4]) + "]"
}

// GoString returns the redacted form.
func (s Secret) GoString() string { return s.String() }

// Format writes the redacted form for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// MarshalText returns the redacted form; it covers JSON, YAML and zap.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// signingPrefix marks a signing secret, as Standard Webhooks writes them.
const signingPrefix = "whsec_"

// Bounds of a signing key, in bytes, as Standard Webhooks sets them.
const (
	minSigningKey = 24
	maxSigningKey = 64
)

var errSigningSecret = errors.New("not whsec_ and base64 of 24 to 64 bytes")

// SigningKey returns the HMAC key in a signing secret: what stands in base64
// behind "whsec_". The secrets of a Registry are always in order.
func (s Secret) SigningKey() ([]byte, error) {
	encoded, ok := strings.CutPrefix(s.value, signingPrefix)
	if !ok {
		return nil, errSigningSecret
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) < minSigningKey || len(key) > maxSigningKey {
		return nil, errSigningSecret
	}
	return key, nil
}

// HasToken reports whether token is one of the tenant's. It takes the same time
// whatever the tenant's tokens are, and for a nil tenant, which has none.
func (t *Tenant) HasToken(token string) bool {
	var tokens []Secret
	if t != nil {
		tokens = t.Tokens
	}
	given := sha256.Sum256([]byte(token))
	found := 0
	for i := range MaxTokens {
		var digest [sha256.Size]byte // which no token has
		if i < len(tokens) {
			digest = tokens[i].digest
		}
		found |= subtle.ConstantTimeCompare(given[:], digest[:])
	}
	return found == 1
}
