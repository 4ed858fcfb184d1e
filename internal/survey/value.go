package survey

import (
	"bytes"
	"encoding/json/jsontext"
	"time"
	"unicode/utf8"
)

// appendClean appends a valid JSON value without white space between its tokens;
// in its strings invalid UTF-8 is replaced by U+FFFD and NUL is removed.
// Numbers keep their exact text.
func appendClean(dst []byte, v jsontext.Value) []byte {
	for i := 0; i < len(v); {
		switch c := v[i]; c {
		case ' ', '\t', '\r', '\n':
			i++
		case '"':
			n := stringLen(v[i:])
			if s := v[i : i+n]; plain(s) {
				dst = append(dst, s...)
			} else {
				// unquote leaves nothing that AppendQuote could complain of.
				dst, _ = jsontext.AppendQuote(dst, unquote(s))
			}
			i += n
		default:
			dst = append(dst, c)
			i++
		}
	}
	return dst
}

// isClean reports whether appendClean would append a valid JSON value as it is.
func isClean(v []byte) bool {
	inString, ascii := false, true
	for _, c := range v {
		switch {
		case c == '"':
			inString = !inString
		case c == '\\':
			return false
		case c <= ' ':
			if !inString {
				return false
			}
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return ascii || utf8.Valid(v)
}

// stringLen is the length of the JSON string, quotes included, that v begins with.
func stringLen(v []byte) int {
	for i := 1; i < len(v); i++ {
		switch v[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(v)
}

// plain reports whether a JSON string means what stands between its quotes.
func plain(v []byte) bool {
	ascii := true
	for _, c := range v {
		if c == '\\' {
			return false
		}
		if c >= utf8.RuneSelf {
			ascii = false
		}
	}
	return ascii || utf8.Valid(v)
}

// unquote is the meaning of a JSON string, with U+FFFD for invalid UTF-8 and
// without NUL.
func unquote(v []byte) []byte {
	s, _ := jsontext.AppendUnquote(nil, v) // the error only repeats that UTF-8 was invalid
	return bytes.ReplaceAll(s, []byte{0}, nil)
}

// IsNone reports whether a value without white space is no answer: null, "", [] or
// {} (docs/mapping.md, Values).
func IsNone(v jsontext.Value) bool {
	switch string(v) {
	case "null", `""`, "[]", "{}":
		return true
	default:
		return false
	}
}

// isInteger reports whether a JSON number is written as an integer.
func isInteger(v []byte) bool { return !bytes.ContainsAny(v, ".eE") }

// tooDeep reports whether an event nests deeper than MaxDepth. What cannot,
// because it opens too little, is told without a look at its structure.
func tooDeep(raw []byte) bool {
	if bytes.Count(raw, []byte{'{'})+bytes.Count(raw, []byte{'['}) <= MaxDepth {
		return false
	}
	depth := 0
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			i += stringLen(raw[i:]) - 1
		case '{', '[':
			if depth++; depth > MaxDepth {
				return true
			}
		case '}', ']':
			depth--
		}
	}
	return false
}

// moment is a time as an event writes it, "" if it has none.
type moment string

func (m moment) given() bool { return m != "" }

// The forms of a time: RFC 3339 as in the webhook, Refiner's REST form, and
// what lies between. Without a zone it is UTC.
const (
	restTime     = "2006-01-02 15:04:05"
	zonelessTime = "2006-01-02T15:04:05"
)

// time returns the time in UTC and whether it could be read. What lies before
// the year 1 could not.
func (m moment) time() (time.Time, bool) {
	for _, layout := range [...]string{time.RFC3339, restTime, zonelessTime} {
		if t, err := time.Parse(layout, string(m)); err == nil {
			t = t.UTC()
			return t, t.After(time.Time{})
		}
	}
	return time.Time{}, false
}

// when sets the time of the completion to the first that is given and readable.
func (c *Completion) when(candidates ...moment) {
	for _, m := range candidates {
		if !m.given() {
			continue
		}
		t, ok := m.time()
		if ok {
			c.Timestamp = t
			return
		}
		c.UnreadableTime = true
	}
}

// revision is the first of the candidates that is given, in one form for all
// the forms of one time.
func revision(candidates ...moment) string {
	for _, m := range candidates {
		if !m.given() {
			continue
		}
		if t, ok := m.time(); ok {
			return t.Format(time.RFC3339Nano)
		}
		return string(m)
	}
	return ""
}
