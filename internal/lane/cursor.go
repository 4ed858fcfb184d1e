package lane

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Metadata is what a commit carries beside its offset. Encode makes text of it.
type Metadata struct {
	Partitions int   // how many the topic had; 0 if not known
	Owner      Owner // who committed
	// Installation is the tag of the installation whose group this is; zero if it has no
	// name.
	Installation Tag
	// Cursors say where the lanes that the commit passed go on: at most one for a
	// tag and key, and at most MaxApart with a key.
	Cursors []Cursor
	// RunsLeftOut says that some cursor had more runs than there was room for, so
	// that what was done will be sent again. Encode sets it in the text by itself.
	RunsLeftOut bool
}

// Owner says how the generation that wrote a commit stands.
type Owner uint8

const (
	// Working says: it goes on, or died without another word.
	Working Owner = iota
	// Clean says: it drained. Nothing was sent that the commit does not tell of.
	Clean
	// Cut says: it left while requests had no known outcome.
	Cut
	// Finished says: nothing is left to do here, and never will be: a replay is over.
	Finished
)

// String is a word for people.
func (o Owner) String() string { return word(int(o), "working", "clean", "cut", "finished") }

// Tag names a lane in a commit's metadata: the first 6 bytes of the SHA-256 of its
// name.
type Tag [6]byte

// TagOf returns the tag of the lane with the name.
func TagOf(name string) Tag {
	sum := sha256.Sum256([]byte(name))
	return Tag(sum[:])
}

// String is the tag in hex.
func (t Tag) String() string { return hex.EncodeToString(t[:]) }

// Cursor says where a lane goes on that the commit has passed. The lane's events
// before From are done.
type Cursor struct {
	Tag Tag
	// Key is the tag of the key whose events were set apart from the lane of Tag, and
	// are the lane that this is about; zero if it is about the lane of Tag itself,
	// whose events are all others. Events of the key below Split belong to the lane of
	// Tag. If that one has a cursor, each key that is set apart from it has one.
	Key   Tag
	Split Offset // at most From
	From  Offset // of the lane's first event without an outcome; below 2^62
	Runs  []Run  // over the lane's events, from the one at From on
	// Until says that the lane's events behind the runs and before this offset are
	// done; from there on, and everywhere behind the runs if it is not above From,
	// they are pending. It needs runs: without any it counts as 0.
	Until Offset
	// Since is when it began to wait, to the second; zero, or before 1970, if that is
	// not known.
	Since time.Time
	Cause Cause // why it waits
}

// Run is a number of neighbouring events of a lane in the same state.
type Run struct {
	Events int // at most 2^40
	State  RunState
}

// RunState is how far the events of a run are.
type RunState uint8

const (
	// Pending says: no step was accepted.
	Pending RunState = iota
	// Done says: the event has its outcome.
	Done
	// AfterFirst says: the first step was accepted.
	AfterFirst
	// AfterSecond says: the first two steps were accepted.
	AfterSecond
)

// String is a word for people.
func (s RunState) String() string {
	return word(int(s), "pending", "done", "after first", "after second")
}

// Cause says why a lane waits.
type Cause uint8

const (
	// CauseUnknown says: nobody told.
	CauseUnknown Cause = iota
	// CauseUnavailable says: the receiver fails or does not answer.
	CauseUnavailable
	// CauseThrottled says: the receiver asked for a pause.
	CauseThrottled
	// CauseMisconfigured says: the receiver does not know the tenant (401, 403, 404, …).
	CauseMisconfigured
	// CauseRefusing says: the receiver refuses most of what it gets.
	CauseRefusing
	// CausePaused says: the tenants file says so.
	CausePaused
	// CauseSlow says: it would hold up the others.
	CauseSlow
	// CauseLetters says: its dead letters cannot be written.
	CauseLetters
)

// String is a word for people and labels; "" for CauseUnknown.
func (c Cause) String() string {
	return word(int(c), "", "unavailable", "throttled", "misconfigured", "refusing", "paused", "slow", "letters")
}

// word is the one at i.
func word(i int, words ...string) string {
	if i < len(words) {
		return words[i]
	}
	return "invalid"
}
