package worker

import (
	"testing"

	"refinersource/internal/queue"
)

// Who has answered since what was done last is not settled: live traffic may have sent
// that before the replay sent what is older.
func TestOnlyWhoHasNothingNewIsSettled(t *testing.T) {
	t.Parallel()
	w := &Worker{o: Options{Replay: &Replay{Spans: map[int]ReplaySpan{0: {From: 0, To: 10}}}}}
	r := w.replayOf(0)
	at := func(key string, offset queue.Offset) *queue.Record {
		return &queue.Record{Key: []byte(key), Position: queue.Position{Offset: offset}}
	}
	r.includes(at("quiet", 4), true)
	r.includes(at("busy", 5), true)
	r.includes(at("busy", 12), true)
	if left := r.settle(11); left != 1 || r.isSettled(at("busy", 20)) || !r.isSettled(at("quiet", 20)) {
		t.Errorf("%d are left, want busy alone", left)
	}
	if r.isSettled(at("quiet", 4)) {
		t.Error("an event of the range is left to live traffic")
	}
	if left := r.settle(13); left != 0 || !r.isSettled(at("busy", 20)) {
		t.Errorf("%d are left when all is done, want none", left)
	}
	if !r.includes(at("quiet", 21), true) {
		t.Error("what is left to live traffic is not counted: another owner would count otherwise")
	}
}
