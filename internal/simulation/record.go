package simulation

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/checker"
	"refinersource/internal/lane"
	"refinersource/internal/queue"
)

// record is what everybody but the system under test saw.
type record struct {
	mu       sync.Mutex // never held across a wait
	h        checker.History
	requests []*checker.Request
	faults   []*checker.Fault
	next     map[int]queue.Offset // of each partition of the log, to be dumped
	last     map[int32]checker.Commit

	dumping chan struct{} // holds one while the log is read
	commits chan struct{} // a commit may have been made
	quit    chan struct{}
	running sync.WaitGroup
}

func newRecord(p *plan) *record {
	r := &record{
		next: make(map[int]queue.Offset), last: make(map[int32]checker.Commit),
		dumping: make(chan struct{}, 1), commits: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	for _, t := range p.tenants {
		c := checker.Tenant{
			ID: string(t.ID), WriteKeys: []checker.WriteKey{{Key: t.WriteKey.Reveal()}}, Endpoint: t.Endpoint,
			Prefix: t.Rules.Prefix, OrderBy: string(t.Rules.OrderBy), Pairing: string(t.Pairing),
		}
		for name := range t.Rules.AccountProperties {
			c.AccountProperties = append(c.AccountProperties, name)
		}
		r.h.Tenants = append(r.h.Tenants, c)
	}
	return r
}

func (r *record) sent(s checker.Sent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Sent = append(r.h.Sent, s)
}

// promised are the events that were answered 202.
func (r *record) promised() []checker.Sent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.h.Sent), func(s checker.Sent) bool { return s.Status != http.StatusAccepted })
}

func (r *record) request(q *checker.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, q)
}

func (r *record) answered(q *checker.Request, a reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	q.Answered, q.Status, q.SentAnswer = now(), a.status, true
	if a.retryAfter > 0 {
		q.RetryAfter = fmt.Sprint(a.retryAfter)
	}
}

func (r *record) rotated(id, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.h.Tenants {
		if t := &r.h.Tenants[i]; t.ID == id {
			t.WriteKeys[len(t.WriteKeys)-1].Until = now()
			t.WriteKeys = append(t.WriteKeys, checker.WriteKey{Key: key, From: now()})
		}
	}
}

// forgotten notes that a user is to be forgotten from now on, and reports whether it is
// the first one of the tenant.
func (r *record) forgotten(id, user string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.h.Tenants {
		if t := &r.h.Tenants[i]; t.ID == id && t.Forgotten == nil {
			t.Forgotten, t.ForgottenAt = []string{user}, now()
			return true
		}
	}
	return false
}

// effects of the kinds that have one; the others are harmless.
var effects = map[Kind][]checker.Effect{
	Joins: {checker.Restart}, Leaves: {checker.Restart}, Crashes: {checker.Unclean},
	Freezes: {checker.Frozen}, Isolated: {checker.Frozen},
	CommitRefused: {checker.Unclean}, CommitUnsure: {checker.Unclean},
	CoordinatorErrors: {checker.Unclean}, CoordinatorMoves: {checker.Unclean},
	Trimmed: {checker.Trimmed}, TrimmedAhead: {checker.Trimmed},
}

func (r *record) fault(f fault, at checker.Time) *checker.Fault {
	e := effects[f.kind]
	if e == nil {
		e = []checker.Effect{checker.Harmless}
	}
	entry := &checker.Fault{At: at, Until: at, Fault: string(f.kind), Effects: e}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, entry)
	return entry
}

func (r *record) faultOver(f *checker.Fault, at checker.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.Until = at; at == 0 {
		f.Until = now() + int64(drainBound)
	}
}

func (r *record) trimmed(partition int, to int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next[partition] = max(r.next[partition], queue.Offset(to))
}

// watchCommits keeps each commit that the coordinator stores. A request says
// only that there may be one; what is stored is asked for.
func (r *record) watchCommits(w *world) {
	cluster := w.cluster()
	cluster.ControlKey(int16(kmsg.OffsetCommit), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		select {
		case r.commits <- struct{}{}:
		default:
		}
		return nil, nil, false
	})
	r.running.Go(func() {
		for {
			select {
			case <-r.quit:
				return
			case <-r.commits:
				r.look(w)
			}
		}
	})
}

// look keeps the commits that are new.
func (r *record) look(w *world) {
	commits := w.commits()
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range int32(w.plan.partitions) {
		c, ok := commits[p]
		if !ok {
			continue
		}
		entry := checker.Commit{At: c.At.UnixNano(), Partition: int(p), Offset: c.Offset, Metadata: c.Metadata}
		if entry != r.last[p] {
			r.last[p] = entry
			w.happens("partition %d: committed %d", p, c.Offset)
			r.h.Commits = append(r.h.Commits, entry)
		}
	}
}

func (r *record) stop() {
	close(r.quit)
	r.running.Wait()
}

// dump reads what is new in the log, and all dead letters at the end.
func (r *record) dump(ctx context.Context, w *world) error {
	r.dumping <- struct{}{}
	defer func() { <-r.dumping }()
	for p, info := range w.cluster().PartitionInfos(w.topics.Events()) {
		r.mu.Lock()
		from := max(r.next[p], queue.Offset(info.LogStartOffset))
		r.mu.Unlock()
		reader := w.log.Reader(w.topics.Events(), p, from, queue.ReaderOptions{})
		for int64(reader.Offset()) < info.HighWatermark {
			b, err := reader.Next(ctx)
			if err != nil {
				return err
			}
			r.mu.Lock()
			for _, rec := range b.Records {
				w.happens("dumped %d/%d %s %s", rec.Partition, rec.Offset, rec.Key, rec.Header(queue.HeaderEventID))
				r.h.Log = append(r.h.Log, dumped(rec))
			}
			r.next[p] = reader.Offset()
			r.mu.Unlock()
		}
	}
	return nil
}

func dumped(rec queue.Record) checker.Record {
	out := checker.Record{
		Partition: rec.Partition, Offset: int64(rec.Offset), Key: rec.Key, Value: rec.Value,
		Time: rec.Time.UnixNano(), Headers: make(map[string]string, len(rec.Headers)),
	}
	for _, h := range rec.Headers {
		out.Headers[h.Key] = string(h.Value)
	}
	return out
}

// final keeps how things stand when the workers have ended.
func (r *record) final(w *world) {
	r.look(w)
	letters, err := w.letters()
	if err != nil {
		w.violate("read the dead letters: %v", err)
	}
	commits := w.commits()
	infos := w.cluster().PartitionInfos(w.topics.Events())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Letters = letters
	r.h.Final.At = now()
	for p, info := range infos {
		r.h.Bounds = append(r.h.Bounds, checker.Bounds{Partition: p, Start: info.LogStartOffset, End: info.HighWatermark})
		position := checker.Position{Partition: p, Committed: -1}
		if c, ok := commits[int32(p)]; ok {
			position.Committed, position.Metadata = c.Offset, c.Metadata
		}
		r.h.Final.Positions = append(r.h.Final.Positions, position)
	}
	for _, i := range w.plan.broken {
		r.h.Final.Failing = append(r.h.Final.Failing, string(w.plan.tenants[i].ID))
	}
}

func (w *world) letters() ([]checker.Letter, error) {
	ctx, cancel := context.WithTimeout(context.Background(), tidyBound)
	defer cancel()
	var letters []checker.Letter
	for p, info := range w.cluster().PartitionInfos(w.topics.Dead()) {
		reader := w.log.Reader(w.topics.Dead(), p, 0, queue.ReaderOptions{})
		for int64(reader.Offset()) < info.HighWatermark {
			b, err := reader.Next(ctx)
			if err != nil {
				return letters, err
			}
			for _, rec := range b.Records {
				letters = append(letters, checker.Letter{Partition: p, Offset: int64(rec.Offset), Value: rec.Value, Time: rec.Time.UnixNano()})
			}
		}
	}
	return letters, nil
}

// finishedBefore is the offset before which a commit says that all is finished; 0
// where that cannot be told.
func finishedBefore(c kfake.GroupCommit) int64 {
	if cursors(c.Metadata) != 0 {
		return 0 // they point at what is not
	}
	return c.Offset
}

// cursors is the number of tenant cursors in the metadata of a commit; -1 if it cannot be
// read.
func cursors(metadata string) int {
	m, err := lane.Decode(metadata)
	if err != nil {
		return -1
	}
	return len(m.Cursors)
}

// conclude lets what was recorded be checked, and counts it.
func (r *record) conclude(report *Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.requests {
		r.h.Received = append(r.h.Received, *q)
	}
	for _, f := range r.faults {
		r.h.Faults = append(r.h.Faults, *f)
	}
	slices.SortStableFunc(r.h.Log, func(a, b checker.Record) int {
		if a.Partition != b.Partition {
			return a.Partition - b.Partition
		}
		return int(a.Offset - b.Offset)
	})
	found := checker.Check(&r.h, checker.Options{ForgetGrace: 10 * time.Second}) // the longest request is 9 s
	report.Events, report.Requests, report.Letters = found.Events, found.Requests, found.Letters
	report.Calls, report.Repeats = found.Applied, found.Repeats.Calls
	report.Broken = make(map[string]int)
	for rule, n := range found.Counts {
		report.Broken[rule.String()] = n
	}
	for _, v := range found.Violations {
		report.Violations = append(report.Violations, v.String())
	}
}

// applied is how many different calls of each tenant have taken effect.
func (r *record) applied() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	owner := make(map[string]string)
	for _, t := range r.h.Tenants {
		owner[t.Endpoint] = t.ID
	}
	seen, n := make(map[string]bool), make(map[string]int)
	for _, q := range r.requests {
		for _, raw := range q.Calls {
			if q.Applied > 0 && !seen[string(raw)] {
				seen[string(raw)] = true
				n[owner[q.Endpoint]]++
			}
		}
	}
	return n
}
