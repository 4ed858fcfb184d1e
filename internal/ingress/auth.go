package ingress

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"refinersource/internal/tenant"
)

// signatureWindow is how far a signed request's time may be from now.
const signatureWindow = 5 * time.Minute

// maxSignatures bounds how many signatures of a request are looked at.
const maxSignatures = 5

// authenticate finds out whether the sender may send for the tenant, nil if there
// is none. A sender who can prove it only with a signature of the body is let in
// with verify, to be called with the body. It takes the same time for each tenant
// and for none: only the request decides what there is to compare.
func (q *request) authenticate(t *tenant.Tenant) (verify func(body []byte) bool, p *problem) {
	admitted := t != nil && (t.NoAuth || q.o.AllowNoTokens && !t.HasCredentials())
	var given [3]string
	for _, token := range tokens(q.r, given[:0]) {
		if t.HasToken(token) {
			admitted = true
		}
	}
	if admitted {
		return nil, nil
	}
	if s, ok := readSignature(q.r.Header, q.received); ok {
		return func(body []byte) bool { return s.verify(t, body) }, nil
	}
	return nil, unauthorized()
}

// tokens appends what the request has for a token, in any of the three places.
func tokens(r *http.Request, given []string) []string {
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		given = append(given, strings.TrimSpace(token))
	}
	if token := r.Header.Get("X-Refiner-Token"); token != "" {
		given = append(given, token)
	}
	if r.URL.RawQuery != "" {
		if token := r.URL.Query().Get("token"); token != "" {
			given = append(given, token)
		}
	}
	return given
}

// signature is a Standard Webhooks signature of a request.
type signature struct {
	signed string // what is signed before the body: "<id>.<timestamp>."
	macs   [][]byte
}

// readSignature reports false if the request has no signature that could be valid
// now.
func readSignature(h http.Header, now time.Time) (signature, bool) {
	id, timestamp := h.Get("Webhook-Id"), h.Get("Webhook-Timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if id == "" || err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > signatureWindow {
		return signature{}, false
	}
	s := signature{signed: id + "." + timestamp + "."}
	given := 0
	for _, value := range h.Values("Webhook-Signature") {
		for each := range strings.FieldsSeq(value) {
			if given++; given > maxSignatures {
				break
			}
			if encoded, ok := strings.CutPrefix(each, "v1,"); ok {
				if mac, err := base64.StdEncoding.DecodeString(encoded); err == nil {
					s.macs = append(s.macs, mac)
				}
			}
		}
	}
	return s, len(s.macs) > 0
}

// verify reports whether one of the signatures was made with one of the tenant's
// secrets. A failure takes the same time whatever the tenant's secrets are.
func (s signature) verify(t *tenant.Tenant, body []byte) bool {
	var secrets []tenant.Secret
	if t != nil {
		secrets = t.SigningSecrets
	}
	for i := range tenant.MaxSigningSecrets {
		var key []byte
		valid := false
		if i < len(secrets) {
			var err error
			key, err = secrets[i].SigningKey()
			valid = err == nil
		}
		h := hmac.New(sha256.New, key)
		h.Write([]byte(s.signed))
		h.Write(body)
		want := h.Sum(nil)
		for _, mac := range s.macs {
			if hmac.Equal(mac, want) && valid {
				return true
			}
		}
	}
	return false
}
