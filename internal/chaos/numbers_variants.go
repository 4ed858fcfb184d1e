package chaos

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
)

// variant is one generated request, good or bad.
type variant struct {
	class  string
	route  string
	method string
	path   string // in place of the route and the tenant
	header http.Header
	body   []byte
	// events are those in the body, as they stand there; without any the body is one.
	events  [][]byte
	chunked bool
	slow    bool // the body comes in pieces
}

// Limits of the ingress, as its documentation says.
const (
	maxEvent = 256 << 10
	maxBody  = 1 << 20
)

// maker makes the variants of one class. It gets a good event, and may spoil it.
type maker struct {
	class string
	make  func(m *making)
}

// making is a variant on its way. Its id, user and source are new with each.
type making struct {
	*variant
	r         *rand.Rand
	i         int
	canonical bool
}

// slowEvery is how seldom a body comes slowly.
const slowEvery = 250

// oneVariant makes the i-th request: same seed, same request. The classes come in
// turn.
func oneVariant(seed uint64, i int) variant {
	r := seeded(seed, i)
	k := makers[i%len(makers)]
	v := variant{class: k.class, method: http.MethodPost, header: http.Header{"Content-Type": {"application/json"}}}
	m := &making{variant: &v, r: r, i: i, canonical: r.IntN(3) == 0}
	v.body = m.good(m.i)
	v.route = webhookRoute
	if m.canonical {
		v.route = canonicalRoute
	}
	k.make(m)
	if v.slow = i%slowEvery == slowEvery-1 && len(v.body) > 0; v.slow {
		v.chunked = true
	}
	return v
}

func seeded(seed uint64, i int) *rand.Rand { return rand.New(rand.NewPCG(seed, 1<<40+uint64(i))) }

// good is a good event of its own id and user.
func (m *making) good(i int) []byte {
	user := fmt.Sprintf("b%d", i)
	if m.canonical {
		return canonical(m.r, fmt.Sprintf("bad-%d", i), user, i, i+1, eventTime(i))
	}
	return webhook(m.r, m.r.IntN(100), fmt.Sprintf("bad-%d", i), user, i, i+1, eventTime(i), "")
}

// one picks one.
func one[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// answer is the good event with one answer more, of raw JSON.
func (m *making) answer(name, raw string) {
	open, item := `"data":{`, fmt.Sprintf(`%s:%s`, object(name), raw)
	if m.canonical {
		open, item = `"answers":[`, fmt.Sprintf(`{"property":%s,"value":%s}`, object(name), raw)
	}
	at := bytes.Index(m.body, []byte(open))
	if at < 0 {
		return
	}
	at += len(open)
	if c := m.body[at]; c != '}' && c != ']' {
		item += ","
	}
	m.body = slices.Concat(m.body[:at], []byte(item), m.body[at:])
}

// replace replaces the first of a text; false if there is none.
func (m *making) replace(old, by string) bool {
	if !bytes.Contains(m.body, []byte(old)) {
		return false
	}
	m.body = bytes.Replace(m.body, []byte(old), []byte(by), 1)
	return true
}

// member makes a member of the event be of raw JSON: the first of its name.
func (m *making) member(name, raw string) {
	at := bytes.Index(m.body, []byte(`"`+name+`":`))
	if at < 0 {
		m.body = append([]byte(`{"`+name+`":`+raw+`,`), m.body[1:]...)
		return
	}
	from := at + len(name) + 3
	to := from + valueLength(m.body[from:])
	m.body = slices.Concat(m.body[:from], []byte(raw), m.body[to:])
}

// valueLength is the length of the JSON value at the beginning of valid JSON.
func valueLength(b []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth < 0 {
				return i
			}
		case c == ',' && depth == 0:
			return i
		}
	}
	return len(b)
}

// insert puts bytes somewhere into the body.
func (m *making) insert(what []byte) {
	at := m.r.IntN(len(m.body) + 1)
	m.body = slices.Concat(m.body[:at], what, m.body[at:])
}

// pad makes the body so long, within an answer.
func (m *making) pad(to int) {
	m.answer("padding", `"@"`)
	m.replace("@", strings.Repeat("x", max(0, to-len(m.body)+1)))
}

// identityName is a field that says who answered, or for which account.
func (m *making) identityName() string {
	if m.canonical {
		return "id" // of the account, which comes first, or of the event
	}
	return one(m.r, "remote_id", "cookie_uuid", "account")
}

func nested(open, closed, inside string, depth int) string {
	return strings.Repeat(open, depth) + inside + strings.Repeat(closed, depth)
}

var depths = []int{2, 10, 62, 63, 64, 65, 100, 1000, 9999, 10_000, 10_001, 30_000}

var numbersTexts = []string{
	"1e999", "-1e999", "-0", "0.0", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1e-999", "1E400", "0.1e+1",
	"123456789012345678901234567890.123456789", "01", "+1", "1.", ".5", "NaN", "Infinity", "0x10", strings.Repeat("9", 400), strings.Repeat("1", 100_000),
}

// makers are all classes.
var makers = []maker{
	{"good", func(*making) {}},
	{"truncated", func(m *making) { m.body = m.body[:m.r.IntN(len(m.body))] }},
	{"nesting", func(m *making) {
		d := one(m.r, depths...)
		switch m.r.IntN(4) {
		case 0:
			m.answer("deep", nested("[", "]", "1", d))
		case 1:
			m.answer("deep", nested(`{"a":`, "}", "1", d))
		case 2:
			m.body = []byte(nested("[", "]", "", d))
		default:
			m.body = []byte(strings.Repeat(one(m.r, "[", `{"a":`, "[{"), d))
		}
	}},
	{"numbers", func(m *making) {
		n := one(m.r, numbersTexts...)
		switch m.r.IntN(3) {
		case 0:
			m.member("completed_at", n)
		default:
			m.answer("number", n)
		}
	}},
	{"types", func(m *making) {
		raw := one(m.r, "null", "true", "false", "[]", "{}", `""`, `"text"`, "7", "-1.5", `[1,"a",null,{}]`, `{"a":{"b":[]}}`)
		m.member(one(m.r, "response", "data", "account", "attributes", "completed_at", "form", "triggered_event", "user", "answers", "survey", "email",
			"last_data_reception_at", "tags", "question", "property", "belongs_to", "value"), raw)
	}},
	{"utf-8", func(m *making) {
		m.insert(one(m.r, []byte{0xff}, []byte{0xc0, 0x80}, []byte{0xed, 0xa0, 0x80}, []byte{0xf4, 0x90, 0x80, 0x80}, []byte{0xe2, 0x82}, []byte("\xef\xbb\xbf")))
		if m.r.IntN(2) == 0 {
			m.body = m.good(m.i)
			m.answer("text", one(m.r, `"\ud800"`, `"\udc00\ud800"`, "\"\xff\xfe\"", "\"a\xc3\"", `"\ud83d\ude00"`, "\"\xe2\x80\xa8\""))
		}
	}},
	{"nul", func(m *making) {
		if m.r.IntN(2) == 0 {
			m.insert(make([]byte, 1+m.r.IntN(4)))
			return
		}
		m.answer("nul", one(m.r, `"a\u0000b"`, `"\u0000"`, "\"a\x00b\"", `"\u001b[31m"`, `"\u007f"`, "\"tab\there\""))
	}},
	{"duplicate-keys", func(m *making) {
		name := one(m.r, "remote_id", "cookie_uuid", "email", "account", "response", "attributes", "triggered_event", "user", "answers", "completed_at")
		raw := one(m.r, "null", `"other"`, "{}", "[]", "5", `{"id":"other"}`, `{"remote_id":"other"}`)
		m.body = append([]byte(`{"`+one(m.r, name, strings.ToUpper(name))+`":`+raw+`,`), m.body[1:]...)
	}},
	{"large", func(m *making) {
		limit := maxEvent
		if m.canonical {
			limit = one(m.r, maxEvent, maxBody)
		}
		m.pad(one(m.r, limit-1, limit, limit+1, limit/2, limit*2))
		m.chunked = m.r.IntN(2) == 0
	}},
	{"many-keys", func(m *making) {
		var b strings.Builder
		for i := range one(m.r, 256, 1000, 20_000, 60_000) {
			fmt.Fprintf(&b, `"k%d":%d,`, i, i)
		}
		m.answer("many", "{"+strings.TrimSuffix(b.String(), ",")+"}")
		if m.r.IntN(2) == 0 && !m.canonical {
			m.body = m.good(m.i)
			m.answer("last", "0")
			m.replace(`"data":{`, `"data":{`+b.String())
		}
	}},
	{"flipped", func(m *making) {
		for range 1 + m.r.IntN(8) {
			m.body[m.r.IntN(len(m.body))] = byte(m.r.IntN(256))
		}
	}},
	{"around", func(m *making) {
		switch m.r.IntN(8) {
		case 0:
			m.body = nil
		case 1:
			m.body = []byte(one(m.r, " ", "\n\n", "null", "true", `"text"`, "17", "{}", "[]", "[[]]", "[null]", "{", "}", ",", "\x00", "\xef\xbb\xbf{}"))
		case 2:
			m.body = append(m.body, one(m.r, "{}", "x", ",", "]", "\x00", "}")...)
		case 3:
			m.body = append([]byte("\xef\xbb\xbf"), m.body...)
		case 4:
			m.body = append(m.body, m.body...)
		case 5:
			m.body = slices.Concat([]byte(" \t\r\n"), m.body, []byte(" \r\n"))
		case 6:
			m.body = bytes.ReplaceAll(m.body, []byte(`"`), []byte(`'`))
		default:
			m.body = []byte("uuid=a&response=b")
		}
	}},
	{"headers", func(m *making) {
		h := m.header
		switch m.r.IntN(9) {
		case 0:
			h.Set("Content-Type", one(m.r, "", "text/plain", "application/xml", "application/json; charset=latin1", "application/json;;;", "APPLICATION/JSON", "application/vnd.x+json", "a/b/c", strings.Repeat("x", 5000)))
		case 1:
			h.Set("Content-Encoding", one(m.r, "gzip", "br", "identity", "identity, gzip", "x"))
		case 2:
			h.Set("Traceparent", one(m.r, "00-"+strings.Repeat("a", 32)+"-"+strings.Repeat("b", 16)+"-01", "ff-x", strings.Repeat("0", 55), strings.Repeat("é", 27)))
		case 3:
			h.Set("X-Large", strings.Repeat("h", one(m.r, 1000, 15_000, 20_000, 70_000)))
		case 4:
			for i := range one(m.r, 10, 90, 1000) {
				h.Set(fmt.Sprintf("X-Many-%d", i), "v")
			}
		case 5:
			h.Set("Expect", one(m.r, "100-continue", "something-else"))
		case 6:
			h.Set("X-Forwarded-For", "127.0.0.1, "+strings.Repeat("1.2.3.4, ", m.r.IntN(100)))
			h.Set("X-Http-Method-Override", "DELETE")
		case 7:
			h.Set("Accept", "text/html")
			h.Set("Range", "bytes=0-1")
			h.Set("If-None-Match", "*")
		default:
			h.Set("Origin", "https://example.com")
			h.Set("Cookie", "a=b; "+strings.Repeat("c", 4000))
		}
	}},
	{"credentials", func(m *making) {
		h := m.header
		h.Set("Authorization", one(m.r, "", "Bearer", "Bearer ", "Bearer wrong", "Basic dDpw", "Bearer token-of-t000", "bearer  x", "Bearer "+strings.Repeat("t", 9000), "Bearer \u00e9\u00e8"))
		switch m.r.IntN(4) {
		case 0:
			h.Set("Webhook-Id", "w")
			h.Set("Webhook-Timestamp", one(m.r, "0", "-1", "soon", "99999999999999999999", "1"))
			h.Set("Webhook-Signature", one(m.r, "v1,", "v1,AAAA", "v2,AAAA", strings.TrimSpace(strings.Repeat("v1,AAAA ", 1000)), "v1,"+strings.Repeat("A", 9000)))
		case 1:
			h.Set("X-Refiner-Token", one(m.r, "x", strings.Repeat("x", 3000)))
		default:
		}
	}},
	{"identity", func(m *making) {
		m.member(m.identityName(), one(m.r, `""`, `"   "`, `"`+strings.Repeat("u", 10<<10)+`"`, `[]`, `["a"]`, `{}`, `{"a":1}`, "true", "1.5", "-0",
			"1e3", "123456789012345678901234567890", fmt.Sprintf(`"../../%d"`, m.i), `"a/b?c#d"`, `"\u0000"`, `" padded "`, "null", `"日本語😀"`))
	}},
	{"hostile", func(m *making) {
		m.answer("hostile", string(object(one(m.r, "<script>alert(1)</script>", `"><img src=x onerror=alert(1)>`, "{{7*7}}", "${jndi:ldap://127.0.0.1/a}", "=cmd|'/c calc'!A1",
			"a\r\n2026-01-01 INFO all is well", "\x1b[2J\x1b]0;title\a", "%s%n%x", "'; DROP TABLE x; --", "../../etc/passwd", "\u202eevil", strings.Repeat("🏴‍☠️", 500)))))
	}},
	{"names", func(m *making) {
		m.answer(one(m.r, "__proto__", "constructor", "$set", "email", "id", "userId", "", " ", strings.Repeat("😀", 250), strings.Repeat("n", 5000), "a.b.c", "a\tb", "日本語", "refiner_x", "Refiner_", "1"), `"v"`)
	}},
	{"times", func(m *making) {
		name := "completed_at"
		if !m.canonical {
			name = one(m.r, "completed_at", "last_data_reception_at", "received_at", "dismissed_at")
		}
		m.member(name, one(m.r, `"0000-00-00T00:00:00Z"`, `"9999-12-31T23:59:59Z"`, `"-0001-01-01T00:00:00Z"`, `"yesterday"`, `"2026-02-30T00:00:00Z"`, `"2026-03-01 08:00:00"`,
			`""`, "0", "-1", "1e20", "253402300800", `"2026-03-01T08:00:00+99:99"`, `"2026-03-01T08:00:00.123456789123Z"`, `[]`, `"0001-01-01T00:00:00Z"`))
	}},
	{"ids", func(m *making) {
		name := "id"
		if !m.canonical {
			name = "uuid"
		}
		raw := one(m.r, `""`, `" "`, "null", "[]", "{}", fmt.Sprintf(`"../../x-%d"`, m.i), fmt.Sprintf(`"%s-%d"`, strings.Repeat("i", 2000), m.i),
			fmt.Sprintf(`"%s-%d"`, strings.Repeat("i", 200_000), m.i), fmt.Sprintf(`"a\n\u0000-%d"`, m.i))
		if at := bytes.Index(m.body, []byte(`"`+name+`":"bad-`)); at >= 0 {
			head := m.body[:at:at]
			m.body = m.body[at:]
			m.member(name, raw)
			m.body = slices.Concat(head, m.body)
		}
	}},
	{"batches", func(m *making) {
		m.canonical, m.route = true, canonicalRoute
		for k := range one(m.r, 1, 2, 10, 100) {
			m.events = append(m.events, m.good(1_000_000+200*m.i+k))
		}
		if m.r.IntN(3) == 0 { // one of them is none
			m.events[m.r.IntN(len(m.events))] = []byte(one(m.r, "{}", "[]", "null", "17", `{"user":[]}`))
		}
		if m.r.IntN(2) == 0 {
			m.header.Set("Content-Type", "application/x-ndjson")
			m.body = bytes.Join(m.events, []byte("\n"))
			return
		}
		m.body = slices.Concat([]byte("["), bytes.Join(m.events, []byte(",")), []byte("]"))
		switch m.r.IntN(12) {
		case 0:
			m.body = m.body[:len(m.body)-1]
		case 1:
			m.events = nil
			m.body = []byte("[" + strings.TrimSuffix(strings.Repeat("{},", 1001), ",") + "]")
		}
	}},
	{"routes", func(m *making) {
		switch m.r.IntN(3) {
		case 0:
			m.method = one(m.r, http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions, http.MethodHead, "PROPFIND", "X")
		case 1:
			m.path = one(m.r, "/", "//", "/v1/events/", "/v1/events", "/v1/events/a/b", "/v1/webhooks/refiner/../t0000", "/v1/events/%2e%2e", "/v1/events/%00", "/metrics",
				"/debug/pprof/", "/v1/events/no-such-tenant", "/v1/events/"+strings.Repeat("t", 8000), "/v1/webhooks/refiner/t0000%2fx", "/v1/events/t0000?token="+strings.Repeat("x", 4000))
		default:
			m.path = one(m.r, "/v1/events/", "/v1/webhooks/refiner/") + one(m.r, "unknown", "%ff%fe", "%0d%0aX-Injected:1", "é", "%3Cscript%3E")
		}
	}},
}
