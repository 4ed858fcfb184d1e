package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
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
	// Batch is the most events of a batch; one in twelve requests is one. Below 2 none is.
	Batch int
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
	n := 0                 // requests
	for i := 0; i < events && ctx.Err() == nil && !l.stopped.Load(); i++ {
		if !pause(ctx, time.Until(begun.Add(l.o.Over*time.Duration(i)/time.Duration(events)))) {
			return
		}
		if len(copies) > 0 && i%50 == 49 {
			l.post(ctx, copies[0], 1)
			copies = copies[:0]
		}
		if n++; l.o.Batch > 1 && n%oneBatchIn == 0 {
			batch := stream.batch(min(l.o.Batch, events-i))
			i += len(batch) - 1
			l.Events.Add(int64(len(batch)))
			left := l.postBatch(ctx, batch, patience)
			l.Accepted.Add(int64(len(batch) - left))
			l.GivenUp.Add(int64(left))
			continue
		}
		special := ""
		if p := l.poison.Swap(nil); p != nil {
			special = *p
		}
		g := stream.next(special, l.hotUser.Load())
		l.Events.Add(1)
		times := patience
		if i%97 == 96 && !l.o.NoCopies { // what is given up may stand in the log
			times = 1
		}
		if l.post(ctx, g, times) {
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

const (
	patience   = 40 // so often an event is posted
	oneBatchIn = 12 // requests
)

// post posts an event until it is accepted, at most so many times.
func (l *Load) post(ctx context.Context, g generated, times int) bool {
	_, accepted := l.posted(ctx, g, times)
	return accepted
}

// posted is post that tells the last answer.
func (l *Load) posted(ctx context.Context, g generated, times int) (last checker.Sent, accepted bool) {
	wait := firstWait
	for n := 1; ; n++ {
		sent := l.attempt(ctx, g.source, []generated{g}, g.body)[0]
		if isFinal(&sent) {
			return sent, sent.Status == http.StatusAccepted
		}
		if n >= times || !pause(ctx, wait) {
			return sent, false
		}
		wait = min(2*wait, lastWait)
	}
}

// postBatch posts events in one request, and those again that were not accepted, at most
// so many times. It returns how many are left.
func (l *Load) postBatch(ctx context.Context, batch []generated, times int) (left int) {
	wait := firstWait
	for n := 1; ; n++ {
		bodies := make([][]byte, len(batch))
		for i := range batch {
			bodies[i] = batch[i].body
		}
		body := slices.Concat([]byte{'['}, bytes.Join(bodies, []byte{','}), []byte{']'})
		refused := 0
		var again []generated
		for i, sent := range l.attempt(ctx, canonicalSource, batch, body) {
			switch {
			case !isFinal(&sent):
				again = append(again, batch[i])
			case sent.Status != http.StatusAccepted:
				refused++
			}
		}
		left += refused
		if batch = again; len(batch) == 0 {
			return left
		}
		if n >= times || !pause(ctx, wait) {
			return left + len(batch)
		}
		wait = min(2*wait, lastWait)
	}
}

// Between two posts of an event.
const (
	firstWait = 100 * time.Millisecond
	lastWait  = 3 * time.Second
)

// isFinal reports whether the event is not to be posted again.
func isFinal(s *checker.Sent) bool {
	return s.Status == http.StatusAccepted || s.Status >= 400 && s.Status < 500 && s.Status != http.StatusTooManyRequests
}

// attempt posts the events of a body in one request, and writes down what became of each.
func (l *Load) attempt(ctx context.Context, source string, events []generated, body []byte) []checker.Sent {
	at := time.Now().UnixNano()
	status, places := l.request(ctx, source, events[0].tenant, body)
	if len(events) == 1 && len(places) == 1 {
		places[0].ID = events[0].id // whatever was found in it
	}
	done := time.Now().UnixNano()
	all := make([]checker.Sent, len(events))
	for i, g := range events {
		all[i] = checker.Sent{At: at, Done: done, Tenant: g.tenant, Source: g.source, EventID: g.id, Body: g.body, Status: status}
		if status == http.StatusAccepted {
			// Each is there with its place, or was not accepted: then it may be sent again.
			if at := slices.IndexFunc(places, func(p standing) bool { return p.ID == g.id }); at >= 0 {
				all[i].Partition, all[i].Offset = places[at].Partition, places[at].Offset
			} else {
				all[i].Status = http.StatusServiceUnavailable
			}
		}
		l.out.write(&all[i])
	}
	l.Posts.Add(1)
	if status == 0 {
		l.Unanswered.Add(1)
	}
	return all
}

// standing is where an accepted event stands.
type standing struct {
	ID        string `json:"id"`
	Partition int    `json:"partition"`
	Offset    int64  `json:"offset"`
}

// request posts a body. It returns the answer's status, 0 if there was none, and where
// the accepted events stand.
func (l *Load) request(ctx context.Context, source, tenant string, body []byte) (status int, places []standing) {
	route := "/v1/webhooks/refiner/"
	if source == canonicalSource {
		route = "/v1/events/"
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+route+tenant, bytes.NewReader(body))
	if err != nil {
		return 0, nil
	}
	q.Header.Set("Authorization", "Bearer token-of-"+tenant)
	q.Header.Set("Content-Type", "application/json")
	answer, err := l.client.Do(q)
	if err != nil {
		return 0, nil
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, nil
	}
	var accepted struct {
		Events []standing `json:"events"`
	}
	if answer.StatusCode == http.StatusAccepted {
		if err := json.Unmarshal(text, &accepted); err != nil {
			return 0, nil
		}
	}
	return answer.StatusCode, accepted.Events
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
