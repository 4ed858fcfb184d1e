package survey

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
)

// decoder reads one event in one pass. After the first fault it reads no
// further: more reports false and read returns nothing, so that every loop ends.
//
// It tokenizes with the scanner, which is fast and takes only what nearly all events are
// made of. Where that stops, or a fault is found, it begins again with jsontext, which
// knows the rest and what exactly is wrong.
type decoder struct {
	raw  []byte
	scan scanner
	fast bool // it tokenizes with scan
	in   bytes.Buffer
	json *jsontext.Decoder
	at   int // where the value that was read last begins
	// text is the event as a string that shares its memory; the strings of a
	// completion are parts of it. Where it is empty, each string is a copy of its own.
	text string
	// values is what those values of a completion are parts of that cannot be parts of
	// the event.
	values []byte
	// peek tells to keep no answers and no attributes.
	peek  bool
	fault *Fault
	spare lists
}

// lists are those of a completion, empty, of which each is taken once.
type lists struct {
	answers    []Answer
	attributes []Attribute
	names      []string
}

// take returns an empty list: the spare one, or a new one with room for a few.
func take[T any](spare *[]T) []T {
	list := *spare
	if *spare = nil; list == nil {
		list = make([]T, 0, 8)
	}
	return list
}

// maxSpare bounds the lists that are kept.
const maxSpare = 64

// give empties a list and keeps its memory.
func give[T any](spare *[]T, list []T) {
	if clear(list); cap(list) > 0 && cap(list) <= maxSpare {
		*spare = list[:0]
	}
}

// Release gives back the memory of the lists of a completion that Decode made, which
// is not used any more. What they held may be; not to call it costs only memory.
func (c *Completion) Release() {
	d := decoders.Get().(*decoder)
	give(&d.spare.answers, c.Answers)
	give(&d.spare.attributes, c.AccountAttributes)
	give(&d.spare.names, c.UserAttributes)
	decoders.Put(d)
	c.Answers, c.AccountAttributes, c.UserAttributes = nil, nil, nil
}

// decoders keeps the memory of decoders that are not in use.
var decoders = sync.Pool{New: func() any { return &decoder{json: new(jsontext.Decoder)} }}

// newDecoder returns a decoder for one event; close gives it back.
func newDecoder(raw []byte) *decoder {
	d := decoders.Get().(*decoder)
	d.raw, d.fast, d.scan = raw, true, scanner{raw: raw, ok: true}
	return d
}

// restart begins again with jsontext.
func (d *decoder) restart() {
	d.fast, d.fault, d.values = false, nil, nil
	d.in = *bytes.NewBuffer(d.raw)
	d.json.Reset(&d.in, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

func (d *decoder) close() {
	if !d.fast {
		d.in = bytes.Buffer{}
		d.json.Reset(&d.in)
	}
	*d = decoder{json: d.json, spare: d.spare}
	decoders.Put(d)
}

// undecodable ends the decoding.
func (d *decoder) undecodable(pointer, detail string) {
	if d.fault == nil {
		d.fault = &Fault{Undecodable, pointer, detail}
	}
}

// root enters the event's object.
func (d *decoder) root() {
	if d.fast {
		d.scan.open('{')
		return
	}
	if k := d.json.PeekKind(); k != '{' && k != jsontext.KindInvalid {
		d.undecodable("", "must be one JSON object")
		return
	}
	if _, err := d.json.ReadToken(); err != nil {
		d.syntax()
	}
}

// end makes sure that nothing follows the event's object.
func (d *decoder) end() {
	switch {
	case d.fault != nil:
		return
	case d.fast:
		d.scan.end()
		return
	}
	if _, err := d.json.ReadToken(); !errors.Is(err, io.EOF) {
		d.undecodable("", "must be one JSON object and nothing after it")
	}
}

// more reports whether the object or array that was entered goes on; if not, it
// has been left.
func (d *decoder) more() bool {
	switch {
	case d.fault != nil:
		return false
	case d.fast:
		return d.scan.more()
	}
	switch d.json.PeekKind() {
	case '}', ']':
		if _, err := d.json.ReadToken(); err != nil {
			d.syntax()
		}
		return false
	case jsontext.KindInvalid:
		d.read()
		return false
	default:
		return true
	}
}

// read returns the next value as it stands, valid until the next read.
func (d *decoder) read() jsontext.Value {
	switch {
	case d.fault != nil:
		return nil
	case d.fast:
		d.scan.peek()
		d.at = d.scan.at
		if d.scan.skip(); !d.scan.ok {
			return nil
		}
		return d.raw[d.at:d.scan.at]
	}
	v, err := d.json.ReadValue()
	if err != nil {
		d.syntax()
		return nil
	}
	d.at = int(d.json.InputOffset()) - len(v)
	return v
}

// readName is read for a member's name.
func (d *decoder) readName() jsontext.Value {
	if !d.fast {
		return d.read()
	}
	if d.fault != nil {
		return nil
	}
	d.scan.peek()
	d.at = d.scan.at
	if d.scan.string(); !d.scan.ok {
		return nil
	}
	end := d.scan.at
	if d.scan.colon(); !d.scan.ok {
		return nil
	}
	return d.raw[d.at:end]
}

// skip passes over the next value.
func (d *decoder) skip() {
	switch {
	case d.fault != nil:
		return
	case d.fast:
		d.scan.skip()
		return
	}
	if err := d.json.SkipValue(); err != nil {
		d.syntax()
	}
}

// syntax ends the decoding of what is not JSON. Where it is not is found by
// reading it once more as a whole, so that it does not depend on what was
// skipped. The library's own text may show a piece of an answer and is not used.
func (d *decoder) syntax() {
	again := newDecoder(d.raw)
	defer again.close()
	again.restart()
	_, err := again.json.ReadValue()
	e, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case errors.Is(err, io.EOF):
		d.undecodable("", "must be one JSON object, but is empty")
	case ok && !errors.Is(err, io.ErrUnexpectedEOF):
		d.undecodable("", "is not JSON at byte "+strconv.FormatInt(e.ByteOffset, 10))
	default:
		d.undecodable("", "is cut off")
	}
}

// isObject reports whether the next value is an object.
func (d *decoder) isObject() bool { return d.fault == nil && d.nextIs('{') }

// nextIs reports whether the next value is an object or an array.
func (d *decoder) nextIs(kind jsontext.Kind) bool {
	if d.fast {
		return d.scan.peek() == byte(kind)
	}
	return d.json.PeekKind() == kind
}

// object enters the next value, an object. It reports false for null, and for
// the empty array that PHP makes of an empty object; all else is a fault.
func (d *decoder) object(pointer string) bool {
	return d.open('{', pointer, "must be an object or null")
}

// array enters the next value, an array. It reports false for null.
func (d *decoder) array(pointer string) bool { return d.open('[', pointer, "must be an array or null") }

func (d *decoder) open(kind jsontext.Kind, pointer, detail string) bool {
	if d.fault == nil && d.nextIs(kind) {
		if d.fast {
			d.scan.open(byte(kind))
			return d.scan.ok
		}
		if _, err := d.json.ReadToken(); err != nil {
			d.syntax()
		}
		return true
	}
	v := d.read()
	if v != nil && v.Kind() != 'n' && !(v.Kind() == '[' && emptyArray(v)) {
		d.undecodable(pointer, detail)
	}
	return false
}

func emptyArray(v jsontext.Value) bool { return len(bytes.TrimSpace(v[1:len(v)-1])) == 0 }

// name reads a member's name for comparison, valid until the next read.
func (d *decoder) name() []byte {
	v := d.readName()
	switch {
	case v == nil:
		return nil
	case plain(v):
		return v[1 : len(v)-1]
	default:
		name, _ := jsontext.AppendUnquote(nil, v) // invalid UTF-8 is replaced
		return name
	}
}

// property reads a member's name that is a property's.
func (d *decoder) property() string {
	v := d.readName()
	if d.peek {
		return ""
	}
	return d.textOf(v)
}

// textOf is the trimmed text of a string that was just read, the text of an
// integer, "" for all else.
func (d *decoder) textOf(v jsontext.Value) string {
	switch v.Kind() {
	case '"':
		if !plain(v) {
			return strings.TrimSpace(string(unquote(v)))
		}
		if d.text == "" {
			return string(bytes.TrimSpace(v[1 : len(v)-1]))
		}
		return strings.TrimSpace(d.text[d.at+1 : d.at+len(v)-1])
	case '0':
		if isInteger(v) {
			return string(v)
		}
	default:
	}
	return ""
}

// label reads the trimmed text of a question or a property's name; pointer is
// asked where it is neither a string nor null.
func (d *decoder) label(pointer func() string) string {
	v := d.read()
	if d.fault == nil && v.Kind() != '"' && v.Kind() != 'n' {
		d.undecodable(pointer(), "must be a string or null")
	}
	return d.textOf(v)
}

// identity reads an id, which is a string, an integer or null.
func (d *decoder) identity(i *identity, parent, field string) {
	v := d.read()
	earlier := *i
	*i = identity{value: d.textOf(v), given: true, parent: parent, field: field}
	switch {
	case v.Kind() == '"', v.Kind() == 'n', v.Kind() == '0' && isInteger(v):
	default:
		i.fault = &Fault{BadIdentity, i.pointer(), "must be a string, an integer or null"}
	}
	i.after(earlier)
}

// account reads the account, whose id is the member idField.
func (d *decoder) account(a *account, pointer, idField string) {
	earlier := a.id
	*a = account{}
	if d.object(pointer) {
		for d.more() {
			switch name := d.name(); {
			case string(name) == idField:
				d.identity(&a.id, pointer, idField)
			case string(name) == "attributes":
				a.attributes = d.attributes()
			default:
				d.skip()
			}
		}
	}
	a.id.after(earlier)
}

// attributes reads the attributes of an account, null ones too.
func (d *decoder) attributes() []Attribute {
	if d.peek || !d.isObject() {
		d.skip()
		return nil
	}
	var attributes []Attribute
	for d.object(""); d.more(); {
		if attributes == nil {
			attributes = take(&d.spare.attributes)
		}
		name := d.property()
		attributes = append(attributes, Attribute{name, d.keep(d.read())})
	}
	return attributes
}

// attributeNames reads the names of the attributes, null ones too.
func (d *decoder) attributeNames() []string {
	if d.peek || !d.isObject() {
		d.skip()
		return nil
	}
	var names []string
	for d.object(""); d.more(); {
		if names == nil {
			names = take(&d.spare.names)
		}
		names = append(names, d.property())
		d.skip()
	}
	return names
}

// survey reads id and name of the survey.
func (d *decoder) survey(c *Completion, idField string) {
	c.SurveyID, c.SurveyName = "", ""
	if !d.isObject() {
		d.skip()
		return
	}
	for d.object(""); d.more(); {
		switch name := d.name(); {
		case string(name) == idField:
			c.SurveyID = d.textOf(d.read())
		case string(name) == "name":
			c.SurveyName = d.textOf(d.read())
		default:
			d.skip()
		}
	}
}

// answer reads a value; there is none if it is null, "", [] or {}.
func (d *decoder) answer() (jsontext.Value, bool) {
	raw := d.read()
	if d.fault != nil {
		return nil, false
	}
	v := d.keep(raw)
	if none := IsNone(v); none || d.peek {
		return nil, !none
	}
	return v, true
}

// keep returns a value that was just read, cleaned: as it stands in the event, if it
// is clean there, and else as a copy.
func (d *decoder) keep(raw jsontext.Value) jsontext.Value {
	if isClean(raw) {
		end := d.at + len(raw)
		return jsontext.Value(d.raw[d.at:end:end])
	}
	start := len(d.values)
	d.values = appendClean(d.values, raw)
	return jsontext.Value(d.values[start:len(d.values):len(d.values)])
}

// moment reads a time: a string, or a number, which cannot be read as one.
func (d *decoder) moment() moment {
	v := d.read()
	if v.Kind() == '0' {
		return moment(v)
	}
	return moment(d.textOf(v))
}
