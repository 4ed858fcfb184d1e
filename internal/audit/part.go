package audit

import (
	"context"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	"refinersource/internal/queue"
	"refinersource/internal/receipt"
)

// part is a partition's share of an audit: the events of the range, and the
// receipts that may be about them.
type part struct {
	*auditor
	events   stretch
	receipts stretch

	table    []entry // of the events, by offset
	names    map[string]uint16
	tenants  []string
	counts   []Counts // of the tenants
	gaps     []queue.GapError
	unproven int
	found    *findings
}

// entry is what is known of an event.
type entry struct {
	id     uint32 // of its tenant and id; 0 if the record does not say its id
	calls  uint32 // of the message ids in its receipt; 0 if it is dead without any
	tenant uint16
	flags  uint16
}

const entryBytes = 12

const (
	flagEvent    = 1 << iota // it stands in the log, and is looked at
	flagWaits                // by the group's commit it may be unfinished
	flagLetter               // it has a dead letter
	flagDisagree             // that its outcomes disagree is found
	flagDiffer               // that its message ids differ is found
	flagOutcome              // the lowest of two bits that hold the outcome
)

const outcomeMask = 3 * flagOutcome

// outcomes are what these bits say.
var outcomes = [...]receipt.Outcome{"", receipt.Delivered, receipt.Dead, receipt.Ignored}

func outcomeFlag(o receipt.Outcome) uint16 {
	for i, known := range outcomes {
		if o == known {
			return uint16(i * flagOutcome)
		}
	}
	return 0
}

func (e *entry) outcome() receipt.Outcome { return outcomes[e.flags&outcomeMask/flagOutcome] }

func (p *part) tableBytes() int64 { return int64(p.events.to-p.events.from) * entryBytes }

// others is the tenant of the events of all tenants that are too many to be told
// apart.
const (
	others     = "(others)"
	maxTenants = 1<<16 - 1
)

// tenant is the number of a tenant.
func (p *part) tenant(name []byte) uint16 {
	if i, ok := p.names[string(name)]; ok {
		return i
	}
	owner := ownerOf(name)
	if len(p.tenants) == maxTenants {
		owner = others
	}
	if len(p.tenants) > maxTenants {
		return maxTenants
	}
	i := uint16(len(p.tenants))
	p.names[string(name)] = i
	p.tenants, p.counts = append(p.tenants, owner), append(p.counts, Counts{})
	return i
}

// ownerOf is the name of a tenant as the worker takes it from the header.
func ownerOf(header []byte) string { return strings.ReplaceAll(text(header), "\x00", "\ufffd") }

var seed = maphash.MakeSeed()

// hash is that of a tenant and the id of an event; never 0.
func hash(tenant, id string) uint32 {
	if id == "" {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(seed)
	_, _ = h.WriteString(tenant)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(id)
	return max(1, uint32(h.Sum64()))
}

// hashCalls is that of the message ids: of a dead event, which has as many calls as
// were accepted before it died, that of the first. It is never 0, but of a dead event
// without calls.
func hashCalls(r *receipt.Receipt) uint32 {
	calls := r.Calls
	if r.Outcome == receipt.Dead {
		if len(calls) == 0 {
			return 0
		}
		calls = calls[:1]
	}
	var h maphash.Hash
	h.SetSeed(seed)
	for i := range calls {
		_, _ = h.WriteString(calls[i].ID)
		_ = h.WriteByte(0)
	}
	return max(1, uint32(h.Sum64()))
}

// leaveOutOld makes the range begin with the first event whose receipt cannot have
// been dropped for its age.
func (p *part) leaveOutOld(ctx context.Context) error {
	b := p.auditor.receipts[p.receipts.partition]
	if b.Start == 0 || p.events.from == p.events.to {
		return nil
	}
	first, err := p.oldest(ctx, p.Topics.Receipts(), b, p.receipts.partition)
	if err != nil {
		return err
	}
	at, err := p.log.OffsetsAt(ctx, p.Topics.Events(), first)
	if err != nil {
		return err
	}
	from := min(max(p.events.from, at[p.events.partition]), p.events.to)
	p.unproven = int(from - p.events.from)
	p.events.from = from
	return nil
}

// checkCommit finds what is wrong with the group's commit.
func (p *part) checkCommit() {
	n := p.events.partition
	s, b := p.group.shares[n], p.auditor.events[n]
	if s == nil {
		return
	}
	at := Position{p.Topics.Events(), n, s.commit}
	switch {
	case s.fault != nil:
		p.found.add(Finding{Kind: UnsoundCommit, Position: at, Detail: s.fault.Error() + "; no cursor of the partition is known"})
	case s.commit > b.End:
		p.found.add(Finding{Kind: UnsoundCommit, Position: at, Detail: fmt.Sprintf("the log ends before the commit, at %d", b.End)})
	case s.split > 0 && s.split != len(p.auditor.events):
		p.found.add(Finding{Kind: UnsoundCommit, Position: at, Detail: fmt.Sprintf("the topic had %d partitions when this was committed, and has %d", s.split, len(p.auditor.events))})
	}
	if s.commit < b.Start {
		p.found.add(Finding{Kind: Gap, Position: at, To: b.Start, Detail: fmt.Sprintf("events %d to %d are gone from the log, and were not finished", s.commit, b.Start-1)})
	}
	for i := range s.cursors {
		c := &s.cursors[i]
		if from := queue.Offset(c.From); from < b.Start && from < s.commit {
			p.found.add(Finding{
				Kind: Gap, Position: Position{p.Topics.Events(), n, from}, To: min(b.Start, s.commit),
				Detail: fmt.Sprintf("events of the tenant with tag %v from %d up to %d are gone from the log, and were not finished", c.Tag, from, min(b.Start, s.commit)-1),
			})
		}
	}
}

// readEvents fills the table with the events.
func (p *part) readEvents(ctx context.Context) error {
	p.table = make([]entry, p.events.to-p.events.from)
	err := read(ctx, p.log, p.Topics.Events(), p.events, func(r *queue.Record) bool {
		name := header(r, queue.HeaderTenant)
		if p.Tenant != "" && string(name) != p.Tenant {
			return true
		}
		e := &p.table[r.Offset-p.events.from]
		e.tenant, e.flags = p.tenant(name), flagEvent
		owner := p.tenants[e.tenant]
		if owner == others {
			owner = ownerOf(name)
		}
		e.id = hash(owner, text(header(r, queue.HeaderEventID)))
		if _, waits := p.group.Waits(p.events.partition, name, r.Key, r.Offset); waits {
			e.flags |= flagWaits
		}
		return true
	}, func(g *queue.GapError) { p.gaps = append(p.gaps, *g) })
	if err != nil {
		return err
	}
	return p.checkGaps(ctx)
}

// checkGaps finds where events are gone. What retention took at the beginning since
// the range was set is no gap: it is just older than the range.
func (p *part) checkGaps(ctx context.Context) error {
	for i := range p.gaps {
		g := &p.gaps[i]
		to := min(g.To, p.events.to)
		if g.From == p.auditor.events[p.events.partition].Start {
			now, err := p.log.Bounds(ctx, g.Topic)
			if err != nil {
				return err
			}
			if now[g.Partition].Start >= g.To {
				p.unproven += int(to - g.From)
				continue
			}
		}
		p.found.add(Finding{
			Kind: Gap, Position: Position{g.Topic, g.Partition, g.From}, To: to,
			Detail: fmt.Sprintf("events %d to %d are gone from the log: what became of them is not proven", g.From, to-1),
		})
	}
	return nil
}

// at returns what is known of the event at an offset; nil if it is not looked at.
func (p *part) at(offset queue.Offset) *entry {
	if offset < p.events.from || offset >= p.events.to {
		return nil
	}
	if e := &p.table[offset-p.events.from]; e.flags&flagEvent != 0 {
		return e
	}
	return nil
}

// markLetters notes which events have a dead letter.
func (p *part) markLetters() {
	for _, l := range p.letters.of[p.events.partition] {
		e := p.at(l.origin)
		if e == nil {
			continue
		}
		e.flags |= flagLetter
		if e.id != l.id && e.id != 0 && l.id != 0 {
			p.finding(OtherEvent, e, l.origin, Position{p.Topics.Dead(), int(l.partition), l.at}, "the letter is about an event of another id or tenant")
		}
	}
}

// finding adds one about an event.
func (p *part) finding(kind Kind, e *entry, at queue.Offset, witness Position, detail string) {
	p.found.add(Finding{
		Kind: kind, Tenant: p.tenants[e.tenant], Position: Position{p.Topics.Events(), p.events.partition, at},
		Witness: witness, Detail: detail,
	})
}

// readReceipts notes what the receipts say.
func (p *part) readReceipts(ctx context.Context) error {
	return read(ctx, p.log, p.Topics.Receipts(), p.receipts, func(r *queue.Record) bool {
		if p.Tenant != "" && string(header(r, queue.HeaderTenant)) != p.Tenant {
			return true
		}
		got, err := receipt.Parse(r.Value)
		if err != nil {
			p.found.add(Finding{Kind: UnreadableReceipt, Tenant: ownerOf(header(r, queue.HeaderTenant)), Position: position(r), Detail: err.Error()})
			return true
		}
		p.receipt(&got, position(r))
		return true
	}, p.receiptsGone)
}

// receiptsGone notes that receipts are gone from the middle of their log.
func (p *part) receiptsGone(g *queue.GapError) {
	p.found.add(Finding{
		Kind: Gap, Position: Position{g.Topic, g.Partition, g.From}, To: g.To,
		Detail: fmt.Sprintf("receipts %d to %d are gone from the log", g.From, g.To-1),
	})
}

// discarded is the reason of a receipt that marks a letter as discarded by somebody.
const discarded = "discarded"

// receipt notes what a receipt says.
func (p *part) receipt(r *receipt.Receipt, at Position) {
	if r.Partition != p.events.partition {
		p.stray(r, at, fmt.Sprintf("the receipt stands in partition %d and is about one of partition %d", at.Partition, r.Partition))
		return
	}
	e := p.at(r.Offset)
	if e == nil {
		if r.Offset < 0 || r.Offset >= p.auditor.events[p.events.partition].End || p.hole(r.Offset) {
			p.stray(r, at, "there is no event at the offset that the receipt is about")
		}
		return
	}
	if id := hash(ownerOf([]byte(r.Tenant)), r.EventID); id != e.id && id != 0 && e.id != 0 {
		p.finding(OtherEvent, e, r.Offset, at, "the receipt is about an event of another id or tenant")
		return
	}
	counts := &p.counts[e.tenant]
	switch {
	case r.Replay != "":
		counts.Replayed++
	case r.Outcome == receipt.Dead && r.Reason == discarded:
		counts.Discarded++
	case e.flags&outcomeMask == 0:
		e.flags |= outcomeFlag(r.Outcome)
		e.calls = hashCalls(r)
		p.compareLetter(e, r, at)
	default:
		counts.Repeats++
		p.compare(e, r, at)
	}
}

// hole tells whether an offset of the range is none of an event, and not gone
// from the log either.
func (p *part) hole(at queue.Offset) bool {
	if at < p.events.from || at >= p.events.to || p.Tenant != "" {
		return false // not read
	}
	for i := range p.gaps {
		if at >= p.gaps[i].From && at < p.gaps[i].To {
			return false
		}
	}
	return true
}

func (p *part) stray(r *receipt.Receipt, at Position, detail string) {
	p.found.add(Finding{
		Kind: ReceiptWithoutEvent, Tenant: ownerOf([]byte(r.Tenant)), EventID: r.EventID,
		Position: Position{p.Topics.Events(), r.Partition, r.Offset}, Witness: at, Detail: detail,
	})
}

// compareLetter holds the first receipt of an event against its letter.
func (p *part) compareLetter(e *entry, r *receipt.Receipt, at Position) {
	switch letter := e.flags&flagLetter != 0; {
	case r.Outcome == receipt.Dead && !letter && !p.lettersGone(r.FinishedAt):
		p.finding(DeadWithoutLetter, e, r.Offset, at, "its receipt says that it is dead, and there is no letter of it")
	case r.Outcome != receipt.Dead && letter && !forgets(r):
		e.flags |= flagDisagree
		p.finding(OutcomesDisagree, e, r.Offset, at, fmt.Sprintf("its receipt says that it is %s, and there is a dead letter of it", r.Outcome))
	}
}

// lettersGone tells whether a letter of that time may have been dropped for its age.
func (p *part) lettersGone(at time.Time) bool {
	for _, first := range p.letters.first {
		if !first.IsZero() && at.Before(first.Add(clockSkew)) {
			return true
		}
	}
	return false
}

// forgets reports whether a receipt says that the respondent was to be forgotten: whatever
// came of the event before, it makes no calls any more.
func forgets(r *receipt.Receipt) bool {
	return r.Outcome == receipt.Ignored && r.Reason == receipt.Forgotten
}

// compare holds a repeated receipt against the first one.
func (p *part) compare(e *entry, r *receipt.Receipt, at Position) {
	switch {
	case forgets(r):
	case r.Outcome != e.outcome():
		if e.flags&flagDisagree == 0 {
			e.flags |= flagDisagree
			p.finding(OutcomesDisagree, e, r.Offset, at, fmt.Sprintf("a receipt of it says that it is %s, and a later one %s", e.outcome(), r.Outcome))
		}
	case e.calls == 0:
		e.calls = hashCalls(r)
	case e.flags&flagDiffer == 0:
		if calls := hashCalls(r); calls != e.calls && calls != 0 {
			e.flags |= flagDiffer
			p.finding(IDsDiffer, e, r.Offset, at, "two receipts of it name different message ids")
		}
	}
}

// conclude counts the events, and finds those without an outcome.
func (p *part) conclude() {
	for i := range p.table {
		e := &p.table[i]
		if e.flags&flagEvent == 0 {
			continue
		}
		c := &p.counts[e.tenant]
		c.Events++
		switch outcome := e.outcome(); {
		case outcome == receipt.Delivered:
			c.Delivered++
		case outcome == receipt.Dead:
			c.Dead++
		case outcome == receipt.Ignored:
			c.Ignored++
		case e.flags&flagWaits != 0:
			c.Waiting++
		case e.flags&flagLetter != 0:
			p.finding(LetterWithoutReceipt, e, p.events.from+queue.Offset(i), Position{}, "it has a dead letter and no receipt, and the commit point has passed it")
		default:
			p.finding(NoOutcome, e, p.events.from+queue.Offset(i), Position{}, "it has no receipt, the commit point has passed it, and no cursor holds it")
		}
	}
}

// name looks up the ids of the events that are listed.
func (p *part) name(ctx context.Context) error {
	for _, list := range p.found.list {
		for i := range list {
			f := &list[i]
			if f.EventID != "" || f.Topic != p.Topics.Events() || f.To != 0 || f.Kind == UnsoundCommit {
				continue
			}
			r, err := recordAt(ctx, p.log, f.Topic, f.Partition, f.Offset)
			if err != nil {
				return err
			}
			if r != nil {
				f.EventID = text(header(r, queue.HeaderEventID))
			}
		}
	}
	return nil
}
