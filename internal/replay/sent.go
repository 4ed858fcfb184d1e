package replay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"refinersource/internal/attribution"
	"refinersource/internal/deadletter"
	"refinersource/internal/queue"
	"refinersource/internal/receipt"
	"refinersource/internal/tenant"
)

// sent is what receipts say was sent of the events of a span, by their offsets. Of
// each event the first receipt of live traffic counts: what a replay sent again is not
// what was sent first, and a mark on a dead letter is not about what was sent.
type sent struct {
	span    Span
	table   []sentEvent
	stories []story // what many receipts have in common; the first is that of no receipt
	known   map[story]uint32
	// unreadable is how many receipts of the partition cannot be read.
	unreadable int
}

// sentEvent is what is known of one event.
type sentEvent struct {
	digests  digest // of its calls
	event    uint32 // a hash of its id; 0 is not known
	story    uint32
	replayed bool // a replay sent it too
}

// sentEventBytes is what an event takes in the table.
const sentEventBytes = 28

// story is what receipts say of the fate of their events, besides the calls.
type story struct {
	outcome receipt.Outcome
	reason  string
	// unsent: it died before anything was sent.
	unsent           bool
	rules            int // version of the mapping rules
	rulesOf, library string
}

// digest is one of several calls: that of their digests.
type digest [16]byte

// digestOf returns the digest of calls. It uses scratch, and returns it as it has
// grown.
func digestOf(calls []attribution.Call, scratch []byte) (digest, []byte) {
	all := sha256.New()
	for i := range calls {
		var one [attribution.DigestBytes]byte
		one, scratch = calls[i].Digest(scratch)
		_, _ = all.Write(one[:])
	}
	return digest(all.Sum(nil)), scratch
}

// clockSkew is by how much the clocks of those who accept events and of those who
// finish them may differ.
const clockSkew = 10 * time.Minute

var eventSeed = maphash.MakeSeed()

// hashEvent is that of an event's id; 0 for one that a receipt would have cut or
// mended.
func hashEvent(id string) uint32 {
	if id == "" || len(id) > receipt.MaxTextBytes || !utf8.ValidString(id) {
		return 0
	}
	return max(1, uint32(maphash.String(eventSeed, id)))
}

// readSent reads the receipts of a span's events. They stand in the same partition
// of their topic, in the order in which the events were finished, be it days later.
func readSent(ctx context.Context, log *queue.Log, topics queue.Topics, span Span, tenants []tenant.ID) (*sent, error) {
	s := &sent{
		span: span, table: make([]sentEvent, span.To-span.From),
		stories: make([]story, 1), known: make(map[story]uint32),
	}
	bounds, err := log.Bounds(ctx, topics.Receipts())
	if err != nil {
		return nil, err
	}
	b, ok := bounds[span.Partition]
	if !ok {
		return nil, fmt.Errorf("%s has %d partitions and none for partition %d of %s: see refiner-source topics check",
			topics.Receipts(), len(bounds), span.Partition, topics.Events())
	}
	from, err := begin(ctx, log, topics, span)
	if err != nil {
		return nil, err
	}
	r := log.Reader(topics.Receipts(), span.Partition, max(from, b.Start), queue.ReaderOptions{MaxBytes: scanBytes})
	for r.Offset() < b.End {
		batch, err := r.Next(ctx)
		if errors.Is(err, queue.ErrGap) {
			r.SkipGap() // what is missing is missing with the events
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range batch.Records {
			rec := &batch.Records[i]
			if len(tenants) > 0 && !slices.Contains(tenants, tenant.ID(rec.Header(queue.HeaderTenant))) {
				continue
			}
			if got, err := receipt.Parse(rec.Value); err != nil {
				s.unreadable++
			} else {
				s.add(&got)
			}
		}
	}
	return s, nil
}

// begin is where in the receipts' partition those of a span can begin: none is older
// than the first event.
func begin(ctx context.Context, log *queue.Log, topics queue.Topics, span Span) (queue.Offset, error) {
	r := log.Reader(topics.Events(), span.Partition, span.From, queue.ReaderOptions{MaxBytes: 1}) // one batch comes all the same
	b, err := r.Next(ctx)
	switch {
	case errors.Is(err, queue.ErrGap), err == nil && len(b.Records) == 0:
		return 0, nil
	case err != nil:
		return 0, err
	}
	at, err := log.OffsetsAt(ctx, topics.Receipts(), b.Records[0].Time.Add(-clockSkew))
	return at[span.Partition], err
}

// add takes in a receipt.
func (s *sent) add(r *receipt.Receipt) {
	if r.Partition != s.span.Partition || r.Offset < s.span.From || r.Offset >= s.span.To {
		return
	}
	e := &s.table[r.Offset-s.span.From]
	switch {
	case r.Replay != "":
		e.replayed = true
		return
	case r.Outcome == receipt.Dead && r.Reason == deadletter.Discarded, e.story != 0:
		return
	}
	what := story{outcome: r.Outcome, reason: r.Reason, unsent: unsent(r), rules: r.Rules, rulesOf: r.RulesOf, library: r.Library}
	n, ok := s.known[what]
	if !ok {
		n = uint32(len(s.stories))
		s.stories, s.known[what] = append(s.stories, what), n
	}
	all := sha256.New()
	for i := range r.Calls {
		_, _ = all.Write(r.Calls[i].Digest[:])
	}
	e.digests, e.event, e.story = digest(all.Sum(nil)), hashEvent(r.EventID), n
}

// unsent reports whether an event died when it was read: what it holds, or its
// tenant's rules, made no calls.
func unsent(r *receipt.Receipt) bool {
	if r.Outcome != receipt.Dead || len(r.Calls) > 0 || !r.FirstAttemptAt.IsZero() {
		return false
	}
	switch deadletter.Reason(r.Reason) {
	case deadletter.Undecodable, deadletter.BadIdentity, deadletter.AmbiguousIdentity, deadletter.NoIdentity, deadletter.TooLarge, deadletter.UnknownTenant:
		return true
	case deadletter.Rejected, deadletter.WouldBeDropped, deadletter.Poison, deadletter.Outlived:
		return false
	default:
		return false
	}
}

// of returns what is known of an event, and the story of its receipt; nil if it has
// none.
func (s *sent) of(e *Event) (*sentEvent, *story) {
	known := &s.table[e.Record.Offset-s.span.From]
	if id := hashEvent(e.Record.Header(queue.HeaderEventID)); known.story == 0 || id != known.event && id != 0 && known.event != 0 {
		return known, nil
	}
	return known, &s.stories[known.story]
}

// rulesOfThen are the rules that receipts name. It is safe for concurrent use.
type rulesOfThen struct {
	texts map[receipt.RulesKey][]byte

	mu     sync.Mutex // never held but to look up, or to parse a text
	parsed map[parsedKey]*attribution.Rules
}

type parsedKey struct {
	receipt.RulesKey
	library string
}

// get returns the rules that were in force; nil if their text is not in the log, or
// is not understood.
func (r *rulesOfThen) get(id tenant.ID, what *story) *attribution.Rules {
	key := parsedKey{receipt.RulesKey{Tenant: string(id), Fingerprint: what.rulesOf}, what.library}
	r.mu.Lock()
	defer r.mu.Unlock()
	if rules, ok := r.parsed[key]; ok {
		return rules
	}
	var rules *attribution.Rules
	if text, ok := r.texts[key.RulesKey]; ok {
		if parsed, err := tenant.ParseRules(text); err == nil {
			parsed.LibraryVersion = what.library
			rules = &parsed
		}
	}
	r.parsed[key] = rules
	return rules
}
