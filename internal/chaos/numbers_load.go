package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"refinersource/internal/checker"
)

// liveUsers are of each active tenant; all have an account.
const liveUsers = 9

// live is a steady load: every active tenant in its turn.
type live struct {
	n       *numbers
	rate    float64 // events a second
	senders int
	begun   time.Time
	ending  chan struct{}
	running sync.WaitGroup
	posted  atomic.Int64 // events that had their answer
}

func (n *numbers) startLive(ctx context.Context) *live {
	l := &live{n: n, rate: n.o.Rate, senders: min(n.o.Senders, n.o.Active), begun: time.Now(), ending: make(chan struct{})}
	for s := range l.senders {
		l.running.Go(func() { l.send(ctx, s) })
	}
	return l
}

// stop ends the load when what is being posted has its answer. It may be called
// twice.
func (l *live) stop() {
	select {
	case <-l.ending:
	default:
		close(l.ending)
	}
	l.running.Wait()
}

// send posts for every senders-th tenant. What is late is posted at once, so that a
// stall does not lower the load.
func (l *live) send(ctx context.Context, s int) {
	n := l.n
	r := rand.New(rand.NewPCG(n.o.Seed, 1000+uint64(s)))
	tenant := s
	for i := 0; ; i++ {
		due := l.begun.Add(time.Duration(float64(i*l.senders+s) / l.rate * float64(time.Second)))
		timer := time.NewTimer(time.Until(due))
		select {
		case <-l.ending:
		case <-ctx.Done():
		case <-timer.C:
			n.postOne(ctx, r, tenant)
			l.posted.Add(1)
			if tenant += l.senders; tenant >= n.o.Active {
				tenant = s
			}
			continue
		}
		timer.Stop()
		return
	}
}

// postOne posts a tenant's next event, each user in its turn.
func (n *numbers) postOne(ctx context.Context, r *rand.Rand, tenant int) {
	number := n.watch.number(tenant)
	u := number % liveUsers
	user, id := fmt.Sprintf("u%d", u), fmt.Sprintf("r-%d", number)
	g := generated{tenant: tenantName(tenant), source: webhookSource, id: id}
	g.body = webhook(r, 0, id, user, u, number, eventTime(number), "")
	n.load.Events.Add(1)
	if sent, ok := n.load.posted(ctx, g, 40); ok {
		n.load.Accepted.Add(1)
		n.watch.accepted(tenant, number, sent.Partition, sent.Done)
	} else {
		n.load.GivenUp.Add(1)
	}
}

func eventTime(number int) time.Time {
	return time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC).Add(time.Duration(number) * time.Second)
}

// postList posts events of a tenant's users, one each, in one request, and returns
// their partitions. It is tried once: who does not get a 202 is an error.
func (n *numbers) postList(ctx context.Context, r *rand.Rand, tenant int, users []int) ([]int, error) {
	name := tenantName(tenant)
	list, numbers := make([]json.RawMessage, len(users)), make([]int, len(users))
	for i, u := range users {
		numbers[i] = n.watch.number(tenant)
		list[i] = canonical(r, fmt.Sprintf("c-%d", numbers[i]), fmt.Sprintf("u%d", u), u, numbers[i], eventTime(numbers[i]))
	}
	n.load.Events.Add(int64(len(list)))
	n.load.Posts.Add(1)
	at := time.Now().UnixNano()
	status, receipt, err := n.exchange(ctx, canonicalRoute, name, object(list))
	done := time.Now().UnixNano()
	for i := range list {
		sent := checker.Sent{At: at, Done: done, Tenant: name, Source: canonicalSource, EventID: fmt.Sprintf("c-%d", numbers[i]), Body: list[i], Status: status}
		if len(receipt.Events) == len(list) {
			sent.Partition, sent.Offset = receipt.Events[i].Partition, receipt.Events[i].Offset
			n.watch.accepted(tenant, numbers[i], sent.Partition, done)
			n.load.Accepted.Add(1)
		} else {
			sent.Status = 0 // some may stand in the log
			n.load.GivenUp.Add(1)
		}
		n.sent.write(&sent)
	}
	if err == nil && len(receipt.Events) != len(list) {
		err = fmt.Errorf("post %d events of %s: %d, %d accepted", len(list), name, status, len(receipt.Events))
	}
	partitions := make([]int, len(receipt.Events))
	for i := range receipt.Events {
		partitions[i] = receipt.Events[i].Partition
	}
	return partitions, err
}

// Routes of the ingress; the tenant follows.
const (
	webhookRoute   = "/v1/webhooks/refiner/"
	canonicalRoute = "/v1/events/"
)

// receipt is what is read of a 202.
type receipt struct {
	Events []struct {
		Partition int   `json:"partition"`
		Offset    int64 `json:"offset"`
	} `json:"events"`
	Rejected []struct {
		Index int `json:"index"`
	} `json:"rejected"`
}

// exchange posts a body as a tenant and reads the answer.
func (n *numbers) exchange(ctx context.Context, route, tenant string, body []byte) (int, receipt, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, n.load.url+route+tenant, bytes.NewReader(body))
	if err != nil {
		return 0, receipt{}, fmt.Errorf("make a request: %w", err)
	}
	q.Header.Set("Authorization", "Bearer token-of-"+tenant)
	q.Header.Set("Content-Type", "application/json")
	return answerTo(n.load.client, q)
}

func answerTo(client *http.Client, q *http.Request) (int, receipt, error) {
	answer, err := client.Do(q)
	if err != nil {
		return 0, receipt{}, fmt.Errorf("post: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	return readReceipt(answer)
}

// readReceipt reads an answer, and what it promises if it is a 202.
func readReceipt(answer *http.Response) (int, receipt, error) {
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	if err != nil {
		return answer.StatusCode, receipt{}, fmt.Errorf("read an answer: %w", err)
	}
	var got receipt
	if answer.StatusCode == http.StatusAccepted {
		if err := json.Unmarshal(text, &got); err != nil {
			return answer.StatusCode, receipt{}, fmt.Errorf("read a receipt: %w", err)
		}
	}
	return answer.StatusCode, got, nil
}
