package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"
)

// call is one call as it arrived.
type call struct {
	Type      string `json:"type"`
	MessageID string `json:"messageId"`
	UserID    string `json:"userId"`
	GroupID   string `json:"groupId"`
	Traits    struct {
		UserSeq    int `json:"refiner_seq"`
		AccountSeq int `json:"refiner_account_seq"`
	} `json:"traits"`
	Context struct {
		GroupID string `json:"groupId"`
	} `json:"context"`

	tenant string // from the write key
	seq    int    // of the user's event, from 1
	at     time.Time
	via    int // of which of the receiver's addresses it came to: 0 is its own
}

// receiver is a server of Segment's protocol that keeps all it accepts, in the
// order in which it accepted it.
type receiver struct {
	server *httptest.Server

	mu       sync.Mutex
	accepted []call
	faults   []string
	requests int
	distinct map[string]int // message id → times
	via      map[int]int    // address → calls
	answer   func(calls []call) (status int, header http.Header)
	latency  time.Duration // of every request; set before the first
	arrived  *sync.Cond
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{distinct: make(map[string]int), via: make(map[int]int)}
	r.arrived = sync.NewCond(&r.mu)
	r.server = httptest.NewServer(r)
	t.Cleanup(r.server.Close)
	return r
}

// viaHeader says which of its addresses a request came to.
const viaHeader = "Via-Address"

// address is another address of the receiver; it takes its calls down as via.
func (r *receiver) address(t *testing.T, via int) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		q.Header.Set(viaHeader, strconv.Itoa(via))
		r.ServeHTTP(w, q)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// script sets the answer to requests from now on; nil accepts.
func (r *receiver) script(answer func(calls []call) (int, http.Header)) {
	r.mu.Lock()
	r.answer = answer
	r.mu.Unlock()
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return // the sender was killed in the middle
	}
	var batch struct {
		Batch []call `json:"batch"`
	}
	key, _, _ := q.BasicAuth()
	via, _ := strconv.Atoi(q.Header.Get(viaHeader)) // 0 without one
	if r.latency > 0 {
		<-time.After(r.latency)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	if err := json.Unmarshal(body, &batch); err != nil || q.URL.Path != "/v1/batch" || q.Method != http.MethodPost {
		r.faults = append(r.faults, fmt.Sprintf("%s %s: %v", q.Method, q.URL.Path, err))
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if len(body) > 500_000 || len(batch.Batch) > 2500 {
		r.faults = append(r.faults, fmt.Sprintf("a request of %d bytes and %d calls", len(body), len(batch.Batch)))
	}
	if r.answer != nil {
		if status, header := r.answer(batch.Batch); status != 0 {
			for name := range header {
				w.Header().Set(name, header.Get(name))
			}
			w.WriteHeader(status)
			return
		}
	}
	for _, c := range batch.Batch {
		c.tenant, c.at, c.via = key, time.Now(), via
		c.seq = c.Traits.UserSeq
		if c.Type == "group" {
			c.seq = c.Traits.AccountSeq
		}
		r.accepted = append(r.accepted, c)
		r.via[via]++
		r.distinct[c.MessageID]++
	}
	r.arrived.Broadcast()
	_, _ = io.WriteString(w, `{"success":true}`)
}

// await waits until so many different calls were accepted, or gives up when
// nothing new has arrived for the time of patience.
func (r *receiver) await(t *testing.T, want int, patience time.Duration) {
	t.Helper()
	stalled := time.AfterFunc(patience, r.arrived.Broadcast)
	defer stalled.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	last, since := len(r.distinct), time.Now()
	for len(r.distinct) < want {
		if len(r.distinct) > last {
			last, since = len(r.distinct), time.Now()
			stalled.Reset(patience)
		} else if time.Since(since) >= patience {
			t.Fatalf("%d of %d calls arrived, and none for %v", last, want, patience)
		}
		r.arrived.Wait()
	}
}

// awaitVia waits until so many calls came to an address, whether or not they came
// before, or gives up.
func (r *receiver) awaitVia(t *testing.T, via, want int, patience time.Duration) {
	t.Helper()
	late := false
	timer := time.AfterFunc(patience, func() {
		r.mu.Lock()
		late = true
		r.mu.Unlock()
		r.arrived.Broadcast()
	})
	defer timer.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.via[via] < want {
		if late {
			t.Fatalf("%d of %d calls came to address %d within %v", r.via[via], want, via, patience)
		}
		r.arrived.Wait()
	}
}

// countVia is how many calls came to an address.
func (r *receiver) countVia(via int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.via[via]
}

// count is how many different calls have been accepted.
func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.distinct)
}
