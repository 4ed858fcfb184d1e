package checker

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"io"
	"slices"
	"strings"
)

// node is a JSON value. Members of objects keep their order, and repeated ones
// stand in it as often as they were given.
type node struct {
	kind  byte   // one of { [ " 0 t f n
	text  string // of a string its meaning, of a number its digits as written
	names []string
	kids  []node
}

var errSyntax = errors.New("not one JSON value")

// maxDepth is how deep an event may nest.
const maxDepth = 64

// parse reads a text that is one JSON value. Of strings, invalid UTF-8 becomes
// U+FFFD and NUL goes.
func parse(raw []byte) (node, error) {
	d := jsontext.NewDecoder(bytes.NewBuffer(raw), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	n, err := parseNext(d, 0)
	if err != nil {
		return node{}, err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return node{}, errSyntax
	}
	return n, nil
}

func parseNext(d *jsontext.Decoder, depth int) (node, error) {
	switch k := d.PeekKind(); k {
	case '"', '0':
		v, err := d.ReadValue()
		if err != nil {
			return node{}, errSyntax
		}
		if k == '0' {
			return node{kind: '0', text: string(v)}, nil
		}
		return node{kind: '"', text: meaning(v)}, nil
	case 't', 'f', 'n':
		if _, err := d.ReadToken(); err != nil {
			return node{}, errSyntax
		}
		return node{kind: byte(k)}, nil
	case '{', '[':
		if depth == maxDepth {
			return node{}, errSyntax
		}
		if _, err := d.ReadToken(); err != nil {
			return node{}, errSyntax
		}
		n := node{kind: byte(k)}
		for {
			if end := d.PeekKind(); end == '}' || end == ']' {
				_, err := d.ReadToken()
				return n, err
			}
			if k == '{' {
				v, err := d.ReadValue()
				if err != nil {
					return node{}, errSyntax
				}
				n.names = append(n.names, meaning(v))
			}
			kid, err := parseNext(d, depth+1)
			if err != nil {
				return node{}, err
			}
			n.kids = append(n.kids, kid)
		}
	default:
		return node{}, errSyntax
	}
}

// meaning is what a JSON string says.
func meaning(v []byte) string {
	s, _ := jsontext.AppendUnquote(nil, v) // an error only repeats that UTF-8 was invalid
	if bytes.IndexByte(s, 0) >= 0 {
		s = bytes.ReplaceAll(s, []byte{0}, nil)
	}
	return string(s)
}

// each calls f for every member with that name.
func (n *node) each(name string, f func(*node)) {
	for i := range n.names {
		if n.names[i] == name {
			f(&n.kids[i])
		}
	}
}

// last returns the last member with that name, nil if there is none.
func (n *node) last(name string) *node {
	for i := len(n.names) - 1; i >= 0; i-- {
		if n.names[i] == name {
			return &n.kids[i]
		}
	}
	return nil
}

// scalar is the trimmed text of a string, the digits of an integer, "" for all else.
func (n *node) scalar() string {
	switch {
	case n == nil:
		return ""
	case n.kind == '"':
		return strings.TrimSpace(n.text)
	case n.kind == '0' && n.isInteger():
		return n.text
	default:
		return ""
	}
}

func (n *node) isInteger() bool { return n.kind == '0' && !strings.ContainsAny(n.text, ".eE") }

// isNone tells what is no answer.
func (n *node) isNone() bool {
	return n.kind == 'n' || n.kind != 't' && n.kind != 'f' && n.text == "" && len(n.kids) == 0
}

// appendText appends the value as compact JSON in its own order.
func (n *node) appendText(dst []byte) []byte { return n.append(dst, false) }

// appendCanonical appends one text for all writings of one value: compact, members
// sorted by name, numbers as they were written.
func (n *node) appendCanonical(dst []byte) []byte { return n.append(dst, true) }

func (n *node) append(dst []byte, sorted bool) []byte {
	switch n.kind {
	case '"':
		return appendQuoted(dst, n.text)
	case '0':
		return append(dst, n.text...)
	case 't':
		return append(dst, "true"...)
	case 'f':
		return append(dst, "false"...)
	case 'n':
		return append(dst, "null"...)
	case '[':
		dst = append(dst, '[')
		for i := range n.kids {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = n.kids[i].append(dst, sorted)
		}
		return append(dst, ']')
	}
	if sorted && !slices.IsSorted(n.names) {
		n.sort()
	}
	dst = append(dst, '{')
	for i := range n.kids {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendQuoted(dst, n.names[i]), ':')
		dst = n.kids[i].append(dst, sorted)
	}
	return append(dst, '}')
}

// sort sorts the members of an object by name; those of one name stay in order.
func (n *node) sort() {
	order := make([]int, len(n.names))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(n.names[a], n.names[b]) })
	names, kids := make([]string, len(order)), make([]node, len(order))
	for i, j := range order {
		names[i], kids[i] = n.names[j], n.kids[j]
	}
	n.names, n.kids = names, kids
}

// set adds a member.
func (n *node) set(name string, v node) {
	n.names = append(n.names, name)
	n.kids = append(n.kids, v)
}

// without takes out all members with that name.
func (n *node) without(name string) {
	for i, other := range slices.Backward(n.names) {
		if other == name {
			n.names = slices.Delete(n.names, i, i+1)
			n.kids = slices.Delete(n.kids, i, i+1)
		}
	}
}

func text(s string) node    { return node{kind: '"', text: s} }
func object() node          { return node{kind: '{'} }
func (n *node) given() bool { return n != nil }

func appendQuoted(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s) // an error only repeats that UTF-8 was invalid
	return dst
}

// escaped is how long a canonical or compact JSON text is when <, >, & and the
// two line separators of Unicode are written as escapes of six characters.
func escaped(v []byte) int {
	n := len(v)
	for i, c := range v {
		switch {
		case c == '<' || c == '>' || c == '&':
			n += 5
		case c == 0xe2 && i+2 < len(v) && v[i+1] == 0x80 && (v[i+2] == 0xa8 || v[i+2] == 0xa9):
			n += 3
		}
	}
	return n
}
