package checker

import (
	"strings"
	"time"
	"unicode/utf8"
)

// completion is an event as it was read.
type completion struct {
	id, revision           string
	survey, surveyName     string
	user, anonymous, email string
	accountID              string
	userAttributes         map[string]bool
	accountAttributes      []trait
	answers                []answer
	at                     time.Time
	partial                bool
}

type answer struct {
	property, question, belongsTo string
	value                         node
}

// read reads an event of either source.
func read(source string, raw []byte) (completion, derived) {
	root, err := parse(raw)
	if err != nil || root.kind != '{' {
		return completion{}, derived{dead: undecodable}
	}
	var c completion
	var out derived
	var who respondent
	ok := false
	switch source {
	case "refiner-webhook":
		ok = readRefiner(&root, &c, &who, &out)
	case "survey-event":
		ok = readEvent(&root, &c, &who)
	}
	if !ok {
		return completion{}, derived{dead: undecodable}
	}
	out.id = c.id
	if out.ignored == "" {
		out.dead = who.judge(&c)
	}
	return c, out
}

// identity is a field that says who answered, as often as it was given.
type identity struct {
	value string
	given bool
	fault string
}

// take reads one more occurrence; nil is a parent that came again without it.
func (i *identity) take(n *node) {
	fault := ""
	value := n.scalar()
	if n != nil && n.kind != '"' && n.kind != 'n' && !n.isInteger() {
		fault = badIdentity
	}
	i.then(value, fault)
}

func (i *identity) then(value, fault string) {
	if fault == "" && i.given && i.value != value {
		fault = ambiguousIdentity
	}
	if i.fault == "" {
		i.fault = fault
	}
	i.value, i.given = value, true
}

// takeAll reads all occurrences in one object, or the lack of any where there was
// one before.
func (i *identity) takeAll(in *node, name string) {
	if in.last(name) == nil && i.given {
		i.take(nil)
		return
	}
	in.each(name, i.take)
}

// respondent is who answered.
type respondent struct {
	user, cookie, contact, account identity
	email                          string
	attributes                     *node
	accountAttributes              *node
}

// judge writes who answered into the completion, and returns the reason of the
// dead letter if that cannot be said.
func (w *respondent) judge(c *completion) string {
	c.user, c.accountID, c.email = w.user.value, w.account.value, w.email
	c.anonymous = w.cookie.value
	if c.anonymous == "" {
		c.anonymous = w.contact.value
	}
	if w.attributes.given() && w.attributes.kind == '{' {
		c.userAttributes = make(map[string]bool, len(w.attributes.names))
		for _, name := range w.attributes.names {
			c.userAttributes[strings.TrimSpace(name)] = true
		}
	}
	if a := w.accountAttributes; a.given() && a.kind == '{' {
		for i := range a.names {
			c.accountAttributes = append(c.accountAttributes, trait{strings.TrimSpace(a.names[i]), a.kids[i]})
		}
	}
	switch {
	case w.user.fault != "":
		return w.user.fault
	case c.user == "" && w.cookie.fault != "":
		return w.cookie.fault
	case c.user == "" && w.cookie.value == "" && w.contact.fault != "":
		return w.contact.fault
	case c.user == "" && c.anonymous == "":
		return noIdentity
	case w.account.fault != "":
		return w.account.fault
	case utf8.RuneCountInString(c.accountID) > 500:
		return badIdentity
	}
	return ""
}

// opened tells what stands where an object belongs: an object, or null or [],
// which are none; ok is false for all else.
func opened(n *node, kind byte) (open, ok bool) {
	switch {
	case n.kind == kind:
		return true, true
	case n.kind == 'n', n.kind == '[' && len(n.kids) == 0:
		return false, true
	default:
		return false, false
	}
}

// readAccount reads an account, which may come several times.
func (w *respondent) readAccount(n *node, idField string) bool {
	open, ok := opened(n, '{')
	w.accountAttributes = nil
	if !open {
		if w.account.given {
			w.account.take(nil)
		}
		return ok
	}
	w.account.takeAll(n, idField)
	w.accountAttributes = n.last("attributes")
	return true
}

// readRefiner reads the webhook and the REST form.
func readRefiner(root *node, c *completion, who *respondent, out *derived) bool {
	ok := true
	var response, contact *node
	hasContact := false
	root.each("response", func(n *node) {
		open, fine := opened(n, '{')
		ok = ok && fine
		response = nil
		if open {
			response = n
			ok = ok && dataFine(n)
		}
	})
	root.each("account", func(n *node) { ok = who.readAccount(n, "remote_id") && ok })
	root.each("remote_id", who.user.take)
	root.each("cookie_uuid", who.cookie.take)
	root.each("uuid", who.contact.take)
	who.email = root.last("email").scalar()
	who.attributes = root.last("attributes")
	inner := respondent{user: who.user, account: who.account}
	root.each("contact", func(n *node) {
		open, fine := opened(n, '{')
		ok = ok && fine
		if !open {
			return
		}
		hasContact, contact = true, n
		inner.user.takeAll(n, "remote_id")
		inner.cookie.takeAll(n, "cookie_uuid")
		inner.contact.takeAll(n, "uuid")
		if n.last("account") == nil && inner.account.given {
			inner.account.take(nil)
		}
		n.each("account", func(a *node) { ok = inner.readAccount(a, "remote_id") && ok })
	})
	ok = ok && dataFine(root)
	if !ok {
		return false
	}
	if hasContact {
		inner.email, inner.attributes = contact.last("email").scalar(), contact.last("attributes")
		*who = inner
	}
	if form := root.last("form"); form.given() && form.kind == '{' {
		c.survey, c.surveyName = form.last("uuid").scalar(), form.last("name").scalar()
	}
	switch {
	case response != nil:
	case hasContact:
		response = root
	default:
		out.ignored = "no_response"
		return true
	}
	completed, revised, received := moment(response.last("completed_at")), moment(response.last("last_data_reception_at")), moment(response.last("received_at"))
	c.id = response.last("uuid").scalar()
	c.at = firstTime(completed, revised, received)
	c.revision = revision(revised, completed, received)
	if data := response.last("data"); data.given() && data.kind == '{' {
		for i := range data.names {
			if !data.kids[i].isNone() {
				c.answers = append(c.answers, answer{property: strings.TrimSpace(data.names[i]), value: data.kids[i]})
			}
		}
	}
	switch {
	case completed != "":
	case len(c.answers) > 0:
		c.partial = true
		c.revision = strings.TrimSpace(c.revision + " partial")
	default:
		out.ignored = "not_completed"
	}
	return true
}

// dataFine tells whether every data of a response has a shape that can be read.
func dataFine(response *node) bool {
	fine := true
	response.each("data", func(n *node) {
		_, ok := opened(n, '{')
		fine = fine && ok
	})
	return fine
}

// readEvent reads a canonical event.
func readEvent(root *node, c *completion, who *respondent) bool {
	ok := true
	root.each("user", func(n *node) {
		open, fine := opened(n, '{')
		ok = ok && fine
		who.email = ""
		if !open {
			n = &node{kind: '{'}
		}
		who.user.takeAll(n, "id")
		who.cookie.takeAll(n, "anonymous_id")
		who.email = n.last("email").scalar()
	})
	root.each("account", func(n *node) { ok = who.readAccount(n, "id") && ok })
	root.each("answers", func(n *node) {
		c.answers = nil
		open, fine := opened(n, '[')
		ok = ok && fine
		if !open {
			return
		}
		for i := range n.kids {
			a, has, fine := readAnswer(&n.kids[i])
			if ok = ok && fine; has {
				c.answers = append(c.answers, a)
			}
		}
	})
	c.id = root.last("id").scalar()
	if s := root.last("survey"); s.given() && s.kind == '{' {
		c.survey, c.surveyName = s.last("id").scalar(), s.last("name").scalar()
	}
	completed := moment(root.last("completed_at"))
	c.at, c.revision = firstTime(completed), revision(completed)
	return ok
}

func readAnswer(n *node) (a answer, has, ok bool) {
	if n.kind != '{' {
		return a, false, false
	}
	for _, f := range []struct {
		name string
		into *string
	}{{"question", &a.question}, {"property", &a.property}, {"belongs_to", &a.belongsTo}} {
		fine := true
		n.each(f.name, func(v *node) {
			fine = fine && (v.kind == '"' || v.kind == 'n')
			*f.into = v.scalar()
			if f.name == "belongs_to" {
				fine = fine && (*f.into == "" || *f.into == "user" || *f.into == "account")
			}
		})
		if !fine {
			return a, false, false
		}
	}
	v := n.last("value")
	if v == nil || v.isNone() {
		return a, false, true
	}
	a.value = *v
	return a, true, true
}

// moment is a time as it was written, "" if it was not given.
func moment(n *node) string {
	if n != nil && n.kind == '0' {
		return n.text
	}
	return n.scalar()
}

func readTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			t = t.UTC()
			return t, t.After(time.Time{})
		}
	}
	return time.Time{}, false
}

func firstTime(moments ...string) time.Time {
	for _, m := range moments {
		if t, ok := readTime(m); ok {
			return t
		}
	}
	return time.Time{}
}

// revision is the first of the times that was given, in one form.
func revision(moments ...string) string {
	for _, m := range moments {
		if m == "" {
			continue
		}
		if t, ok := readTime(m); ok {
			return t.Format(time.RFC3339Nano)
		}
		return m
	}
	return ""
}
