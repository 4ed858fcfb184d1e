package tenant

import (
	"errors"
	"io/fs"
	"iter"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is a value of the file. Its methods tell the parser what is wrong with it
// and then report false, or yield nothing.
type value struct {
	p       *parser
	node    *yaml.Node
	path    string // such as tenants[2].endpoint
	key     string // the last name in path and what follows it, such as tokens[1]
	keyLine int    // of the key, where the value is a mapping's
}

func (v value) fault(problem, remedy string) { v.p.fault(v.node.Line, v.path, problem, remedy) }

// present tells a value that stands there from none at all. Aliases are refused:
// what a tenant has should be seen where it stands.
func (v value) present() bool {
	switch {
	case v.node.Kind == yaml.AliasNode:
		v.fault("is an alias", "write the value itself")
		return false
	case v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!null":
		v.fault("has no value", "give one or remove the line")
		return false
	default:
		return true
	}
}

// members yields what a mapping has, each key once.
func (v value) members() iter.Seq2[string, value] {
	return func(yield func(string, value) bool) {
		if !v.present() {
			return
		}
		if v.node.Kind != yaml.MappingNode {
			v.fault("is not a mapping", "give keys and values")
			return
		}
		first := make(map[string]struct{}, len(v.node.Content)/2)
		for i := 0; i < len(v.node.Content); i += 2 {
			key := v.node.Content[i]
			member := value{p: v.p, node: v.node.Content[i+1], path: v.member(key.Value), key: key.Value, keyLine: key.Line}
			if key.Kind != yaml.ScalarNode {
				v.p.fault(key.Line, v.path, "has a key that is no text", "give a simple key")
				continue
			}
			if _, ok := first[key.Value]; ok {
				v.p.fault(key.Line, member.path, "stands twice", "remove one")
				continue
			}
			first[key.Value] = struct{}{}
			if !yield(key.Value, member) {
				return
			}
		}
	}
}

var simpleKey = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

func (v value) member(key string) string {
	switch {
	case !simpleKey.MatchString(key):
		return v.path + "[" + quote(key) + "]"
	case v.path == "":
		return key
	default:
		return v.path + "." + key
	}
}

// elements yields what a list has.
func (v value) elements() iter.Seq2[int, value] {
	return func(yield func(int, value) bool) {
		if !v.present() {
			return
		}
		if v.node.Kind != yaml.SequenceNode {
			v.fault("is not a list", "give [one, two], or lines that begin with a dash")
			return
		}
		for i, node := range v.node.Content {
			if !yield(i, value{p: v.p, node: node, path: element(v.path, i), key: element(v.key, i)}) {
				return
			}
		}
	}
}

// text returns the value if it is text. Numbers are not: YAML would change some.
func (v value) text() (string, bool) {
	if !v.present() {
		return "", false
	}
	if v.node.Kind != yaml.ScalarNode || v.node.Tag != "!!str" {
		v.fault("is not text", "put it in quotes")
		return "", false
	}
	return v.node.Value, true
}

// name returns the value if it is text that is not blank, trimmed.
func (v value) name() (string, bool) {
	s, ok := v.text()
	if s = strings.TrimSpace(s); ok && s == "" {
		v.fault("is blank", "give a name or remove it")
		ok = false
	}
	return s, ok
}

// set returns a list of names as a set.
func (v value) set() map[string]struct{} {
	names := make(map[string]struct{})
	for _, v := range v.elements() {
		if s, ok := v.name(); ok {
			names[s] = struct{}{}
		}
	}
	return names
}

func (v value) boolean() (b, ok bool) {
	if v.node.Kind != yaml.ScalarNode || v.node.Tag != "!!bool" || v.node.Decode(&b) != nil {
		v.fault("is neither true nor false", "give true or false")
		return false, false
	}
	return b, true
}

func (v value) integer() (n int, ok bool) {
	if v.node.Kind != yaml.ScalarNode || v.node.Tag != "!!int" || v.node.Decode(&n) != nil {
		v.fault("is no whole number", "give digits alone")
		return 0, false
	}
	return n, true
}

// fileScheme begins a secret that stands in a file.
const fileScheme = "file:"

// secret resolves a secret: a literal, with ${ENV} anywhere in it, or
// file:/path, whose content counts without the newline at its end.
func (v value) secret() (Secret, bool) {
	text, ok := v.text()
	if !ok {
		return Secret{}, false
	}
	if v.p.rulesAlone {
		return NewSecret("not looked up"), true
	}
	path, isFile := strings.CutPrefix(text, fileScheme)
	if !isFile {
		resolved, ok := v.expand(text)
		return NewSecret(resolved), ok
	}
	if path, ok = v.expand(path); !ok {
		return Secret{}, false
	}
	if !filepath.IsAbs(path) {
		v.fault("names a file without its full path", "give file:/path")
		return Secret{}, false
	}
	data, err := readBounded(path, maxSecretBytes)
	v.p.files[path] = digestOf(data, err)
	if err != nil {
		v.fault("names a file that cannot be read: "+cause(err), "create it, and let this user read it")
		return Secret{}, false
	}
	return NewSecret(strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")), true
}

// cause is the error without the path, which may hold what ${ENV} stood for.
func cause(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

var variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand puts the value of each ${ENV} in its place; what comes out is not
// expanded again.
func (v value) expand(text string) (string, bool) {
	var b strings.Builder
	valid := true
	for {
		before, rest, found := strings.Cut(text, "${")
		b.WriteString(before)
		if !found {
			return b.String(), valid
		}
		variable, after, closed := strings.Cut(rest, "}")
		if !closed || !variableForm.MatchString(variable) {
			v.fault("has ${ without the name of a variable and }", "write ${VARIABLE}")
			return "", false
		}
		resolved, ok := v.p.env(variable)
		if !ok {
			v.fault("needs the environment variable "+variable+", which is not set", "set it")
			valid = false
		}
		b.WriteString(resolved)
		text = after
	}
}
