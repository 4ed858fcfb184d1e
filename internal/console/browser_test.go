package console_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// startChromium starts a browser that knows nothing of others, and ends it with
// the test.
func startChromium(t *testing.T) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		const missing = "no chromium, chromium-browser or google-chrome on PATH"
		if os.Getenv("CI") == "true" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	// The browser's end of the pipes is 3 to read and 4 to write.
	theirIn, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
		"--user-data-dir="+t.TempDir(), "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{theirIn, theirOut}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = theirIn.Close(), theirOut.Close()
	b := &browser{t: t, in: in, out: bufio.NewReaderSize(out, 1<<20)}
	t.Cleanup(func() {
		b.call("", "Browser.close", nil, nil)
		_, _ = in.Close(), out.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("chromium ended with: %v", err)
		}
		cancel()
	})
	return b
}

// browser speaks the DevTools protocol over pipes: messages end with a NUL. One
// call is under way at a time.
type browser struct {
	t      *testing.T
	in     *os.File
	out    *bufio.Reader
	last   int
	events []string // methods of the events that came meanwhile
}

type message struct {
	ID     int            `json:"id"`
	Method string         `json:"method"`
	Result jsontext.Value `json:"result"`
	Error  jsontext.Value `json:"error"`
}

// call sends a command to a session ("" is the browser itself) and waits for
// its result.
func (b *browser) call(session, method string, params map[string]any, result any) {
	b.t.Helper()
	b.last++
	request := map[string]any{"id": b.last, "method": method, "params": params}
	if session != "" {
		request["sessionId"] = session
	}
	data, err := json.Marshal(request, json.FormatNilMapAsNull(false))
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.in.Write(append(data, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	for {
		data, err := b.out.ReadBytes(0)
		if err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		var m message
		if err := json.Unmarshal(data[:len(data)-1], &m); err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		if m.Method != "" {
			b.events = append(b.events, m.Method)
		}
		if m.ID != b.last {
			continue
		}
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error)
		}
		if result != nil {
			if err := json.Unmarshal(m.Result, result); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
		return
	}
}

// tab is a page in the browser.
type tab struct {
	*browser
	session string
}

// open opens url in a tab that counts what the content security policy
// refused, in window.refused.
func (b *browser) open(url string) *tab {
	b.t.Helper()
	var target struct {
		ID string `json:"targetId"`
	}
	b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct {
		Session string `json:"sessionId"`
	}
	b.call("", "Target.attachToTarget", map[string]any{"targetId": target.ID, "flatten": true}, &attached)
	tab := &tab{browser: b, session: attached.Session}
	tab.do("Page.enable", nil)
	tab.do("Page.addScriptToEvaluateOnNewDocument", map[string]any{
		"source": `window.refused = []; addEventListener("securitypolicyviolation", (e) => refused.push(e.violatedDirective + " " + e.blockedURI + " " + e.sample))`,
	})
	tab.visit(url)
	return tab
}

func (tab *tab) do(method string, params map[string]any) {
	tab.t.Helper()
	tab.call(tab.session, method, params, nil)
}

func (tab *tab) visit(url string) {
	tab.t.Helper()
	tab.do("Page.navigate", map[string]any{"url": url})
	tab.wait(`location.href.startsWith(` + quote(url) + `) && document.readyState === "complete"`)
}

// eval returns what the expression is in the page; it waits for a promise.
func eval[T any](tab *tab, expression string) T {
	tab.t.Helper()
	var answer struct {
		Result struct {
			Value T `json:"value"`
		} `json:"result"`
		Exception jsontext.Value `json:"exceptionDetails"`
	}
	tab.call(tab.session, "Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &answer)
	if answer.Exception != nil {
		tab.t.Fatalf("evaluate %s: %s", expression, answer.Exception)
	}
	return answer.Result.Value
}

// wait returns when the condition holds in the page, and fails the test when it
// does not within 20 s.
func (tab *tab) wait(condition string) {
	tab.t.Helper()
	if !eval[bool](tab, `new Promise((done) => {
		const end = Date.now() + 20000;
		const look = () => (`+condition+`) ? done(true) : Date.now() > end ? done(false) : setTimeout(look, 10);
		look();
	})`) {
		tab.t.Fatalf("did not come true: %s", condition)
	}
}

// picture saves what the tab shows if the test was asked to.
func (tab *tab) picture(name string) {
	tab.t.Helper()
	if *screenshots == "" {
		return
	}
	var shot struct {
		Data string `json:"data"`
	}
	tab.call(tab.session, "Page.captureScreenshot", nil, &shot)
	data, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		tab.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), data, 0o644); err != nil {
		tab.t.Fatal(err)
	}
}

func quote(s string) string {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(data)
}
