package chaos

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// Answer is what the receiver does with a request that it has read.
type Answer struct {
	Apply  bool // it takes the calls in, whatever the sender hears
	Status int
	Header http.Header
	Body   string
	// Delay passes before the answer.
	Delay time.Duration
	// End says how the answer ends.
	End Ending
}

// Ending is how an exchange ends.
type Ending uint8

// The endings: with the whole answer; with a reset before it; never, until the
// sender gives up; with one byte of the header a second; in the middle of the
// body; with what is no HTTP.
const (
	Whole Ending = iota
	Reset
	Silence
	Loris
	HalfBody
	Garbage
)

// hostile is what answers hold: text that must never be taken for more.
const hostile = "<script>alert(1)</script>\x1b[31m${jndi:ldap://127.0.0.1/a}\r\nX-Injected: 1 {{7*7}}"

func accept() Answer {
	return Answer{Apply: true, Status: http.StatusOK, Body: `{"success":true}`}
}

func refuse(status int) Answer { return Answer{Status: status, Body: hostile} }

func throttle(retryAfter string) Answer {
	return Answer{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {retryAfter}}, Body: hostile}
}

// Mode is how the receiver treats a tenant: elapsed since it began so, and n is
// the number of the tenant's request since then.
type Mode func(r *rand.Rand, elapsed time.Duration, n int) Answer

// hours is a Retry-After of far more than anybody waits: five minutes, then.
const hours = "1000000000000000000000"

// retryAfters are the forms of Retry-After that F30 gives.
func retryAfters(now time.Time) []string {
	return []string{
		"0", "1", "3", "2.5", "-1", "soon", "", "12",
		now.Add(-time.Hour).UTC().Format(http.TimeFormat), now.Add(3 * time.Second).UTC().Format(http.TimeFormat),
	}
}

// modes are the ways in which a tenant can fail, by name.
var modes = map[string]Mode{
	"500": func(*rand.Rand, time.Duration, int) Answer { return refuse(http.StatusInternalServerError) },
	"5xx": func(r *rand.Rand, _ time.Duration, _ int) Answer {
		return refuse([]int{500, 502, 503, 504, 520}[r.IntN(5)])
	},
	"501":    func(*rand.Rand, time.Duration, int) Answer { return refuse(http.StatusNotImplemented) },
	"429":    func(r *rand.Rand, _ time.Duration, _ int) Answer { return throttle([]string{"1", "2", "3"}[r.IntN(3)]) },
	"408":    func(*rand.Rand, time.Duration, int) Answer { return refuse(http.StatusRequestTimeout) },
	"401":    func(*rand.Rand, time.Duration, int) Answer { return refuse(http.StatusUnauthorized) },
	"403":    func(*rand.Rand, time.Duration, int) Answer { return refuse(http.StatusForbidden) },
	"404":    func(*rand.Rand, time.Duration, int) Answer { return refuse(http.StatusNotFound) },
	"400all": func(*rand.Rand, time.Duration, int) Answer { return refuse(http.StatusBadRequest) },
	"302": func(*rand.Rand, time.Duration, int) Answer {
		return Answer{Status: http.StatusFound, Header: http.Header{"Location": {"http://127.0.0.1:9/portal"}}, Body: hostile}
	},
	"reset":  func(*rand.Rand, time.Duration, int) Answer { return Answer{End: Reset} },
	"silent": func(*rand.Rand, time.Duration, int) Answer { return Answer{End: Silence} },
	"loris":  func(*rand.Rand, time.Duration, int) Answer { return Answer{Status: http.StatusOK, End: Loris} },
	"garbage": func(*rand.Rand, time.Duration, int) Answer {
		return Answer{End: Garbage, Body: hostile}
	},
	"slow": func(*rand.Rand, time.Duration, int) Answer {
		a := accept()
		a.Delay = 3 * time.Second
		return a
	},
	// Every other answer is lost although the calls were taken in.
	"lost": func(r *rand.Rand, _ time.Duration, _ int) Answer {
		a := accept()
		if r.IntN(2) == 0 {
			a.End = Reset
		}
		return a
	},
	"lost-silent": func(r *rand.Rand, _ time.Duration, _ int) Answer {
		a := accept()
		if r.IntN(2) == 0 {
			a.End = Silence
		}
		return a
	},
	"half-body": func(*rand.Rand, time.Duration, int) Answer {
		a := accept()
		a.End = HalfBody
		return a
	},
	"applied-500": func(r *rand.Rand, _ time.Duration, _ int) Answer {
		if r.IntN(2) == 0 {
			return accept()
		}
		return Answer{Apply: true, Status: http.StatusInternalServerError, Body: hostile}
	},
	// Half the answers are 500, ten seconds in every twenty.
	"flap": func(r *rand.Rand, elapsed time.Duration, _ int) Answer {
		if elapsed%(20*time.Second) < 10*time.Second && r.IntN(2) == 0 {
			return refuse(http.StatusInternalServerError)
		}
		return accept()
	},
	"retry-after-hours": func(_ *rand.Rand, _ time.Duration, n int) Answer {
		if n%3 == 2 {
			return throttle(hours)
		}
		return accept()
	},
	"retry-after": func(r *rand.Rand, _ time.Duration, n int) Answer {
		forms := retryAfters(time.Now())
		if n%3 == 2 {
			return accept()
		}
		if r.IntN(2) == 0 {
			a := refuse(http.StatusServiceUnavailable)
			a.Header = http.Header{"Retry-After": {forms[n%len(forms)]}}
			return a
		}
		return throttle(forms[n%len(forms)])
	},
}

// mode returns a mode by its name.
func mode(name string) (Mode, error) {
	if m, ok := modes[name]; ok {
		return m, nil
	}
	return nil, fmt.Errorf("there is no way to fail that is called %q", name)
}
