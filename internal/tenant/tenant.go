// Package tenant holds the tenants: their write keys, credentials and rules.
// A Registry is immutable and its tenants are in order; a File keeps the last
// good one in force while the tenants file changes. It knows nothing of delivery
// state, and shows no secret.
package tenant

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"refinersource/internal/attribution"
)

// ID names a tenant: [a-z0-9][a-z0-9_-]{0,62}.
type ID string

// Defaults of a tenants file.
const (
	// DefaultEndpoint is Segment's own.
	DefaultEndpoint = "https://api.segment.io"
	// DefaultRateLimit is what Segment advises not to pass, in calls a second.
	DefaultRateLimit = 1000
)

// Bounds of a tenant's settings. The numbers of credentials are bounded because
// a request is compared with as many for every tenant, so that its time tells
// nothing.
const (
	MaxTokens         = 8
	MaxSigningSecrets = 4
	MaxPairGap        = 30 * time.Second
	MaxPrefixBytes    = 64
)

// Pairing says how identify and group travel.
type Pairing string

// Strict sends the group after the identify was accepted; Batch sends both side
// by side in one request.
const (
	Strict Pairing = "strict"
	Batch  Pairing = "batch"
)

// Tenant is one tenant, ready for use: secrets resolved, rules compiled.
type Tenant struct {
	ID       ID
	WriteKey Secret
	Endpoint string // scheme://host[:port][/path], no trailing slash
	// Tokens may be several (rotation), at most MaxTokens; NoAuth is set by
	// `auth: none` alone.
	Tokens         []Secret
	SigningSecrets []Secret // at most MaxSigningSecrets; see Secret.SigningKey
	NoAuth         bool
	Rules          attribution.Rules
	RulesOf        string // fingerprint of Rules, set by the registry
	Pairing        Pairing
	PairGap        time.Duration // between identify and group, with Strict; at most MaxPairGap
	RateLimit      int           // calls a second over all workers; 0 is none
	Quota          int           // events a second that one ingress takes in; 0 is none
	Paused         bool
	// StrictBody takes a 2xx answer whose body says "success": false for a refusal, for
	// receivers that are like Segment but not as Segment.
	StrictBody bool
}

// HasCredentials reports whether a sender can prove to send for the tenant.
func (t *Tenant) HasCredentials() bool { return len(t.Tokens)+len(t.SigningSecrets) > 0 }

// The forms of an id and of a prefix. A prefix with one or more reduced words
// behind it is a trait name as docs/mapping.md, Names, has them.
var (
	idForm     = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	prefixForm = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*_$`)
)

// report is told of a fault: the key of the tenants file, such as tokens[1],
// what is wrong, and what to do.
type report func(key, problem, remedy string)

// check reports all that is wrong with the tenant by itself.
func (t *Tenant) check(fault report) {
	if !idForm.MatchString(string(t.ID)) {
		fault("id", "is no tenant id", "give 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit")
	}
	checkSecret("write_key", t.WriteKey, fault)
	checkEndpoint(t.Endpoint, fault)
	t.checkCredentials(fault)
	t.checkRules(fault)
	t.checkDelivery(fault)
}

func checkSecret(key string, s Secret, fault report) {
	value := s.Reveal()
	switch {
	case value == "":
		fault(key, "is empty", "give the value itself, ${VARIABLE} or file:/path")
	case strings.TrimSpace(value) != value || strings.ContainsFunc(value, unicode.IsControl):
		fault(key, "begins or ends with a space or holds a control character, which no HTTP header can carry", "look for stray white space where it comes from")
	}
}

func checkEndpoint(endpoint string, fault report) {
	u, err := url.Parse(endpoint)
	var problem string
	switch {
	case err != nil: // its text shows the endpoint, and with it a password
		problem = "is no URL"
	case u.Scheme != "https" && u.Scheme != "http":
		problem = "has neither https nor http as its scheme"
	case u.Hostname() == "":
		problem = "has no host"
	case !isPort(u.Port()):
		problem = "has a port that is not 1 to 65535"
	case u.User != nil:
		problem = "holds a user or password"
	case u.RawQuery != "" || u.ForceQuery:
		problem = "has a query"
	case u.Fragment != "" || strings.HasSuffix(endpoint, "#"):
		problem = "has a fragment"
	case strings.HasSuffix(u.Path, "/v1/batch"):
		problem = "holds the path /v1/batch, which is added to it"
	default:
		return
	}
	fault("endpoint", problem, "give scheme, host and at most port and path, such as "+DefaultEndpoint)
}

func isPort(port string) bool {
	if port == "" {
		return true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func (t *Tenant) checkCredentials(fault report) {
	if len(t.Tokens) > MaxTokens {
		fault("tokens", fmt.Sprintf("are more than %d", MaxTokens), "remove those that no sender uses any more")
	}
	for i, token := range t.Tokens {
		checkSecret(element("tokens", i), token, fault)
	}
	if len(t.SigningSecrets) > MaxSigningSecrets {
		fault("signing_secrets", fmt.Sprintf("are more than %d", MaxSigningSecrets), "remove those that no sender uses any more")
	}
	for i, s := range t.SigningSecrets {
		if _, err := s.SigningKey(); err != nil {
			fault(element("signing_secrets", i), "is "+err.Error(), `make one with: echo "whsec_$(openssl rand -base64 32)"`)
		}
	}
	if t.NoAuth && t.HasCredentials() {
		fault("auth", "is none although there are tokens or signing_secrets", "remove one or the other")
	}
}

func (t *Tenant) checkRules(fault report) {
	r := &t.Rules
	if !prefixForm.MatchString(r.Prefix) || len(r.Prefix) > MaxPrefixBytes {
		fault("prefix", "cannot begin trait names",
			fmt.Sprintf("give words of a-z and 0-9, each ended by one underscore, the first begun by a letter, in at most %d bytes, such as %s",
				MaxPrefixBytes, attribution.DefaultPrefix))
	}
	if r.OrderBy != attribution.ByUser && r.OrderBy != attribution.ByAccount {
		fault("order_by", "is not known", oneOf(attribution.ByUser, attribution.ByAccount))
	}
	var both []string
	for property := range r.UserProperties {
		if _, ok := r.AccountProperties[property]; ok {
			both = append(both, property)
		}
	}
	slices.Sort(both)
	for _, property := range both {
		fault("user_properties", "have "+quote(property)+", and so have account_properties", "leave it in one of them")
	}
}

func (t *Tenant) checkDelivery(fault report) {
	if t.Pairing != Strict && t.Pairing != Batch {
		fault("pairing", "is not known", oneOf(Strict, Batch))
	}
	switch {
	case t.PairGap < 0 || t.PairGap > MaxPairGap:
		fault("pair_gap", "is out of bounds", fmt.Sprintf("give 0s to %v", MaxPairGap))
	case t.PairGap > 0 && t.Pairing == Batch:
		fault("pair_gap", "has no meaning with pairing: batch, which sends both in one request", "remove it, or set pairing: strict")
	}
	if t.RateLimit < 0 {
		fault("rate_limit", "is negative", "give calls a second, or 0 for no limit")
	}
	if t.Quota < 0 {
		fault("quota", "is negative", "give events a second, or 0 for no limit")
	}
}

// element is the key of an element of a list.
func element(key string, i int) string { return key + "[" + strconv.Itoa(i) + "]" }

// oneOf is the remedy where a value is not of a closed set.
func oneOf[S ~string](values ...S) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = string(v)
	}
	return "give " + strings.Join(texts, " or ")
}

// quote quotes a text of the file, cut where it is long.
func quote(s string) string {
	const limit = 64
	if runes := []rune(s); len(runes) > limit {
		s = string(runes[:limit]) + "…"
	}
	return strconv.Quote(s)
}
