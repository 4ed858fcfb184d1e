package checker

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"
)

// Reasons of dead letters that the rules give.
const (
	undecodable       = "undecodable"
	badIdentity       = "bad_identity"
	ambiguousIdentity = "ambiguous_identity"
	noIdentity        = "no_identity"
	tooLarge          = "too_large"
	unknownTenant     = "unknown_tenant"
)

// outlived is the reason of an event that the log was about to drop.
const outlived = "outlived"

// derived is what the rules make of an event: calls, or the reason of its dead
// letter, or why it is ignored.
type derived struct {
	id      string
	key     string // what keeps it in order, "" if nothing does
	dead    string
	ignored string
	calls   []expected
	// forgotten says that the respondent is to be forgotten, at some time of the run.
	forgotten bool
}

// The kinds of calls, in the order in which they are sent.
const (
	identify = iota
	group
	track
)

var kindNames = [...]string{"identify", "group", "track"}

// expected is a call that the rules give.
type expected struct {
	kind   int
	id     uuid
	of     string // the user's id, or the account's
	value  node
	traits []trait
}

type trait struct {
	name  string
	value node
}

type uuid [16]byte

func (u uuid) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// namespace is that of all message ids.
var namespace = mustUUID("32b15713-5ac1-4293-bd49-f0a656b12789")

func mustUUID(s string) uuid {
	u, ok := parseUUID(s)
	if !ok {
		panic("checker: " + s + " is no UUID")
	}
	return u
}

func parseUUID(s string) (u uuid, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, false
	}
	var digits [32]byte
	n := 0
	for i := range len(s) {
		if i != 8 && i != 13 && i != 18 && i != 23 {
			digits[n] = s[i]
			n++
		}
	}
	_, err := hex.Decode(u[:], digits[:])
	return u, err == nil && u.String() == s
}

// messageID is the UUIDv5 of tenant, event, revision, kind and part.
func messageID(tenant, id, revision string, kind, part int) uuid {
	h := sha1.New()
	h.Write(namespace[:])
	for _, s := range []string{tenant, id, revision, kindNames[kind]} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	h.Write([]byte(itoa(part)))
	var u uuid
	copy(u[:], h.Sum(nil))
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return u
}

// derive is docs/mapping.md. received is when the event was accepted.
func derive(source string, raw []byte, r *rules, received time.Time) derived {
	c, out := read(source, raw)
	if out.id == "" {
		sum := sha256.Sum256(raw)
		out.id = "sha256:" + hex.EncodeToString(sum[:])
	}
	c.id = out.id
	switch {
	case out.dead != "" || out.ignored != "":
		return out
	case c.partial && !r.partials:
		out.ignored = "partial"
		return out
	case c.user == "" && !r.anonymous:
		out.ignored = "anonymous"
		return out
	}
	if out.forgotten = r.forgotten[c.user]; c.user == "" {
		out.forgotten = r.forgotten[c.anonymous]
	}
	if out.forgotten && r.forgottenAt == 0 {
		out.ignored = "forgotten"
		return out
	}
	switch {
	case r.byAccount && c.accountID != "":
		out.key = "g:" + c.accountID
	case c.user != "":
		out.key = "u:" + c.user
	default:
		out.key = "a:" + c.anonymous
	}
	if c.at.IsZero() || c.at.Sub(received) > 5*time.Minute {
		c.at = received.UTC()
	}
	out.calls, out.dead = r.calls(&c)
	return out
}

// fromAny makes a node of what encoding/json made of a JSON value.
func fromAny(v any) (node, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return node{}, err
	}
	return parse(text)
}
