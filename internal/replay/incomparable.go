package replay

// Incomparable is why it cannot be said of an event whether, or how, its calls differ.
// The set is closed.
type Incomparable string

// The reasons. In the last three it is certain that the calls differ.
const (
	NoReceipt     Incomparable = "no_receipt"     // the log has no receipt of the event
	NotDelivered  Incomparable = "not_delivered"  // it was given up on when it was sent, or before it could be
	NoRules       Incomparable = "no_rules"       // the rules of then are not in the log
	OtherVersion  Incomparable = "other_version"  // the rules of then are of another version of the mapping
	NotReproduced Incomparable = "not_reproduced" // the rules of then do not give what was sent
)

// Incomparables returns all reasons.
func Incomparables() []Incomparable {
	return []Incomparable{NoReceipt, NotDelivered, NoRules, OtherVersion, NotReproduced}
}

// Differs tells whether it is certain that the calls differ, though not how.
func (i Incomparable) Differs() bool {
	return i == NoRules || i == OtherVersion || i == NotReproduced
}

// Meaning says for people what the reason means.
func (i Incomparable) Meaning() string {
	switch i {
	case NoReceipt:
		return "the log has no receipt of it: it is not finished yet, receipts were off, or the log has dropped it"
	case NotDelivered:
		return "it was given up on when it was sent, or before it could be: see refiner-source dead list"
	case NoRules:
		return "its calls differ, but how cannot be said: the text of the rules of then is not in the log"
	case OtherVersion:
		return "its calls differ, but how cannot be said: they were made by another version of the mapping rules"
	case NotReproduced:
		return "its calls differ, but how cannot be said: by the rules of then this program makes other calls than were sent"
	default:
		return string(i)
	}
}
