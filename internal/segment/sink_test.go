package segment_test

import (
	"encoding/json/jsontext"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"refinersource/internal/attribution"
	"refinersource/internal/segment"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// What a Client sends a Capture takes, byte for byte as attribution encodes it
// and in order: the limits are checked on those bytes.
func TestWhatArrivesIsTheCallsEncoding(t *testing.T) {
	t.Parallel()
	capture := segment.NewCapture(segment.CaptureOptions{Keep: segment.MaxBatchCalls})
	client, to := serve(t, capture.ServeHTTP, segment.Options{})
	rapid.Check(t, func(rt *rapid.T) {
		integrations := rapid.SampledFrom([]jsontext.Value{nil, jsontext.Value(`{}`), jsontext.Value(`{"All":true,"Refiner":{"a<b":[1,2.50]}}`)})
		batch := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) attribution.Call {
			return drawCall(rt, integrations.Draw(rt, "integrations"))
		}), 1, 20).Draw(rt, "calls")
		got := client.Send(t.Context(), to, batch)
		if got.Class != segment.Accepted {
			rt.Fatalf("got %+v", got)
		}
		arrived := capture.Calls()
		arrived = arrived[max(0, len(arrived)-len(batch)):]
		if len(arrived) != len(batch) {
			rt.Fatalf("%d calls arrived, want %d", len(arrived), len(batch))
		}
		for i := range batch {
			if diff := cmp.Diff(string(batch[i].AppendJSON(nil)), string(arrived[i].Call)); diff != "" {
				rt.Errorf("call %d (-want +got)\n%s", i, diff)
			}
		}
	})
}

func drawCall(rt *rapid.T, integrations jsontext.Value) attribution.Call {
	text := rapid.OneOf(rapid.StringN(1, 20, 60), rapid.SampledFrom([]string{"<b>&\u2028\u2029", `"\`, "a\xffb", "日本語"}))
	c := attribution.Call{
		Kind:         rapid.SampledFrom([]attribution.Kind{attribution.Identify, attribution.Group, attribution.Track}).Draw(rt, "kind"),
		MessageID:    text.Draw(rt, "message id"),
		GroupID:      text.Draw(rt, "group id"),
		Event:        "Survey Completed",
		Timestamp:    time.Unix(rapid.Int64Range(0, 4e9).Draw(rt, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(rt, "nanos")).UTC(),
		Integrations: integrations,
		Library:      rapid.SampledFrom([]string{"", "1.0.0"}).Draw(rt, "library"),
	}
	if rapid.Bool().Draw(rt, "anonymous") {
		c.AnonymousID = text.Draw(rt, "anonymous id")
	} else {
		c.UserID = text.Draw(rt, "user id")
	}
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`refiner(_[a-z0-9]{1,5}){1,3}`), 0, 5, rapid.ID).Draw(rt, "traits")
	slices.Sort(names)
	for _, name := range names {
		c.Traits = append(c.Traits, attribution.Trait{Name: attribution.TraitName(name), Value: drawValue(rt, text)})
	}
	return c
}

func drawValue(rt *rapid.T, text *rapid.Generator[string]) jsontext.Value {
	quoted, err := jsontext.AppendQuote(nil, text.Draw(rt, "answer"))
	if quoted == nil {
		rt.Fatal(err)
	}
	return rapid.SampledFrom([]jsontext.Value{
		quoted,
		jsontext.Value(`9007199254740993`), jsontext.Value(`4.50`), jsontext.Value(`1e2`), jsontext.Value(`false`),
		jsontext.Value("[ 1,\n\t" + string(quoted) + " ]"), jsontext.Value(`{"b":1, "a":2}`),
	}).Draw(rt, "value")
}

// Every answer that a Capture gives is classified, and calls are accepted or
// not as the answer says.
func TestClientUnderstandsCapture(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer   segment.Answer
		want     segment.Result
		accepted bool
	}{
		"by default":         {segment.Answer{}, segment.Result{Class: segment.Accepted, Status: 200}, true},
		"with 202":           {segment.Answer{Status: 202}, segment.Result{Class: segment.Accepted, Status: 202}, true},
		"throttled":          {segment.Answer{Status: 429, RetryAfter: "2"}, segment.Result{Class: segment.Throttled, Status: 429, RetryAfter: 2 * time.Second}, false},
		"refused":            {segment.Answer{Status: 400}, segment.Result{Class: segment.Refused, Status: 400}, false},
		"failed":             {segment.Answer{Status: 500}, segment.Result{Class: segment.Transient, Status: 500, Unknown: true}, false},
		"failed, but kept":   {segment.Answer{Status: 500, Accept: true}, segment.Result{Class: segment.Transient, Status: 500, Unknown: true}, true},
		"cut off":            {segment.Answer{Status: 500, Cut: true}, segment.Result{Class: segment.Transient, Unknown: true}, false},
		"cut off, but kept":  {segment.Answer{Cut: true}, segment.Result{Class: segment.Transient, Unknown: true}, true},
		"not authorized":     {segment.Answer{Status: 401}, segment.Result{Class: segment.Misconfigured, Status: 401}, false},
		"redirected nowhere": {segment.Answer{Status: 302}, segment.Result{Class: segment.Misconfigured, Status: 302}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			capture := segment.NewCapture(segment.CaptureOptions{
				Answer: func(*http.Request, segment.Batch) segment.Answer { return tt.answer },
			})
			client, to := serve(t, capture.ServeHTTP, segment.Options{})
			check(t, client.Send(t.Context(), to, calls(3)), tt.want)
			want := 0
			if tt.accepted {
				want = 3
			}
			if got := len(capture.Calls()); got != want {
				t.Errorf("%d calls were accepted, want %d", got, want)
			}
		})
	}
}

func TestCaptureTellsOfCallsInTheirOrderBeforeItAnswers(t *testing.T) {
	t.Parallel()
	var told []string // OnCall is never called by two at once
	capture := segment.NewCapture(segment.CaptureOptions{OnCall: func(c segment.Captured) {
		told = append(told, c.UserID+" "+c.MessageID)
		runtime.Gosched() // gives another request's calls the chance to come between
	}})
	client, to := serve(t, capture.ServeHTTP, segment.Options{})
	const senders, batches, size = 4, 5, 3
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			for b := range batches {
				batch := calls(size)
				for i := range batch {
					batch[i].UserID, batch[i].MessageID = fmt.Sprint("user-", s), strconv.Itoa(b*size+i)
				}
				check(t, client.Send(t.Context(), to, batch), segment.Result{Class: segment.Accepted, Status: 200})
			}
		})
	}
	all.Wait()
	got := map[string][]string{}
	for i, line := range told {
		user, id, _ := strings.Cut(line, " ")
		got[user] = append(got[user], id)
		if first, _, _ := strings.Cut(told[i-i%size], " "); first != user {
			t.Errorf("call %d of %s stands within a batch of %s", i, user, first)
		}
	}
	want := map[string][]string{}
	for s := range senders {
		for i := range batches * size {
			user := fmt.Sprint("user-", s)
			want[user] = append(want[user], strconv.Itoa(i))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func BenchmarkSend(b *testing.B) {
	client := segment.NewOver(roundTripper(func(r *http.Request) (*http.Response, error) {
		_ = r.Body.Close()
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	}), time.Second)
	to := segment.Target{Endpoint: "http://receiver.test", WriteKey: tenant.NewSecret(writeKey)}
	rules := attribution.DefaultRules()
	var batch []attribution.Call
	for i := range 100 {
		c := survey.Completion{ID: strconv.Itoa(i), UserID: "user-17", Timestamp: time.Now()}
		for _, property := range []string{"size", "team", "tool", "why", "role"} {
			c.Answers = append(c.Answers, survey.Answer{Property: property, Value: jsontext.Value(`"an answer of some words"`)})
		}
		result, err := attribution.Attribute(c, &rules, "acme", time.Now())
		if err != nil {
			b.Fatal(err)
		}
		batch = append(batch, result.Calls...)
	}
	b.ReportAllocs()
	for b.Loop() {
		if got := client.Send(b.Context(), to, batch); got.Class != segment.Accepted {
			b.Fatal(got.Err)
		}
	}
}

// post sends a request to a Capture by hand.
func post(t *testing.T, c *segment.Capture, r *http.Request) (status int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}
