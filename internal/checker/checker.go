// Package checker verifies the recorded history of a run against the promise:
// nothing lost, nothing overtaken, every tenant by itself. It knows nothing of
// the service but docs/mapping.md, from which it derives names, owners and
// message ids again, and docs/decisions/0010-tenant-cursors.md, by which it reads
// the metadata of commits. It shares no code with the service, so that a mistake
// there is not made here as well.
//
// # A history
//
// A history is written by others than the one under test: the generator of the
// load, the receiver, whoever injects faults, and a dump of Kafka after the run.
// It is a directory of JSON files, or a [History] in memory. Every file holds
// one JSON object a line, in the form of the type named here:
//
//	tenants.jsonl   [Tenant]   what matters of the tenants file
//	sent.jsonl      [Sent]     one line per event that was posted, by the generator
//	log.jsonl       [Record]   the topic `events` after the run
//	bounds.jsonl    [Bounds]   of its partitions
//	received.jsonl  [Request]  one line per request, by the receiver, in the order in which it decided about them
//	commits.jsonl   [Commit]   every commit of the group for the topic, in the coordinator's order
//	commit_requests.jsonl  [CommitRequest]  every request of a worker for such commits, in the order of their answers
//	letters.jsonl   [Letter]   the topic `dead`
//	faults.jsonl    [Fault]    what was done to the system, and when
//	final.json      [Final]    how things stood at the end, one object
//
// All times are nanoseconds since 1970 by one clock: of the one machine, or
// virtual. Bytes are base64, as encoding/json writes a []byte. What is written
// by a program in Go is best written with these types and encoding/json. Only
// commits.jsonl, commit_requests.jsonl and faults.jsonl may be missing; a run
// without faults should nevertheless have an empty faults.jsonl. Whoever writes
// commit_requests.jsonl must see all requests: every commit is looked for there.
//
// # What a receiver must do
//
// It applies a request at one instant, all its calls or none, soon after it has
// read the body, never while the answer is on its way: a slow receiver is slow in
// answering. It writes the line when it has decided, and so the lines are in the
// order of application. It takes Begun when it has the request's header, and
// Answered right before it writes the answer's first byte.
package checker

import (
	"encoding/json"
	"io/fs"
)

// Time is a number of nanoseconds since 1970.
type Time = int64

// History is what is known of a run.
type History struct {
	Tenants  []Tenant
	Sent     []Sent
	Log      []Record // each partition's records in the order of their offsets
	Bounds   []Bounds
	Received []Request // in the order in which the receiver decided about them
	Commits  []Commit  // in the coordinator's order
	Letters  []Letter
	Faults   []Fault
	Final    Final

	// CommitRequests are in the order of their answers; nil is that nobody saw them.
	CommitRequests []CommitRequest

	dir fs.FS // where sent, log, received and the requests for commits stand if they are not in memory
}

// Tenant is what matters of a tenant in the tenants file. Empty fields have the
// defaults of that file. A tenant with track calls cannot be checked.
type Tenant struct {
	ID                string            `json:"id"`
	WriteKeys         []WriteKey        `json:"write_keys"`
	Endpoint          string            `json:"endpoint"` // label of the receiver that it must reach: Request.Endpoint
	Prefix            string            `json:"prefix,omitempty"`
	OrderBy           string            `json:"order_by,omitempty"`
	Pairing           string            `json:"pairing,omitempty"`
	Names             map[string]string `json:"names,omitempty"`
	AccountProperties []string          `json:"account_properties,omitempty"`
	UserProperties    []string          `json:"user_properties,omitempty"`
	Partials          bool              `json:"partials,omitempty"`
	Anonymous         string            `json:"anonymous,omitempty"`
	Integrations      map[string]any    `json:"integrations,omitempty"`
	Track             bool              `json:"track,omitempty"`
	// Forgotten are ids of respondents who are to be forgotten from ForgottenAt on,
	// which is when the tenants file began to say so; 0 is before the run.
	Forgotten   []string `json:"forgotten,omitempty"`
	ForgottenAt Time     `json:"forgotten_at,omitempty"`
}

// WriteKey is a key and when it was valid; a zero time is no limit. A request
// that began within Options.KeyGrace after the end may still carry it.
type WriteKey struct {
	Key   string `json:"key"`
	From  Time   `json:"from,omitempty"`
	Until Time   `json:"until,omitempty"`
}

// Sent is one event that was posted, and the answer. A POST with several events
// has as many lines, each with its own event's bytes. A POST that was sent again
// has a line for each attempt.
type Sent struct {
	At      Time   `json:"at"`
	Done    Time   `json:"done"` // when the answer was there, or given up
	Tenant  string `json:"tenant"`
	Source  string `json:"source"`
	EventID string `json:"event_id,omitempty"` // for reports
	Body    []byte `json:"body,omitempty"`     // the event's bytes
	SHA256  []byte `json:"sha256,omitempty"`   // of the bytes, in place of Body

	// Status is the answer's: 202 promises, 0 is no answer, so that nobody knows.
	Status    int   `json:"status"`
	Partition int   `json:"partition"` // of a 202, as is Offset
	Offset    int64 `json:"offset"`
}

// Record is a record of the topic `events`. Records that retention deleted
// during the run belong to the dump, if somebody read them before.
type Record struct {
	Partition int               `json:"partition"`
	Offset    int64             `json:"offset"`
	Key       []byte            `json:"key"`
	Headers   map[string]string `json:"headers"`
	Value     []byte            `json:"value"`
	Time      Time              `json:"time"` // the record's timestamp
}

// Bounds are the first offset of a partition that was there after the run, and
// the one behind the last.
type Bounds struct {
	Partition int   `json:"partition"`
	Start     int64 `json:"start"`
	End       int64 `json:"end"`
}

// Request is one request as the receiver saw it.
type Request struct {
	Begun    Time   `json:"begun"`    // its header was there
	Answered Time   `json:"answered"` // right before the answer's first byte; 0 if there was none
	Endpoint string `json:"endpoint"` // label of the receiver that got it
	WriteKey string `json:"write_key"`
	Worker   string `json:"worker,omitempty"` // who sent it, if the receiver can tell (a port per worker)

	// Applied numbers the requests that took effect, 1, 2, 3, …, in the order in
	// which they did; 0 is one that took none.
	Applied int64 `json:"applied"`

	// Status stands in the answer; 0 if the connection was cut before it.
	// SentAnswer says that the answer was written whole. What was applied without
	// a 2xx that was written whole has an outcome that its sender does not know.
	Status     int    `json:"status"`
	SentAnswer bool   `json:"sent_answer"`
	RetryAfter string `json:"retry_after,omitempty"` // header of the answer, as written

	// Calls are the elements of "batch" as they came. A request whose body did not
	// come whole has none.
	Calls []json.RawMessage `json:"calls"`
}

// Commit is a commit of the group for one partition. One that was refused is none.
type Commit struct {
	At        Time   `json:"at"`
	Partition int    `json:"partition"`
	Offset    int64  `json:"offset"`
	Metadata  string `json:"metadata"`
}

// CommitRequest is a request of a worker for commits of the group for the topic,
// as somebody between it and the coordinator saw it.
type CommitRequest struct {
	At         Time         `json:"at"`                 // before the coordinator had it
	Answered   Time         `json:"answered,omitempty"` // after the coordinator had answered; 0 if no answer was seen
	Worker     string       `json:"worker,omitempty"`   // who sent it
	Generation int          `json:"generation"`         // -1 is that of somebody outside of the group
	Member     string       `json:"member"`
	Asked      []CommitPart `json:"asked"`
}

// CommitPart is what a request asks for one partition.
type CommitPart struct {
	Partition int   `json:"partition"`
	Offset    int64 `json:"offset"`
	// Error is the code in the answer. In an answer, 0 is a commit that was made;
	// of any other, as without an answer, nobody knows.
	Error int `json:"error,omitempty"`
}

// Letter is a record of the topic `dead`. Its value is a dead letter
// (schemas/dead-letter.schema.json).
type Letter struct {
	Partition int    `json:"partition"`
	Offset    int64  `json:"offset"`
	Value     []byte `json:"value"`
	Time      Time   `json:"time,omitempty"` // the record's timestamp; without it the letter's dead_at counts
}

// Effect is what a fault can do that the promise allows for.
type Effect string

// The effects of faults.
const (
	// Unclean ends a worker, or its generation, without a drain: it was killed,
	// frozen past its session, cut off from Kafka; or Kafka lost what it was told.
	// Another goes on from the committed position, and so calls come again.
	Unclean Effect = "unclean"
	// Frozen stops a worker that goes on later: what it had under way may arrive
	// when others have gone on. Frozen is Unclean as well.
	Frozen Effect = "frozen"
	// AnswersLost keeps answers from workers although the receiver wrote them: a
	// cut or slow link, a stop shorter than the session.
	AnswersLost Effect = "answers_lost"
	// Restart ends workers with a drain. It repeats nothing, but a worker that
	// takes over knows of no Retry-After.
	Restart Effect = "restart"
	// Rewind is an operator's: a replay, a redrive or a reset of offsets. Calls
	// come again, and commits may go back.
	Rewind Effect = "rewind"
	// Trimmed says that retention deleted records that somebody may have needed.
	Trimmed Effect = "trimmed"
	// Harmless has none of these effects: a receiver that refuses, a broker that
	// is lost while the others go on, load.
	Harmless Effect = "harmless"
)

// Fault is something that was done to the system.
type Fault struct {
	At      Time              `json:"at"`
	Until   Time              `json:"until"`            // when it was undone; At, or 0, for an instant
	Fault   string            `json:"fault"`            // F1, F2, … or any other name
	Target  string            `json:"target,omitempty"` // of a worker that is frozen: its Request.Worker
	Params  map[string]string `json:"params,omitempty"`
	Effects []Effect          `json:"effects,omitempty"` // without any: those of the fault's name (see FaultEffects), else Unclean
	Tenants []string          `json:"tenants,omitempty"` // whom it is about, if not all
}

// Final is how things stood when the run was over.
type Final struct {
	At        Time       `json:"at"`
	Positions []Position `json:"positions,omitempty"` // without them the last commits count
	Failing   []string   `json:"failing,omitempty"`   // tenants whose receiver still did not take their calls
}

// Position is what the group had committed of a partition.
type Position struct {
	Partition int    `json:"partition"`
	Committed int64  `json:"committed"` // -1 if nothing was
	Metadata  string `json:"metadata"`
}
