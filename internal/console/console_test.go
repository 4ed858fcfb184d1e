package console_test

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"refinersource/internal/attribution"
	"refinersource/internal/console"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostile are answers that would do harm wherever they are taken for more than
// text.
func hostile() []string {
	return []string{
		`<script>window.pwned=1;document.title="pwned"</script>`,
		`"><img src=x onerror="window.pwned=2">`,
		`'><svg/onload=window.pwned=3>`,
		`</script><script>window.pwned=4</script>`,
		`</template></bdi></td></tr></table><iframe srcdoc="<script>top.pwned=5</script>">`,
		`{{7*7}} {{.}} ${7*7} <%= 7*7 %>`,
		`javascript:window.pwned=6`,
		"\u202Egnp.exe\u2066 right to left \u2028 line",
		"first line\nsecond line\r\n\tthird",
		"\x1b[31mred\x1b[0m",
		strings.Repeat("unbroken", 200),
		`&lt;b&gt; stays as written &amp;amp;`,
	}
}

// event is a delivered event with a pair, the answers of which are values.
func event(id string, values ...string) console.Event {
	identify := attribution.Call{
		Kind: attribution.Identify, MessageID: "message-" + id, UserID: "user-17",
		Timestamp: time.Date(2026, 10, 12, 2, 5, 55, 0, time.UTC),
	}
	for i, v := range values {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		identify.Traits = append(identify.Traits, attribution.Trait{
			Name: attribution.TraitName("refiner_" + string(rune('a'+i))), Value: text,
		})
	}
	group := identify
	group.Kind, group.GroupID, group.Traits = attribution.Group, "acc-9", []attribution.Trait{
		{Name: "refiner_employee_count", Value: jsontext.Value(`4.50`)},
		{Name: "refiner_tools", Value: jsontext.Value(`["a","b"]`)},
	}
	accepted := time.Date(2026, 10, 12, 2, 5, 56, 0, time.UTC)
	return console.Event{
		Tenant: "acme", EventID: id, Source: "refiner-webhook", Partition: 3, Offset: 42, Outcome: "delivered", Attempts: 1,
		Calls: []attribution.Call{identify, group}, Accepted: accepted, Finished: accepted.Add(35 * time.Millisecond),
	}
}

func newConsole(t *testing.T, o console.Options) http.Handler {
	t.Helper()
	h, err := console.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(h http.Handler, target string) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	return w.Result()
}

// page is the parsed page.
func page(t *testing.T, h http.Handler) *html.Node {
	t.Helper()
	r := get(h, "/")
	if r.StatusCode != http.StatusOK {
		t.Fatalf("GET / answered %s", r.Status)
	}
	n, err := html.Parse(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

func find(n *html.Node, ok func(*html.Node) bool) []*html.Node {
	var found []*html.Node
	for d := range n.Descendants() {
		if d.Type == html.ElementNode && ok(d) {
			found = append(found, d)
		}
	}
	return found
}

func byID(t *testing.T, n *html.Node, id string) *html.Node {
	t.Helper()
	found := find(n, func(d *html.Node) bool { return attr(d, "id") == id })
	if len(found) != 1 {
		t.Fatalf("%d elements have the id %q, want 1", len(found), id)
	}
	return found[0]
}

// texts are the texts of the elements below n that show the view's field.
func texts(n *html.Node, field string) []string {
	var all []string
	for _, d := range find(n, func(d *html.Node) bool { return attr(d, "data-text") == field }) {
		all = append(all, text(d))
	}
	return all
}

func text(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return b.String()
}

func diff(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestPageShowsTheLastEventsNewestFirst(t *testing.T) {
	t.Parallel()
	feed := console.NewFeed(3)
	h := newConsole(t, console.Options{Feed: feed})
	for _, id := range []string{"one", "two", "three", "four", "five"} {
		feed.Observe(event(id))
	}
	diff(t, "event ids", texts(byID(t, page(t, h), "feed"), "id"), []string{"five", "four", "three"})
}

func TestPageShowsAnEventWithItsCalls(t *testing.T) {
	t.Parallel()
	feed := console.NewFeed(0)
	h := newConsole(t, console.Options{Feed: feed})
	feed.Observe(event("eb11", "CEO"))
	got := map[string][]string{}
	for _, d := range find(byID(t, page(t, h), "feed"), func(d *html.Node) bool { return attr(d, "data-text") != "" }) {
		field := attr(d, "data-text")
		got[field] = append(got[field], text(d))
	}
	diff(t, "texts by field", got, map[string][]string{
		"outcome": {"delivered"}, "tenant": {"acme"}, "id": {"eb11"}, "source": {"refiner-webhook"},
		"position": {"3 / 42"}, "attempts": {"1 request"}, "took": {"35 ms"}, "clock": {"12 Oct 02:05:56"}, "reason": {""},
		"kind": {"identify", "group"}, "subject": {"user-17", "acc-9"}, "of": {"", "user-17"},
		"messageId": {"message-eb11", "message-eb11"}, "timestamp": {"2026-10-12T02:05:55Z", "2026-10-12T02:05:55Z"},
		"name": {"refiner_a", "refiner_employee_count", "refiner_tools"}, "value": {"CEO", "4.50", `["a","b"]`},
		"note": {"", "", "", "", ""},
	})
}

func TestPageSaysWhyAnEventMadeNoCall(t *testing.T) {
	t.Parallel()
	feed := console.NewFeed(0)
	h := newConsole(t, console.Options{Feed: feed})
	feed.Observe(console.Event{Tenant: "acme", Outcome: "ignored", Reason: "not_completed"})
	feed.Observe(console.Event{Tenant: "acme", Outcome: "dead", Reason: "bad_identity", Attempts: 2})
	n := page(t, h)
	diff(t, "reasons", texts(byID(t, n, "feed"), "reason"), []string{"bad_identity", "not_completed"})
	diff(t, "attempts", texts(byID(t, n, "feed"), "attempts"), []string{"2 requests", ""})
	diff(t, "dead letters", texts(byID(t, n, "counts"), "dead"), []string{"1"})
	diff(t, "ignored", texts(byID(t, n, "counts"), "ignored"), []string{"1"})
}

// Invariant 9: answers are hostile text.
func TestPageShowsHostileTextVerbatimAndOnlyAsText(t *testing.T) {
	t.Parallel()
	feed := console.NewFeed(0)
	h := newConsole(t, console.Options{Feed: feed, Title: hostile()[0], Role: hostile()[1], Version: hostile()[2], TryIt: hostile()[3]})
	plain := find(page(t, h), func(*html.Node) bool { return true })

	e := event("x", hostile()...)
	feed.Observe(e)
	rendered := page(t, h)
	// The parser folds CRLF into LF, as a browser does; the value is text of one cell.
	var want []string
	for _, v := range append(hostile(), "4.50", `["a","b"]`) {
		want = append(want, strings.ReplaceAll(v, "\r\n", "\n"))
	}
	diff(t, "values", texts(byID(t, rendered, "feed"), "value"), want)

	for _, tag := range []atom.Atom{atom.Script, atom.Img, atom.Svg, atom.Iframe, atom.Style} {
		is := func(n *html.Node) bool { return n.DataAtom == tag }
		got, want := len(find(rendered, is)), 0
		for _, n := range plain {
			if is(n) {
				want++
			}
		}
		if got != want {
			t.Errorf("%d elements <%s> with hostile answers, %d without", got, tag, want)
		}
	}

	for name, set := range map[string]func(*console.Event, string){
		"tenant": func(e *console.Event, s string) { e.Tenant = s },
		"id":     func(e *console.Event, s string) { e.EventID = s },
		"source": func(e *console.Event, s string) { e.Source = s },
		"reason": func(e *console.Event, s string) { e.Reason = s },
	} {
		e := event("x")
		set(&e, hostile()[4])
		feed.Observe(e)
		diff(t, name, texts(byID(t, page(t, h), "feed"), name)[0], hostile()[4])
	}
}

func TestLongValuesAndManyTraitsAreCutAndSaidToBe(t *testing.T) {
	t.Parallel()
	feed := console.NewFeed(0)
	h := newConsole(t, console.Options{Feed: feed})
	long := strings.Repeat("ü", 3_500)
	e := event("x", long)
	for range 100 {
		e.Calls[0].Traits = append(e.Calls[0].Traits, attribution.Trait{Name: "refiner_more", Value: jsontext.Value("1")})
	}
	feed.Observe(e)
	n := byID(t, page(t, h), "feed")
	diff(t, "value", texts(n, "value")[0], strings.Repeat("ü", 2_000))
	notes := slices.DeleteFunc(texts(n, "note"), func(s string) bool { return s == "" })
	diff(t, "notes", notes, []string{"1,500 more characters not shown", "41 more traits not shown"})
}

func TestEmptyPageShowsTheCommandToTry(t *testing.T) {
	t.Parallel()
	const command = `curl -d '{"a":"<b>"}' "http://127.0.0.1:8080/v1/events/demo"`
	h := newConsole(t, console.Options{Feed: console.NewFeed(0), TryIt: command})
	n := page(t, h)
	if byID(t, n, "feed").FirstChild != nil {
		t.Error("the list of events is not empty, so that the style sheet does not show the empty state")
	}
	pre := find(n, func(d *html.Node) bool { return d.DataAtom == atom.Pre })
	if len(pre) != 1 {
		t.Fatalf("%d commands on the page, want 1", len(pre))
	}
	diff(t, "command", text(pre[0]), command)
}

// On the page of an ingress nothing ever appears: it says where to look.
func TestPageOfAProcessWithoutWorkerSaysWhereEventsAppear(t *testing.T) {
	t.Parallel()
	const elsewhere, soon = "on the live page of the worker", "Nothing has finished yet"
	for _, c := range []struct {
		lag         func() []console.PartitionLag
		want, never string
	}{
		{nil, elsewhere, soon},
		{func() []console.PartitionLag { return nil }, soon, elsewhere},
	} {
		w := httptest.NewRecorder()
		newConsole(t, console.Options{Feed: console.NewFeed(0), Lag: c.lag}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if page := w.Body.String(); !strings.Contains(page, c.want) || strings.Contains(page, c.never) {
			t.Errorf("the page with a worker %v does not say %q alone", c.lag != nil, c.want)
		}
	}
}

func TestPageShowsTheLagOfEachPartition(t *testing.T) {
	t.Parallel()
	lag := func() []console.PartitionLag {
		return []console.PartitionLag{
			{Partition: 0, Committed: 1_200, End: 1_200},
			{Partition: 1, Committed: 10, End: 1_510, LagSeconds: 61.4},
		}
	}
	n := page(t, newConsole(t, console.Options{Feed: console.NewFeed(0), Lag: lag}))
	lags := byID(t, n, "lags")
	diff(t, "partitions", texts(lags, "partition"), []string{"0", "1"})
	diff(t, "behind", texts(lags, "behind"), []string{"up to date", "1,500 · 1m1s"})
	diff(t, "positions", texts(lags, "position"), []string{"1,200 / 1,200", "10 / 1,510"})
	diff(t, "total", texts(byID(t, n, "counts"), "lag"), []string{"1,500"})

	n = page(t, newConsole(t, console.Options{Feed: console.NewFeed(0)}))
	if got := texts(byID(t, n, "counts"), "lag"); got != nil {
		t.Errorf("a process without a worker shows the lag %v", got)
	}
}

func TestPageRefreshesItselfWithoutScript(t *testing.T) {
	t.Parallel()
	r := get(newConsole(t, console.Options{Feed: console.NewFeed(0)}), "/")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if want := `<noscript><meta http-equiv="refresh" content="5"></noscript>`; !strings.Contains(string(body), want) {
		t.Errorf("the page lacks %s", want)
	}
}

func TestEveryAnswerForbidsInlineScriptAndForeignContent(t *testing.T) {
	t.Parallel()
	feed := console.NewFeed(0)
	feed.Close()
	h := newConsole(t, console.Options{Feed: feed})
	for target, status := range map[string]int{
		"/":                       http.StatusOK,
		"/assets/console.js":      http.StatusOK,
		"/assets/console.css":     http.StatusOK,
		"/assets/icon.svg":        http.StatusOK,
		"/assets/page.html":       http.StatusNotFound, // the template, not the page
		"/assets/":                http.StatusNotFound,
		"/assets/%2e%2e/page.go":  http.StatusNotFound,
		"/api/live":               http.StatusServiceUnavailable, // closed
		"/api/":                   http.StatusNotFound,
		"/index.html":             http.StatusNotFound,
		"/<script>alert(1)<%2Fs>": http.StatusNotFound,
	} {
		r := get(h, target)
		if r.StatusCode != status {
			t.Errorf("GET %s answered %s, want %d", target, r.Status, status)
		}
		got := map[string]string{}
		for _, name := range []string{"Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy"} {
			got[name] = r.Header.Get(name)
		}
		diff(t, "headers of "+target, got, map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
				"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
			"X-Content-Type-Options": "nosniff",
			"Referrer-Policy":        "no-referrer",
		})
	}
}

func TestOnlyReadingIsAllowed(t *testing.T) {
	t.Parallel()
	h := newConsole(t, console.Options{Feed: console.NewFeed(0)})
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s / answered %d, want %d", method, w.Code, http.StatusMethodNotAllowed)
		}
	}
}

func TestForeignHostNamesAreRefusedOnLoopback(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newConsole(t, console.Options{Feed: console.NewFeed(0)}))
	defer server.Close()
	for host, status := range map[string]int{
		"":                     http.StatusOK, // the address itself
		"localhost:8081":       http.StatusOK,
		"console.localhost":    http.StatusOK,
		"[::1]:8081":           http.StatusOK,
		"attacker.example":     http.StatusMisdirectedRequest,
		"attacker.example:80":  http.StatusMisdirectedRequest,
		"notlocalhost":         http.StatusMisdirectedRequest,
		"127.0.0.1.example:80": http.StatusMisdirectedRequest,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		answer, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != status {
			t.Errorf("Host %q was answered %s, want %d", host, answer.Status, status)
		}
	}
}

func TestFeedIsRequired(t *testing.T) {
	t.Parallel()
	if _, err := console.New(console.Options{}); err == nil {
		t.Error("New took options without a feed")
	}
}
