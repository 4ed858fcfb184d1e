package checker

import (
	"crypto/sha256"
	"encoding/hex"
	"html"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// maxName bounds a trait's name, in bytes.
const maxName = 127

var tags = regexp.MustCompile(`<[A-Za-z/!][^>]*>`)

// spelt are the letters that mapping.md spells out.
var spelt = map[rune]string{'ß': "ss", 'æ': "ae", 'œ': "oe", 'ø': "o", 'đ': "d", 'ł': "l", 'þ': "th", 'ð': "d", 'ı': "i"}

// words reduces a text to words of a–z and 0–9 with underscores between them,
// and says whether a letter or a digit was lost on the way.
func words(source string) (string, bool) {
	decoded := tags.ReplaceAllString(html.UnescapeString(source), " ")
	var kept []rune
	for _, r := range norm.NFKD.String(decoded) {
		if !unicode.IsMark(r) {
			kept = append(kept, r)
		}
	}
	var all []string
	var word strings.Builder
	end := func() {
		if word.Len() > 0 {
			all = append(all, word.String())
			word.Reset()
		}
	}
	lost := false
	for i, r := range kept {
		if apostrophe(r) && i > 0 && i+1 < len(kept) && character(kept[i-1]) && character(kept[i+1]) {
			continue
		}
		low := unicode.ToLower(r)
		switch spelling, ok := spelt[low]; {
		case low >= 'a' && low <= 'z', low >= '0' && low <= '9':
			word.WriteRune(low)
		case ok:
			word.WriteString(spelling)
		default:
			lost = lost || character(low)
			end()
		}
	}
	end()
	return strings.Join(all, "_"), lost
}

func apostrophe(r rune) bool { return r == '\'' || r == '’' || r == 'ʼ' }

// character tells letters and digits of all scripts.
func character(r rune) bool { return !apostrophe(r) && (unicode.IsLetter(r) || unicode.IsNumber(r)) }

// digits tells sources apart that come to the same words.
func digits(source string) string {
	sum := sha256.Sum256([]byte(norm.NFC.String(source)))
	return hex.EncodeToString(sum[:])[:8]
}

// body is the name of a source without the prefix.
func body(source string) string {
	reduced, lost := words(source)
	switch {
	case reduced == "":
		return "q_" + digits(source)
	case lost:
		return reduced + "_" + digits(source)
	default:
		return reduced
	}
}

// fit cuts a name that is too long at the last underscore that leaves room for
// its digits.
func fit(name, source string, limit int) string {
	if len(name) <= limit {
		return name
	}
	room := limit - len("_00000000")
	cut := strings.LastIndexByte(name[:room+1], '_')
	if cut <= 0 {
		cut = room
	}
	return name[:cut] + "_" + digits(source)
}

// numbered is a name with a number behind it.
func numbered(name, source string, n int) string {
	suffix := "_" + strconv.Itoa(n)
	return fit(name, source, maxName-len(suffix)) + suffix
}

// rules are what a tenant says about calls.
type rules struct {
	tenant       string
	prefix       string
	names        map[string]string
	account      map[string]bool
	user         map[string]bool
	byAccount    bool
	batch        bool
	partials     bool
	anonymous    bool
	track        bool
	forgotten    map[string]bool // from forgottenAt on
	forgottenAt  Time
	integrations *node
	version      string // of the library, where it is known
	cache        map[string]string
}

// maxCached bounds the names that are kept.
const maxCached = 10_000

func newRules(t *Tenant, version string) (*rules, error) {
	r := &rules{
		tenant: t.ID, prefix: t.Prefix, byAccount: t.OrderBy == "account", batch: t.Pairing == "batch",
		partials: t.Partials, anonymous: t.Anonymous == "emit", track: t.Track, version: version,
		names: make(map[string]string), account: set(t.AccountProperties), user: set(t.UserProperties),
		cache: make(map[string]string), forgotten: set(t.Forgotten), forgottenAt: t.ForgottenAt,
	}
	if r.prefix == "" {
		r.prefix = "refiner_"
	}
	sources := make([]string, 0, len(t.Names))
	for source, custom := range t.Names {
		if strings.TrimSpace(custom) != "" {
			source = strings.TrimSpace(source)
			r.names[source] = strings.TrimSpace(custom)
			sources = append(sources, source)
		}
	}
	slices.Sort(sources)
	for _, source := range sources { // the entry for a text also names Refiner's slug of it
		slug, lost := words(source)
		if _, taken := r.names[slug]; slug != "" && !lost && !taken {
			r.names[slug] = r.names[source]
		}
	}
	if len(t.Integrations) > 0 {
		n, err := fromAny(t.Integrations)
		if err != nil {
			return nil, err
		}
		r.integrations = &n
	}
	return r, nil
}

func set(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// source is what the name of an answer is made of, and whether it may carry the
// prefix already; "" if all that it could be is blank.
func (r *rules) source(property, question string) (source string, custom bool) {
	for _, key := range []string{property, question} {
		if custom := r.names[key]; key != "" && custom != "" {
			return custom, true
		}
	}
	if property != "" {
		return property, true
	}
	return question, false
}

// name is the trait's name of a source.
func (r *rules) name(source string, custom bool) string {
	key := source
	if custom {
		key = "\x00" + source
	}
	if name, ok := r.cache[key]; ok {
		return name
	}
	name := body(source)
	if !custom || !strings.HasPrefix(name, r.prefix) {
		name = r.prefix + name
	}
	name = fit(name, source, maxName)
	if len(r.cache) < maxCached {
		r.cache[key] = name
	}
	return name
}
