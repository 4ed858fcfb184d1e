package console_test

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/console"
)

// update is a frame as a reader gets it.
type update struct {
	Reset   bool   `json:"reset"`
	Skipped string `json:"skipped"`
	Counts  struct {
		Delivered string `json:"delivered"`
		Lag       string `json:"lag"`
	} `json:"counts"`
	Events []struct {
		ID string `json:"id"`
	} `json:"events"`
	cursor string
}

func (u update) ids() string {
	var ids []string
	for _, e := range u.Events {
		ids = append(ids, e.ID)
	}
	return strings.Join(ids, " ")
}

// reader is one live connection. It keeps what it is sent.
type reader struct {
	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{}
	status int

	mu   sync.Mutex
	sent strings.Builder
}

func (r *reader) Header() http.Header    { return http.Header{} }
func (r *reader) WriteHeader(status int) { r.status = status }
func (r *reader) FlushError() error      { return nil }
func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent.Write(p)
}

// open connects a reader; it is gone when the test's context ends at the latest.
func open(t *testing.T, h http.Handler, cursor string) *reader {
	ctx, cancel := context.WithCancel(t.Context())
	r := &reader{t: t, cancel: cancel, ended: make(chan struct{})}
	request := httptest.NewRequest(http.MethodGet, "/api/live?after="+cursor, nil).WithContext(ctx)
	go func() {
		defer close(r.ended)
		h.ServeHTTP(r, request)
	}()
	return r
}

func (r *reader) close() {
	r.cancel()
	<-r.ended
}

// raw waits until the handler waits, and returns what was sent since the last call.
func (r *reader) raw() string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.sent.Reset()
	return r.sent.String()
}

func (r *reader) updates() []update {
	r.t.Helper()
	var all []update
	for frame := range strings.SplitSeq(r.raw(), "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(frame) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			fields[name] = value
		}
		if fields["event"] != "update" {
			continue
		}
		var u update
		if err := json.Unmarshal([]byte(fields["data"]), &u); err != nil {
			r.t.Fatal(err)
		}
		u.cursor = fields["id"]
		all = append(all, u)
	}
	return all
}

func (r *reader) one() update {
	r.t.Helper()
	all := r.updates()
	if len(all) != 1 {
		r.t.Fatalf("%d frames, want 1", len(all))
	}
	return all[0]
}

func TestLiveSendsEventsAsTheyFinish(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		feed := console.NewFeed(10)
		h := newConsole(t, console.Options{Feed: feed})
		cursor := attr(page(t, h).LastChild.LastChild, "data-cursor")
		r := open(t, h, cursor)
		defer r.close()
		if u := r.one(); u.Reset || len(u.Events) > 0 {
			t.Errorf("the first frame after the page repeats it: %+v", u)
		}
		time.Sleep(time.Minute)
		r.raw()
		feed.Observe(event("one"))
		u := r.one()
		diff(t, "events", u.ids(), "one")
		diff(t, "delivered", u.Counts.Delivered, "1")
	})
}

func TestLiveGoesOnFromTheCursor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		feed := console.NewFeed(10)
		h := newConsole(t, console.Options{Feed: feed})
		feed.Observe(event("one"))
		r := open(t, h, "")
		cursor := r.one().cursor
		r.close()
		feed.Observe(event("two"))
		feed.Observe(event("three"))
		r = open(t, h, cursor)
		defer r.close()
		u := r.one()
		diff(t, "events", u.ids(), "three two")
		diff(t, "reset", u.Reset, false)
	})
}

func TestLiveStartsOverForTheCursorOfAnotherProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		before, after := console.NewFeed(10), console.NewFeed(10)
		before.Observe(event("old"))
		r := open(t, newConsole(t, console.Options{Feed: before}), "")
		cursor := r.one().cursor
		r.close()
		after.Observe(event("new"))
		after.Observe(event("newer"))
		for _, cursor := range []string{cursor, "", "junk", cursor + "0000"} {
			r = open(t, newConsole(t, console.Options{Feed: after}), cursor)
			u := r.one()
			diff(t, "events after cursor "+cursor, u.ids(), "newer new")
			diff(t, "reset after cursor "+cursor, u.Reset, true)
			r.close()
		}
	})
}

// A reader costs a bounded number of frames of a bounded size, whatever the load.
func TestManyEventsCostOneShortFrameForEachPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		feed := console.NewFeed(200)
		h := newConsole(t, console.Options{Feed: feed})
		r := open(t, h, "")
		defer r.close()
		r.raw()
		for i := range 10_000 { // for one virtual second
			feed.Observe(event(fmt.Sprint(i)))
			time.Sleep(time.Second / 10_000)
		}
		time.Sleep(time.Second)
		updates := r.updates()
		if len(updates) > 5 {
			t.Errorf("%d frames, want at most 5", len(updates))
		}
		for _, u := range updates {
			if len(u.Events) != 50 {
				t.Errorf("a frame of %d events, want 50", len(u.Events))
			}
			if u.Skipped == "" {
				t.Error("a frame does not say that events are missing")
			}
		}
		diff(t, "delivered in the last frame", updates[len(updates)-1].Counts.Delivered, "10,000")
	})
}

func TestLiveCountsWhatLeftTheFeed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		feed := console.NewFeed(3)
		h := newConsole(t, console.Options{Feed: feed})
		r := open(t, h, "")
		cursor := r.one().cursor
		r.close()
		for i := range 10 {
			feed.Observe(event(fmt.Sprint(i)))
		}
		r = open(t, h, cursor)
		defer r.close()
		u := r.one()
		diff(t, "events", u.ids(), "9 8 7")
		diff(t, "skipped", u.Skipped, "7 more events finished in between")
	})
}

func TestLiveSendsTheLagWhenItChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		lag := console.PartitionLag{Partition: 4, End: 10, LagSeconds: 2}
		h := newConsole(t, console.Options{Feed: console.NewFeed(0), Lag: func() []console.PartitionLag {
			mu.Lock()
			defer mu.Unlock()
			return []console.PartitionLag{lag}
		}})
		r := open(t, h, "")
		defer r.close()
		diff(t, "lag", r.one().Counts.Lag, "10")
		time.Sleep(10 * time.Second)
		if got := r.raw(); len(got) > 0 && strings.Contains(got, "data:") {
			t.Errorf("sent while nothing changed: %q", got)
		}
		mu.Lock()
		lag.Committed = 7
		mu.Unlock()
		time.Sleep(2 * time.Second)
		diff(t, "lag", r.one().Counts.Lag, "3")
	})
}

func TestLiveKeepsAnIdleConnectionOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newConsole(t, console.Options{Feed: console.NewFeed(0)})
		r := open(t, h, "")
		defer r.close()
		r.raw()
		time.Sleep(time.Minute)
		if got := strings.Count(r.raw(), ":\n\n"); got < 3 {
			t.Errorf("%d comments in an idle minute, want one each 15 s", got)
		}
	})
}

func TestClosedFeedEndsItsReaders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		feed := console.NewFeed(0)
		h := newConsole(t, console.Options{Feed: feed})
		r := open(t, h, "")
		r.raw()
		feed.Close()
		feed.Close()
		<-r.ended
		feed.Observe(event("late"))
		diff(t, "events on the page", texts(byID(t, page(t, h), "feed"), "id"), []string{"late"})
	})
}

func TestReadersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newConsole(t, console.Options{Feed: console.NewFeed(0)})
		var readers []*reader
		for range 32 {
			readers = append(readers, open(t, h, ""))
		}
		synctest.Wait()
		diff(t, "status of one reader too many", get(h, "/api/live").StatusCode, http.StatusServiceUnavailable)
		readers[0].close()
		readers[0] = open(t, h, "")
		diff(t, "frames after one has gone", len(readers[0].updates()), 1)
		for _, r := range readers {
			r.close()
		}
	})
}

// pipe is a listener of one in-memory connection that the server can fill only
// as far as the other side reads.
type pipe struct {
	conns chan net.Conn
	once  sync.Once
}

func (p *pipe) Accept() (net.Conn, error) {
	if c, ok := <-p.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p *pipe) Close() error   { p.once.Do(func() { close(p.conns) }); return nil }
func (p *pipe) Addr() net.Addr { return &net.UnixAddr{} }

func TestReaderThatDoesNotReadIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		feed := console.NewFeed(0)
		ended := make(chan struct{})
		h := newConsole(t, console.Options{Feed: feed})
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			close(ended)
		})}
		listener := &pipe{conns: make(chan net.Conn, 1)}
		var serving sync.WaitGroup
		serving.Go(func() { _ = server.Serve(listener) })

		ours, theirs := net.Pipe()
		listener.conns <- theirs
		if _, err := ours.Write([]byte("GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for i := range 1000 {
			feed.Observe(event(fmt.Sprint(i)))
		}
		<-ended // in virtual time; the bubble reports a deadlock if it never comes
		_ = ours.Close()
		_ = server.Close()
		serving.Wait()
	})
}

func TestShutdownDoesNotWaitForReaders(t *testing.T) {
	t.Parallel()
	feed := console.NewFeed(0)
	server := httptest.NewUnstartedServer(newConsole(t, console.Options{Feed: feed}))
	server.Config.RegisterOnShutdown(feed.Close)
	server.Start()
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	if err := server.Config.Shutdown(t.Context()); err != nil {
		t.Errorf("shut down with a reader: %v", err)
	}
}

func TestObserveDoesNotAllocate(t *testing.T) {
	feed := console.NewFeed(0)
	e := event("x", "a", "b")
	if got := testing.AllocsPerRun(1000, func() { feed.Observe(e) }); got != 0 {
		t.Errorf("Observe allocates %v times, want 0", got)
	}
}

func TestObserveIsSafeForManyWorkersAndReaders(t *testing.T) {
	t.Parallel()
	feed := console.NewFeed(5)
	h := newConsole(t, console.Options{Feed: feed})
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for range 200 {
				feed.Observe(event("x", "a"))
			}
		})
		workers.Go(func() {
			for range 5 {
				get(h, "/")
			}
		})
	}
	workers.Wait()
	diff(t, "delivered", texts(byID(t, page(t, h), "counts"), "delivered"), []string{"1,600"})
}
