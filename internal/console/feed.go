package console

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"refinersource/internal/attribution"
)

// DefaultFeedSize is how many events a feed holds unless told otherwise.
const DefaultFeedSize = 200

// maxWatchers bounds the live connections to one feed.
const maxWatchers = 32

// The outcomes that are counted, in the words of the metric
// events_finished_total.
const (
	outcomeDelivered = "delivered"
	outcomeDead      = "dead"
	outcomeIgnored   = "ignored"
)

// Event is a finished event with the calls that it made.
type Event struct {
	Tenant    string
	EventID   string
	Source    string
	Partition int
	Offset    int64
	Outcome   string // delivered, dead or ignored
	Reason    string // of a dead letter or an ignored event, else ""
	Attempts  int    // requests it was part of; 0 if it never left
	// Calls in the order in which they are sent. They are shared with the feed,
	// and nobody changes them.
	Calls    []attribution.Call
	Accepted time.Time // when the ingress accepted it
	Finished time.Time
}

// Feed holds the last finished events for the page. It is safe for concurrent
// use. It keeps references and formats nothing until somebody looks.
type Feed struct {
	epoch string // tells this feed's cursors from those of another process

	closing sync.Once
	closed  chan struct{}

	mu       sync.Mutex
	ring     []Event
	seen     uint64 // events observed so far
	counts   counts
	watchers map[chan struct{}]struct{}
}

// counts are the finished events by outcome, since the feed was made.
type counts struct{ delivered, dead, ignored uint64 }

// NewFeed returns a feed of the last size events; a size below 1 is
// DefaultFeedSize.
func NewFeed(size int) *Feed {
	if size < 1 {
		size = DefaultFeedSize
	}
	return &Feed{
		epoch:    rand.Text(),
		closed:   make(chan struct{}),
		ring:     make([]Event, size),
		watchers: make(map[chan struct{}]struct{}),
	}
}

// Observe adds a finished event in place of the oldest. It neither waits for a
// reader nor allocates.
func (f *Feed) Observe(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring[f.seen%uint64(len(f.ring))] = e
	f.seen++
	switch e.Outcome {
	case outcomeDelivered:
		f.counts.delivered++
	case outcomeDead:
		f.counts.dead++
	case outcomeIgnored:
		f.counts.ignored++
	}
	for w := range f.watchers {
		select {
		case w <- struct{}{}:
		default: // it has not looked since the last one
		}
	}
}

// Close ends all live connections and refuses new ones, so that a server's
// Shutdown does not wait for them (http.Server.RegisterOnShutdown). Observe
// still works. It may be called more than once.
func (f *Feed) Close() { f.closing.Do(func() { close(f.closed) }) }

// errBusy refuses a watcher: the feed is closed or has maxWatchers already.
var errBusy = errors.New("no room for another live connection")

// watch returns a channel that holds a token when events came since the last
// receive, and the way to stop. Nothing is queued for a watcher: it reads the
// ring when it gets to it, so that a slow one costs nothing and misses the
// events that have left the ring.
func (f *Feed) watch() (wake <-chan struct{}, stop func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.closed:
		return nil, nil, errBusy
	default:
	}
	if len(f.watchers) >= maxWatchers {
		return nil, nil, errBusy
	}
	w := make(chan struct{}, 1)
	f.watchers[w] = struct{}{}
	return w, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, w)
	}, nil
}

// snapshot is what a reader sees of the feed at one moment.
type snapshot struct {
	events  []Event // newest first
	skipped uint64  // newer than the reader's last one, and not among events
	reset   bool    // the reader's cursor is none of this feed's: events replace all it has
	cursor  string
	counts  counts
}

// since returns what came after cursor, at most limit events; with a cursor
// that is not this feed's, the last limit events there are.
func (f *Feed) since(cursor string, limit int) snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	after, ok := f.parse(cursor)
	s := snapshot{reset: !ok, cursor: f.cursor(), counts: f.counts}
	fresh := f.seen - after
	show := min(fresh, uint64(limit), uint64(len(f.ring)))
	if ok {
		s.skipped = fresh - show
	}
	s.events = slices.Grow(s.events, int(show))
	for i := range show {
		s.events = append(s.events, f.ring[(f.seen-1-i)%uint64(len(f.ring))])
	}
	return s
}

// cursor names the place after the newest event.
func (f *Feed) cursor() string { return fmt.Sprintf("%s-%d", f.epoch, f.seen) }

// parse returns how many events the reader with this cursor has seen; ok is
// false, and the number 0, if the cursor is none of this feed's.
func (f *Feed) parse(cursor string) (after uint64, ok bool) {
	epoch, number, _ := strings.Cut(cursor, "-")
	after, err := strconv.ParseUint(number, 10, 64)
	if epoch != f.epoch || err != nil || after > f.seen {
		return 0, false
	}
	return after, true
}
