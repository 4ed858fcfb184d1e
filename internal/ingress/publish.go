package ingress

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"refinersource/internal/queue"
)

// publishConcurrency bounds how many events of one request are under way.
const publishConcurrency = 64

// publish appends the events that are not rejected to the log, those of one key
// one after another, so that they keep their order (invariant 3), and others side
// by side. It goes on when the sender hangs up: what is under way may as well be
// accepted.
func (q *request) publish(list []*event) {
	ctx := q.deadlines.next()
	var failure firstError
	if len(list) == 1 {
		if e := list[0]; e.rejected == nil {
			q.publishChain(ctx, q.key(e), list, &failure)
		}
	} else {
		chains := make(map[string][]*event)
		var keys []string // in the order of the request, so that the first go first
		for _, e := range list {
			if e.rejected != nil {
				continue
			}
			key := q.key(e)
			if chains[key] == nil {
				keys = append(keys, key)
			}
			chains[key] = append(chains[key], e)
		}
		var g errgroup.Group
		g.SetLimit(publishConcurrency)
		for _, key := range keys {
			g.Go(func() error {
				q.publishChain(ctx, key, chains[key], &failure)
				return nil
			})
		}
		_ = g.Wait() // the events know what became of them
	}
	if failure.err != nil {
		q.o.Logger.Warn("event not acknowledged by the log", zap.String("tenant", q.tenantLabel()),
			zap.String("route", q.routeName), zap.Error(failure.err))
	}
}

// deadlines hands out contexts that end a timeout after they were asked for, or up to
// a hundredth of it earlier: the requests of one moment share one. One with a timer of
// its own for each costs as much as all the rest of publishing, so here contexts stand
// in a struct; they hold deadlines alone.
type deadlines struct {
	timeout time.Duration

	mu      sync.Mutex
	current context.Context
	until   time.Time // when the next one is due
}

func (d *deadlines) next() context.Context {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !now.Before(d.until) {
		ctx, cancel := context.WithTimeout(context.Background(), d.timeout)
		context.AfterFunc(ctx, cancel) // it is never ended before
		d.current, d.until = ctx, now.Add(d.timeout/100)
	}
	return d.current
}

// firstError keeps the first of the errors of several goroutines.
type firstError struct {
	once sync.Once
	err  error
}

func (f *firstError) set(err error) { f.once.Do(func() { f.err = err }) }

// publishChain appends events of one key. After one that may yet be accepted when
// it is sent again, the later ones are not tried: they would overtake it.
func (q *request) publishChain(ctx context.Context, key string, chain []*event, failure *firstError) {
	for i, e := range chain {
		var err error
		if e.position, err = q.o.Publisher.Publish(ctx, q.record(key, e)); err == nil {
			continue
		}
		failure.set(err)
		if errors.Is(err, queue.ErrTooLarge) {
			e.rejected = &rejection{
				Index: e.index, status: http.StatusRequestEntityTooLarge,
				Detail: "over the size that the log takes; send a smaller event",
			}
			continue
		}
		e.rejected = &rejection{
			Index: e.index, status: http.StatusServiceUnavailable, Retry: true,
			Detail: "not acknowledged by the log; send it again",
		}
		for _, later := range chain[i+1:] {
			later.rejected = &rejection{
				Index: later.index, status: http.StatusServiceUnavailable, Retry: true,
				Detail: "not tried, since an earlier event of the same user or account was not acknowledged; send both again, in order",
			}
		}
		return
	}
}

// key is the record's key.
func (q *request) key(e *event) string { return recordKey(q.tenant, &e.head) }

func (q *request) record(key string, e *event) queue.Record {
	r := newRecord(q.tenant, q.route.source, key, e.head.EventID, e.raw, q.received)
	if parent := q.r.Header.Get("Traceparent"); isTraceparent(parent) {
		r.Headers = append(r.Headers, queue.Header{Key: queue.HeaderTraceparent, Value: []byte(parent)})
	}
	return r
}

// isTraceparent reports whether the value is a traceparent of W3C Trace Context,
// version 00, or one of a later version that looks the same.
func isTraceparent(s string) bool {
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	version, trace, parent, flags := s[:2], s[3:35], s[36:52], s[53:]
	for _, part := range []string{version, trace, parent, flags} {
		if strings.Trim(part, "0123456789abcdef") != "" {
			return false
		}
	}
	return version != "ff" && strings.Trim(trace, "0") != "" && strings.Trim(parent, "0") != ""
}

// conclude says what became of the events.
func (q *request) conclude(list []*event, isBatch bool) (*receipt, *problem) {
	answer := &q.ownAnswer
	answer.Events = q.ownAccepted[:0]
	for _, e := range list {
		if e.rejected != nil {
			answer.Rejected = append(answer.Rejected, *e.rejected)
			continue
		}
		answer.Accepted++
		if q.isIgnored(e) {
			answer.Ignored++
		}
		answer.Events = append(answer.Events, acceptedEvent{bounded(e.head.EventID), e.position.Partition, e.position.Offset})
	}
	q.metrics.accept(q.tenant.ID, q.route.source, answer.Accepted)
	if answer.Accepted > 0 {
		return answer, nil
	}
	return nil, none(answer.Rejected, isBatch)
}

// none is the problem where no event was accepted: 503 if it may be otherwise the
// next time, 413 if all are too large, else 400.
func none(rejected []rejection, isBatch bool) *problem {
	p := newProblem(rejected[0].status, "none of the events was accepted")
	for _, r := range rejected {
		switch {
		case r.Retry:
			p.Status, p.retryAfter = r.status, retryUnavailable
		case p.retryAfter == 0 && r.status != p.Status:
			p.Status = http.StatusBadRequest
		}
	}
	if isBatch {
		p.Rejected = rejected
	} else {
		p.Detail, p.Pointer = rejected[0].Detail, rejected[0].Pointer
	}
	return p
}
