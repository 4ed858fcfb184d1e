package simulation

import "slices"

// Kind is a kind of fault.
type Kind string

// Faults of receivers, each of one tenant, but for DeadHost.
const (
	ServerErrors Kind = "server-errors" // 500 to all
	Throttled    Kind = "throttled"     // 429 with Retry-After
	NoAnswer     Kind = "no-answer"     // not taken, and no answer until the deadline
	LateAnswer   Kind = "late-answer"   // taken, and no answer until the deadline
	Reset        Kind = "reset"         // taken, and the connection cut before the answer
	Unauthorized Kind = "unauthorized"  // 401 to all
	Redirected   Kind = "redirected"    // 302 to all
	RefusesSome  Kind = "refuses-some"  // 400 to requests with certain events
	RefusesAll   Kind = "refuses-all"   // 400 to all
	Poison       Kind = "poison"        // 500 to requests with one call, longer than others
	Slow         Kind = "slow"          // taken, and answered after seconds
	Flapping     Kind = "flapping"      // 500 and 200 by turns
	DeadHost     Kind = "dead-host"     // no connection, for all tenants of the host
	SmallBodies  Kind = "small-bodies"  // 413 to requests with more than a few calls
)

// Faults of workers.
const (
	Joins   Kind = "joins"   // one more, for a while
	Leaves  Kind = "leaves"  // drained; another comes later
	Crashes Kind = "crashes" // nothing of it goes out any more; another comes later
	Freezes Kind = "freezes" // its network stands still both ways, and then goes on
	// Isolated stands still to Kafka alone, and then goes on.
	Isolated Kind = "isolated"
)

// Faults of the broker.
const (
	PublishRefused    Kind = "publish-refused"    // events are not appended
	PublishUnsure     Kind = "publish-unsure"     // events are appended, and the answer is an error
	FetchRefused      Kind = "fetch-refused"      // reading fails
	CommitRefused     Kind = "commit-refused"     // commits fail
	CommitUnsure      Kind = "commit-unsure"      // commits are stored, and the answer is an error
	CoordinatorErrors Kind = "coordinator-errors" // joining, heartbeats and commits fail
	CoordinatorMoves  Kind = "coordinator-moves"
	LeadersMove       Kind = "leaders-move"
	LettersRefused    Kind = "letters-refused" // dead letters are not appended
	IngressCut        Kind = "ingress-cut"     // the ingress loses its connections
)

// Faults of the log's content and of the tenants file.
const (
	Trimmed Kind = "trimmed" // finished records are deleted, as by retention
	// TrimmedAhead deletes records that are not finished, too.
	TrimmedAhead Kind = "trimmed-ahead"
	Copies       Kind = "copies"  // events are sent once more
	Garbage      Kind = "garbage" // records that no ingress writes
	Paused       Kind = "paused"
	Rotated      Kind = "rotated"   // another write key
	Forgotten    Kind = "forgotten" // a respondent is to be forgotten
)

// Kinds returns all kinds.
func Kinds() []Kind {
	return slices.Concat(receiverKinds, workerKinds, brokerKinds, contentKinds)
}

var (
	receiverKinds = []Kind{
		ServerErrors, Throttled, NoAnswer, LateAnswer, Reset, Unauthorized, Redirected, RefusesSome, RefusesAll,
		Poison, Slow, Flapping, DeadHost, SmallBodies,
	}
	workerKinds = []Kind{Joins, Leaves, Crashes, Freezes, Isolated}
	brokerKinds = []Kind{
		PublishRefused, PublishUnsure, FetchRefused, CommitRefused, CommitUnsure, CoordinatorErrors, CoordinatorMoves,
		LeadersMove, LettersRefused, IngressCut,
	}
	contentKinds = []Kind{Trimmed, TrimmedAhead, Copies, Garbage, Paused, Rotated, Forgotten}
)

// drawn are the kinds that a plan draws from. Whether somebody is to be forgotten is drawn
// beside, so that seeds of before have the faults that they had.
var drawn = slices.DeleteFunc(Kinds(), func(k Kind) bool { return k == Forgotten })

// lasting are the faults of receivers that can break a tenant for ever.
var lasting = []Kind{
	ServerErrors, Throttled, NoAnswer, LateAnswer, Reset, Unauthorized, Redirected, Slow, DeadHost,
}
