package audit

import (
	"cmp"
	"maps"
	"slices"

	"refinersource/internal/queue"
)

// Kind says what is wrong. The set is closed.
type Kind string

// The kinds.
const (
	// NoOutcome: the commit point has passed the event, no cursor holds it, and it
	// has no receipt.
	NoOutcome Kind = "no_outcome"
	// OutcomesDisagree: two receipts of the event say different outcomes, or its
	// receipt says that it is not dead, and there is a letter.
	OutcomesDisagree Kind = "outcomes_disagree"
	// IDsDiffer: two receipts of the event name different message ids.
	IDsDiffer Kind = "message_ids_differ"
	// DeadWithoutLetter: its receipt says that it is dead, and there is no letter.
	DeadWithoutLetter Kind = "dead_without_letter"
	// LetterWithoutReceipt: it has a dead letter, the commit point has passed it, and
	// it has no receipt.
	LetterWithoutReceipt Kind = "letter_without_receipt"
	// ReceiptWithoutEvent: the receipt's origin is an offset that has no event.
	ReceiptWithoutEvent Kind = "receipt_without_event"
	// OtherEvent: at the origin of the receipt, or of the letter, stands an event of
	// another id or tenant.
	OtherEvent Kind = "other_event"
	// Gap: events are gone from the log, before the end of the range and behind its
	// beginning, or before they were finished. What became of them is not proven.
	Gap Kind = "gap"
	// UnsoundCommit: the group's commit of the partition cannot be understood, or
	// does not fit the log.
	UnsoundCommit Kind = "unsound_commit"
	// UnreadableReceipt: a record of the receipts topic is no receipt.
	UnreadableReceipt Kind = "unreadable_receipt"
	// UnreadableLetter: a record of the dead-letter topic is no letter.
	UnreadableLetter Kind = "unreadable_letter"
)

// Kinds returns all kinds.
func Kinds() []Kind {
	return []Kind{
		NoOutcome, OutcomesDisagree, IDsDiffer, DeadWithoutLetter, LetterWithoutReceipt, ReceiptWithoutEvent, OtherEvent,
		Gap, UnsoundCommit, UnreadableReceipt, UnreadableLetter,
	}
}

// Remedy says what to do about findings of the kind.
func (k Kind) Remedy() string {
	switch k {
	case NoOutcome:
		return "if receipts were off at that time, begin the range after it; else the event was lost: replay its partition from its offset"
	case OutcomesDisagree, IDsDiffer:
		return "see both with trace; a change of the rules between two deliveries explains it, anything else is a fault of the worker"
	case DeadWithoutLetter:
		return "the event is still in the log: replay its partition from its offset"
	case LetterWithoutReceipt:
		return "see the letter with trace; redrive or discard it"
	case ReceiptWithoutEvent, OtherEvent:
		return "the events topic was made anew, or somebody else writes to these topics: begin the range after that, or forbid it"
	case Gap:
		return "look at the topic's retention and cleanup policy with topics check; ask the senders for these events, or import them"
	case UnsoundCommit:
		return "see offsets show; until it is mended the workers leave the partition alone"
	case UnreadableReceipt, UnreadableLetter:
		return "a newer version wrote it, or somebody else: audit with the newest version"
	default:
		return ""
	}
}

// Position is a place in the log.
type Position struct {
	Topic     string       `json:"topic"`
	Partition int          `json:"partition"`
	Offset    queue.Offset `json:"offset"`
}

func position(r *queue.Record) Position { return Position(r.Position) }

// Finding is something that is wrong.
type Finding struct {
	Kind    Kind   `json:"kind"`
	Tenant  string `json:"tenant,omitzero"`
	EventID string `json:"event_id,omitzero"`
	// Position is that of the event, or of the record itself where it is unreadable.
	Position
	To      queue.Offset `json:"to,omitzero"`      // behind the last of the events, where it is about several
	Witness Position     `json:"witness,omitzero"` // the receipt or letter that shows it
	Detail  string       `json:"detail"`
}

// findings are those of a part, in bounded memory.
type findings struct {
	most    int
	counts  map[Kind]int
	tenants map[string]int
	list    map[Kind][]Finding
}

func newFindings(most int) *findings {
	return &findings{most: most, counts: make(map[Kind]int), tenants: make(map[string]int), list: make(map[Kind][]Finding)}
}

func (f *findings) add(x Finding) {
	f.counts[x.Kind]++
	f.tenants[x.Tenant]++
	if len(f.list[x.Kind]) < f.most {
		f.list[x.Kind] = append(f.list[x.Kind], x)
	}
}

func (f *findings) merge(o *findings) {
	for kind, n := range o.counts {
		f.counts[kind] += n
	}
	for tenant, n := range o.tenants {
		f.tenants[tenant] += n
	}
	for kind, list := range o.list {
		all := append(f.list[kind], list...)
		f.list[kind] = all[:min(len(all), f.most)]
	}
}

func (f *findings) sorted() []Finding {
	all := []Finding{} // never null as JSON
	for list := range maps.Values(f.list) {
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(Kinds(), a.Kind), slices.Index(Kinds(), b.Kind)),
			cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Topic, b.Topic))
	})
	return all
}
