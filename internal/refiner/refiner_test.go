package refiner_test

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"refinersource/internal/attribution"
	"refinersource/internal/ingress"
	"refinersource/internal/queue"
	"refinersource/internal/refiner"
	"refinersource/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "canary-key"

// api is Refiner's API as it is documented, for the transport of a client.
type api struct {
	responses []string // in the order of the pages
	length    int      // of a page, at most

	// answer may answer a request in place of the API; it is told which one it is, from 0.
	answer func(n int, w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	requests []url.Values
	times    []time.Time
}

func response(id, user, at string) string {
	return fmt.Sprintf(`{"uuid":%q,"completed_at":%q,"last_data_reception_at":%q,"form":{"uuid":"f","name":"F"},"data":{"role":"CEO <b>"},`+
		`"contact":{"uuid":"c","remote_id":%q,"email":"a@b.c","account":{"uuid":"a","remote_id":"acc"}}}`, id, at, at, user)
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	n, q := len(a.requests), r.URL.Query()
	a.requests, a.times = append(a.requests, q), append(a.times, time.Now())
	a.mu.Unlock()
	if a.answer != nil && a.answer(n, w, r) {
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+key {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var items []string
	for _, item := range a.responses {
		var v struct {
			At string `json:"last_data_reception_at"`
		}
		_ = json.Unmarshal([]byte(item), &v)
		if v.At >= q.Get("date_range_start") && v.At < q.Get("date_range_end") {
			items = append(items, item)
		}
	}
	from, _ := strconv.Atoi(q.Get("page_cursor"))
	length, _ := strconv.Atoi(q.Get("page_length"))
	if a.length > 0 {
		length = min(length, a.length)
	}
	to, next := min(len(items), from+length), "null"
	if to < len(items) {
		next = strconv.Quote(strconv.Itoa(to))
	}
	_, _ = fmt.Fprintf(w, `{"items":[%s],"pagination":{"items_count":%d,"current_page":1,"last_page":%d,"page_length":%d,"next_page_cursor":%s,"previous_page_cursor":null}}`,
		strings.Join(items[from:to], ",\n"), len(items), (len(items)+length-1)/max(1, length), length, next)
}

// RoundTrip answers without a network, so that it can be used in virtual time.
func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w.Result(), nil
}

func (a *api) client(t *testing.T, change ...func(*refiner.ClientOptions)) *refiner.Client {
	t.Helper()
	o := refiner.ClientOptions{Key: tenant.NewSecret(key), Rate: 1000, Transport: a}
	for _, f := range change {
		f(&o)
	}
	c, err := refiner.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fakeLog keeps what is published. before may refuse it.
type fakeLog struct {
	before func(n int, r queue.Record) error

	mu      sync.Mutex
	records []queue.Record
}

func (l *fakeLog) Publish(ctx context.Context, r queue.Record) (queue.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return queue.Position{}, err
	}
	if l.before != nil {
		if err := l.before(len(l.records), r); err != nil {
			return queue.Position{}, err
		}
	}
	l.records = append(l.records, r)
	return queue.Position{Offset: queue.Offset(len(l.records))}, nil
}

// ids are those of the user's events, in the order of the log; of all with "".
func (l *fakeLog) ids(user string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := []string{}
	for i := range l.records {
		if r := &l.records[i]; user == "" || string(r.Key) == "acme/"+user {
			ids = append(ids, r.Header(queue.HeaderEventID))
		}
	}
	return ids
}

func day(n int) time.Time { return time.Date(2026, 10, n, 0, 0, 0, 0, time.UTC) }

func newImport(c *refiner.Client, log *fakeLog) *refiner.Import {
	return &refiner.Import{
		Client: c, Publisher: log, Since: day(1), Until: day(4),
		Tenant: &tenant.Tenant{ID: "acme", Rules: attribution.DefaultRules()},
	}
}

func TestImportPublishesInTheOrderInWhichRefinerReceivedWhateverThatOfThePages(t *testing.T) {
	t.Parallel()
	a, log := &api{length: 2}, &fakeLog{}
	var want []string
	for i := range 30 {
		id := fmt.Sprintf("r-%02d", i)
		a.responses = append(a.responses, response(id, "u", fmt.Sprintf("2026-10-%02d %02d:00:00", 1+i/10, i%10)))
		want = append(want, id)
	}
	slices.Reverse(a.responses) // the latest first
	p, err := newImport(a.client(t), log).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, log.ids("u")); diff != "" {
		t.Error(diff)
	}
	if p.Published != 30 || p.Rejected != 0 {
		t.Errorf("got %+v", p)
	}
}

func TestImportMakesTheRecordsOfTheWebhook(t *testing.T) {
	t.Parallel()
	raw := response("r-1", "u-1", "2026-10-02 10:00:00")
	a, log, front := &api{responses: []string{raw}}, &fakeLog{}, &fakeLog{}
	i := newImport(a.client(t), log)
	i.Tenant.Tokens = []tenant.Secret{tenant.NewSecret("token")}
	i.Tenant.WriteKey = tenant.NewSecret("write-key")
	i.Tenant.Rules.OrderBy = attribution.ByAccount
	if _, err := i.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	registry, err := tenant.NewRegistry(*i.Tenant)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ingress.New(ingress.Options{Tenants: func() *tenant.Registry { return registry }, Publisher: front})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/v1/webhooks/refiner/acme?token=token", strings.NewReader(raw))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusAccepted {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	got, want := log.records[0], front.records[0]
	for _, r := range []*queue.Record{&got, &want} {
		at, err := time.Parse(time.RFC3339Nano, r.Header(queue.HeaderReceivedAt))
		if err != nil || !at.Equal(r.Time) || time.Since(at) > time.Minute {
			t.Errorf("received at %v, of the time %v: %v", at, r.Time, err)
		}
		r.Time = time.Time{}
		r.Headers[3].Value = nil
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if string(got.Key) != "acme/acc" || string(got.Value) != raw {
		t.Errorf("key %q, value %s", got.Key, got.Value)
	}
}

func TestImportThatWasEndedGoesOnAfterWhatTheLogAcknowledged(t *testing.T) {
	t.Parallel()
	a := &api{}
	for i := range 1200 {
		a.responses = append(a.responses, response(fmt.Sprintf("r-%04d", i), fmt.Sprintf("u-%d", i%7), fmt.Sprintf("2026-10-02 %02d:%02d:%02d", i/3600, i/60%60, i%60)))
	}
	var state refiner.State
	down := errors.New("the log is down")
	log := &fakeLog{before: func(n int, _ queue.Record) error {
		if n >= 700 {
			return down
		}
		return nil
	}}
	run := func() (refiner.Progress, error) {
		i := newImport(a.client(t), log)
		i.State, i.Save = state, func(s refiner.State) error { state = s; return nil }
		return i.Run(t.Context())
	}
	if _, err := run(); !errors.Is(err, down) {
		t.Fatalf("got %v", err)
	}
	if state.ID != "r-0499" || !state.Day.Equal(day(2)) {
		t.Fatalf("the state is %+v, want that of the last acknowledged step", state)
	}
	log.before = nil
	p, err := run()
	if err != nil || p.Skipped != 500 || p.Published != 700 {
		t.Fatalf("got %+v, %v", p, err)
	}
	seen := map[string]bool{}
	for _, id := range log.ids("") {
		seen[id] = true
	}
	if len(seen) != 1200 || len(log.records) != 1400 {
		t.Errorf("%d of 1200 events in %d records", len(seen), len(log.records))
	}
	if state != (refiner.State{Day: day(4)}) {
		t.Errorf("the state at the end is %+v", state)
	}
	if p, err := run(); err != nil || p.Published != 0 {
		t.Errorf("a third run: %+v, %v", p, err)
	}
}

func TestImportGoesOnTwoDaysBackWhenItWasDone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // it is 2000-01-01 there
		today := time.Now().UTC().Truncate(24 * time.Hour)
		a, log := &api{}, &fakeLog{}
		for n := -5; n <= 0; n++ {
			a.responses = append(a.responses, response(fmt.Sprintf("r%d", n), "u", today.AddDate(0, 0, n).Format("2006-01-02 00:00:00")))
		}
		var state refiner.State
		run := func() int {
			i := newImport(a.client(t), log)
			i.Since, i.Until, i.State = today.AddDate(0, 0, -5), today.AddDate(0, 0, 2), state
			i.Save = func(s refiner.State) error { state = s; return nil }
			p, err := i.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return p.Published
		}
		if n := run(); n != 6 {
			t.Errorf("published %d", n)
		}
		if want := (refiner.State{Day: today.AddDate(0, 0, -2)}); state != want {
			t.Errorf("state %+v, want %+v", state, want)
		}
		if n := run(); n != 3 {
			t.Errorf("published %d the second time: what comes late for a day would be missed, or all came again", n)
		}
	})
}

func TestNoEventOvertakesOneThatWasNotAcknowledged(t *testing.T) {
	t.Parallel()
	a := &api{}
	for i := range 20 {
		a.responses = append(a.responses, response(fmt.Sprintf("r-%02d", i), "u", fmt.Sprintf("2026-10-02 00:00:%02d", i)))
	}
	failed := false
	log := &fakeLog{before: func(n int, _ queue.Record) error {
		if n == 5 && !failed {
			failed = true
			return queue.ErrUnavailable
		}
		return nil
	}}
	if _, err := newImport(a.client(t), log).Run(t.Context()); !errors.Is(err, queue.ErrUnavailable) {
		t.Fatal(err)
	}
	if n := len(log.records); n != 5 {
		t.Errorf("%d events in the log, and the sixth is not", n)
	}
}

func TestWhatTheIngressRefusesIsLeftOutAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	large := strings.Replace(response("large", "u", "2026-10-02 00:00:01"), "CEO", strings.Repeat("x", ingress.DefaultMaxEventBytes), 1)
	deep := strings.Replace(response("deep", "u", "2026-10-02 00:00:02"), `"CEO <b>"`, strings.Repeat("[", 70)+strings.Repeat("]", 70), 1)
	a := &api{responses: []string{large, deep, response("over", "v", "2026-10-02 00:00:03"), response("good", "u", "2026-10-02 00:00:04")}}
	log := &fakeLog{before: func(_ int, r queue.Record) error {
		if r.Header(queue.HeaderEventID) == "over" {
			return queue.ErrTooLarge
		}
		return nil
	}}
	var out []string
	i := newImport(a.client(t), log)
	i.OnRejected = func(id string, _ error) { out = append(out, id) }
	p, err := i.Run(t.Context())
	if err != nil || p.Rejected != 3 || p.Published != 1 {
		t.Errorf("got %+v, %v", p, err)
	}
	if diff := cmp.Diff([]string{"large", "deep", "over"}, out); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"good"}, log.ids("")); diff != "" {
		t.Error(diff)
	}
}

func TestPrintPublishesNothing(t *testing.T) {
	t.Parallel()
	a, log := &api{responses: []string{response("r-1", "u", "2026-10-02 00:00:01"), response("r-2", "v", "2026-10-02 00:00:00")}}, &fakeLog{}
	i := newImport(a.client(t), log)
	var got []string
	i.Print = func(raw []byte) error { got = append(got, string(raw)); return nil }
	if _, err := i.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{a.responses[1], a.responses[0]}, got); diff != "" {
		t.Error(diff)
	}
	if len(log.records) > 0 {
		t.Error("it published")
	}
}

func TestRequestIsTheDocumentedOne(t *testing.T) {
	t.Parallel()
	a := &api{responses: []string{response("r-1", "u", "2026-10-01 00:00:00"), response("r-2", "u", "2026-10-01 00:00:01")}, length: 1}
	i := newImport(a.client(t), &fakeLog{})
	i.Until, i.Tenant.Rules.Partials = day(2), true
	if _, err := i.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := url.Values{
		"date_range_start": {"2026-10-01"}, "date_range_end": {"2026-10-02"}, "include": {"all"}, "with_attributes": {"1"}, "page_length": {"100"},
	}
	second := url.Values{"page_cursor": {"1"}}
	maps.Copy(second, first)
	if diff := cmp.Diff([]url.Values{first, second}, a.requests); diff != "" {
		t.Error(diff)
	}
}

func TestClientWaitsAsItIsTold(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		status     int
		retryAfter string
		atLeast    time.Duration
	}{
		{"429 with seconds", 429, "90", 90 * time.Second},
		{"429 with a time", 429, "Sat, 01 Jan 2000 00:02:00 GMT", 2 * time.Minute},
		{"503 with seconds", 503, "30", 30 * time.Second},
		{"500", 500, "", 250 * time.Millisecond},
		{"no connection", 0, "", 250 * time.Millisecond},
		{"an answer cut off", 200, "", 250 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a := &api{responses: []string{response("r-1", "u", "2026-10-02 00:00:00")}}
				a.answer = func(n int, w http.ResponseWriter, _ *http.Request) bool {
					if n > 0 {
						return false
					}
					w.Header().Set("Retry-After", c.retryAfter)
					w.WriteHeader(c.status)
					_, _ = io.WriteString(w, `{"items":[`)
					return true
				}
				client := a.client(t, func(o *refiner.ClientOptions) {
					if c.status == 0 {
						o.Transport = flaky{a, new(int)}
					}
				})
				log := &fakeLog{}
				if c.status == 0 {
					a.answer = nil
				}
				start := time.Now()
				if _, err := newImport(client, log).Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(start); d < c.atLeast || d > c.atLeast+10*time.Second {
					t.Errorf("it took %v, want %v and a little more", d, c.atLeast)
				}
				if len(log.records) != 1 {
					t.Errorf("%d events in the log", len(log.records))
				}
			})
		})
	}
}

// flaky loses the first connection.
type flaky struct {
	http.RoundTripper
	n *int
}

func (f flaky) RoundTrip(r *http.Request) (*http.Response, error) {
	if *f.n++; *f.n == 1 {
		return nil, io.ErrUnexpectedEOF
	}
	return f.RoundTripper.RoundTrip(r)
}

func TestPausesGrowAndPatienceEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &api{answer: func(_ int, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(502); return true }}
		var pauses []time.Duration
		client := a.client(t, func(o *refiner.ClientOptions) {
			o.Patience = 5 * time.Minute
			o.OnRetry = func(_ error, pause time.Duration) { pauses = append(pauses, pause) }
		})
		start := time.Now()
		_, err := newImport(client, &fakeLog{}).Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "answers 502") || !strings.Contains(err.Error(), "2026-10-01") {
			t.Errorf("got %v", err)
		}
		if d := time.Since(start); d > 5*time.Minute || d < 3*time.Minute {
			t.Errorf("it took %v", d)
		}
		if n := len(pauses); n < 8 || n > 30 || pauses[n-1] < 10*pauses[0] {
			t.Errorf("the pauses were %v", pauses)
		}
	})
}

func TestRetryAfterBeyondPatienceIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &api{answer: func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(429)
			return true
		}}
		start := time.Now()
		_, err := newImport(a.client(t), &fakeLog{}).Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "24h0m0s") || len(a.requests) != 1 {
			t.Errorf("after %d requests: %v", len(a.requests), err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("it waited %v", d)
		}
	})
}

func TestRequestsKeepToTheRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		i := newImport(a.client(t, func(o *refiner.ClientOptions) { o.Rate = 0.5 }), &fakeLog{})
		i.Until = day(11)
		if _, err := i.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		for n := 1; n < len(a.times); n++ {
			if d := a.times[n].Sub(a.times[n-1]); d < 1999*time.Millisecond {
				t.Errorf("request %d came %v after the one before", n, d)
			}
		}
		if len(a.times) != 10 {
			t.Errorf("%d requests", len(a.times))
		}
	})
}

func TestBadAnswersNameTheFieldAndTheRemedyAndPublishNothingOfTheDay(t *testing.T) {
	t.Parallel()
	good := response("r-1", "u", "2026-10-01 00:00:00")
	page := func(items, next string) string {
		return `{"items":[` + items + `],"pagination":{"last_page":3,"next_page_cursor":` + next + `}}`
	}
	for _, c := range []struct {
		name, body string
		status     int
		want       []string
	}{
		{"no items", `{"pagination":{}}`, 200, []string{"items is missing", "--base-url"}},
		{"no pagination", `{"items":[]}`, 200, []string{"pagination is missing", "--base-url"}},
		{"items no array", `{"items":{},"pagination":{}}`, 200, []string{"items, an array"}},
		{"no object", `[]`, 200, []string{"want an object"}},
		{"item no object", page(good+`,7`, `"2"`), 200, []string{"items[1] is no object"}},
		{"no uuid", page(strings.Replace(good, `"uuid":"r-1"`, `"uuid":null`, 1), `"2"`), 200, []string{"items[0].uuid"}},
		{"no contact", page(strings.Replace(good, `"contact"`, `"user"`, 1), `"2"`), 200, []string{"items[0].contact"}},
		{"no time", page(strings.Replace(good, `"last_data_reception_at":"2026-10-01 00:00:00"`, `"last_data_reception_at":"soon"`, 1), `"2"`), 200, []string{"items[0].last_data_reception_at"}},
		{"another day", page(response("r-1", "u", "2025-10-01 00:00:00"), `"2"`), 200, []string{"items[0].last_data_reception_at is 2025-10-01 00:00:00", "date_range_start"}},
		{"cursor no text", page(good, `{}`), 200, []string{"pagination.next_page_cursor is no text"}},
		{"cursor missing", page(good, `null`), 200, []string{"next_page_cursor is missing on the first of 3 pages"}},
		{"cursor in a circle", page(good, `"x"`), 200, []string{"leads back to a page"}},
		{"401", ``, 401, []string{"answers 401", "--api-key"}},
		{"403", ``, 403, []string{"answers 403", "--api-key"}},
		{"404", ``, 404, []string{"--base-url"}},
		{"422", ``, 422, []string{"--since", "--page-length"}},
		{"redirect", ``, 302, []string{"redirects", "--base-url"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a, log := &api{}, &fakeLog{}
			a.answer = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Location", "https://elsewhere.example/")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
				return true
			}
			saved := false
			i := newImport(a.client(t), log)
			i.Save = func(refiner.State) error { saved = true; return nil }
			_, err := i.Run(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(c.want, "2026-10-01") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "CEO") {
				t.Errorf("it shows a secret or an answer: %v", err)
			}
			if len(log.records) > 0 || saved {
				t.Error("something was published, or the state went on")
			}
		})
	}
}

func TestADayTooLargeForTheMemoryIsRefused(t *testing.T) {
	t.Parallel()
	a := &api{responses: []string{response("r-1", "u", "2026-10-02 00:00:00"), response("r-2", "u", "2026-10-02 00:00:01")}, length: 1}
	i := newImport(a.client(t), &fakeLog{})
	i.MaxDayBytes = 400
	if _, err := i.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "--max-day-bytes") {
		t.Errorf("got %v", err)
	}
}

func TestOptionsSayAllTheirFaults(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"http://api.refiner.io/v1", "ftp://x/", "https://u:p@x/", "https://x/?a=b", "api.refiner.io"} {
		err := refiner.ClientOptions{BaseURL: base, Rate: -1, PageLength: -1, Patience: -1}.Validate()
		for _, want := range []string{"base URL", "API key", "rate", "page length", "patience"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is not in: %v", base, want, err)
			}
		}
	}
	if err := (refiner.ClientOptions{Key: tenant.NewSecret("a b")}).Validate(); err == nil {
		t.Error("a key with a blank is taken")
	}
	for _, base := range []string{"", "http://127.0.0.1:1/v1", "http://localhost/v1", "http://[::1]/"} {
		if err := (refiner.ClientOptions{BaseURL: base, Key: tenant.NewSecret(key)}).Validate(); err != nil {
			t.Errorf("%s: %v", base, err)
		}
	}
}
