package chaos

import "refinersource/internal/checker"

// What tests of this package see of its inside.
var (
	WriteOverlay  = writeOverlay
	CursorsIn     = cursorsIn
	WorkerMoments = workerMoments
)

// GeneratedEvent is an event of a stream.
type GeneratedEvent struct {
	Tenant, Source, ID, Body string
}

// Generate makes the first n events of a sender.
func Generate(seed uint64, sender, senders, n int, special string) []GeneratedEvent {
	s := newStream(seed, sender, senders, 50, 10, 5)
	var all []GeneratedEvent
	for range n {
		g := s.next(special, false)
		all = append(all, GeneratedEvent{g.tenant, g.source, g.id, string(g.body)})
	}
	return all
}

// Scenarios are the names of all scenarios.
func Scenarios() []string {
	var all []string
	for name := range scenarios {
		all = append(all, name)
	}
	return all
}

// IsMoment reports whether there is a moment of that name.
func IsMoment(name string) bool {
	_, ok := moments[name]
	return ok
}

// CommitRecorder writes down requests for commits.
type CommitRecorder = commitRecorder

// NewCommitRecorder makes one that writes into a directory.
var NewCommitRecorder = newCommitRecorder

// Record sets who writes down what goes over the link.
func (p *Proxy) Record(commits *CommitRecorder, client string) { p.record(commits, client) }

// Close ends the file.
func (c *commitRecorder) Close() error { return c.close() }

// Trimmed is trimmed.
type Trimmed struct{ trimmed }

// Take is take.
func (t *Trimmed) Take(r checker.Record) bool { return t.take(r) }

// Left is left.
func (t *Trimmed) Left(b checker.Bounds) checker.Bounds { return t.left(b) }

// Records are those that were taken.
func (t *Trimmed) Records() []checker.Record { return t.records }
