package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// small is a load of a few users with a few events each.
func small() *load { return newLoad(40, 4, 2, 1) }

// identify and group are the calls of a user's seq-th event, as the receiver has
// to get them; only those that it reads in full need all traits.
func identify(user, seq int) string {
	return fmt.Sprintf(`{"type":"identify","messageId":"m","userId":"user-%d","traits":{"refiner_survey_number":%d}}`, user, seq)
}

func group(user, seq int) string {
	return fmt.Sprintf(`{"type":"group","messageId":"m","userId":"user-%d","groupId":"acc","traits":{"refiner_surveys":%d}}`, user, seq)
}

// post hands the receiver one request and returns the status.
func post(r *receiver, key string, calls ...string) int {
	q := httptest.NewRequest(http.MethodPost, "/v1/batch", strings.NewReader(`{"batch":[`+strings.Join(calls, ",")+`]}`))
	q.SetBasicAuth(key, "")
	w := httptest.NewRecorder()
	r.ServeHTTP(w, q)
	return w.Code
}

// deliver posts every call of the load as the service should, but for what change
// makes of a user's calls.
func deliver(r *receiver, change func(user int, calls []string) []string) {
	for user := range r.load.users {
		var calls []string
		for seq := 1; seq <= r.load.of(user); seq++ {
			calls = append(calls, identify(user, seq), group(user, seq))
		}
		if change != nil {
			calls = change(user, calls)
		}
		for _, c := range calls {
			post(r, writeKey(r.load.tenantOf(user)), c)
		}
	}
}

// ofUser1 changes the calls of user 1 alone.
func ofUser1(change func(calls []string) []string) func(int, []string) []string {
	return func(user int, calls []string) []string {
		if user == 1 {
			return change(calls)
		}
		return calls
	}
}

func TestReceiverFindsWhatBreaksThePromise(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(calls []string) []string
		want   violations
	}{
		"nothing": {func(calls []string) []string { return calls }, violations{}},
		"a lost last call": {
			func(calls []string) []string { return calls[:len(calls)-1] },
			violations{Lost: 1},
		},
		"a lost group, and the user's next event": {
			func(calls []string) []string { return append(calls[:1:1], calls[2:]...) },
			violations{Order: 1, Lost: 1},
		},
		"a call that comes twice": {
			func(calls []string) []string { return append(calls, calls[0]) },
			violations{Duplicates: 1},
		},
		"a group before its identify": {
			func(calls []string) []string {
				calls[0], calls[1] = calls[1], calls[0]
				return calls
			},
			// The group came too early, and the identify too late.
			violations{Order: 2},
		},
		"an event that overtakes another": {
			func(calls []string) []string {
				return append([]string{calls[2], calls[3], calls[0], calls[1]}, calls[4:]...)
			},
			violations{Order: 3},
		},
		"a call of nobody": {
			func(calls []string) []string { return append(calls, identify(1, 1000)) },
			violations{Wrong: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(small(), false, true, 0)
			deliver(r, ofUser1(c.change))
			if got, example := r.verdict(); got != c.want {
				t.Errorf("found %+v (%s), want %+v", got, example, c.want)
			}
		})
	}
}

func TestReceiverTellsAnotherTenantsKey(t *testing.T) {
	t.Parallel()
	r := newReceiver(small(), false, true, 0)
	if status := post(r, writeKey(0), identify(1, 1)); status != http.StatusBadRequest {
		t.Errorf("status %d, want 400", status)
	}
	if got, _ := r.verdict(); got.Wrong != 1 {
		t.Errorf("found %+v, want one that is wrong", got)
	}
}

func TestStrictReceiverWantsIdentifyAnsweredBeforeItsGroupComes(t *testing.T) {
	t.Parallel()
	for strict, want := range map[bool]int{true: 1, false: 0} {
		r := newReceiver(small(), false, strict, 0)
		post(r, writeKey(1), identify(1, 1), group(1, 1))
		if got, _ := r.verdict(); got.Order != want {
			t.Errorf("strict %v: %d out of order, want %d", strict, got.Order, want)
		}
	}
}

func TestReceiverTellsRequestsThatOverlap(t *testing.T) {
	t.Parallel()
	r := newReceiver(small(), false, false, 0)
	r.arrive([]call{{user: 1, index: 0}}) // and is not answered yet
	r.arrive([]call{{user: 1, index: 1}})
	if got, _ := r.verdict(); got.Order != 1 {
		t.Errorf("%d out of order, want 1", got.Order)
	}
}

// TestReceiverReadsSomeCallsInFull has a call whose number says that it is one of
// those, with other traits than its event's.
func TestReceiverReadsSomeCallsInFull(t *testing.T) {
	t.Parallel()
	l := newLoad(2*checkedInFull, 2, 1, 1)
	full := `{"type":"identify","messageId":"m","userId":"user-1","timestamp":"2026-10-12T10:25:55Z","traits":{"refiner_survey_number":500,` +
		`"refiner_email":"user.1@example.com","refiner_what_is_your_job_role":"%s","refiner_how_likely_are_you_to_recommend_us":5,` +
		`"refiner_why":"Too expensive for a team of our size; we'd like a smaller plan."}}`
	for role, want := range map[string]int{"Engineer": http.StatusOK, "CEO": http.StatusBadRequest} {
		r := newReceiver(l, false, true, 0)
		if status := post(r, writeKey(0), fmt.Sprintf(full, role)); status != want {
			_, example := r.verdict()
			t.Errorf("%s: status %d, want %d: %s", role, status, want, example)
		}
	}
}

func TestReceiverOfRawEventsFindsWhatIsLostOrOutOfOrder(t *testing.T) {
	t.Parallel()
	r := newReceiver(small(), true, false, 0)
	var body bytes.Buffer
	for _, seq := range []int{2, 1, 1} {
		body.Write(r.load.appendEvent(nil, 1, seq))
		body.WriteByte('\n')
	}
	q := httptest.NewRequest(http.MethodPost, "/v1/batch", &body)
	r.ServeHTTP(httptest.NewRecorder(), q)
	want := violations{Order: 2, Duplicates: 1, Lost: r.load.events() - 2}
	if got, example := r.verdict(); got != want {
		t.Errorf("found %+v (%s), want %+v", got, example, want)
	}
}

func TestRunThatBreaksThePromiseHasNoFigures(t *testing.T) {
	t.Parallel()
	all := results{
		{System: "a", Rate: 1},
		{System: "a", Rate: 9, Run: 1, Found: violations{Order: 1}},
		{System: "a", Rate: 9, Run: 2, Behind: 1},
		{System: "a", Rate: 9, Run: 3, Failure: "ended"},
		{System: "b", Rate: 2, Run: 1},
	}
	if got := spreadOf(all.values("a", 0, eventsPerSecond)); got != (spread{1, 1, 1}) {
		t.Errorf("spread %+v, want that of the first run alone", got)
	}
	if got := all.ratio("a", "b", 0, 0, eventsPerSecond); got != (spread{}) {
		t.Errorf("ratio %+v, want none", got)
	}
	if got := all.broken(); got != 3 {
		t.Errorf("%d broken, want 3", got)
	}
}
