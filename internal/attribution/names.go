package attribution

import (
	"crypto/sha256"
	"encoding/hex"
	"html"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// MaxNameBytes bounds a trait's name: the longest column name that all of
// Segment's warehouses take whole.
const MaxNameBytes = 127

// CompileNames returns what Rules.Names needs of a tenant's entries, custom name
// by question text or property name. An entry for a question's text also names
// the property that Refiner makes of that text, unless that has an entry of its
// own; of two such texts the first in alphabetical order counts. Blank names
// name nothing.
func CompileNames(entries map[string]string) map[string]string {
	names := make(map[string]string, 2*len(entries))
	for source, custom := range entries {
		if custom = strings.TrimSpace(custom); custom != "" {
			names[strings.TrimSpace(source)] = custom
		}
	}
	for _, source := range slices.Sorted(maps.Keys(names)) {
		property, lost := reduce(source)
		if _, ok := names[property]; !ok && !lost && property != "" {
			names[property] = names[source]
		}
	}
	return names
}

// naming is what a name is made of.
type naming struct {
	source string // trimmed, not blank
	custom bool   // a custom or property name, which may carry the prefix already
}

// naming returns the source of a name: the first that is not blank of the
// tenant's entry, the property, the question's text. It reports false if all are.
func (r *Rules) naming(property, question string) (naming, bool) {
	if len(r.Names) > 0 {
		for _, key := range [...]string{property, question} {
			if custom := strings.TrimSpace(r.Names[key]); custom != "" && key != "" {
				return naming{custom, true}, true
			}
		}
	}
	switch {
	case property != "":
		return naming{property, true}, true
	case question != "":
		return naming{question, false}, true
	default:
		return naming{}, false
	}
}

// names remembers names that were made, so that a name which comes with every event
// is made once. Its memory is bounded: when it is full it forgets all. The zero value
// is ready. Not safe for concurrent use.
type names struct {
	made map[nameKey]TraitName
}

// nameKey is all that a name depends on.
type nameKey struct {
	naming

	prefix string
}

// Bounds of names: of how many are remembered, and of their sources.
const (
	maxNames       = 512
	maxSourceBytes = 256
)

func (m *names) of(r *Rules, n naming) TraitName {
	if len(n.source) > maxSourceBytes {
		return r.name(n)
	}
	if name, ok := m.made[nameKey{n, r.Prefix}]; ok {
		return name
	}
	if m.made == nil {
		m.made = make(map[nameKey]TraitName)
	}
	if len(m.made) >= maxNames {
		clear(m.made)
	}
	n.source = strings.Clone(n.source) // it may be part of an event
	name := r.name(n)
	m.made[nameKey{n, r.Prefix}] = name
	return name
}

// name is docs/mapping.md, Names.
func (r *Rules) name(n naming) TraitName {
	body := part(n.source)
	if n.custom && strings.HasPrefix(body, r.Prefix) {
		return shorten(body, MaxNameBytes, n.source)
	}
	return shorten(r.Prefix+body, MaxNameBytes, n.source)
}

// memberName is the name of a member of an object that was answered to a
// question with that name.
func memberName(question TraitName, source, key string) TraitName {
	return shorten(string(question)+"_"+part(key), MaxNameBytes, source+"_"+key)
}

// part is the part of a name that one source makes: its letters and digits, and
// a fingerprint where that is not all of them.
func part(source string) string {
	if isReduced(source) {
		return source
	}
	reduced, lost := reduce(source)
	switch {
	case reduced == "":
		return "q_" + fingerprint(source)
	case lost:
		return reduced + "_" + fingerprint(source)
	default:
		return reduced
	}
}

// shorten makes a name fit: it is cut at the last underscore that leaves room
// for another and the fingerprint of its source.
func shorten(name string, limit int, source string) TraitName {
	if len(name) <= limit {
		return TraitName(name)
	}
	room := limit - 1 - fingerprintLen
	head := name[:room]
	if cut := strings.LastIndexByte(name[:room+1], '_'); cut > 0 {
		head = name[:cut]
	}
	return TraitName(head + "_" + fingerprint(source))
}

const fingerprintLen = 8

// fingerprint tells sources apart that reduce to the same: the first 8 hex
// digits of the SHA-256 of the NFC form.
func fingerprint(source string) string {
	sum := sha256.Sum256([]byte(norm.NFC.String(source)))
	return hex.EncodeToString(sum[:fingerprintLen/2])
}

// isReduced reports whether s is what reduce would return for it: words of a–z
// and 0–9 with single underscores between them.
func isReduced(s string) bool {
	underscore := true
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			underscore = false
		case c == '_' && !underscore:
			underscore = true
		default:
			return false
		}
	}
	return !underscore
}

// reduce returns the letters and digits of a text as words of a–z and 0–9 with
// single underscores between them, and whether it lost a letter or a digit.
func reduce(source string) (reduced string, lost bool) {
	text := norm.NFKD.String(withoutTags(html.UnescapeString(source)))
	b := make([]byte, 0, len(text))
	inWord := false // a letter or digit came right before
	gap := false    // an underscore is due before the next letter or digit
	for i, r := range text {
		if unicode.IsMark(r) {
			continue
		}
		if isApostrophe(r) && inWord && startsWord(text[i+utf8.RuneLen(r):]) {
			continue
		}
		r = unicode.ToLower(r)
		letters := latin(r)
		ascii := 'a' <= r && r <= 'z' || '0' <= r && r <= '9'
		if !ascii && letters == "" {
			inWord = isWord(r)
			lost = lost || inWord
			gap = true
			continue
		}
		if gap && len(b) > 0 {
			b = append(b, '_')
		}
		if ascii {
			b = append(b, byte(r))
		} else {
			b = append(b, letters...)
		}
		inWord, gap = true, false
	}
	return string(b), lost
}

// latin spells a lower-case Latin letter that has no decomposition, "" for all else.
func latin(r rune) string {
	switch r {
	case 'ß':
		return "ss"
	case 'æ':
		return "ae"
	case 'œ':
		return "oe"
	case 'ø':
		return "o"
	case 'đ', 'ð':
		return "d"
	case 'ł':
		return "l"
	case 'þ':
		return "th"
	case 'ı':
		return "i"
	default:
		return ""
	}
}

// isApostrophe tells the apostrophes: typewriter, typographic, modifier letter.
func isApostrophe(r rune) bool { return r == '\'' || r == '’' || r == 'ʼ' }

// isWord tells the letters and digits of all scripts.
func isWord(r rune) bool { return (unicode.IsLetter(r) || unicode.IsNumber(r)) && !isApostrophe(r) }

// startsWord reports whether a text begins with a letter or a digit.
func startsWord(text string) bool {
	r, _ := utf8.DecodeRuneInString(text)
	return isWord(r)
}

// withoutTags puts a space in the place of each HTML tag. A tag begins with <
// before a letter, / or ! and ends with the next >.
func withoutTags(s string) string {
	if !strings.ContainsRune(s, '<') {
		return s
	}
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "<")
		b.WriteString(before)
		switch {
		case !found:
			return b.String()
		case !startsTag(rest):
			b.WriteByte('<')
			s = rest
		default:
			_, after, closed := strings.Cut(rest, ">")
			if !closed { // nor is any later one
				b.WriteString(" " + rest)
				return b.String()
			}
			b.WriteByte(' ')
			s = after
		}
	}
}

// startsTag reports whether a < before this text begins a tag.
func startsTag(s string) bool {
	if s == "" {
		return false
	}
	c := s[0] | 0x20
	return 'a' <= c && c <= 'z' || s[0] == '/' || s[0] == '!'
}
