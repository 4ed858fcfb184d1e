package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"refinersource/internal/checker"
)

// LoadOptions say what is sent.
type LoadOptions struct {
	Events                 int
	Over                   time.Duration // shared out evenly over this time; less if it is 0 or the system is slow
	Senders                int
	Tenants, Active, Users int
	Seed                   uint64
	NoCopies               bool // no event is posted again once it was accepted
}

// Load posts events as senders do: each user's one after another, the next only
// when the one before was accepted or given up, and again, with the same bytes,
// what was not answered.
type Load struct {
	o      LoadOptions
	url    string
	fleet  *Fleet
	out    *lines
	client *http.Client

	poison  atomic.Pointer[string] // what the next event is to be
	hotUser atomic.Bool
	stopped atomic.Bool
	ended   atomic.Bool

	Events, Accepted, GivenUp, Posts, Unanswered atomic.Int64
}

func newLoad(o LoadOptions, ingress string, fleet *Fleet, out *lines) *Load {
	return &Load{
		o: o, url: "http://" + ingress, fleet: fleet, out: out,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: o.Senders, MaxConnsPerHost: 2 * o.Senders}, Timeout: 12 * time.Second},
	}
}

// run sends everything, or until ctx ends or stop was called.
func (l *Load) run(ctx context.Context) {
	begun := time.Now()
	var sending sync.WaitGroup
	for s := range l.o.Senders {
		events := l.o.Events / l.o.Senders
		if s < l.o.Events%l.o.Senders {
			events++
		}
		sending.Go(func() { l.sender(ctx, s, events, begun) })
	}
	sending.Wait()
	l.ended.Store(true)
	l.client.CloseIdleConnections()
}

// stop lets the senders finish what they are posting.
func (l *Load) stop() { l.stopped.Store(true) }

func (l *Load) sender(ctx context.Context, s, events int, begun time.Time) {
	stream := newStream(l.o.Seed, s, l.o.Senders, l.o.Tenants, l.o.Active, l.o.Users)
	var copies []generated // to be posted once more, later
	for i := 0; i < events && ctx.Err() == nil && !l.stopped.Load(); i++ {
		if !pause(ctx, time.Until(begun.Add(l.o.Over*time.Duration(i)/time.Duration(events)))) {
			return
		}
		if len(copies) > 0 && i%50 == 49 {
			l.post(ctx, copies[0], 1)
			copies = copies[:0]
		}
		special := ""
		if p := l.poison.Swap(nil); p != nil {
			special = *p
		}
		g := stream.next(special, l.hotUser.Load())
		l.Events.Add(1)
		patience := 40
		if i%97 == 96 && !l.o.NoCopies { // what is given up may stand in the log
			patience = 1
		}
		if l.post(ctx, g, patience) {
			l.Accepted.Add(1)
		} else {
			l.GivenUp.Add(1)
		}
		if l.o.NoCopies {
			continue
		}
		switch i % 100 {
		case 33:
			l.post(ctx, g, 1)
		case 66:
			copies = append(copies, g)
		}
	}
}

// post posts an event until it is accepted, at most so many times.
func (l *Load) post(ctx context.Context, g generated, times int) bool {
	_, accepted := l.posted(ctx, g, times)
	return accepted
}

// posted is post that tells the last answer.
func (l *Load) posted(ctx context.Context, g generated, times int) (last checker.Sent, accepted bool) {
	wait := 100 * time.Millisecond
	for n := 1; ; n++ {
		sent := l.attempt(ctx, g)
		l.out.write(&sent)
		l.Posts.Add(1)
		if sent.Status == 0 {
			l.Unanswered.Add(1)
		}
		if sent.Status == http.StatusAccepted || sent.Status >= 400 && sent.Status < 500 && sent.Status != http.StatusTooManyRequests {
			return sent, sent.Status == http.StatusAccepted
		}
		if n >= times || !pause(ctx, wait) {
			return sent, false
		}
		wait = min(2*wait, 3*time.Second)
	}
}

func (l *Load) attempt(ctx context.Context, g generated) (sent checker.Sent) {
	sent = checker.Sent{At: time.Now().UnixNano(), Tenant: g.tenant, Source: g.source, EventID: g.id, Body: g.body}
	route := "/v1/webhooks/refiner/"
	if g.source == canonicalSource {
		route = "/v1/events/"
	}
	defer func() { sent.Done = time.Now().UnixNano() }()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+route+g.tenant, bytes.NewReader(g.body))
	if err != nil {
		return sent
	}
	q.Header.Set("Authorization", "Bearer token-of-"+g.tenant)
	q.Header.Set("Content-Type", "application/json")
	answer, err := l.client.Do(q)
	if err != nil {
		return sent
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return sent
	}
	var accepted struct {
		Events []struct {
			Partition int   `json:"partition"`
			Offset    int64 `json:"offset"`
		} `json:"events"`
	}
	if answer.StatusCode == http.StatusAccepted {
		if err := json.Unmarshal(text, &accepted); err != nil || len(accepted.Events) != 1 {
			return sent
		}
		sent.Partition, sent.Offset = accepted.Events[0].Partition, accepted.Events[0].Offset
	}
	sent.Status = answer.StatusCode
	return sent
}

// pause waits, and reports false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// done reports whether everything was sent, or the senders were stopped.
func (l *Load) done() bool { return l.ended.Load() || l.stopped.Load() }
