package console

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// The pace of a live connection. However many events finish, a reader costs at
// most one frame of frameEvents events every framePause.
const (
	framePause   = 250 * time.Millisecond
	frameEvents  = 50
	reconnect    = time.Second      // after which a reader comes back when the connection broke
	lagInterval  = time.Second      // between two looks at the lag
	keepAlive    = 15 * time.Second // longest silence, so that proxies keep the connection
	writeTimeout = 10 * time.Second // for one frame; a reader that takes longer is dropped
)

// live sends what happens as server-sent events named "update", each with an
// updateView as JSON. Its id is the feed's cursor: a reader that comes back
// with it (Last-Event-ID, or ?after= on the first connection) goes on there.
// It ends with the request, with the feed, or when the reader is too slow.
func (c *console) live(w http.ResponseWriter, r *http.Request) {
	wake, stop, err := c.Feed.watch()
	if err != nil {
		w.Header().Set("Retry-After", "5")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer stop()
	s := stream{w: w, rc: http.NewResponseController(w), cursor: r.Header.Get("Last-Event-ID")}
	if s.cursor == "" {
		s.cursor = r.URL.Query().Get("after")
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold the frames back

	for {
		sent, err := s.send(c.Feed.since(s.cursor, frameEvents), c.lags())
		if err != nil {
			return
		}
		if sent {
			select {
			case <-time.After(framePause):
			case <-c.Feed.closed:
				return
			case <-r.Context().Done():
				return
			}
		}
		select {
		case <-wake:
		case <-time.After(lagInterval):
		case <-c.Feed.closed:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// stream is one reader's connection.
type stream struct {
	w      http.ResponseWriter
	rc     *http.ResponseController
	cursor string    // after what was sent
	last   time.Time // of the last frame, zero before the first
	lags   []PartitionLag
}

// send writes a frame if it tells the reader something new.
func (s *stream) send(n snapshot, lags []PartitionLag) (sent bool, err error) {
	var frame []byte
	now := time.Now()
	switch {
	case s.last.IsZero() || n.reset || len(n.events) > 0 || !slices.Equal(lags, s.lags):
		data, err := json.Marshal(viewUpdate(n, lags), jsontext.AllowInvalidUTF8(true))
		if err != nil {
			return false, fmt.Errorf("encode frame: %w", err)
		}
		frame = fmt.Appendf(nil, "retry: %d\nevent: update\nid: %s\ndata: %s\n\n", reconnect.Milliseconds(), n.cursor, data)
	case now.Sub(s.last) >= keepAlive:
		frame = []byte(":\n\n")
	default:
		return false, nil
	}
	s.cursor, s.last, s.lags = n.cursor, now, lags
	if err := s.rc.SetWriteDeadline(now.Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return false, fmt.Errorf("set write deadline: %w", err)
	}
	if _, err := s.w.Write(frame); err != nil {
		return false, fmt.Errorf("write frame: %w", err)
	}
	if err := s.rc.Flush(); err != nil {
		return false, fmt.Errorf("flush frame: %w", err)
	}
	return true, nil
}
