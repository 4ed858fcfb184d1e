package checker

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of a call.
const (
	maxCallBytes  = 32_000
	maxCallTraits = 300
)

func itoa(n int) string { return strconv.Itoa(n) }

// candidate is a value on its way to become a trait.
type candidate struct {
	name, source string
	asked        [3]string // property, question, member of the object that was answered
	value        node
	known        bool // not answered: an attribute, the e-mail
}

// calls makes the calls of a completion, or gives the reason why it cannot.
func (r *rules) calls(c *completion) ([]expected, string) {
	var user, account []candidate
	if c.email != "" {
		user = append(user, candidate{name: r.prefix + "email", value: text(c.email), known: true})
	}
	atAccount := make(map[string]bool, len(c.accountAttributes))
	for _, a := range c.accountAttributes {
		atAccount[a.name] = true
		source, custom := r.source(a.name, "")
		if a.value.kind != 'n' && c.accountID != "" && source != "" {
			account = flat(account, candidate{
				name: r.name(source, custom), source: source, asked: [3]string{a.name}, value: a.value, known: true,
			})
		}
	}
	for _, a := range c.answers {
		source, custom := r.source(a.property, a.question)
		if source == "" {
			continue
		}
		given := candidate{name: r.name(source, custom), source: source, asked: [3]string{a.property, a.question}, value: a.value}
		if r.ofAccount(c, &a, given.name, atAccount) {
			account = flat(account, given)
		} else {
			user = flat(user, given)
		}
	}
	user = settle(user)
	if account = settle(account); c.accountID == "" {
		account = nil // withheld: never moved to the user
	}

	var out []expected
	out, fits := r.parts(out, c, identify, nil, user)
	if c.accountID != "" && fits {
		out, fits = r.parts(out, c, group, nil, account)
	}
	if r.track && !c.partial && fits {
		each, rest := trackProperties(c, user, account)
		out, fits = r.parts(out, c, track, each, rest)
	}
	if !fits {
		return nil, tooLarge
	}
	return out, ""
}

// ofAccount tells whether an answer is the account's.
func (r *rules) ofAccount(c *completion, a *answer, name string, atAccount map[string]bool) bool {
	listed := func(in map[string]bool) bool {
		return in[a.property] && a.property != "" || in[a.question] && a.question != "" || in[strings.TrimPrefix(name, r.prefix)]
	}
	switch {
	case a.belongsTo != "":
		return a.belongsTo == "account"
	case listed(r.account):
		return true
	case listed(r.user):
		return false
	default:
		return a.property != "" && atAccount[a.property] && !c.userAttributes[a.property]
	}
}

// flat adds a candidate; in the place of an object, its members.
func flat(to []candidate, c candidate) []candidate {
	if c.value.kind != '{' {
		return append(to, c)
	}
	object := c.value
	for i, key := range object.names {
		value := object.kids[i]
		if value.isNone() || strings.TrimSpace(key) == "" {
			continue
		}
		if value.kind == '{' {
			value = text(string(value.appendText(nil)))
		}
		m := c
		m.source = c.source + "_" + key
		m.name = fit(c.name+"_"+body(key), m.source, maxName)
		m.asked[2] = key
		m.value = value
		to = append(to, m)
	}
	return to
}

// settle gives every name to one candidate, and sorts them by name.
func settle(all []candidate) []candidate {
	groups := make(map[string][]candidate, len(all))
	var names []string
	for _, c := range all {
		if _, ok := groups[c.name]; !ok {
			names = append(names, c.name)
		}
		groups[c.name] = append(groups[c.name], c)
	}
	slices.Sort(names)
	if len(names) < len(all) {
		taken := make(map[string]bool, len(names))
		for _, name := range names {
			taken[name] = true
		}
		for _, name := range names {
			same := contenders(groups[name])
			next := 2
			for i := range same[1:] {
				for taken[numbered(name, same[i+1].source, next)] {
					next++
				}
				same[i+1].name = numbered(name, same[i+1].source, next)
				taken[same[i+1].name] = true
				next++
			}
			groups[name] = same
		}
	}
	out := make([]candidate, 0, len(all))
	for _, name := range names {
		out = append(out, groups[name]...)
	}
	slices.SortFunc(out, func(a, b candidate) int { return strings.Compare(a.name, b.name) })
	return out
}

// contenders are those of one name that differ: answers before what was known;
// of the answers to one question the last one's value.
func contenders(same []candidate) []candidate {
	answered := slices.ContainsFunc(same, func(c candidate) bool { return !c.known })
	var out []candidate
	for _, c := range same {
		if answered && c.known {
			continue
		}
		if i := slices.IndexFunc(out, func(o candidate) bool { return o.asked == c.asked }); i >= 0 {
			out[i].value = c.value
			continue
		}
		out = append(out, c)
	}
	return out
}

// trackProperties are what every track call has, and what may be split.
func trackProperties(c *completion, user, account []candidate) (each, rest []candidate) {
	all := make([]candidate, 0, 3+len(user)+len(account))
	for _, p := range [][2]string{{"response_id", c.id}, {"survey_id", c.survey}, {"survey_name", c.surveyName}} {
		if p[1] != "" {
			all = append(all, candidate{name: p[0], asked: [3]string{"", "", p[0]}, source: "\x00survey", value: text(p[1])})
		}
	}
	for level, answers := range [][]candidate{user, account} {
		for _, a := range answers {
			if !a.known {
				a.asked[2] = itoa(level) + a.asked[2]
				all = append(all, a)
			}
		}
	}
	for _, p := range settle(all) {
		if p.source == "\x00survey" {
			each = append(each, p)
		} else {
			rest = append(rest, p)
		}
	}
	return each, rest
}

// parts adds the calls of one kind: one, or as many as the limits ask for. It
// reports false if a single trait, or the ids alone, are over them.
func (r *rules) parts(out []expected, c *completion, kind int, each, rest []candidate) ([]expected, bool) {
	for part := 1; part == 1 || len(rest) > 0; part++ {
		n := len(rest)
		if call := r.call(c, kind, part, each, rest); len(each)+n <= maxCallTraits && r.size(&call) <= maxCallBytes {
			return append(out, call), true
		}
		empty := r.call(c, kind, part, each, nil)
		size := r.size(&empty)
		if size > maxCallBytes {
			return nil, false
		}
		if len(each) == 0 {
			size += len(`,"traits":{}`) - 1
		}
		for n = 0; n < len(rest) && len(each)+n < maxCallTraits; n++ {
			one := node{kind: '{', names: []string{rest[n].name}, kids: []node{rest[n].value}}
			if size += escaped(one.appendText(nil)) - 1; size > maxCallBytes {
				break
			}
		}
		if n == 0 {
			return nil, false
		}
		out = append(out, r.call(c, kind, part, each, rest[:n]))
		rest = rest[n:]
	}
	return out, true
}

// size is how long a call is as it is sent.
func (r *rules) size(e *expected) int {
	version := len(r.version)
	if version == 0 {
		version = len("0.0.0")
	}
	return escaped(e.value.appendText(nil)) + len(`,"version":""`) + version
}

// call makes one call.
func (r *rules) call(c *completion, kind, part int, each, rest []candidate) expected {
	e := expected{kind: kind, id: messageID(r.tenant, c.id, c.revision, kind, part), of: c.user}
	traits := object()
	for _, t := range [][]candidate{each, rest} {
		for i := range t {
			traits.set(t[i].name, t[i].value)
			if kind != track {
				e.traits = append(e.traits, trait{t[i].name, t[i].value})
			}
		}
	}
	v := object()
	v.set("type", text(kindNames[kind]))
	v.set("messageId", text(e.id.String()))
	if c.user != "" {
		v.set("userId", text(c.user))
	} else {
		v.set("anonymousId", text(c.anonymous))
		e.of = "\x00" + c.anonymous
	}
	about := object()
	switch {
	case kind == group:
		v.set("groupId", text(c.accountID))
		e.of = c.accountID
	case c.accountID != "":
		about.set("groupId", text(c.accountID))
	}
	if kind == track {
		v.set("event", text("Survey Completed"))
	}
	v.set("timestamp", text(c.at.Format(time.RFC3339Nano)))
	library := object()
	library.set("name", text("refiner-source"))
	about.set("library", library)
	v.set("context", about)
	if len(traits.kids) > 0 {
		if kind == track {
			v.set("properties", traits)
		} else {
			v.set("traits", traits)
		}
	}
	if r.integrations != nil {
		v.set("integrations", *r.integrations)
	}
	e.value = v
	return e
}

// comparable takes out of a received call what the rules leave open, the
// library's version, and what is the same as nothing: empty objects.
func (n *node) comparable(version string) {
	for i, name := range n.names {
		kid := &n.kids[i]
		switch {
		case name == "context" && kid.kind == '{':
			if l := kid.last("library"); l != nil && l.kind == '{' && (version == "" || l.last("version").scalar() == version) {
				l.without("version")
			}
		case name == "timestamp":
			if t, err := time.Parse(time.RFC3339Nano, kid.text); err == nil {
				kid.text = t.UTC().Format(time.RFC3339Nano)
			}
		}
	}
	for _, name := range []string{"traits", "properties", "integrations"} {
		if m := n.last(name); m != nil && m.kind == '{' && len(m.kids) == 0 {
			n.without(name)
		}
	}
}
