package delivery_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"refinersource/internal/attribution"
	"refinersource/internal/delivery"
	"refinersource/internal/segment"
	"refinersource/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a Sender that follows a script and writes down what it got.
type receiver struct {
	mu     sync.Mutex
	got    [][]string // message ids of each request
	at     []time.Duration
	keys   []string
	busy   int
	most   int
	begun  time.Time
	answer func(request int, ids []string) segment.Result
	took   time.Duration
}

func (r *receiver) Send(ctx context.Context, to segment.Target, calls []attribution.Call) segment.Result {
	r.mu.Lock()
	if r.begun.IsZero() {
		r.begun = time.Now()
	}
	ids := make([]string, len(calls))
	for i, c := range calls {
		ids[i] = c.MessageID
	}
	request := len(r.got)
	r.got, r.at, r.keys = append(r.got, ids), append(r.at, time.Since(r.begun)), append(r.keys, to.WriteKey.Reveal())
	r.busy++
	r.most = max(r.most, r.busy)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.busy--
		r.mu.Unlock()
	}()
	select {
	case <-ctx.Done():
		return segment.Result{Class: segment.Canceled, Err: ctx.Err()}
	case <-time.After(r.took):
	}
	return r.answer(request, ids)
}

// script answers with one result after another, and with Accepted after the last.
func script(results ...segment.Result) func(int, []string) segment.Result {
	return func(request int, _ []string) segment.Result {
		if request < len(results) {
			return results[request]
		}
		return segment.Result{Class: segment.Accepted, Status: 200}
	}
}

var acme = &tenant.Tenant{ID: "acme", Endpoint: "http://receiver.invalid", WriteKey: tenant.NewSecret("key-1")}

func ofAcme() *tenant.Tenant { return acme }

// parts makes n parts of one call each.
func parts(n int) [][]attribution.Call {
	p := make([][]attribution.Call, n)
	for i := range p {
		p[i] = []attribution.Call{{MessageID: fmt.Sprint(i)}}
	}
	return p
}

func newDeliverer(t *testing.T, o delivery.Options) *delivery.Deliverer {
	t.Helper()
	if o.Rand == nil {
		o.Rand = func() float64 { return 1 } // the whole ceiling: pauses are exact
	}
	d, err := delivery.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func outcomes(reports []delivery.Report) []delivery.Outcome {
	o := make([]delivery.Outcome, len(reports))
	for i, r := range reports {
		o[i] = r.Outcome
	}
	return o
}

func TestOptionsAreValidated(t *testing.T) {
	t.Parallel()
	if _, err := delivery.New(delivery.Options{}); err == nil {
		t.Error("a Deliverer without a Sender was made")
	}
	if _, err := delivery.New(delivery.Options{Sender: &receiver{}, Slots: -1}); err == nil {
		t.Error("a Deliverer with negative slots was made")
	}
}
