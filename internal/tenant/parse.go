package tenant

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of what is read.
const (
	MaxFileBytes   = 64 << 20
	maxSecretBytes = 64 << 10
)

// Load reads the tenants file at path (schemas/tenants.schema.json); env looks up
// ${ENV}, as os.LookupEnv does. The error wraps Faults, all of them at once,
// unless the file cannot be read.
func Load(path string, env func(string) (string, bool)) (*Registry, error) {
	return newParser(env).load(path)
}

// LoadForSenders is Load with one fault more: a tenant for whom nobody could send
// (Registry.RequireCredentials).
func LoadForSenders(path string, env func(string) (string, bool)) (*Registry, error) {
	p := newParser(env)
	p.forSenders = true
	return p.load(path)
}

// LoadRules is Load for those who need the tenants' rules alone: no secret is
// looked up or checked, and the result has none to use.
func LoadRules(path string) (*Registry, error) {
	p := newParser(nil)
	p.rulesAlone = true
	return p.load(path)
}

// Parse is Load for a file that was read already; name stands in the error.
func Parse(name string, data []byte, env func(string) (string, bool)) (*Registry, error) {
	p := newParser(env)
	return p.registry(name, data)
}

// parser reads one tenants file. It goes on after a fault, so that all are told.
type parser struct {
	forSenders bool // a tenant for whom nobody could send is a fault
	rulesAlone bool // secrets are left alone
	env        func(string) (string, bool)
	fields     map[string]field
	faults     Faults
	// installation is what the file says of itself.
	installation string
	// files are those that secrets were read from, as they were then.
	files map[string]digest
}

func newParser(env func(string) (string, bool)) *parser {
	p := &parser{env: env, fields: make(map[string]field, len(fields)), files: make(map[string]digest)}
	for _, f := range fields {
		p.fields[f.key] = f
	}
	return p
}

func (p *parser) load(path string) (*Registry, error) {
	data, err := readBounded(path, MaxFileBytes)
	if err != nil {
		return nil, fmt.Errorf("read tenants file: %w", err)
	}
	return p.registry(path, data)
}

func (p *parser) registry(name string, data []byte) (*Registry, error) {
	entries := p.document(data)
	r, faults := newRegistry(entries, p.faults, p.forSenders)
	if err := faults.err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r.installation = p.installation
	return r, nil
}

func (p *parser) fault(line int, field, problem, remedy string) {
	p.faults = append(p.faults, Fault{Line: line, Field: field, Problem: problem, Remedy: remedy})
}

func (p *parser) document(data []byte) []entry {
	const remedy = "begin with a line of tenants: and list at least one below it"
	lines := &lineReader{rest: data}
	d := yaml.NewDecoder(lines)
	var doc, next yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		p.fault(1, "", "is empty", remedy)
		return nil
	case err != nil:
		p.syntax(lines.read, err)
		return nil
	}
	switch err := d.Decode(&next); {
	case errors.Is(err, io.EOF):
	case err != nil:
		p.syntax(lines.read, err)
	default:
		p.fault(next.Line, "", "holds a second document", "put all tenants into one list")
	}
	root := value{p: p, node: doc.Content[0]}
	var entries []entry
	found := false
	for key, v := range root.members() {
		switch key {
		case "tenants":
			found = true
		case "installation":
			if p.installation, _ = v.text(); !idForm.MatchString(p.installation) {
				v.fault("is no name", "give 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit")
			}
			continue
		default:
			p.unknown(v, key, []string{"tenants", "installation"})
			continue
		}
		for i, v := range v.elements() {
			if e, ok := p.tenant(i, v); ok {
				entries = append(entries, e)
			}
		}
		if v.node.Kind == yaml.SequenceNode && len(v.node.Content) == 0 {
			v.fault("are none", "list at least one")
		}
	}
	if root.node.Kind == yaml.MappingNode && !found {
		p.fault(root.node.Line, "", "has no tenants", remedy)
	}
	return entries
}

// tenant reads the element of the list at index i; it reports false if that is
// no mapping.
func (p *parser) tenant(i int, v value) (entry, bool) {
	e := entry{Tenant: defaults(), index: i, line: v.node.Line, lines: make(map[string]int)}
	for key, v := range v.members() {
		f, ok := p.fields[key]
		if !ok {
			p.unknown(v, key, knownKeys())
			continue
		}
		e.lines[key] = v.node.Line
		if v.present() {
			f.set(v, &e)
		}
	}
	if v.node.Kind != yaml.MappingNode {
		return entry{}, false
	}
	for _, f := range fields {
		if _, ok := e.lines[f.key]; f.required && !ok {
			p.fault(v.node.Line, v.path+"."+f.key, "is missing", "give one")
		}
	}
	return e, true
}

func (p *parser) unknown(v value, key string, known []string) {
	remedy := "remove it"
	if near := nearest(key, known); near != "" {
		remedy = "did you mean " + near + "?"
	}
	p.fault(v.keyLine, v.path, "is not known", remedy)
}

// The library has a line in the text of its errors alone, and that is where the
// list or quoted text at fault begins. It shows the name of an unknown anchor,
// which an unquoted secret that begins with * is taken for.
var (
	syntaxLine   = regexp.MustCompile(`^yaml: (line \d+: )?`)
	syntaxAnchor = regexp.MustCompile(`anchor '.*'`)
)

// syntax tells that reading stopped in that line.
func (p *parser) syntax(line int, err error) {
	text := syntaxAnchor.ReplaceAllString(err.Error(), "anchor")
	if begin := syntaxLine.FindString(text); begin != "" {
		text = text[len(begin):]
		if from := syntaxLine.FindStringSubmatch(begin)[1]; from != "" {
			text += ", in what begins at " + strings.TrimSuffix(from, ": ")
		}
	}
	p.fault(line, "", "is not YAML here: "+text,
		"look at the indentation, and put quotes around texts that begin with a special character")
}

// lineReader hands out one line after another, and so knows how far the reading
// has come.
type lineReader struct {
	rest []byte
	read int // lines, the one under way included
}

func (r *lineReader) Read(b []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	end := bytes.IndexByte(r.rest, '\n') + 1
	if end == 0 || end > len(b) {
		end = min(len(r.rest), len(b))
	}
	n := copy(b, r.rest[:end])
	r.rest = r.rest[n:]
	if b[n-1] == '\n' || len(r.rest) == 0 {
		r.read++
	}
	return n, nil
}

// readBounded reads a file that is at most so long.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &os.PathError{Op: "read", Path: path, Err: fmt.Errorf("longer than %d bytes", limit)}
	}
	return data, nil
}

// nearest returns the known key that a misspelled one may have meant, "" if none
// is near.
func nearest(key string, known []string) string {
	best, nearness := "", max(1, (len(key)+1)/3)+1
	for _, k := range known {
		if d := distance(key, k); d < nearness {
			best, nearness = k, d
		}
	}
	return best
}

// distance is the number of bytes to insert, remove or change to make b of a.
func distance(a, b string) int {
	const longest = 64 // no key is near that
	if len(a) > longest {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
