package segment_test

import (
	"encoding/json/v2"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

const identify = `{ "type":"identify", "userId":"u", "messageId":"m", "traits":{"refiner_a":1.50} }`

func request(t *testing.T, method, path, key, body string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if key != "" {
		r.SetBasicAuth(key, "")
	}
	return r
}

func TestCaptureRefusesWhatSegmentRefusesOrDrops(t *testing.T) {
	t.Parallel()
	batch := func(calls ...string) string { return `{"batch":[` + strings.Join(calls, ",") + `]}` }
	large := `{"type":"identify","userId":"u","traits":{"refiner_a":"` + strings.Repeat("x", segment.MaxCallBytes) + `"}}`
	many := make([]string, segment.MaxBatchCalls+1)
	for i := range many {
		many[i] = `{"type":"identify","userId":"u"}`
	}
	for name, tt := range map[string]struct {
		request *http.Request
		want    int
	}{
		"in order":                {request(t, "POST", "/v1/batch", "k", batch(identify)), 200},
		"no write key":            {request(t, "POST", "/v1/batch", "", batch(identify)), 401},
		"another method":          {request(t, "GET", "/v1/batch", "k", ""), 405},
		"another path":            {request(t, "POST", "/v1/page", "k", identify), 404},
		"no JSON":                 {request(t, "POST", "/v1/batch", "k", "{"), 400},
		"JSON twice":              {request(t, "POST", "/v1/batch", "k", batch(identify)+"{}"), 400},
		"invalid UTF-8":           {request(t, "POST", "/v1/batch", "k", batch("{\"type\":\"identify\",\"userId\":\"\xff\"}")), 400},
		"no object":               {request(t, "POST", "/v1/batch", "k", "[]"), 400},
		"no calls":                {request(t, "POST", "/v1/batch", "k", batch()), 400},
		"too many calls":          {request(t, "POST", "/v1/batch", "k", batch(many...)), 400},
		"too many bytes":          {request(t, "POST", "/v1/batch", "k", strings.Repeat(" ", segment.MaxBatchBytes)+batch(identify)), 400},
		"a large call":            {request(t, "POST", "/v1/batch", "k", batch(identify, large)), 400},
		"a call that is none":     {request(t, "POST", "/v1/batch", "k", batch(identify, "1")), 400},
		"a call without type":     {request(t, "POST", "/v1/batch", "k", batch(`{"userId":"u"}`)), 400},
		"a call without user":     {request(t, "POST", "/v1/batch", "k", batch(`{"type":"identify"}`)), 400},
		"an anonymous call":       {request(t, "POST", "/v1/batch", "k", batch(`{"type":"identify","anonymousId":"a"}`)), 200},
		"a group without its id":  {request(t, "POST", "/v1/batch", "k", batch(`{"type":"group","userId":"u"}`)), 400},
		"one call":                {request(t, "POST", "/v1/identify", "k", `{"userId":"u"}`), 200},
		"one call of many bytes":  {request(t, "POST", "/v1/identify", "k", large), 400},
		"one group":               {request(t, "POST", "/v1/group", "k", `{"userId":"u","groupId":"g"}`), 200},
		"one group without id":    {request(t, "POST", "/v1/group", "k", `{"userId":"u"}`), 400},
		"one call, its type else": {request(t, "POST", "/v1/track", "k", `{"type":"group","userId":"u"}`), 200},
	} {
		c := segment.NewCapture(segment.CaptureOptions{})
		got, body := post(t, c, tt.request)
		if got != tt.want {
			t.Errorf("%s: got %d %s, want %d", name, got, body, tt.want)
		}
		if accepted := len(c.Calls()) > 0; accepted != (tt.want == 200) {
			t.Errorf("%s: accepted %v with %d", name, accepted, got)
		}
		if strings.HasPrefix(body, "{") != (tt.want < 402) || tt.want == 200 && body != `{"success":true}` {
			t.Errorf("%s: got body %s", name, body)
		}
	}
}

func TestCaptureKeepsCallsAsTheyCame(t *testing.T) {
	t.Parallel()
	c := segment.NewCapture(segment.CaptureOptions{})
	post(t, c, request(t, "POST", "/v1/batch", "id:secret", `{"batch":[`+identify+`,{"type":"group","userId":"u","groupId":"g"}]}`))
	post(t, c, request(t, "POST", "/v1/track", "k", ` {"anonymousId":"a"} `))
	want := []segment.Captured{
		{WriteKey: tenant.NewSecret("id:secret"), Type: "identify", UserID: "u", MessageID: "m", Call: []byte(identify)},
		{WriteKey: tenant.NewSecret("id:secret"), Type: "group", UserID: "u", GroupID: "g", Call: []byte(`{"type":"group","userId":"u","groupId":"g"}`)},
		{WriteKey: tenant.NewSecret("k"), Type: "track", Call: []byte(`{"anonymousId":"a"}`)},
	}
	got := c.Calls()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(segment.Captured{}, "ReceivedAt"), cmp.Comparer(func(a, b tenant.Secret) bool { return a.Reveal() == b.Reveal() })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for _, call := range got {
		if call.ReceivedAt.IsZero() {
			t.Errorf("%s has no time", call.Type)
		}
	}
}

func TestCaptureKeepsTheLastCallsOnly(t *testing.T) {
	t.Parallel()
	c := segment.NewCapture(segment.CaptureOptions{Keep: 3})
	for n := range 8 {
		var want []string
		for i := max(0, n-3); i < n; i++ {
			want = append(want, fmt.Sprint("m-", i))
		}
		var got []string
		for _, call := range c.Calls() {
			got = append(got, call.MessageID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after %d calls (-want +got)\n%s", n, diff)
		}
		post(t, c, request(t, "POST", "/v1/identify", "k", fmt.Sprintf(`{"userId":"u","messageId":"m-%d"}`, n)))
	}
}

func TestCapturedAsJSONIsOneLineWithoutTheWriteKey(t *testing.T) {
	t.Parallel()
	c := segment.NewCapture(segment.CaptureOptions{})
	post(t, c, request(t, "POST", "/v1/batch", writeKey, "{\"batch\":[{\n\"type\": \"identify\",\n\"userId\": \"u\"}]}"))
	captured := c.Calls()[0]
	line, err := json.Marshal(captured)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"received_at":%q,"write_key":%q,"type":"identify","call":{"type":"identify","userId":"u"}}`,
		captured.ReceivedAt.Format("2006-01-02T15:04:05.999999999Z"), tenant.NewSecret(writeKey).String())
	if diff := cmp.Diff(want, string(line)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if strings.Contains(string(line), writeKey) {
		t.Errorf("the write key shows in %s", line)
	}
}
