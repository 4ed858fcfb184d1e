package survey

import (
	"bytes"
	"encoding/binary"
)

// scanner reads JSON token by token. It takes valid JSON alone, and not all of it; after
// the first thing that it does not take, ok is false and nothing that it returns means
// anything.
type scanner struct {
	raw   []byte
	at    int
	ok    bool
	after bool // a value was read last, so that a comma must precede the next
	depth int
	kinds [scanDepth]byte // how each object and array that is open ends
}

// scanDepth is how deep a value may nest here. It is less than MaxDepth.
const scanDepth = 16

// end makes sure that nothing follows.
func (s *scanner) end() { s.ok = s.peek() == 0 && s.ok && s.at == len(s.raw) }

// open enters the next value, an object or an array by its first character.
func (s *scanner) open(first byte) {
	if s.peek() != first || s.depth == scanDepth {
		s.ok = false
		return
	}
	s.kinds[s.depth] = first + 2 // '{' and '}', '[' and ']' are two apart
	s.depth++
	s.at++
	s.after = false
}

// more reports whether the object or array that was entered goes on; if not, it has
// been left.
func (s *scanner) more() bool {
	c := s.peek()
	switch {
	case !s.ok:
		return false
	case c == s.kinds[s.depth-1]:
		s.depth--
		s.at++
		s.after = true
		return false
	case s.after && c == ',':
		s.at++
		return true
	default:
		s.ok = !s.after
		return s.ok
	}
}

// name reads a member's name and the colon.
func (s *scanner) name() []byte {
	name := s.string()
	if bytes.IndexByte(name, '\\') >= 0 {
		s.ok = false
	}
	s.colon()
	return name
}

// colon passes over the colon behind a member's name.
func (s *scanner) colon() {
	if s.peek() != ':' {
		s.ok = false
		return
	}
	s.at++
}

// skip passes over the next value.
func (s *scanner) skip() {
	switch c := s.peek(); {
	case c == '"':
		s.string()
	case c == '{':
		for s.open('{'); s.more(); {
			s.string()
			s.colon()
			s.skip()
		}
	case c == '[':
		for s.open('['); s.more(); {
			s.skip()
		}
	case c == '-' || isDigit(c):
		s.number()
	case c == 'n' && s.literal("null"), c == 't' && s.literal("true"), c == 'f' && s.literal("false"):
	default:
		s.ok = false
	}
}

// peek passes over white space and returns the next character, 0 at the end or after
// a fault.
func (s *scanner) peek() byte {
	for s.ok && s.at < len(s.raw) {
		switch c := s.raw[s.at]; c {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) null() bool { return s.literal("null") }

// literal passes over the next value if it is written so.
func (s *scanner) literal(text string) bool {
	if s.peek() == 0 || !bytes.HasPrefix(s.raw[s.at:], []byte(text)) {
		return false
	}
	s.at += len(text)
	s.after = true
	return true
}

// string reads a string: what stands between its quotes.
func (s *scanner) string() []byte {
	if s.peek() != '"' {
		s.ok = false
		return nil
	}
	from := s.at + 1
	for i := from; i < len(s.raw); i++ {
		for i+8 <= len(s.raw) && allOrdinary(binary.LittleEndian.Uint64(s.raw[i:])) {
			i += 8
		}
		for i < len(s.raw) && ordinary[s.raw[i]] {
			i++
		}
		if i == len(s.raw) {
			break
		}
		switch c := s.raw[i]; {
		case c == '"':
			s.at = i + 1
			s.after = true
			return s.raw[from:i]
		case c == '\\':
			n := escapeLen(s.raw[i:])
			if n == 0 {
				s.ok = false
				return nil
			}
			i += n - 1
		default:
			s.ok = false
			return nil
		}
	}
	s.ok = false
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
func (s *scanner) number() []byte {
	from := s.at
	if s.raw[s.at] == '-' {
		s.at++
	}
	switch first := s.at; {
	case s.digits() == 0, s.raw[first] == '0' && s.at > first+1:
		s.ok = false
	}
	if s.at < len(s.raw) && s.raw[s.at] == '.' {
		s.at++
		s.ok = s.ok && s.digits() > 0
	}
	if s.at < len(s.raw) && s.raw[s.at]|0x20 == 'e' {
		s.at++
		if s.at < len(s.raw) && (s.raw[s.at] == '+' || s.raw[s.at] == '-') {
			s.at++
		}
		s.ok = s.ok && s.digits() > 0
	}
	s.after = true
	return s.raw[from:s.at]
}

// digits passes over digits and returns how many there were.
func (s *scanner) digits() int {
	from := s.at
	for s.at < len(s.raw) && isDigit(s.raw[s.at]) {
		s.at++
	}
	return s.at - from
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
