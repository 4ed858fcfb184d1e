package ingress_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/ingress"
	"refinersource/internal/queue"
)

// small are options in which two bodies of 1,000 bytes are the most, and one of
// them may be of a sender who is not verified yet.
func small() ingress.Options {
	return ingress.Options{MaxBodyBytes: 1000, MaxEventBytes: 1000, MaxInFlightBytes: 2000}
}

// slow is a log that takes a second for each record.
func slow() *fakeLog {
	return &fakeLog{before: func(context.Context, queue.Record) error {
		time.Sleep(time.Second) // virtual
		return nil
	}}
}

// ofSize is a webhook of n bytes.
func ofSize(n int) string {
	const frame = `{"remote_id":"u","x":""}`
	return strings.Replace(frame, `""`, `"`+strings.Repeat("x", n-len(frame))+`"`, 1)
}

func TestWhatIsOverTheBytesInFlightIsAnswered503AtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(t, slow(), small())
		var requests sync.WaitGroup
		for range 2 {
			requests.Go(func() {
				if w := post(t, h, webhookPath, ofSize(1000)); w.Code != http.StatusAccepted {
					t.Errorf("within the bound: got %d, want 202", w.Code)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		w := post(t, h, webhookPath, ofSize(100))
		if took := time.Since(start); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" || took != 0 {
			t.Errorf("over the bound: got %d, Retry-After %q after %v, want 503 and 1 at once", w.Code, w.Header().Get("Retry-After"), took)
		}
		requests.Wait()
		if w := post(t, h, webhookPath, ofSize(1000)); w.Code != http.StatusAccepted {
			t.Errorf("when it is over: got %d, want 202", w.Code)
		}
	})
}

// TestEveryAnswerGivesItsBytesBack sends more of each kind than fit at once.
func TestEveryAnswerGivesItsBytesBack(t *testing.T) {
	t.Parallel()
	failing := &fakeLog{before: func(context.Context, queue.Record) error { return queue.ErrUnavailable }}
	h := newHandler(t, failing, small())
	for range 10 {
		post(t, h, webhookPath, ofSize(900))
		post(t, h, webhookPath, strings.Repeat("x", 900))
		post(t, h, webhookPath, ofSize(1001))
		send(t, h, http.MethodPost, webhookPath, ofSize(900), signed(time.Now(), "", signingKey)...)
		send(t, h, http.MethodPost, webhookPath, ofSize(900), signed(time.Now(), ofSize(900), signingKey)...)
		r := httptest.NewRequest(http.MethodPost, webhookPath, io.MultiReader(strings.NewReader("{"), broken{}))
		r.Header.Set("X-Refiner-Token", token)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	failing.before = nil
	if w := post(t, h, webhookPath, ofSize(1000)); w.Code != http.StatusAccepted {
		t.Errorf("got %d %s, want 202", w.Code, w.Body)
	}
	if w := send(t, h, http.MethodPost, webhookPath, ofSize(1000), signed(time.Now(), ofSize(1000), signingKey)...); w.Code != http.StatusAccepted {
		t.Errorf("signed: got %d %s, want 202", w.Code, w.Body)
	}
}

// TestChunksHoldTheBoundUntilTheyHaveCome, and then what has come.
func TestChunksHoldTheBoundUntilTheyHaveCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(t, slow(), small())
		var requests sync.WaitGroup
		for range 10 {
			requests.Go(func() {
				r := httptest.NewRequest(http.MethodPost, webhookPath, io.MultiReader(strings.NewReader(ofSize(100))))
				r.Header.Set("X-Refiner-Token", token)
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, r); w.Code != http.StatusAccepted {
					t.Errorf("got %d, want 202", w.Code)
				}
			})
			synctest.Wait() // so it waits for the log
		}
		requests.Wait()
	})
}

// broken is a body that breaks off.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// TestStrangersCannotTakeAllBytes: senders who are known only when their body has
// been read have but a part of them.
func TestStrangersCannotTakeAllBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(t, &fakeLog{}, small())
		var strangers sync.WaitGroup
		stall := make(chan struct{})
		for range 5 {
			strangers.Go(func() {
				r := httptest.NewRequest(http.MethodPost, webhookPath, stalled{stall})
				r.ContentLength = 1000
				header := signed(time.Now(), "", signingKey)
				for i := 0; i < len(header); i += 2 {
					r.Header.Set(header[i], header[i+1])
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code == http.StatusAccepted {
					t.Error("a stranger was accepted")
				}
			})
		}
		synctest.Wait()
		if w := post(t, h, webhookPath, ofSize(1000)); w.Code != http.StatusAccepted {
			t.Errorf("got %d, want 202", w.Code)
		}
		close(stall)
		strangers.Wait()
	})
}

// stalled is a body that says nothing until it ends.
type stalled struct{ end chan struct{} }

func (s stalled) Read([]byte) (int, error) {
	<-s.end
	return 0, io.EOF
}

// TestVerifiedSenderDoesNotHoldTheStrangersBytes while the log is slow.
func TestVerifiedSenderDoesNotHoldTheStrangersBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(t, slow(), small())
		var requests sync.WaitGroup
		for range 2 {
			requests.Go(func() {
				if w := send(t, h, http.MethodPost, webhookPath, ofSize(900), signed(time.Now(), ofSize(900), signingKey)...); w.Code != http.StatusAccepted {
					t.Errorf("got %d, want 202", w.Code)
				}
			})
			synctest.Wait() // so it is verified and waits for the log
		}
		requests.Wait()
	})
}

func TestConcurrentRequestsAreAllInTheLog(t *testing.T) {
	t.Parallel()
	log := &fakeLog{}
	h := newHandler(t, log, ingress.Options{})
	var requests sync.WaitGroup
	for i := range 50 {
		requests.Go(func() {
			user := string(rune('a' + i%5))
			for n := range 10 {
				if w := post(t, h, eventsPath, array(of(user, n), of("x"+user, n))); w.Code != http.StatusAccepted {
					t.Errorf("got %d %s", w.Code, w.Body)
				}
			}
		})
	}
	requests.Wait()
	if got := len(log.records); got != 1000 {
		t.Errorf("got %d records, want 1000", got)
	}
}
