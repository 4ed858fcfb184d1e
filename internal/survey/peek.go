package survey

import (
	"bytes"
	"encoding/binary"
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
	g := glancer{raw: raw, ok: true}
	switch source {
	case RefinerWebhook:
		g.webhook()
	case SurveyEvent:
		g.event()
	default:
		return Head{}, false
	}
	if g.peek() != 0 || !g.ok || g.at != len(raw) {
		return Head{}, false
	}
	return g.head()
}

// glancer reads one event. After the first thing it does not take, ok is false and
// nothing that it returns means anything.
type glancer struct {
	raw   []byte
	at    int
	ok    bool
	after bool // a value was read last, so that a comma must precede the next
	depth int
	kinds [glanceDepth]byte // how each object and array that is open ends
	seen  uint              // the fields that matter, one bit each: none may come twice

	id, user, cookie, contact, account []byte
	completed                          bool
}

// glanceDepth is how deep an event may nest here. It is less than MaxDepth.
const glanceDepth = 16

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

// open enters the next value, an object or an array by its first character.
func (g *glancer) open(first byte) {
	if g.peek() != first || g.depth == glanceDepth {
		g.ok = false
		return
	}
	g.kinds[g.depth] = first + 2 // '{' and '}', '[' and ']' are two apart
	g.depth++
	g.at++
	g.after = false
}

// more reports whether the object or array that was entered goes on; if not, it has
// been left.
func (g *glancer) more() bool {
	c := g.peek()
	switch {
	case !g.ok:
		return false
	case c == g.kinds[g.depth-1]:
		g.depth--
		g.at++
		g.after = true
		return false
	case g.after && c == ',':
		g.at++
		return true
	default:
		g.ok = !g.after
		return g.ok
	}
}

// name reads a member's name and the colon.
func (g *glancer) name() []byte {
	name := g.string()
	if bytes.IndexByte(name, '\\') >= 0 || g.peek() != ':' {
		g.ok = false
		return nil
	}
	g.at++
	return name
}

// skip passes over the next value.
func (g *glancer) skip() {
	switch c := g.peek(); {
	case c == '"':
		g.string()
	case c == '{':
		for g.open('{'); g.more(); {
			g.string()
			if g.peek() != ':' {
				g.ok = false
			}
			g.at++
			g.skip()
		}
	case c == '[':
		for g.open('['); g.more(); {
			g.skip()
		}
	case c == '-' || isDigit(c):
		g.number()
	case c == 'n' && g.literal("null"), c == 't' && g.literal("true"), c == 'f' && g.literal("false"):
	default:
		g.ok = false
	}
}

// peek passes over white space and returns the next character, 0 at the end or after
// a fault.
func (g *glancer) peek() byte {
	for g.ok && g.at < len(g.raw) {
		switch c := g.raw[g.at]; c {
		case ' ', '\t', '\r', '\n':
			g.at++
		default:
			return c
		}
	}
	return 0
}

func (g *glancer) null() bool { return g.literal("null") }

// literal passes over the next value if it is written so.
func (g *glancer) literal(text string) bool {
	if g.peek() == 0 || !bytes.HasPrefix(g.raw[g.at:], []byte(text)) {
		return false
	}
	g.at += len(text)
	g.after = true
	return true
}

// string reads a string: what stands between its quotes.
func (g *glancer) string() []byte {
	if g.peek() != '"' {
		g.ok = false
		return nil
	}
	from := g.at + 1
	for i := from; i < len(g.raw); i++ {
		for i+8 <= len(g.raw) && allOrdinary(binary.LittleEndian.Uint64(g.raw[i:])) {
			i += 8
		}
		for i < len(g.raw) && ordinary[g.raw[i]] {
			i++
		}
		if i == len(g.raw) {
			break
		}
		switch c := g.raw[i]; {
		case c == '"':
			g.at = i + 1
			g.after = true
			return g.raw[from:i]
		case c == '\\':
			n := escapeLen(g.raw[i:])
			if n == 0 {
				g.ok = false
				return nil
			}
			i += n - 1
		default:
			g.ok = false
			return nil
		}
	}
	g.ok = false
	return nil
}

// ordinary are the characters that stand for themselves in a string.
var ordinary = func() (table [256]bool) {
	for c := range table {
		table[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return table
}()

// allOrdinary reports whether all of eight characters are ordinary.
func allOrdinary(x uint64) bool {
	const each, high = 0x0101010101010101, 0x8080808080808080
	// A byte below n takes a borrow into its highest bit, which it has not itself.
	below := func(x uint64, n uint64) uint64 { return (x - each*n) &^ x }
	return (below(x, ' ')|below(x^each*'"', 1)|below(x^each*'\\', 1))&high == 0
}

// escapeLen is the length of the escape that v begins with, 0 if it is none.
func escapeLen(v []byte) int {
	if len(v) < 2 {
		return 0
	}
	switch v[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(v) < 6 {
			return 0
		}
		for _, c := range v[2:6] {
			if !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
				return 0
			}
		}
		return 6
	default:
		return 0
	}
}

// number reads a number.
func (g *glancer) number() []byte {
	from := g.at
	if g.raw[g.at] == '-' {
		g.at++
	}
	switch first := g.at; {
	case g.digits() == 0, g.raw[first] == '0' && g.at > first+1:
		g.ok = false
	}
	if g.at < len(g.raw) && g.raw[g.at] == '.' {
		g.at++
		g.ok = g.ok && g.digits() > 0
	}
	if g.at < len(g.raw) && g.raw[g.at]|0x20 == 'e' {
		g.at++
		if g.at < len(g.raw) && (g.raw[g.at] == '+' || g.raw[g.at] == '-') {
			g.at++
		}
		g.ok = g.ok && g.digits() > 0
	}
	g.after = true
	return g.raw[from:g.at]
}

// digits passes over digits and returns how many there were.
func (g *glancer) digits() int {
	from := g.at
	for g.at < len(g.raw) && isDigit(g.raw[g.at]) {
		g.at++
	}
	return g.at - from
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
