package audit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"sync"
	"time"

	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
	"refinersource/internal/redrive"
)

// DefaultStories is how many stories a Query gets at most.
const DefaultStories = 1000

// Query says whose story is asked for: an event's, by its id; or all of a user's, or
// one of them.
type Query struct {
	Group  string
	Topics queue.Topics
	Range
	EventID string // "" is all of the user's
	Tenant  string // "" is any, where there is no User
	// User is what the tenant's events are kept in order by: the user's id, or the
	// account's where the tenants file says so. Only his partition is read then.
	User string
	Most int // stories; the latest are kept; 0 is DefaultStories
}

// State says how far an event is.
type State string

// The states.
const (
	Delivered State = State(receipt.Delivered)
	Dead      State = State(receipt.Dead)
	Ignored   State = State(receipt.Ignored)
	Waiting   State = "waiting"
	// Unaccounted says: the commit point has passed it, no cursor holds it, and it has
	// no receipt. It was finished while none were written, or it is what Run finds.
	Unaccounted State = "unaccounted"
)

// Story is what became of an event.
type Story struct {
	Tenant     string    `json:"tenant"`
	Source     string    `json:"source"`
	EventID    string    `json:"event_id"`
	Key        string    `json:"key"`
	Position   Position  `json:"position"`
	ReceivedAt time.Time `json:"received_at,omitzero"`
	Bytes      int       `json:"bytes,omitzero"` // of the event as it was sent; absent if Gone
	Gone       bool      `json:"gone,omitzero"`  // the event is gone from the log; its receipts are there
	State      State     `json:"state"`
	Wait       *Wait     `json:"wait,omitzero"` // if it waits
	Receipts   []Receipt `json:"receipts"`
	Letters    []Letter  `json:"letters,omitzero"`
	// RedriveOf is where the event stood whose dead letter this one puts back; Redriven
	// are the events that put its own letters back. Each has a story.
	RedriveOf *Position  `json:"redrive_of,omitzero"`
	Redriven  []Position `json:"redriven,omitzero"`

	tenant, key []byte // as the record has them
}

// Receipt is one of the receipts of an event, with its place.
type Receipt struct {
	Position       Position        `json:"position"`
	Outcome        receipt.Outcome `json:"outcome"`
	Reason         string          `json:"reason,omitzero"`
	Calls          []Call          `json:"calls"`
	Attempts       int             `json:"attempts"`
	FirstAttemptAt time.Time       `json:"first_attempt_at,omitzero"`
	FinishedAt     time.Time       `json:"finished_at"`
	Rules          int             `json:"rules"`
	RulesOf        string          `json:"rules_of,omitzero"`
	Library        string          `json:"library,omitzero"`
	Withheld       []string        `json:"withheld,omitzero"`
	Replay         string          `json:"replay,omitzero"`
}

// Call is a call that the receiver accepted.
type Call struct {
	Type   string `json:"type"`
	ID     string `json:"id"`
	Digest string `json:"digest"`
}

// Letter is a dead letter of an event, with its place.
type Letter struct {
	Position Position          `json:"position"`
	Reason   deadletter.Reason `json:"reason"`
	Stage    deadletter.Stage  `json:"stage"`
	Detail   string            `json:"detail"`
	Attempts int               `json:"attempts"`
	Status   int               `json:"status,omitzero"`
	DeadAt   time.Time         `json:"dead_at"`
}

// tracer is one search.
type tracer struct {
	Query
	log      *queue.Log
	group    *Group
	events   map[int]queue.Bounds
	receipts map[int]queue.Bounds
	dead     map[int]queue.Bounds
	id       string // as the header has it
	key      string // of the user's records; "" without a user

	mu      sync.Mutex
	stories map[Position]*Story
	omitted int
}

// Trace returns the stories, ordered by when the events were accepted; none if
// there is no such event; and how many older ones it left out. It asks for the commits first, so that what they pass
// has its receipt in what is read then.
func Trace(ctx context.Context, log *queue.Log, q Query) (stories []*Story, omitted int, err error) {
	q.Most = cmp.Or(q.Most, DefaultStories)
	t := &tracer{Query: q, log: log, id: bounded(q.EventID), stories: make(map[Position]*Story)}
	if q.User != "" {
		t.key = q.Tenant + "/" + bounded(q.User)
	}
	if t.group, err = LoadGroup(ctx, log, q.Group, q.Topics.Events()); err != nil {
		return nil, 0, err
	}
	if t.receipts, err = log.Bounds(ctx, q.Topics.Receipts()); err != nil {
		return nil, 0, err
	}
	if t.dead, err = log.Bounds(ctx, q.Topics.Dead()); err != nil {
		return nil, 0, err
	}
	if t.events, err = log.Bounds(ctx, q.Topics.Events()); err != nil {
		return nil, 0, err
	}
	if err := samePartitions(q.Topics, t.events, t.receipts, t.dead); err != nil {
		return nil, 0, err
	}
	if t.key != "" {
		err = t.ofUser(ctx)
	} else {
		err = t.ofEvent(ctx)
	}
	if err != nil {
		return nil, 0, err
	}
	stories = slices.DeleteFunc(t.sorted(), func(s *Story) bool { return !t.has(s.ReceivedAt) })
	for _, s := range stories {
		t.conclude(s)
		if s.RedriveOf != nil && t.stories[*s.RedriveOf] != nil {
			of := t.stories[*s.RedriveOf]
			of.Redriven = append(of.Redriven, s.Position)
		}
	}
	if err := t.readLetters(ctx, stories); err != nil {
		return nil, 0, err
	}
	return stories, t.omitted, nil
}

// maxKeyBytes is how long an id may be in a record's key or header, before its hash
// stands there instead.
const maxKeyBytes = 512

// bounded is the id as the ingress puts it into keys and headers.
func bounded(id string) string {
	if len(id) <= maxKeyBytes {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// ofUser reads the partition of the user: his events, then their receipts.
func (t *tracer) ofUser(ctx context.Context) error {
	p := queue.PartitionOf([]byte(t.key), len(t.events))
	events, err := t.stretches(ctx, t.log, t.Topics.Events(), t.events)
	if err != nil {
		return err
	}
	if err := t.readEvents(ctx, events[p]); err != nil || len(t.stories) == 0 {
		return err
	}
	t.prune(t.Most)
	first := time.Now()
	for _, s := range t.stories {
		if s.ReceivedAt.Before(first) {
			first = s.ReceivedAt
		}
	}
	receipts, err := Range{From: first}.later().stretches(ctx, t.log, t.Topics.Receipts(), t.receipts)
	if err != nil {
		return err
	}
	return t.readReceipts(ctx, receipts[p], false)
}

// ofEvent looks for the event's receipts, which are small, then for the event
// where they say that it is; if there are none, among the events that may be
// unfinished.
func (t *tracer) ofEvent(ctx context.Context) error {
	receipts, err := t.later().stretches(ctx, t.log, t.Topics.Receipts(), t.receipts)
	if err != nil {
		return err
	}
	err = sideBySide(ctx, receipts, func(ctx context.Context, s stretch) error { return t.readReceipts(ctx, s, true) })
	if err != nil {
		return err
	}
	t.prune(t.Most)
	if len(t.stories) > 0 {
		err := sideBySide(ctx, slices.Collect(maps.Values(t.stories)), t.readEvent)
		if err != nil || !slices.ContainsFunc(slices.Collect(maps.Values(t.stories)), (*Story).died) {
			return err
		}
		// It may have been put back, and have no outcome yet.
	}
	events, err := t.stretches(ctx, t.log, t.Topics.Events(), t.events)
	if err != nil {
		return err
	}
	err = sideBySide(ctx, events, func(ctx context.Context, s stretch) error {
		s.from = max(s.from, t.group.unfinished(s.partition))
		return t.readEvents(ctx, s)
	})
	t.prune(t.Most)
	return err
}

// wanted tells whether a record, of events or receipts, is of what is asked for.
func (t *tracer) wanted(r *queue.Record) bool {
	return (t.key == "" || string(r.Key) == t.key) &&
		(t.id == "" || string(header(r, queue.HeaderEventID)) == t.id) &&
		(t.Tenant == "" || string(header(r, queue.HeaderTenant)) == t.Tenant)
}

func (t *tracer) readEvents(ctx context.Context, s stretch) error {
	return readKept(ctx, t.log, t.Topics.Events(), s, t.wanted, func(r *queue.Record) bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.story(position(r)).tell(r)
		t.prune(2 * t.Most)
		return true
	}, nil)
}

// story returns the story of the event at a position, a new one if need be. The
// caller has the lock.
func (t *tracer) story(at Position) *Story {
	s := t.stories[at]
	if s == nil {
		s = &Story{Position: at, Receipts: []Receipt{}}
		t.stories[at] = s
	}
	return s
}

// prune drops the oldest stories where there are too many. The caller has the lock.
func (t *tracer) prune(most int) {
	if len(t.stories) <= most {
		return
	}
	for _, s := range t.sorted()[:len(t.stories)-t.Most] {
		delete(t.stories, s.Position)
		t.omitted++
	}
}

func (t *tracer) sorted() []*Story {
	return slices.SortedFunc(maps.Values(t.stories), func(a, b *Story) int {
		return cmp.Or(a.ReceivedAt.Compare(b.ReceivedAt), cmp.Compare(a.Position.Partition, b.Position.Partition), cmp.Compare(a.Position.Offset, b.Position.Offset))
	})
}

// died reports whether a receipt says that the event is dead.
func (s *Story) died() bool {
	return slices.ContainsFunc(s.Receipts, func(r Receipt) bool { return r.Outcome == receipt.Dead && r.Reason != discarded })
}

// tell says what the event's record does.
func (s *Story) tell(r *queue.Record) {
	s.tenant = header(r, queue.HeaderTenant)
	s.Tenant, s.Source = text(s.tenant), text(header(r, queue.HeaderSource))
	s.EventID, s.Key, s.key = text(header(r, queue.HeaderEventID)), text(r.Key), r.Key
	s.ReceivedAt, s.Bytes, s.Gone = r.Time.UTC(), len(r.Value), false
	if m, err := redrive.MarkOf(r); err == nil && m != nil {
		s.RedriveOf = &Position{s.Position.Topic, s.Position.Partition, m.Of}
	}
	if at, err := time.Parse(time.RFC3339Nano, string(header(r, queue.HeaderReceivedAt))); err == nil {
		s.ReceivedAt = at.UTC()
	}
}

// readReceipts adds the receipts to the stories, and new stories too where there
// are none.
func (t *tracer) readReceipts(ctx context.Context, s stretch, more bool) error {
	return readKept(ctx, t.log, t.Topics.Receipts(), s, t.wanted, func(r *queue.Record) bool {
		got, err := receipt.Parse(r.Value)
		if err != nil {
			return true // Run finds it
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		at := Position{t.Topics.Events(), got.Partition, got.Offset}
		if t.stories[at] == nil && !more {
			return true
		}
		story := t.story(at)
		if len(story.Receipts) == 0 && story.key == nil {
			story.tenant = header(r, queue.HeaderTenant)
			story.Tenant, story.Source, story.EventID = got.Tenant, got.Source, got.EventID
			story.Key, story.key, story.ReceivedAt, story.Gone = text(r.Key), r.Key, got.ReceivedAt, true
			if got.RedriveOf != nil {
				story.RedriveOf = &Position{at.Topic, at.Partition, *got.RedriveOf}
			}
		}
		story.add(&got, position(r))
		t.prune(2 * t.Most)
		return true
	}, nil)
}

// maxReceipts bounds the receipts of one story.
const maxReceipts = 100

func (s *Story) add(r *receipt.Receipt, at Position) {
	if len(s.Receipts) == maxReceipts {
		return
	}
	calls := make([]Call, len(r.Calls))
	for i, c := range r.Calls {
		calls[i] = Call{Type: c.Type, ID: c.ID, Digest: c.Digest.String()}
	}
	s.Receipts = append(s.Receipts, Receipt{
		Position: at, Outcome: r.Outcome, Reason: r.Reason, Calls: calls, Attempts: r.Attempts,
		FirstAttemptAt: r.FirstAttemptAt, FinishedAt: r.FinishedAt, Rules: r.Rules, RulesOf: r.RulesOf, Library: r.Library,
		Withheld: r.Withheld, Replay: r.Replay,
	})
}

// readEvent reads the event of a story that its receipt tells of.
func (t *tracer) readEvent(ctx context.Context, s *Story) error {
	b, ok := t.events[s.Position.Partition]
	if !ok || s.Position.Offset < b.Start || s.Position.Offset >= b.End {
		return nil
	}
	r, err := recordAt(ctx, t.log, s.Position.Topic, s.Position.Partition, s.Position.Offset)
	if err != nil || r == nil || !t.wanted(r) {
		return err
	}
	s.tell(r)
	return nil
}

// conclude says how far an event is.
func (t *tracer) conclude(s *Story) {
	s.State = Unaccounted
	for i := range s.Receipts {
		if r := &s.Receipts[i]; r.Replay == "" && r.Reason != discarded {
			s.State = State(r.Outcome)
			return
		}
	}
	if w, waits := t.group.Waits(s.Position.Partition, s.tenant, s.key, s.Position.Offset); waits && !s.Gone {
		s.State, s.Wait = Waiting, &w
	}
}

// readLetters adds the dead letters, if there are any. A letter has the key of its
// event, and was written when that died, or later.
func (t *tracer) readLetters(ctx context.Context, stories []*Story) error {
	of := make(map[queue.Position]*Story)
	ids := make(map[string]bool)
	from := make(map[int]time.Time)
	for _, s := range stories {
		if s.State == Delivered || s.State == Ignored {
			continue
		}
		of[queue.Position(s.Position)], ids[s.EventID] = s, true
		at := s.ReceivedAt
		if s.State == Dead {
			at = slices.MinFunc(s.Receipts, func(a, b Receipt) int { return a.FinishedAt.Compare(b.FinishedAt) }).FinishedAt
		}
		p := queue.PartitionOf(s.key, len(t.dead))
		if first, ok := from[p]; !ok || at.Before(first) {
			from[p] = at
		}
	}
	return sideBySide(ctx, slices.Collect(maps.Keys(from)), func(ctx context.Context, p int) error {
		ranges, err := Range{From: from[p]}.later().stretches(ctx, t.log, t.Topics.Dead(), t.dead)
		if err != nil {
			return err
		}
		return read(ctx, t.log, t.Topics.Dead(), ranges[p], func(r *queue.Record) bool {
			if !ids[string(header(r, queue.HeaderEventID))] && !ids[""] {
				return true
			}
			l, err := deadletter.Decode(r.Value)
			if err != nil {
				return true // Run finds it
			}
			t.mu.Lock()
			defer t.mu.Unlock()
			if s := of[l.Origin]; s != nil && len(s.Letters) < maxReceipts {
				s.Letters = append(s.Letters, Letter{
					Position: position(r), Reason: l.Reason, Stage: l.Stage, Detail: l.Detail, Attempts: l.Attempts, Status: l.Status, DeadAt: l.DeadAt,
				})
			}
			return true
		}, nil)
	})
}
