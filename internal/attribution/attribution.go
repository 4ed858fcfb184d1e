// Package attribution decides what of a completion belongs to the user and
// what to the account, names the traits, and makes the calls: message ids,
// timestamps, limits. It is pure: the same completion and the same rules give
// byte-identical calls (invariant 6). The rules are those of docs/mapping.md.
package attribution

import (
	"cmp"
	"encoding/json/jsontext"
	"time"

	"refinersource/internal/survey"
)

// RulesVersion is the version of the mapping rules. Names are columns in
// somebody's warehouse: a change of a rule is a new version.
const RulesVersion = 1

// Version is the version of this service, which calls tell in context.library.
const Version = "0.1.0"

// DefaultPrefix is what the trait names begin with unless a tenant says otherwise.
const DefaultPrefix = "refiner_"

// MaxClockSkew is how far after its acceptance an event may say it happened.
const MaxClockSkew = 5 * time.Minute

// TraitName is the name of a trait: ^refiner(_[a-z0-9]+)+$ with the default
// prefix, at most MaxNameBytes.
type TraitName string

// OrderBy says what is kept in order.
type OrderBy string

// What can be kept in order.
const (
	ByUser    OrderBy = "user"
	ByAccount OrderBy = "account"
)

// Rules are a tenant's rules for making calls. The zero value is not usable;
// DefaultRules is. They are immutable once in use and shared by goroutines.
type Rules struct {
	// Prefix of trait names: lower-case letters, digits and single underscores,
	// the last an underscore; at most 64 bytes.
	Prefix string
	// Names gives custom names to question texts and property names; see CompileNames.
	Names map[string]string
	// AccountProperties and UserProperties attribute what the event does not. A
	// property is listed by its name, its question's text or its trait's name
	// without the prefix.
	AccountProperties map[string]struct{}
	UserProperties    map[string]struct{}
	OrderBy           OrderBy
	Partials          bool // incomplete responses make calls too
	EmitAnonymous     bool // respondents without a user id make calls too
	Track             bool // a track call follows the pair
	// Forgotten are ids of respondents whose events make no calls any more, whenever they
	// were accepted: the ids that calls would be made under, which is the anonymous id
	// only where there is no user id.
	Forgotten map[string]struct{}
	// Integrations is a JSON object copied into every call, nil for none. It is
	// written as encoding/json writes a map: keys sorted.
	Integrations jsontext.Value
	// IDLabel makes other message ids of the same events, for receivers that must
	// take them as new; "" for the ids of the first delivery.
	IDLabel string
	// LibraryVersion is the version in context.library; DefaultRules has Version.
	LibraryVersion string
}

// DefaultRules returns the rules of a tenant that says nothing.
func DefaultRules() Rules {
	return Rules{Prefix: DefaultPrefix, OrderBy: ByUser, LibraryVersion: Version}
}

// OrderKey is what an event is kept in order by: "u:" and the user's id, else
// "a:" and the anonymous id; with ByAccount, where the account is known, "g:"
// and the account's id. It is unique within the tenant, and "" if there is no id.
func (r *Rules) OrderKey(userID, anonymousID, accountID string) string {
	switch {
	case r.OrderBy == ByAccount && accountID != "":
		return "g:" + accountID
	case userID != "":
		return "u:" + userID
	case anonymousID != "":
		return "a:" + anonymousID
	default:
		return ""
	}
}

// Notes counts what was left out or renamed, for receipts and metrics.
type Notes struct {
	WithheldNoAccount []TraitName // account answers without an account id
	Unnamed           int         // answers and attributes without any name
	NameCollisions    int         // answers and attributes whose name was taken
	FutureTimestamp   bool        // the event's time was in the future; the acceptance's was taken
	UnreadableTime    bool        // a time of the event could not be read; the next best was taken
}

// Result is what became of a completion.
type Result struct {
	// Ignored is not empty if the completion makes no call.
	Ignored survey.Ignored
	// OrderKey is what the event is kept in order by; see Rules.OrderKey.
	OrderKey string
	// Calls in the order in which they are sent: identifies, groups, tracks.
	Calls []Call
	Notes Notes
}

// Attribute makes the calls of a completion by the tenant's rules. received is
// when the event was accepted. The error is always a *survey.Fault of reason
// TooLarge; the OrderKey stands then too.
func Attribute(c survey.Completion, r *Rules, tenantID string, received time.Time) (Result, error) {
	return attribute(&c, r, tenantID, received, false, nil)
}

// AttributeAndDigest is Attribute for callers who want the digests of all calls:
// they are made here, where each call is encoded anyway.
func AttributeAndDigest(c survey.Completion, r *Rules, tenantID string, received time.Time) (Result, error) {
	return attribute(&c, r, tenantID, received, true, nil)
}

func attribute(c *survey.Completion, r *Rules, tenantID string, received time.Time, digests bool, since *Since) (Result, error) {
	res := Result{
		Ignored:  r.ignored(c),
		OrderKey: r.OrderKey(c.UserID, c.AnonymousID, c.AccountID),
	}
	if res.Ignored != survey.NotIgnored {
		return res, nil
	}
	if since == nil {
		since = &Since{}
	}
	res.Notes.UnreadableTime = c.UnreadableTime
	m := newMaker(c, r, tenantID)
	defer m.close()
	m.user, m.account = r.claims(c, &m.names, m.user, m.account, &res.Notes)
	user, account := settle(m.user, &res.Notes), settle(m.account, &res.Notes)
	if c.AccountID == "" || since.Moved {
		for _, a := range account {
			res.Notes.WithheldNoAccount = append(res.Notes.WithheldNoAccount, a.name)
		}
	}
	if c.AccountID == "" {
		account = nil
	}
	newUser, newAccount := left(user, since.User), left(account, since.Account)
	group := c.AccountID != "" && !since.Moved && (len(newAccount) > 0 || !since.Member)
	track := r.Track && c.Ignored == survey.NotIgnored
	if since.Known && len(newUser) == 0 && !group && !track {
		res.Ignored = Superseded
		return res, nil
	}

	at, future := timestamp(c.Timestamp, received)
	res.Notes.FutureTimestamp = future
	m.shared.Timestamp, m.digests = at, digests
	m.calls = make([]Call, 0, 2)
	if since.Moved {
		m.shared.GroupID = ""
	}
	m.add(Identify, nil, traits(newUser))
	if group {
		m.add(Group, nil, traits(newAccount))
	}
	if track {
		m.shared.GroupID = c.AccountID
		each, answers := trackProperties(trackClaims(c, user, account))
		m.add(Track, each, answers)
	}
	if m.fault != nil {
		return res, m.fault
	}
	res.Calls = m.calls
	return res, nil
}

// settled returns the claims that become traits, each list sorted by name.
func (r *Rules) settled(c *survey.Completion) (user, account []claim) {
	notes := new(Notes)
	user, account = r.claims(c, new(names), nil, nil, notes)
	return settle(user, notes), settle(account, notes)
}

// ignored says why a completion makes no call by these rules.
func (r *Rules) ignored(c *survey.Completion) survey.Ignored {
	switch {
	case c.Ignored == survey.Partial && r.Partials, c.Ignored == survey.NotIgnored:
	default:
		return c.Ignored
	}
	if c.UserID == "" && !r.EmitAnonymous {
		return survey.Anonymous
	}
	if r.Forgets(c.UserID, c.AnonymousID) {
		return survey.Forgotten
	}
	return survey.NotIgnored
}

// Forgets reports whether a respondent with these ids, either of which may be "", is to
// be forgotten.
func (r *Rules) Forgets(userID, anonymousID string) bool {
	_, ok := r.Forgotten[cmp.Or(userID, anonymousID)]
	return ok
}

// timestamp is when the answer was given, in UTC, and whether the event said a
// time in the future instead.
func timestamp(given, received time.Time) (t time.Time, future bool) {
	future = given.Sub(received) > MaxClockSkew
	if given.IsZero() || future {
		return received.UTC(), future
	}
	return given, false
}
