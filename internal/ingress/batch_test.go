package ingress_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"refinersource/internal/ingress"
	"refinersource/internal/queue"
)

// of is a canonical event of a user.
func of(user string, n int) string {
	return fmt.Sprintf(`{"id":"%s-%d","user":{"id":"%s"}}`, user, n, user)
}

func array(events ...string) string { return "[" + strings.Join(events, ",") + "]" }

// refuse refuses the events with these ids.
func refuse(err error, ids ...string) func(context.Context, queue.Record) error {
	return func(_ context.Context, r queue.Record) error {
		for _, id := range ids {
			if r.Header(queue.HeaderEventID) == id {
				return err
			}
		}
		return nil
	}
}

func ids(a answer) []string {
	var all []string
	for _, e := range a.Events {
		all = append(all, e.ID)
	}
	return all
}

func TestBatchAcceptsWhatIsInOrderAndReportsTheRest(t *testing.T) {
	t.Parallel()
	tooLong := `{"id":"` + strings.Repeat("x", ingress.DefaultMaxEventBytes) + `"}`
	elements := []string{of("a", 1), `{"user":{"id":{}}}`, of("b", 1), `7`, tooLong, `{"user":{"anonymous_id":"c"}}`}
	for name, c := range map[string]struct{ body, contentType string }{
		"array": {array(elements...), "application/json"},
		"lines": {strings.Join(elements, "\n"), "application/x-ndjson"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &fakeLog{}
			w := post(t, newHandler(t, log, ingress.Options{}), eventsPath, c.body, "Content-Type", c.contentType)
			got := read(t, w.Body)
			if w.Code != http.StatusAccepted || got.Accepted != 3 || got.Ignored != 1 || len(got.Events) != 3 {
				t.Errorf("got %d %+v, want 202 with 3 accepted, 1 of them ignored", w.Code, got)
			}
			want := []rejection{{Index: 1, Pointer: "/user/id"}, {Index: 3}, {Index: 4}}
			if diff := cmp.Diff(want, got.Rejected, cmpopts.IgnoreFields(rejection{}, "Detail")); diff != "" {
				t.Errorf("rejected (-want +got):\n%s", diff)
			}
			for _, r := range got.Rejected {
				if r.Detail == "" {
					t.Errorf("element %d: no detail", r.Index)
				}
			}
			if n := len(log.records); n != 3 {
				t.Errorf("got %d records, want 3", n)
			}
		})
	}
}

func TestBrokenLineSpoilsNoOther(t *testing.T) {
	t.Parallel()
	w := post(t, newHandler(t, &fakeLog{}, ingress.Options{}), eventsPath, of("a", 1)+"\n{\n"+of("a", 2), "Content-Type", "application/x-ndjson")
	got := read(t, w.Body)
	if diff := cmp.Diff([]string{"a-1", "a-2"}, ids(got)); diff != "" || len(got.Rejected) != 1 || got.Rejected[0].Index != 1 {
		t.Errorf("got %+v, want line 1 alone rejected", got)
	}
}

// TestLaterEventOfAUserNeverOvertakesOneThatWasNotAccepted is invariant 3 at the
// front: what may yet be accepted holds back what comes after it.
func TestLaterEventOfAUserNeverOvertakesOneThatWasNotAccepted(t *testing.T) {
	t.Parallel()
	log := &fakeLog{before: refuse(queue.ErrUnavailable, "a-2")}
	w := post(t, newHandler(t, log, ingress.Options{}), eventsPath, array(of("a", 1), of("b", 1), of("a", 2), of("b", 2), of("a", 3)))
	got := read(t, w.Body)
	if diff := cmp.Diff([]string{"a-1", "b-1", "b-2"}, ids(got)); diff != "" || w.Code != http.StatusAccepted {
		t.Errorf("%d, accepted (-want +got):\n%s", w.Code, diff)
	}
	inLog := log.values()
	slices.Sort(inLog)
	if diff := cmp.Diff([]string{of("a", 1), of("b", 1), of("b", 2)}, inLog); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	want := []rejection{{Index: 2, Retry: true}, {Index: 4, Retry: true}}
	if diff := cmp.Diff(want, got.Rejected, cmpopts.IgnoreFields(rejection{}, "Detail")); diff != "" {
		t.Errorf("rejected (-want +got):\n%s", diff)
	}
}

// TestEventThatIsTooLargeForTheLogHoldsNobodyBack: it will never be accepted, so
// nothing can overtake it.
func TestEventThatIsTooLargeForTheLogHoldsNobodyBack(t *testing.T) {
	t.Parallel()
	log := &fakeLog{before: refuse(queue.ErrTooLarge, "a-1")}
	w := post(t, newHandler(t, log, ingress.Options{}), eventsPath, array(of("a", 1), of("a", 2)))
	got := read(t, w.Body)
	if diff := cmp.Diff([]string{"a-2"}, ids(got)); diff != "" || len(got.Rejected) != 1 || got.Rejected[0].Retry {
		t.Errorf("got %+v, want a-2 accepted and a-1 not to be tried again", got)
	}
}

func TestRefusalsOfTheLogHaveTheirAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err      error
		body     string
		status   int
		rejected int
	}{
		"unavailable":                       {queue.ErrUnavailable, of("a", 1), 503, 0},
		"not authorized":                    {queue.ErrRefused, of("a", 1), 503, 0},
		"closed":                            {queue.ErrClosed, of("a", 1), 503, 0},
		"too large":                         {queue.ErrTooLarge, of("a", 1), 413, 0},
		"batch unavailable":                 {queue.ErrUnavailable, array(of("a", 1), of("b", 1)), 503, 2},
		"batch unavailable and a bad one":   {queue.ErrUnavailable, array("{}", of("a", 1), "{}"), 503, 3},
		"batch too large":                   {queue.ErrTooLarge, array(of("a", 1), of("b", 1)), 413, 2},
		"batch too large and a bad one":     {queue.ErrTooLarge, array(of("a", 1), "{}"), 400, 2},
		"batch of bad ones":                 {nil, array("{}", "{}"), 400, 2},
		"batch of a bad and too large ones": {queue.ErrTooLarge, array("{}", of("a", 1)), 400, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &fakeLog{before: func(context.Context, queue.Record) error { return fmt.Errorf("publish record: %w", c.err) }}
			w := post(t, newHandler(t, log, ingress.Options{}), eventsPath, c.body)
			got := read(t, w.Body)
			if w.Code != c.status || got.Status != c.status {
				t.Errorf("got %d %+v, want %d", w.Code, got, c.status)
			}
			seconds, _ := strconv.Atoi(w.Header().Get("Retry-After"))
			if (seconds > 0) != (c.status == http.StatusServiceUnavailable) {
				t.Errorf("Retry-After: got %q", w.Header().Get("Retry-After"))
			}
			if len(got.Rejected) != c.rejected {
				t.Errorf("got %d rejected, want %d", len(got.Rejected), c.rejected)
			}
		})
	}
}

// TestEventsOfAUserArePublishedOneAfterAnother, and those of others beside them,
// but not all at once.
func TestEventsOfAUserArePublishedOneAfterAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var (
			mu           sync.Mutex
			underWay     = make(map[string]int)
			total, most  int
			sameUserOnce = true
		)
		log := &fakeLog{before: func(_ context.Context, r queue.Record) error {
			mu.Lock()
			underWay[string(r.Key)]++
			total++
			most = max(most, total)
			sameUserOnce = sameUserOnce && underWay[string(r.Key)] == 1
			mu.Unlock()
			time.Sleep(10 * time.Millisecond) // virtual
			mu.Lock()
			defer mu.Unlock()
			underWay[string(r.Key)]--
			total--
			return nil
		}}
		var events []string
		for n := range 5 {
			for user := range 200 {
				events = append(events, of(fmt.Sprintf("u%d", user), n))
			}
		}
		start := time.Now()
		w := post(t, newHandler(t, log, ingress.Options{}), eventsPath, array(events...))
		if got := read(t, w.Body); got.Accepted != 1000 {
			t.Fatalf("got %d accepted of 1000", got.Accepted)
		}
		if !sameUserOnce {
			t.Error("two events of one user were under way at once")
		}
		if most != 64 {
			t.Errorf("got %d events under way at once, want 64", most)
		}
		// 200 users by 64 are 4 rounds of 5 events.
		if took := time.Since(start); took != 200*time.Millisecond {
			t.Errorf("took %v, want 200 ms", took)
		}
		last := make(map[string]int)
		for _, r := range log.records {
			user, n, _ := strings.Cut(r.Header(queue.HeaderEventID), "-")
			if want := strconv.Itoa(last[user]); n != want {
				t.Fatalf("%s: got event %s, want %s", user, n, want)
			}
			last[user]++
		}
	})
}

func TestLogThatDoesNotAnswerIs503AfterThePublishTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &fakeLog{before: func(ctx context.Context, _ queue.Record) error {
			<-ctx.Done()
			return fmt.Errorf("%w: %w", queue.ErrUnavailable, ctx.Err())
		}}
		start := time.Now()
		w := post(t, newHandler(t, log, ingress.Options{}), webhookPath, webhook)
		if took := time.Since(start); w.Code != http.StatusServiceUnavailable || took != ingress.DefaultPublishTimeout {
			t.Errorf("got %d after %v, want 503 after %v", w.Code, took, ingress.DefaultPublishTimeout)
		}
	})
}

// TestSenderWhoHangsUpStopsNothing: what is under way may as well be accepted.
func TestSenderWhoHangsUpStopsNothing(t *testing.T) {
	t.Parallel()
	ctx, hangUp := context.WithCancel(t.Context())
	log := &fakeLog{before: func(ctx context.Context, _ queue.Record) error {
		hangUp()
		return ctx.Err()
	}}
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, eventsPath, strings.NewReader(array(of("a", 1), of("a", 2))))
	r.Header.Set("X-Refiner-Token", token)
	newHandler(t, log, ingress.Options{}).ServeHTTP(httptest.NewRecorder(), r)
	if got := len(log.records); got != 2 {
		t.Errorf("got %d events in the log, want 2", got)
	}
}
