package console_test

import (
	"encoding/json/jsontext"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/console"
)

// screenshots is where TestPageFitsEveryScreen leaves pictures of the page, for
// people to look at: go test ./internal/console -run Screen -screenshots DIR.
var screenshots = flag.String("screenshots", "", "directory for pictures of the page")

const (
	isLive     = `document.getElementById("status").textContent === "live"`
	allValues  = `[...document.querySelectorAll("#feed [data-text=value]")].map((e) => e.textContent)`
	allIDs     = `[...document.querySelectorAll("#feed [data-text=id]")].map((e) => e.textContent)`
	eventCount = `document.querySelectorAll("#feed > li[data-outcome]").length`
)

// Invariant 9: answers are hostile text. In a real browser no script of theirs
// runs, neither when the server renders them nor when they arrive live, and
// each is shown as it was given.
func TestHostileAnswersAreOnlyTextInABrowser(t *testing.T) {
	t.Parallel()
	feed := console.NewFeed(0)
	server := httptest.NewServer(newConsole(t, console.Options{Feed: feed}))
	t.Cleanup(server.Close)
	t.Cleanup(feed.Close)
	b := startChromium(t)

	e := event(hostile()[0], hostile()...)
	e.Tenant, e.Source, e.Reason = hostile()[1], hostile()[3], hostile()[4]
	feed.Observe(e)
	tab := b.open(server.URL + "/")
	want := append(hostile(), "4.50", `["a","b"]`)
	var parsed []string // a parser folds line ends, in HTML as the server wrote it
	for _, v := range want {
		parsed = append(parsed, strings.ReplaceAll(v, "\r\n", "\n"))
	}
	diff(t, "values in the first paint", eval[[]string](tab, allValues), parsed)

	tab.wait(isLive)
	feed.Observe(e)
	tab.wait(eventCount + " === 2")
	diff(t, "values over the live connection", eval[[]string](tab, allValues)[:len(want)], want)

	visible := eval[string](tab, `document.getElementById("feed").innerText`)
	for _, v := range []string{hostile()[0], hostile()[1], hostile()[5]} {
		if strings.Count(visible, v) < 2 {
			t.Errorf("%q is not to be seen twice", v)
		}
	}
	// An image that fails to load or a frame would have run by then.
	eval[bool](tab, `new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(true), 100)))`)
	diff(t, "window.pwned", eval[any](tab, `window.pwned ?? null`), nil)
	diff(t, "title", eval[string](tab, `document.title`), console.DefaultTitle)
	diff(t, "foreign elements", eval[int](tab, `document.querySelectorAll("#feed :is(script, img, svg, iframe, style, link)").length`), 0)
	diff(t, "refused by the policy", eval[[]string](tab, `refused`), []string{})
	for _, event := range b.events {
		if event == "Page.javascriptDialogOpening" {
			t.Error("a dialog was opened")
		}
	}
}

// The server and the script fill the same markup.
func TestLiveEventsLookLikeRenderedOnes(t *testing.T) {
	t.Parallel()
	feed := console.NewFeed(0)
	server := httptest.NewServer(newConsole(t, console.Options{Feed: feed, Lag: lag}))
	t.Cleanup(server.Close)
	t.Cleanup(feed.Close)
	tab := startChromium(t).open(server.URL + "/")
	tab.wait(isLive)
	for _, e := range showcase() {
		feed.Observe(e)
	}
	feed.Observe(event("last"))
	tab.wait(fmt.Sprintf("%s === %d", eventCount, len(showcase())+1))
	const markup = `document.querySelector("main").outerHTML.replaceAll(' class="fresh"', "").replace(/\s+/g, " ").replaceAll("> <", "><").replace(/(id="news"[^>]*>)[^<]*/, "$1").split("<li")`
	live := eval[[]string](tab, markup)
	tab.visit(server.URL + "/?again")
	diff(t, "markup", live, eval[[]string](tab, markup))
}

func TestPausedPageCatchesUp(t *testing.T) {
	t.Parallel()
	feed := console.NewFeed(3)
	server := httptest.NewServer(newConsole(t, console.Options{Feed: feed}))
	t.Cleanup(server.Close)
	t.Cleanup(feed.Close)
	tab := startChromium(t).open(server.URL + "/")
	tab.wait(isLive)
	feed.Observe(event("before"))
	tab.wait(eventCount + " === 1")
	eval[any](tab, `document.getElementById("pause").click()`)
	for i := range 5 {
		feed.Observe(event(fmt.Sprint(i)))
	}
	diff(t, "events while paused", eval[[]string](tab, allIDs), []string{"before"})
	eval[any](tab, `document.getElementById("pause").click()`)
	tab.wait(eventCount + " === 3")
	diff(t, "events after resuming", eval[[]string](tab, allIDs), []string{"4", "3", "2"})
}

func TestPageSurvivesARestartOfTheProcess(t *testing.T) {
	t.Parallel()
	before, after := console.NewFeed(0), console.NewFeed(0)
	var handler atomic.Pointer[http.Handler]
	serve := func(feed *console.Feed) {
		h := newConsole(t, console.Options{Feed: feed})
		handler.Store(&h)
	}
	serve(before)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*handler.Load()).ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	t.Cleanup(after.Close)
	before.Observe(event("old"))
	tab := startChromium(t).open(server.URL + "/")
	tab.wait(isLive)
	after.Observe(event("new"))
	serve(after)
	before.Close()
	tab.wait(`document.getElementById("status").textContent === "live" && ` + allIDs + `.join() === "new"`)
}

func TestPageFitsEveryScreen(t *testing.T) {
	t.Parallel()
	feed := console.NewFeed(0)
	const command = `curl -sS http://127.0.0.1:8080/v1/events/demo -H 'Content-Type: application/json' \
  -d '{"id":"evt-1","completed_at":"2026-10-12T02:05:55Z","user":{"id":"user-17"},"account":{"id":"acc-9"},"answers":[{"question":"What is your job role?","value":"CEO"}]}'`
	server := httptest.NewServer(newConsole(t, console.Options{Feed: feed, Lag: lag, Role: "dev", Version: "0.1.0", TryIt: command}))
	t.Cleanup(server.Close)
	t.Cleanup(feed.Close)
	tab := startChromium(t).open(server.URL + "/")
	tab.do("Emulation.setScrollbarsHidden", map[string]any{"hidden": true})
	show := func(state string) {
		tab.wait(isLive)
		for _, scheme := range []string{"light", "dark"} {
			tab.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{
				{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"},
			}})
			for _, width := range []int{1280, 768, 360} {
				tab.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": false})
				diff(t, fmt.Sprintf("width of the %s page at %d pixels", state, width), eval[int](tab, `document.documentElement.scrollWidth`), width)
				tab.picture(fmt.Sprintf("%s-%s-%d", state, scheme, width))
			}
			checkContrast(tab, state+" "+scheme)
		}
	}
	show("empty")
	feed.Observe(event("hostile", hostile()...))
	for _, e := range showcase() {
		feed.Observe(e)
	}
	tab.wait(fmt.Sprintf("%s === %d", eventCount, len(showcase())+1))
	show("busy")
	// The longest answer takes a part of the screen, and can be read to its end.
	feed.Observe(event("long", strings.Repeat("word ", 400)))
	tab.wait(fmt.Sprintf("%s === %d", eventCount, len(showcase())+2))
	const longest = `(() => { const v = document.querySelector("#feed [data-text=value]"); return [v.offsetHeight, v.scrollHeight]; })()`
	if h := eval[[]int](tab, longest); h[0] > 300 || h[1] <= h[0] {
		t.Errorf("a long answer takes %d of %d pixels, want at most 300", h[0], h[1])
	}
}

// checkContrast holds every visible text to WCAG's 4.5 to 1.
func checkContrast(tab *tab, what string) {
	tab.t.Helper()
	poor := eval[[]string](tab, `(() => {
		const parse = (c) => c.match(/[\d.]+/g).map(Number);
		const light = (c) => c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
			.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
		const ground = (el) => {
			for (; el; el = el.parentElement) {
				const c = parse(getComputedStyle(el).backgroundColor);
				if (c.length < 4 || c[3] > 0) return c;
			}
			throw new Error("no background");
		};
		const poor = new Set();
		for (const el of document.body.querySelectorAll("*")) {
			if (![...el.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim()) || !el.checkVisibility()) continue;
			const [a, b] = [light(parse(getComputedStyle(el).color)), light(ground(el))].sort((x, y) => y - x);
			const ratio = (a + 0.05) / (b + 0.05);
			if (ratio < 4.5) poor.add(el.tagName + "." + el.className + " " + ratio.toFixed(2));
		}
		return [...poor];
	})()`)
	diff(tab.t, "texts of poor contrast on the "+what+" page", poor, []string{})
}

func lag() []console.PartitionLag {
	var all []console.PartitionLag
	for i := range 12 {
		all = append(all, console.PartitionLag{Partition: i, Committed: int64(1_000 + 37*i), End: int64(1_000 + 37*i)})
	}
	all[4].End += 1_234
	all[4].LagSeconds = 7.34
	return all
}

// showcase are events of every kind as they occur in practice.
func showcase() []console.Event {
	at := time.Date(2026, 10, 12, 2, 5, 56, 0, time.UTC)
	trait := func(name attribution.TraitName, value string) attribution.Trait {
		return attribution.Trait{Name: name, Value: jsontext.Value(value)}
	}
	pair := event("eb115f0d-3a51-4c2b-9a5e-0d1f71ab3c9e")
	pair.Calls[0].MessageID, pair.Calls[1].MessageID = "0b7a4c1e-5f0d-5a51-9c2b-71ab3c9eeb11", "6f1d9a0c-71ab-5c2b-8a5e-3c9eeb115f0d"
	pair.Calls[0].Traits = []attribution.Trait{
		trait("refiner_email", `"ann@example.com"`),
		trait("refiner_how_big_is_your_team", `"10+"`),
		trait("refiner_how_likely_are_you_to_recommend_us", `9`),
		trait("refiner_what_is_your_job_role", `"CEO"`),
		trait("refiner_what_could_we_do_better", `"Honestly, very little. The import of old surveys took me a while to find: it is hidden under “Settings”, and I would have looked for it under “Data”."`),
	}
	pair.Calls[1].Traits = []attribution.Trait{
		trait("refiner_employee_count", `"1000+"`), trait("refiner_industry", `"accounting"`), trait("refiner_tools", `["Segment","BigQuery"]`),
	}
	alone := event("evt-20418")
	alone.Partition, alone.Offset, alone.Attempts, alone.Tenant = 7, 20_418, 3, "northwind"
	alone.Calls = alone.Calls[:1]
	alone.Calls[0].Traits = []attribution.Trait{trait("refiner_nps_a340ce39", `10`), trait("refiner_why_did_you_cancel", `"日本語の回答"`)}
	alone.Finished = alone.Accepted.Add(4300 * time.Millisecond)
	bare := event("evt-20419")
	bare.Calls[0].Traits = []attribution.Trait{trait("refiner_email", `"bo@example.com"`)}
	bare.Calls[1].Traits = nil
	return []console.Event{
		bare,
		{Tenant: "acme", EventID: "3c9e71ab", Source: "refiner-webhook", Partition: 3, Offset: 43, Outcome: "ignored", Reason: "not_completed", Accepted: at, Finished: at.Add(2 * time.Millisecond)},
		{Tenant: "globex", EventID: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", Source: "survey-event", Partition: 11, Offset: 9, Outcome: "dead", Reason: "bad_identity", Accepted: at, Finished: at.Add(9 * time.Millisecond)},
		alone,
		pair,
	}
}
