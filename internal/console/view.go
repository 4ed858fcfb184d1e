package console

import (
	"encoding/json/jsontext"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"refinersource/internal/attribution"
)

// Bounds of what one event shows, so that the page stays small whatever the
// events hold. What is cut is said.
const (
	maxTraits = 60    // of a call
	maxValue  = 2_000 // characters of a value
)

// The views hold the page's text, ready to show: the template and the script
// fill the same markup from them. Their JSON names are those in the markup's
// data-text and data-list.
type (
	pageView struct {
		Title, Role, Version, TryIt string
		HasLag                      bool
		Size                        int // events that the page keeps
		Blank                       eventView
		BlankCall                   callView
		BlankTrait                  traitView
		BlankLag                    lagView
		updateView
	}

	updateView struct {
		Cursor  string      `json:"-"`
		Reset   bool        `json:"reset,omitzero"`
		Skipped string      `json:"skipped,omitzero"`
		Counts  countsView  `json:"counts"`
		Lags    []lagView   `json:"lags"`
		Events  []eventView `json:"events"` // newest first
	}

	countsView struct {
		Delivered string `json:"delivered"`
		Dead      string `json:"dead"`
		Ignored   string `json:"ignored"`
		Lag       string `json:"lag"`
	}

	lagView struct {
		Partition string `json:"partition"`
		Behind    string `json:"behind"`
		Position  string `json:"position"`
		State     string `json:"state"` // idle or behind
	}

	eventView struct {
		Outcome  string     `json:"outcome"`
		Reason   string     `json:"reason"`
		Tenant   string     `json:"tenant"`
		ID       string     `json:"id"`
		Source   string     `json:"source"`
		Position string     `json:"position"`
		Attempts string     `json:"attempts"`
		Took     string     `json:"took"`
		Clock    string     `json:"clock"`
		Time     string     `json:"time"`
		Calls    []callView `json:"calls"`
	}

	callView struct {
		Kind      string      `json:"kind"`
		Subject   string      `json:"subject"`
		Of        string      `json:"of"`
		MessageID string      `json:"messageId"`
		Timestamp string      `json:"timestamp"`
		Traits    []traitView `json:"traits"`
		Note      string      `json:"note"`
	}

	traitView struct {
		Name  string `json:"name"`
		Value string `json:"value"`
		Type  string `json:"type"` // text, or json for what is not a string
		Note  string `json:"note"`
	}
)

func (c *console) pageView() pageView {
	s := c.Feed.since("", len(c.Feed.ring))
	return pageView{
		Title:      c.Title,
		Role:       c.Role,
		Version:    c.Version,
		TryIt:      c.TryIt,
		HasLag:     c.Lag != nil,
		Size:       len(c.Feed.ring),
		updateView: viewUpdate(s, c.lags()),
	}
}

func (c *console) lags() []PartitionLag {
	if c.Lag == nil {
		return nil
	}
	return c.Lag()
}

func viewUpdate(s snapshot, lags []PartitionLag) updateView {
	u := updateView{
		Cursor: s.cursor,
		Reset:  s.reset,
		Counts: countsView{
			Delivered: thousands(s.counts.delivered),
			Dead:      thousands(s.counts.dead),
			Ignored:   thousands(s.counts.ignored),
		},
		Lags:   []lagView{},
		Events: []eventView{},
	}
	if s.skipped > 0 {
		u.Skipped = plural(s.skipped, "more event", "more events") + " finished in between"
	}
	var total uint64
	for _, l := range lags {
		total += l.events()
		u.Lags = append(u.Lags, viewLag(l))
	}
	u.Counts.Lag = thousands(total)
	for i := range s.events {
		u.Events = append(u.Events, viewEvent(&s.events[i]))
	}
	return u
}

func (l PartitionLag) events() uint64 { return uint64(max(0, l.End-l.Committed)) }

func viewLag(l PartitionLag) lagView {
	v := lagView{
		Partition: strconv.Itoa(l.Partition),
		Behind:    "up to date",
		Position:  thousands(uint64(max(0, l.Committed))) + " / " + thousands(uint64(max(0, l.End))),
		State:     "idle",
	}
	if l.events() > 0 {
		v.Behind = thousands(l.events()) + " · " + duration(time.Duration(l.LagSeconds*float64(time.Second)))
		v.State = "behind"
	}
	return v
}

func viewEvent(e *Event) eventView {
	v := eventView{
		Outcome:  e.Outcome,
		Reason:   e.Reason,
		Tenant:   e.Tenant,
		ID:       e.EventID,
		Source:   e.Source,
		Position: strconv.Itoa(e.Partition) + " / " + strconv.FormatInt(e.Offset, 10),
		Clock:    e.Finished.UTC().Format("2 Jan 15:04:05"),
		Time:     e.Finished.UTC().Format(time.RFC3339Nano),
		Calls:    []callView{},
	}
	if e.Attempts > 0 {
		v.Attempts = plural(uint64(e.Attempts), "request", "requests")
	}
	if !e.Accepted.IsZero() {
		v.Took = duration(e.Finished.Sub(e.Accepted))
	}
	for i := range e.Calls {
		v.Calls = append(v.Calls, viewCall(&e.Calls[i]))
	}
	return v
}

func viewCall(c *attribution.Call) callView {
	who := c.UserID
	if who == "" {
		who = c.AnonymousID
	}
	v := callView{
		Subject:   who,
		MessageID: c.MessageID,
		Timestamp: c.Timestamp.UTC().Format(time.RFC3339Nano),
		Traits:    []traitView{},
	}
	switch c.Kind {
	case attribution.Identify:
		v.Kind = "identify"
	case attribution.Group:
		v.Kind, v.Subject, v.Of = "group", c.GroupID, who
	case attribution.Track:
		v.Kind, v.Subject, v.Of = "track", c.Event, who
	}
	if len(c.Traits) == 0 {
		v.Note = "no traits"
	}
	for i, t := range c.Traits {
		if i == maxTraits {
			v.Note = plural(uint64(len(c.Traits)-i), "more trait", "more traits") + " not shown"
			break
		}
		v.Traits = append(v.Traits, viewTrait(t))
	}
	return v
}

// viewTrait shows a string as its text and everything else as its JSON.
func viewTrait(t attribution.Trait) traitView {
	v := traitView{Name: string(t.Name), Value: string(t.Value), Type: "json"}
	if t.Value.Kind() == jsontext.KindString {
		if text, err := jsontext.AppendUnquote(nil, t.Value); err == nil {
			v.Value, v.Type = string(text), "text"
		}
	}
	shown := 0
	for at := range v.Value {
		if shown == maxValue {
			v.Note = plural(uint64(utf8.RuneCountInString(v.Value[at:])), "more character", "more characters") + " not shown"
			v.Value = v.Value[:at]
			break
		}
		shown++
	}
	return v
}

// duration shows d in the unit that fits, never below 0: the clocks of two
// machines may differ.
func duration(d time.Duration) string {
	switch d = max(0, d); {
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	default:
		return d.Round(time.Second).String()
	}
}

func plural(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(n) + " " + many
}

// thousands writes n with a comma after every three digits.
func thousands(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}
