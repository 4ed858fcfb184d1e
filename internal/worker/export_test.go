package worker

import (
	"context"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/deadletter"
	"refinersource/internal/lane"
	"refinersource/internal/tenant"
)

// Pacer is a pacer, for a test of how it shares a limit out.
type Pacer struct{ *pacer }

// NewPacer makes one.
func NewPacer() Pacer { return Pacer{newPacer()} }

// SetShare sets the worker's share.
func (p Pacer) SetShare(assigned, all int) { p.setShare(assigned, all) }

// Wait waits as a request does.
func (p Pacer) Wait(ctx context.Context, t *tenant.Tenant, calls int, catchUp bool) error {
	return p.wait(ctx, t, calls, catchUp)
}

// Try is try.
func (p Pacer) Try(t *tenant.Tenant, calls int, catchUp bool) bool { return p.try(t, calls, catchUp) }

// MayJoin reports whether a request of two events may travel with others: with a letter
// for the second one, a pause before its second step, or as r says.
func MayJoin(r lane.Request[struct{}], letter bool, gap time.Duration) bool {
	d := prepareTwo(r, letter, gap)
	return d.mayJoin()
}

// FirstOutcomes are what stands for a request's parts before anything is known of them.
func FirstOutcomes() []lane.Outcome {
	return prepareTwo(lane.Request[struct{}]{}, true, 0).outcomes
}

// PrepareLetter prepares a request for the dead letter of an event of a user, and says what
// becomes of it and whether there is a letter yet.
func PrepareLetter(user string, tenants *tenant.Registry) (outcome lane.Outcome, letter bool) {
	e := &event{
		tenant: &tenant.Tenant{ID: "acme"}, letter: new(deadletter.Letter),
		steps: [][]attribution.Call{{{UserID: user}}},
	}
	d := prepare(lane.Request[*event]{Lane: "acme", Parts: []lane.Part[*event]{{Item: &lane.Item[*event]{Event: lane.Event[*event]{Payload: e}}}}}, tenants)
	return d.outcomes[0], e.letter != nil
}

func prepareTwo(r lane.Request[struct{}], letter bool, gap time.Duration) *done {
	two := lane.Request[*event]{Lane: "acme", Probe: r.Probe, Alone: r.Alone, Behind: r.Behind}
	for range 2 {
		e := &event{tenant: &tenant.Tenant{ID: "acme", PairGap: gap}, steps: [][]attribution.Call{{{}}, {{}}}}
		two.Parts = append(two.Parts, lane.Part[*event]{Item: &lane.Item[*event]{Event: lane.Event[*event]{Payload: e}}, Step: 1})
	}
	if letter {
		two.Parts[1].Item.Payload.letter = new(deadletter.Letter)
	}
	none, err := tenant.NewRegistry()
	if err != nil {
		panic(err)
	}
	return prepare(two, none)
}

// Lease is a lease, from its inside.
type Lease struct{ lease }

// NewLease makes one that is good for so long at most.
func NewLease(most time.Duration) *Lease { return &Lease{lease{most: most}} }

// Renew takes in that a commit which was sent then is acknowledged now.
func (l *Lease) Renew(at time.Time) { l.renew(at) }

// Valid reports whether anything may be sent.
func (l *Lease) Valid() bool { return l.valid() }
