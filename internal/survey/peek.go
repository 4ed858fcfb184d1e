package survey

import (
	"bytes"
	"unicode/utf8"
)

// Peek reads of one event what the ingress needs. It finds the same faults as
// Decode, and the Head holds what is known nevertheless, at least the EventID.
func Peek(source Source, raw []byte) (Head, error) {
	if head, ok := glance(source, raw); ok {
		return head, nil
	}
	d := newDecoder(raw)
	defer d.close()
	d.peek = true
	c, err := d.decode(source, raw)
	return Head{
		EventID:     c.ID,
		UserID:      c.UserID,
		AnonymousID: c.AnonymousID,
		AccountID:   c.AccountID,
		Ignored:     c.Ignored,
	}, err
}

// glance reads the head of an event that is written as nearly all are: valid JSON, a
// completed response or a canonical event with an id, each field that matters there
// once and of its usual kind. Whatever is otherwise it leaves to the decoder, which
// alone knows the rules for it; so ok says that there is no fault.
func glance(source Source, raw []byte) (head Head, ok bool) {
	g := glancer{scanner: scanner{raw: raw, ok: true}}
	switch source {
	case RefinerWebhook:
		g.webhook()
	case SurveyEvent:
		g.event()
	default:
		return Head{}, false
	}
	if g.end(); !g.ok {
		return Head{}, false
	}
	return g.head()
}

// glancer reads one event. After the first thing it does not take, ok is false and
// nothing that it returns means anything.
type glancer struct {
	scanner

	seen                               uint // the fields that matter, one bit each: none may come twice
	id, user, cookie, contact, account []byte
	completed                          bool
}

// Bits of glancer.seen.
const (
	seenUser = 1 << iota
	seenCookie
	seenContact
	seenAccount
	seenAccountID
	seenPerson
	seenResponse
	seenID
	seenCompleted
	seenData
)

// once notes that the field is there.
func (g *glancer) once(field uint) {
	g.ok = g.ok && g.seen&field == 0
	g.seen |= field
}

// head puts together what was found.
func (g *glancer) head() (Head, bool) {
	anonymous := g.cookie
	if len(anonymous) == 0 {
		anonymous = g.contact
	}
	if len(g.id) == 0 || len(g.user)+len(anonymous) == 0 || len(g.account) > MaxAccountID {
		return Head{}, false
	}
	// One piece of memory for all.
	all := make([]byte, 0, 256)
	for _, part := range [...][]byte{g.id, g.user, anonymous, g.account} {
		all = append(all, part...)
	}
	text := string(all)
	cut := func(n int) (part string) {
		part, text = text[:n], text[n:]
		return part
	}
	return Head{EventID: cut(len(g.id)), UserID: cut(len(g.user)), AnonymousID: cut(len(anonymous)), AccountID: cut(len(g.account))}, true
}

func (g *glancer) webhook() {
	for g.open('{'); g.more(); {
		switch string(g.name()) {
		case "remote_id":
			g.user = g.identity(seenUser)
		case "cookie_uuid":
			g.cookie = g.identity(seenCookie)
		case "uuid":
			g.contact = g.identity(seenContact)
		case "account":
			g.ofAccount("remote_id")
		case "response":
			g.once(seenResponse)
			g.response()
		case "contact", "data":
			g.ok = false // Refiner's REST form
		default:
			g.skip()
		}
	}
	g.ok = g.ok && g.completed
}

func (g *glancer) response() {
	for g.open('{'); g.more(); {
		switch string(g.name()) {
		case "uuid":
			g.id = g.text(seenID)
		case "completed_at":
			g.completed = len(g.text(seenCompleted)) > 0
		case "data":
			g.once(seenData)
			for g.open('{'); g.more(); {
				g.name()
				g.skip()
			}
		default:
			g.skip()
		}
	}
}

func (g *glancer) event() {
	for g.open('{'); g.more(); {
		switch string(g.name()) {
		case "id":
			g.id = g.text(seenID)
		case "user":
			g.once(seenPerson)
			g.ofUser()
		case "account":
			g.ofAccount("id")
		case "answers":
			g.once(seenData)
			g.answers()
		default:
			g.skip()
		}
	}
}

func (g *glancer) ofUser() {
	for g.open('{'); g.more(); {
		switch string(g.name()) {
		case "id":
			g.user = g.identity(seenUser)
		case "anonymous_id":
			g.cookie = g.identity(seenCookie)
		default:
			g.skip()
		}
	}
}

func (g *glancer) ofAccount(idField string) {
	if g.once(seenAccount); g.null() {
		return
	}
	for g.open('{'); g.more(); {
		if string(g.name()) == idField {
			g.account = g.identity(seenAccountID)
		} else {
			g.skip()
		}
	}
}

func (g *glancer) answers() {
	for g.open('['); g.more(); {
		for g.open('{'); g.more(); {
			switch string(g.name()) {
			case "question", "property":
				if !g.null() {
					g.string()
				}
			case "belongs_to":
				if !g.null() && !g.literal(`"user"`) && !g.literal(`"account"`) {
					g.ok = false
				}
			default:
				g.skip()
			}
		}
	}
}

// identity reads an id.
func (g *glancer) identity(field uint) []byte {
	if c := g.peek(); c != '-' && !isDigit(c) {
		return g.text(field)
	}
	g.once(field)
	v := g.number()
	g.ok = g.ok && isInteger(v)
	return v
}

// text reads the trimmed text of a string that has no escapes, nil for null.
func (g *glancer) text(field uint) []byte {
	if g.once(field); g.peek() != '"' {
		g.ok = g.null()
		return nil
	}
	v := g.string()
	if bytes.IndexByte(v, '\\') >= 0 || !utf8.Valid(v) {
		g.ok = false
		return nil
	}
	return bytes.TrimSpace(v)
}
