package ingress_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"pgregory.net/rapid"

	"refinersource/internal/attribution"
	"refinersource/internal/ingress"
	"refinersource/internal/queue"
	"refinersource/internal/tenant"
)

func TestWebhookIsPublishedAsReceivedAndAnswered202(t *testing.T) {
	t.Parallel()
	log := &fakeLog{}
	h := newHandler(t, log, ingress.Options{})
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	before := time.Now()
	w := post(t, h, webhookPath, webhook, "Traceparent", trace)
	if got, want := strings.TrimSpace(w.Body.String()), `{"accepted":1,"ignored":0,"events":[{"id":"r-1","partition":0,"offset":0}]}`; w.Code != http.StatusAccepted || got != want {
		t.Errorf("answer: got %d %s, want 202 %s", w.Code, got, want)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type: got %q", got)
	}
	if len(log.records) != 1 {
		t.Fatalf("got %d records, want 1", len(log.records))
	}
	r := log.records[0]
	received, err := time.Parse(time.RFC3339Nano, r.Header(queue.HeaderReceivedAt))
	if err != nil || received.Location() != time.UTC || received.Before(before.UTC()) || !received.Equal(r.Time) {
		t.Errorf("received-at: got %v (%v) and record time %v, want the time of the request in UTC", received, err, r.Time)
	}
	got := map[string]string{"key": string(r.Key), "value": string(r.Value)}
	for _, header := range r.Headers {
		if header.Key != queue.HeaderReceivedAt {
			got[header.Key] = string(header.Value)
		}
	}
	want := map[string]string{
		"key": "acme/user-17", "value": webhook,
		"tenant": "acme", "source": "refiner-webhook", "event-id": "r-1", "traceparent": trace,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

// TestEveryBadRequestHasItsAnswer is contract.md's errors and the bad inputs that a
// handler sees. Nothing of them may come into the log.
func TestEveryBadRequestHasItsAnswer(t *testing.T) {
	t.Parallel()
	ofBytes := func(n int) string { return `{"a":"` + strings.Repeat("x", n-8) + `"}` }
	none := []string{"X-Refiner-Token", ""}
	with := func(header ...string) []string { return header }
	for name, c := range map[string]struct {
		method, path, body string
		header             []string
		status             int
		pointer            string
		retryAfter, allow  string
	}{
		"no such path":               {path: "/v1/other/acme", status: 404},
		"no tenant in the path":      {path: "/v1/events/", status: 404},
		"path below the tenant":      {path: eventsPath + "/x", status: 404},
		"path with two slashes":      {path: "//v1/events/acme?token=" + token, header: none, status: 404},
		"path with dots":             {path: "/v1/events/x/%2e%2e/acme", status: 404},
		"GET":                        {method: "GET", path: webhookPath, status: 405, allow: "POST"},
		"PUT":                        {method: "PUT", path: webhookPath, body: webhook, status: 405, allow: "POST"},
		"DELETE":                     {method: "DELETE", path: eventsPath, status: 405, allow: "POST"},
		"TRACE":                      {method: "TRACE", path: eventsPath, status: 405, allow: "POST"},
		"OPTIONS":                    {method: "OPTIONS", path: eventsPath, status: 405, allow: "POST"},
		"no credentials":             {path: webhookPath, body: webhook, header: none, status: 401},
		"wrong token":                {path: webhookPath, body: webhook, header: with("X-Refiner-Token", "canary-token-2"), status: 401},
		"wrong longer token":         {path: webhookPath, body: webhook, header: with("X-Refiner-Token", token+"x"), status: 401},
		"wrong bearer":               {path: webhookPath, body: webhook, header: append(with("Authorization", "Bearer nope"), none...), status: 401},
		"token as basic":             {path: webhookPath, body: webhook, header: append(with("Authorization", "Basic "+token), none...), status: 401},
		"wrong token in the query":   {path: webhookPath + "?token=nope", body: webhook, header: none, status: 401},
		"query that cannot be read":  {path: webhookPath + "?token=%zz;", body: webhook, header: none, status: 401},
		"unknown tenant":             {path: "/v1/webhooks/refiner/other", body: webhook, status: 401},
		"tenant in upper case":       {path: "/v1/webhooks/refiner/ACME", body: webhook, status: 401},
		"form":                       {path: webhookPath, body: webhook, header: with("Content-Type", "application/x-www-form-urlencoded"), status: 415},
		"lines to the webhook":       {path: webhookPath, body: webhook, header: with("Content-Type", "application/x-ndjson"), status: 415},
		"broken type":                {path: webhookPath, body: webhook, header: with("Content-Type", "application/json; =("), status: 415},
		"gzip":                       {path: webhookPath, body: "\x1f\x8b", header: with("Content-Encoding", "gzip"), status: 415},
		"empty body":                 {path: webhookPath, header: with("Content-Length", "0"), status: 400},
		"no length":                  {path: webhookPath, status: 411},
		"webhook over the bound":     {path: webhookPath, body: ofBytes(ingress.DefaultMaxEventBytes + 1), status: 413},
		"event over the bound":       {path: eventsPath, body: ofBytes(ingress.DefaultMaxEventBytes + 1), status: 413},
		"body over the bound":        {path: eventsPath, body: ofBytes(ingress.DefaultMaxBodyBytes + 1), status: 413},
		"too many events":            {path: eventsPath, body: "[" + strings.Repeat("{},", 1000) + "{}]", status: 413},
		"deep nesting":               {path: webhookPath, body: strings.Repeat("[", 100_000), status: 400},
		"deep nesting in events":     {path: eventsPath, body: strings.Repeat("[", 100_000), status: 400},
		"65 levels":                  {path: webhookPath, body: strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65), status: 400},
		"truncated":                  {path: webhookPath, body: webhook[:len(webhook)-1], status: 400},
		"two objects":                {path: webhookPath, body: webhook + webhook, status: 400},
		"an array":                   {path: webhookPath, body: "[" + webhook + "]", status: 400},
		"a text":                     {path: webhookPath, body: `"x"`, status: 400},
		"null":                       {path: webhookPath, body: `null`, status: 400},
		"a byte order mark":          {path: webhookPath, body: "\ufeff" + webhook, status: 400},
		"white space":                {path: webhookPath, body: "  \n", status: 400},
		"no event in an array":       {path: eventsPath, body: " [ ] ", status: 400},
		"no event in lines":          {path: eventsPath, body: "\r\n \n", header: with("Content-Type", "application/x-ndjson"), status: 400},
		"array with trailing text":   {path: eventsPath, body: "[" + canonical + "] x", status: 400},
		"array not ended":            {path: eventsPath, body: "[" + canonical, status: 400},
		"array with a trailing ,":    {path: eventsPath, body: "[" + canonical + ",]", status: 400},
		"array with a broken one":    {path: eventsPath, body: "[" + canonical + ",{]", status: 400},
		"event without a user":       {path: eventsPath, body: `{"id":"e","answers":[]}`, status: 400},
		"event with a bad user id":   {path: eventsPath, body: `{"id":"e","user":{"id":true}}`, status: 400, pointer: "/user/id"},
		"event with two users":       {path: eventsPath, body: `{"user":{"id":"a","id":"b"}}`, status: 400, pointer: "/user/id"},
		"event with a bad answer":    {path: eventsPath, body: `{"user":{"id":"a"},"answers":[{"belongs_to":"me"}]}`, status: 400, pointer: "/answers/0/belongs_to"},
		"array with only bad ones":   {path: eventsPath, body: `[{"user":{"id":[]}}]`, status: 400},
		"number that is not":         {path: webhookPath, body: `{"response":{"data":{"a":NaN}}}`, status: 400},
		"only an Authorization word": {path: webhookPath, body: webhook, header: append(with("Authorization", "Bearer"), none...), status: 401},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &fakeLog{}
			h := newHandler(t, log, ingress.Options{})
			method := c.method
			if method == "" {
				method = http.MethodPost
			}
			w := send(t, h, method, c.path, c.body, append([]string{"X-Refiner-Token", token}, c.header...)...)
			if w.Code != c.status {
				t.Fatalf("status: got %d %s, want %d", w.Code, w.Body, c.status)
			}
			if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("Content-Type: got %q", got)
			}
			if got := w.Header().Get("Allow"); got != c.allow {
				t.Errorf("Allow: got %q, want %q", got, c.allow)
			}
			if got := w.Header().Get("Location"); got != "" {
				t.Errorf("Location: got %q", got)
			}
			if strings.Contains(w.Body.String(), "canary") {
				t.Errorf("the answer shows a credential: %s", w.Body)
			}
			got := read(t, bytes.NewReader(w.Body.Bytes()))
			if got.Type != "about:blank" || got.Title != http.StatusText(c.status) || got.Status != c.status || got.Detail == "" || got.Pointer != c.pointer {
				t.Errorf("got %+v, want a problem with status %d and pointer %q", got, c.status, c.pointer)
			}
			if n := len(log.records); n != 0 {
				t.Errorf("%d records came into the log", n)
			}
		})
	}
}

func TestAllUnauthorizedAnswersAreTheSame(t *testing.T) {
	t.Parallel()
	h := newHandler(t, &fakeLog{}, ingress.Options{})
	want := send(t, h, http.MethodPost, webhookPath, webhook)
	for name, got := range map[string]*httptest.ResponseRecorder{
		"wrong token":           send(t, h, http.MethodPost, webhookPath, webhook, "X-Refiner-Token", "nope"),
		"unknown tenant":        post(t, h, "/v1/webhooks/refiner/other", webhook),
		"stale signature":       send(t, h, http.MethodPost, webhookPath, webhook, signed(time.Now().Add(-time.Hour), webhook, signingKey)...),
		"wrong signature":       send(t, h, http.MethodPost, webhookPath, webhook, signed(time.Now(), webhook+" ", signingKey)...),
		"signed, no tenant":     send(t, h, http.MethodPost, "/v1/webhooks/refiner/other", webhook, signed(time.Now(), webhook, signingKey)...),
		"unknown tenant, empty": send(t, h, http.MethodPost, "/v1/webhooks/refiner/other", ""),
	} {
		if got.Code != http.StatusUnauthorized {
			t.Errorf("%s: got %d, want 401", name, got.Code)
		}
		if diff := cmp.Diff(want.Body.String(), got.Body.String()); diff != "" {
			t.Errorf("%s: body (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(want.Header(), got.Header()); diff != "" {
			t.Errorf("%s: header (-want +got):\n%s", name, diff)
		}
	}
}

// TestWhatIsAcceptedThoughItLooksOdd is what must come into the log as it is: the
// webhook's sender would send the same again, and later rules may want it.
func TestWhatIsAcceptedThoughItLooksOdd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path, body string
		header     []string
		ignored    int
	}{
		"no content type":       {path: webhookPath, body: webhook, header: []string{"Content-Type", ""}},
		"charset":               {path: webhookPath, body: webhook, header: []string{"Content-Type", "application/json; charset=utf-8"}},
		"suffix":                {path: webhookPath, body: webhook, header: []string{"Content-Type", "application/cloudevents+json"}},
		"identity coding":       {path: webhookPath, body: webhook, header: []string{"Content-Encoding", "identity"}},
		"white space around":    {path: webhookPath, body: "\n " + webhook + "\r\n"},
		"invalid UTF-8":         {path: webhookPath, body: strings.Replace(webhook, "CEO", "\xff\xfe", 1)},
		"lone surrogate":        {path: webhookPath, body: strings.Replace(webhook, "CEO", `\ud800`, 1)},
		"NUL":                   {path: webhookPath, body: strings.Replace(webhook, "CEO", `\u0000`, 1)},
		"huge number":           {path: webhookPath, body: strings.Replace(webhook, `"CEO"`, "1e999", 1)},
		"long number":           {path: webhookPath, body: strings.Replace(webhook, `"CEO"`, strings.Repeat("9", 100_000), 1)},
		"two users":             {path: webhookPath, body: strings.Replace(webhook, `{"remote_id"`, `{"remote_id":"other","remote_id"`, 1)},
		"bad user id":           {path: webhookPath, body: strings.Replace(webhook, `"user-17"`, "[]", 1)},
		"no identity":           {path: webhookPath, body: `{"response":{"completed_at":"2026-10-12T02:05:55Z","data":{}}}`},
		"hostile answer":        {path: webhookPath, body: strings.Replace(webhook, "CEO", "<script>${jndi}{{7*7}}\\r\\n", 1)},
		"long user id":          {path: webhookPath, body: strings.Replace(webhook, "user-17", strings.Repeat("u", 10_000), 1)},
		"dismissed":             {path: webhookPath, body: `{"remote_id":"u","response":{"uuid":"r","completed_at":null,"dismissed_at":"2026-10-12T02:05:55Z","data":{}}}`, ignored: 1},
		"no response":           {path: webhookPath, body: `{"remote_id":"u"}`, ignored: 1},
		"an object that is odd": {path: webhookPath, body: `{}`, ignored: 1},
		"partial":               {path: webhookPath, body: `{"remote_id":"u","response":{"completed_at":null,"data":{"a":"b"}}}`, ignored: 1},
		"anonymous":             {path: webhookPath, body: strings.Replace(webhook, `"remote_id":"user-17"`, `"cookie_uuid":"c"`, 1), ignored: 1},
		"anonymous event":       {path: eventsPath, body: `{"user":{"anonymous_id":"c"}}`, ignored: 1},
		"unknown fields":        {path: eventsPath, body: `{"more":1,"user":{"id":"u"}}`},
		"old token":             {path: eventsPath, body: canonical, header: []string{"X-Refiner-Token", oldToken}},
		"bearer":                {path: eventsPath, body: canonical, header: []string{"X-Refiner-Token", "", "Authorization", "bearer  " + token}},
		"token in the query":    {path: eventsPath + "?x=1&token=" + token, body: canonical, header: []string{"X-Refiner-Token", ""}},
		"one right of two":      {path: eventsPath, body: canonical, header: []string{"Authorization", "Bearer nope"}},
		"escaped tenant":        {path: "/v1/events/%61cme", body: canonical},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &fakeLog{}
			w := post(t, newHandler(t, log, ingress.Options{}), c.path, c.body, c.header...)
			if got := read(t, w.Body); w.Code != http.StatusAccepted || got.Accepted != 1 || got.Ignored != c.ignored || len(got.Events) != 1 {
				t.Fatalf("got %d %+v, want 202 with 1 accepted and %d ignored", w.Code, got, c.ignored)
			}
			if diff := cmp.Diff([]string{c.body}, log.values()); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRulesDecideWhatIsIgnored(t *testing.T) {
	t.Parallel()
	emitting := newTenant("acme")
	emitting.Rules.Partials, emitting.Rules.EmitAnonymous = true, true
	emitting.Rules.Forgotten = map[string]struct{}{"gone": {}}
	h := newHandler(t, &fakeLog{}, ingress.Options{Tenants: registry(t, emitting)})
	for name, c := range map[string]struct {
		body    string
		ignored int
	}{
		"partial":           {`{"remote_id":"u","response":{"completed_at":null,"data":{"a":"b"}}}`, 0},
		"anonymous":         {`{"cookie_uuid":"c","response":{"completed_at":"2026-10-12T02:05:55Z","data":{"a":"b"}}}`, 0},
		"anonymous partial": {`{"cookie_uuid":"c","response":{"completed_at":null,"data":{"a":"b"}}}`, 0},
		"no response":       {`{"cookie_uuid":"c"}`, 1},
		"forgotten":         {`{"remote_id":"gone","response":{"completed_at":"2026-10-12T02:05:55Z","data":{"a":"b"}}}`, 1},
		"forgotten, no id":  {`{"cookie_uuid":"gone","response":{"completed_at":"2026-10-12T02:05:55Z","data":{"a":"b"}}}`, 1},
	} {
		if got := read(t, post(t, h, webhookPath, c.body).Body); got.Accepted != 1 || got.Ignored != c.ignored {
			t.Errorf("%s: got %d accepted and %d ignored, want 1 and %d", name, got.Accepted, got.Ignored, c.ignored)
		}
	}
}

func TestKeyIsWhatTheEventIsKeptInOrderBy(t *testing.T) {
	t.Parallel()
	const noUser = `{"cookie_uuid":"c-1","account":{"remote_id":"acc-9"},"response":{"uuid":"r-1"}}`
	for name, c := range map[string]struct {
		orderBy   attribution.OrderBy
		body, key string
	}{
		"user":                  {attribution.ByUser, webhook, "acme/user-17"},
		"user with marks":       {attribution.ByUser, `{"remote_id":"a:b/c"}`, "acme/a:b/c"},
		"anonymous":             {attribution.ByUser, noUser, "acme/c-1"},
		"nobody":                {attribution.ByUser, `{"response":{"uuid":"r-1"}}`, "acme/r-1"},
		"account":               {attribution.ByAccount, webhook, "acme/acc-9"},
		"account, no user":      {attribution.ByAccount, noUser, "acme/acc-9"},
		"account, none known":   {attribution.ByAccount, `{"remote_id":"user-17"}`, "acme/user-17"},
		"longest user as it is": {attribution.ByUser, `{"remote_id":"` + strings.Repeat("u", 512) + `"}`, "acme/" + strings.Repeat("u", 512)},
		"longer user as a hash": {
			attribution.ByUser, `{"remote_id":"` + strings.Repeat("u", 513) + `"}`,
			"acme/sha256:f9140fc743c68c293fbd0fc4498c2d30d970fdce9cd89f3625391f581b500394",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ordered := newTenant("acme")
			ordered.Rules.OrderBy = c.orderBy
			log := &fakeLog{}
			post(t, newHandler(t, log, ingress.Options{Tenants: registry(t, ordered)}), webhookPath, c.body)
			if len(log.records) != 1 {
				t.Fatalf("got %d records, want 1", len(log.records))
			}
			if got := string(log.records[0].Key); got != c.key {
				t.Errorf("got key %q, want %q", got, c.key)
			}
		})
	}
}

func TestLongEventIDIsHashedInHeaderAndAnswer(t *testing.T) {
	t.Parallel()
	log := &fakeLog{}
	w := post(t, newHandler(t, log, ingress.Options{}), eventsPath, `{"id":"`+strings.Repeat("../", 60_000)+`","user":{"id":"u"}}`)
	got := read(t, w.Body)
	if len(got.Events) != 1 || len(log.records) != 1 {
		t.Fatalf("got %d %+v, want one event accepted", w.Code, got)
	}
	id := got.Events[0].ID
	if !strings.HasPrefix(id, "sha256:") || len(id) != len("sha256:")+64 || log.records[0].Header(queue.HeaderEventID) != id {
		t.Errorf("got %q in the answer and %q in the record, want one hash", id, log.records[0].Header(queue.HeaderEventID))
	}
}

func TestOnlyAValidTraceparentIsPassedOn(t *testing.T) {
	t.Parallel()
	const valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	log := &fakeLog{}
	h := newHandler(t, log, ingress.Options{})
	for given, want := range map[string]string{
		valid:                         valid,
		"cc" + valid[2:]:              "cc" + valid[2:],
		"ff" + valid[2:]:              "",
		strings.ToUpper(valid):        "",
		valid + "-x":                  "",
		valid[:54]:                    "",
		valid[:35] + "_" + valid[36:]: "",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": "",
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01": "",
		"x": "",
	} {
		log.records = nil
		post(t, h, webhookPath, webhook, "Traceparent", given)
		if got := log.records[0].Header(queue.HeaderTraceparent); got != want {
			t.Errorf("of %q: got %q, want %q", given, got, want)
		}
		if want == "" && len(log.records[0].Headers) != 4 {
			t.Errorf("of %q: the header is there", given)
		}
	}
}

func TestSenderCannotSayThatAnEventIsARedrive(t *testing.T) {
	t.Parallel()
	const mark = `{"of":0,"first":0,"seen":1,"rules":""}`
	log := &fakeLog{}
	h := newHandler(t, log, ingress.Options{})
	post(t, h, webhookPath, webhook, queue.HeaderRedrive, mark, "Traceparent", mark)
	post(t, h, eventsPath+"?"+queue.HeaderRedrive+"="+url.QueryEscape(mark), `{"id":"e","redrive":`+mark+`,"user":{"id":"u"}}`, queue.HeaderRedrive, mark)
	if len(log.records) != 2 {
		t.Fatalf("got %d records, want 2", len(log.records))
	}
	for i := range log.records {
		if slices.ContainsFunc(log.records[i].Headers, func(h queue.Header) bool { return h.Key == queue.HeaderRedrive }) {
			t.Errorf("record %d has the header %s", i, queue.HeaderRedrive)
		}
	}
}

func TestTenantsWithoutCredentials(t *testing.T) {
	t.Parallel()
	bare := func(noAuth bool) tenant.Tenant {
		tn := newTenant("acme")
		tn.Tokens, tn.SigningSecrets, tn.NoAuth = nil, nil, noAuth
		return tn
	}
	t.Run("are refused", func(t *testing.T) {
		t.Parallel()
		if _, err := ingress.New(ingress.Options{Tenants: registry(t, bare(false)), Publisher: &fakeLog{}}); err == nil {
			t.Error("New accepted a tenant for whom nobody can send")
		}
	})
	t.Run("are answered 401 when they come later", func(t *testing.T) {
		t.Parallel()
		current := registry(t, newTenant("acme"))
		h := newHandler(t, &fakeLog{}, ingress.Options{Tenants: func() *tenant.Registry { return current() }})
		current = registry(t, bare(false))
		if w := post(t, h, webhookPath, webhook); w.Code != http.StatusUnauthorized {
			t.Errorf("got %d, want 401", w.Code)
		}
	})
	t.Run("are open with auth: none", func(t *testing.T) {
		t.Parallel()
		h := newHandler(t, &fakeLog{}, ingress.Options{Tenants: registry(t, bare(true))})
		if w := send(t, h, http.MethodPost, webhookPath, webhook); w.Code != http.StatusAccepted {
			t.Errorf("got %d, want 202", w.Code)
		}
	})
	t.Run("are open in dev", func(t *testing.T) {
		t.Parallel()
		protected := newTenant("beta")
		h := newHandler(t, &fakeLog{}, ingress.Options{Tenants: registry(t, bare(false), protected), AllowNoTokens: true})
		if w := send(t, h, http.MethodPost, webhookPath, webhook); w.Code != http.StatusAccepted {
			t.Errorf("got %d, want 202", w.Code)
		}
		if w := send(t, h, http.MethodPost, "/v1/webhooks/refiner/beta", webhook); w.Code != http.StatusUnauthorized {
			t.Errorf("one with credentials: got %d, want 401", w.Code)
		}
	})
}

// TestPublishedValueIsWhatWasSent holds for any event, alone or in a batch.
func TestPublishedValueIsWhatWasSent(t *testing.T) {
	t.Parallel()
	space := rapid.StringMatching(`[ \t\r\n]{0,3}`)
	element := rapid.Custom(func(t *rapid.T) string {
		return fmt.Sprintf(`{%s"user":%s{"id":%q}%s,"a":[1.50,"\u00e9é`+"\xff"+`"],"n":%s}`,
			space.Draw(t, "a"), space.Draw(t, "b"), rapid.StringMatching(`[a-c]`).Draw(t, "user"), space.Draw(t, "c"),
			rapid.StringMatching(`-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,9})?`).Draw(t, "n"))
	})
	h := func(log *fakeLog) *ingress.Handler { return newHandler(t, log, ingress.Options{}) }
	check := func(t *rapid.T, log *fakeLog, w *httptest.ResponseRecorder, want []string) {
		if w.Code != http.StatusAccepted {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		if diff := cmp.Diff(perUser(want), perUser(log.values())); diff != "" {
			t.Fatalf("values by user (-want +got):\n%s", diff)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		elements := rapid.SliceOfN(element, 1, 20).Draw(rt, "elements")
		log := &fakeLog{}
		body := space.Draw(rt, "before") + elements[0] + space.Draw(rt, "after")
		check(rt, log, post(t, h(log), eventsPath, body), []string{body})

		log = &fakeLog{}
		var array strings.Builder
		for i, e := range elements {
			array.WriteString(map[bool]string{true: space.Draw(rt, "before") + "[", false: ","}[i == 0] + space.Draw(rt, "x") + e + space.Draw(rt, "y"))
		}
		array.WriteString("]" + space.Draw(rt, "after"))
		check(rt, log, post(t, h(log), eventsPath, array.String()), elements)

		log = &fakeLog{}
		lines := make([]string, len(elements))
		for i, e := range elements {
			lines[i] = strings.NewReplacer("\r", " ", "\n", " ").Replace(e)
		}
		end := rapid.SampledFrom([]string{"\n", "\r\n", "\n\n"}).Draw(rt, "end")
		check(rt, log, post(t, h(log), eventsPath, strings.Join(lines, end), "Content-Type", "application/x-ndjson"), lines)
	})
}

// perUser orders values by user, and those of one user as they are.
func perUser(values []string) map[string][]string {
	users := make(map[string][]string)
	for _, v := range values {
		_, rest, _ := strings.Cut(v, `"id":"`)
		users[rest[:1]] = append(users[rest[:1]], v)
	}
	return users
}

func TestMetricsCountRequestsAndAcceptedEvents(t *testing.T) {
	t.Parallel()
	for _, noTenant := range []bool{false, true} {
		metrics := prometheus.NewRegistry()
		h := newHandler(t, &fakeLog{}, ingress.Options{Registerer: metrics, NoTenantMetrics: noTenant})
		post(t, h, webhookPath, webhook)
		post(t, h, eventsPath, "["+canonical+","+canonical+",{}]")
		post(t, h, "/v1/events/canary-tenant", canonical)
		post(t, h, "/canary-path", canonical)
		label := map[bool]string{false: "acme", true: ""}[noTenant]
		want := `
# HELP refiner_source_events_accepted_total Events acknowledged by the log.
# TYPE refiner_source_events_accepted_total counter
refiner_source_events_accepted_total{source="refiner-webhook",tenant="` + label + `"} 1
refiner_source_events_accepted_total{source="survey-event",tenant="` + label + `"} 2
# HELP refiner_source_ingress_requests_total Requests to the public listener, by route and status code.
# TYPE refiner_source_ingress_requests_total counter
refiner_source_ingress_requests_total{code="202",route="/v1/events/{tenant}"} 1
refiner_source_ingress_requests_total{code="401",route="/v1/events/{tenant}"} 1
refiner_source_ingress_requests_total{code="202",route="/v1/webhooks/refiner/{tenant}"} 1
refiner_source_ingress_requests_total{code="404",route="other"} 1
`
		if err := testutil.GatherAndCompare(metrics, strings.NewReader(want),
			"refiner_source_ingress_requests_total", "refiner_source_events_accepted_total"); err != nil {
			t.Error(err)
		}
		if n, err := testutil.GatherAndCount(metrics, "refiner_source_ingress_request_seconds"); err != nil || n != 1 {
			t.Errorf("request seconds: got %d (%v), want 1", n, err)
		}
	}
}

func TestLogsHoldNoCredentialAndNoAnswer(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	log := &fakeLog{before: func(context.Context, queue.Record) error { return queue.ErrUnavailable }}
	h := newHandler(t, log, ingress.Options{Logger: zap.New(core)})
	body := strings.Replace(webhook, "CEO", "canary-answer", 1)
	send(t, h, http.MethodPost, webhookPath+"?token="+token, body)
	send(t, h, http.MethodPost, webhookPath+"?token=canary-wrong", body, "Authorization", "Bearer canary-wrong")
	send(t, h, http.MethodPost, "/v1/events/canary-tenant", body)
	send(t, h, http.MethodPost, webhookPath, body, signed(time.Now(), body, signingKey)...)
	all := logs.All()
	if len(all) != 6 { // one a request, and two refusals of the log
		t.Errorf("got %d log lines, want 6", len(all))
	}
	for _, line := range all {
		text := fmt.Sprint(line.Message, line.ContextMap())
		if strings.Contains(text, "canary") || strings.Contains(text, "ann@example.com") || strings.Contains(text, "token=") {
			t.Errorf("the log shows what it must not: %s", text)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	err := ingress.Options{MaxBodyBytes: 10, MaxEventBytes: 20, MaxBatchEvents: -1, PublishTimeout: -1}.Validate()
	for _, want := range []string{"Tenants", "Publisher", "MaxEventBytes", "MaxBatchEvents", "PublishTimeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a fault of %s", err, want)
		}
	}
	if _, err := ingress.New(ingress.Options{}); err == nil {
		t.Error("New accepted no options")
	}
}
