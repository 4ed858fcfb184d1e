package attribution

import (
	"bytes"
	"encoding/json/jsontext"
	"strings"
	"time"
	"unicode/utf8"
)

// LibraryName is the name in context.library of every call.
const LibraryName = "refiner-source"

// Size is the length of what AppendJSON appends: Segment's measure of a call.
// For a call that Attribute made it is known; for others it is computed.
func (c *Call) Size() int {
	if c.size > 0 {
		return c.size
	}
	return len(c.AppendJSON(nil))
}

// Made reports whether Attribute made the call, and it has not lost that since: its
// parts are valid JSON, and its size is known.
func (c *Call) Made() bool { return c.size > 0 }

// AppendJSON appends the call as analytics-go v3.3.0 encodes it inside a batch,
// byte for byte: its order of fields, empty ones left out, traits sorted by name,
// HTML escaped.
func (c *Call) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, c.Kind.String()...)
	dst = append(dst, '"')
	dst = appendField(dst, "messageId", c.MessageID)
	dst = appendField(dst, "anonymousId", c.AnonymousID)
	dst = appendField(dst, "userId", c.UserID)
	traits, contextGroup := "traits", c.GroupID
	switch c.Kind {
	case Group:
		dst = append(dst, `,"groupId":`...)
		dst = appendString(dst, c.GroupID)
		contextGroup = ""
	case Track:
		dst = append(dst, `,"event":`...)
		dst = appendString(dst, c.Event)
		traits = "properties"
	case Identify:
	}
	dst = append(dst, `,"timestamp":"`...)
	dst = c.Timestamp.AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","context":{`...)
	if contextGroup != "" {
		dst = append(dst, `"groupId":`...)
		dst = appendString(dst, contextGroup)
		dst = append(dst, ',')
	}
	dst = append(dst, `"library":{"name":"`+LibraryName+`"`...)
	dst = appendField(dst, "version", c.Library)
	dst = append(dst, '}', '}')
	if len(c.Traits) > 0 {
		dst = append(dst, `,"`...)
		dst = append(dst, traits...)
		dst = append(dst, `":{`...)
		for i := range c.Traits {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendTrait(dst, &c.Traits[i])
		}
		dst = append(dst, '}')
	}
	if len(c.Integrations) > 0 && !emptyObject(c.Integrations) {
		dst = append(dst, `,"integrations":`...)
		dst = appendValue(dst, c.Integrations)
	}
	return append(dst, '}')
}

// appendField appends a member of an object that has one already, unless it is empty.
func appendField(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	dst = append(dst, `,"`...)
	dst = append(dst, name...)
	dst = append(dst, `":`...)
	return appendString(dst, value)
}

func appendTrait(dst []byte, t *Trait) []byte {
	dst = append(dst, '"')
	dst = append(dst, t.Name...)
	dst = append(dst, `":`...)
	return appendValue(dst, t.Value)
}

// special are the bytes that JSON, or HTML in it, writes otherwise, or may.
var special = func() (is [256]bool) {
	for c := range is {
		is[c] = c < ' ' || c >= utf8.RuneSelf || strings.IndexByte(`"\<>&`, byte(c)) >= 0
	}
	return is
}()

// appendString appends a string as JSON.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if special[s[i]] {
			quoted, _ := jsontext.AppendQuote(nil, s) // invalid UTF-8 is replaced
			return appendValue(dst, quoted)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// appendValue appends valid JSON text as encoding/json does a RawMessage: without
// white space between tokens, and with <, >, & and the line separators U+2028 and
// U+2029 as escapes, which can stand in strings only.
func appendValue(dst []byte, v jsontext.Value) []byte {
	const hex = "0123456789abcdef"
	copied := 0 // how much of v is in dst, or left out
	inString := false
	for i := 0; i < len(v); i++ {
		c := v[i]
		if c != ' ' && !special[c] {
			continue
		}
		switch c {
		case '"':
			inString = !inString
		case '\\':
			i++
		case '<', '>', '&':
			dst = append(dst, v[copied:i]...)
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
			copied = i + 1
		case 0xe2:
			if i+2 < len(v) && v[i+1] == 0x80 && v[i+2]&^1 == 0xa8 {
				dst = append(dst, v[copied:i]...)
				dst = append(dst, `\u202`...)
				dst = append(dst, hex[v[i+2]&0xf])
				copied = i + 3
				i += 2
			}
		case ' ', '\t', '\r', '\n':
			if !inString {
				dst = append(dst, v[copied:i]...)
				copied = i + 1
			}
		}
	}
	return append(dst, v[copied:]...)
}

// emptyObject reports whether a JSON object has no members.
func emptyObject(v jsontext.Value) bool {
	return len(bytes.Trim(v, "{} \t\r\n")) == 0
}
