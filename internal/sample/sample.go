// Package sample makes survey events as Refiner's webhook sends them, with
// invented people and answers: for a first look, for tests and for load. The
// same seed gives the same bytes.
package sample

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"math/rand/v2"
	"time"
)

// Options of a Generator.
type Options struct {
	// Seed of the choices. Two generators with one seed make the same events.
	Seed uint64
	// Users is how many respondents there are, default 8. Each four share an account.
	Users int
	// Start is when the first survey was completed; each next is a second later.
	Start time.Time
}

// Generator makes events. Not safe for concurrent use.
type Generator struct {
	o    Options
	rand *rand.Rand
	made int
}

// New returns a generator.
func New(o Options) *Generator {
	if o.Users <= 0 {
		o.Users = 8
	}
	return &Generator{o: o, rand: rand.New(rand.NewPCG(o.Seed, 0x5eed))}
}

// Event is one generated survey.
type Event struct {
	Body []byte // of the webhook
	ID   string // the response's uuid
	User string // the respondent's id
}

var (
	firstNames = []string{"Ann", "Björn", "Chioma", "Dmitri", "Élodie", "Farid", "Grace", "Hiro"}
	companies  = []string{"Awesome Inc.", "Blau & Söhne", "Café Crème", "Dunes <Ltd>"}
	industries = []string{"accounting", "logistics", "health", "education"}
	roles      = []string{"CEO", "Engineer", "Designer", "Support", "Other: \"chief of <everything>\""}
	teams      = []string{"1", "2-5", "6-10", "10+"}
	reasons    = []string{"Pricing", "Missing feature", "I don't use it enough", "日本語のサポート"}
)

// At returns the event that user number user (from 0) completes now.
func (g *Generator) At(user int) Event {
	g.made++
	completed := g.o.Start.Add(time.Duration(g.made) * time.Second).UTC().Format("2006-01-02T15:04:05.000000Z")
	name, account := firstNames[user%len(firstNames)], user/4
	id := fmt.Sprintf("user-%d", user)
	email := fmt.Sprintf("user.%d@example.com", user)
	e := Event{ID: g.uuid(), User: id}
	role, team := g.pick(roles), g.pick(teams)
	body := webhook{
		UUID: g.uuid(), ProjectUUID: "71ab58cc-6f0e-4f5e-9d1b-0c1c2b6f9a01",
		RemoteID: id, Email: email, DisplayName: name,
		FirstSeenAt: "2026-10-12T01:47:33.000000Z", LastSeenAt: completed,
		Attributes: map[string]any{
			"email": email, "name": name, "form_submissions_count": "1", "user_id": nil,
			"what_is_your_job_role": role,
		},
		Segments: []segment{{UUID: "0d91d7a0-49cf-11ed-968d-936a69fadf81", Name: "All Users"}},
		Account: accountOf{
			UUID: g.uuid(), RemoteID: fmt.Sprintf("acc-%d", account), DisplayName: companies[account%len(companies)],
			Attributes: map[string]any{
				"employee_count": "1000+", "industry": industries[account%len(industries)], "revenue": nil,
			},
		},
		TriggeredEvent: "Completed Survey",
		Form:           form{UUID: "f0a3c1de-3c55-4a3b-9f3e-4d1f4f7b2a10", Name: "Onboarding"},
		Response: response{
			UUID: e.ID, FirstShownAt: completed, FirstDataReceptionAt: completed, LastDataReceptionAt: completed,
			CompletedAt: completed, ReceivedAt: completed,
			Data: map[string]any{
				"what_is_your_job_role":   role,
				"how_big_is_your_team":    team,
				"how_likely_to_recommend": g.rand.IntN(11),
				"why_did_you_cancel":      g.pick(reasons),
				"which_features_do_you_use": []string{
					"Surveys", g.pick([]string{"Dashboards", "Segments", "Integrations"}),
				},
			},
			Tags: []string{},
		},
	}
	var err error
	if e.Body, err = json.Marshal(body, json.Deterministic(true), jsontext.EscapeForHTML(false)); err != nil {
		panic("sample: " + err.Error()) // only strings and numbers: cannot fail
	}
	return e
}

// Next returns the event of a user drawn at random.
func (g *Generator) Next() Event { return g.At(g.rand.IntN(g.o.Users)) }

func (g *Generator) pick(from []string) string { return from[g.rand.IntN(len(from))] }

// uuid returns a version 4 UUID drawn from the generator's seed.
func (g *Generator) uuid() string {
	a, b := g.rand.Uint64(), g.rand.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", a>>32, a>>16&0xffff, a&0xfff, 0x8000|b>>48&0x3fff, b&0xffffffffffff)
}

type webhook struct {
	UUID           string         `json:"uuid"`
	ProjectUUID    string         `json:"project_uuid"`
	RemoteID       string         `json:"remote_id"`
	Email          string         `json:"email"`
	DisplayName    string         `json:"display_name"`
	FirstSeenAt    string         `json:"first_seen_at"`
	LastSeenAt     string         `json:"last_seen_at"`
	Attributes     map[string]any `json:"attributes"`
	Segments       []segment      `json:"segments"`
	Account        accountOf      `json:"account"`
	TriggeredEvent string         `json:"triggered_event"`
	Form           form           `json:"form"`
	Response       response       `json:"response"`
}

type segment struct {
	UUID string `json:"uuid"`
	Name string `json:"name"`
}

type accountOf struct {
	UUID        string         `json:"uuid"`
	RemoteID    string         `json:"remote_id"`
	Domain      *string        `json:"domain"`
	DisplayName string         `json:"display_name"`
	Attributes  map[string]any `json:"attributes"`
}

type form struct {
	UUID string `json:"uuid"`
	Name string `json:"name"`
}

type response struct {
	UUID                 string         `json:"uuid"`
	FirstShownAt         string         `json:"first_shown_at"`
	FirstDataReceptionAt string         `json:"first_data_reception_at"`
	LastDataReceptionAt  string         `json:"last_data_reception_at"`
	CompletedAt          string         `json:"completed_at"`
	DismissedAt          *string        `json:"dismissed_at"`
	ReceivedAt           string         `json:"received_at"`
	ShowCounter          *int           `json:"show_counter"`
	Data                 map[string]any `json:"data"`
	Tags                 []string       `json:"tags"`
}
