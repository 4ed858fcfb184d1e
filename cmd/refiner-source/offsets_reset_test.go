package main

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/lane"
	"refinersource/internal/queue"
)

// resetWorld is an offsetsWorld in whose partition 1 the tenants acme and beta have
// ten events by turns, one a minute, of which those before 6 are passed: acme waits
// with the one at 2, and what is at 4 is done. Partition 0 has four events and no
// commit, partition 2 neither.
type resetWorld struct {
	*offsetsWorld

	log   *queue.Log
	first time.Time
	waits lane.Metadata // of partition 1
}

func newResetWorld(t *testing.T) *resetWorld {
	t.Helper()
	w := &resetWorld{offsetsWorld: newOffsetsWorld(t, "-1"), first: time.Now().Add(-time.Hour).Truncate(time.Second).UTC()}
	var err error
	if w.log, err = queue.Open(queue.Options{Brokers: w.broker.Addrs()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.log.Close)
	var events []*kgo.Record
	for i := range 10 {
		name := []string{"acme", "beta"}[i%2]
		events = append(events, &kgo.Record{
			Topic: "refiner.events", Partition: 1, Key: []byte(name + "/ann"), Value: []byte("{}"), Timestamp: w.first.Add(time.Duration(i) * time.Minute),
			Headers: []kgo.RecordHeader{{Key: queue.HeaderTenant, Value: []byte(name)}},
		})
	}
	if err := w.client.ProduceSync(t.Context(), events...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		w.publish(t, 0, w.first.Add(5*time.Minute))
	}
	w.waits = lane.Metadata{Partitions: 3, Owner: lane.Clean, Cursors: []lane.Cursor{{
		Tag: lane.TagOf("acme"), From: 2, Cause: lane.CauseMisconfigured, Runs: []lane.Run{{Events: 1, State: lane.Pending}, {Events: 1, State: lane.Done}},
	}}}
	w.commit(t, 1, 6, metadata(t, w.waits))
	return w
}

func (w *resetWorld) committed(t *testing.T) map[int]queue.Committed {
	t.Helper()
	c, err := w.log.Committed(t.Context(), "refiner-source", "refiner.events")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// reset runs the command; stdin is what a person answers.
func (w *resetWorld) reset(t *testing.T, stdin io.Reader, args ...string) (out, said string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	root := newRoot()
	root.SetArgs(append([]string{"offsets", "reset", "--brokers", strings.Join(w.broker.Addrs(), ",")}, args...))
	var stdout, stderr bytes.Buffer
	root.SetIn(stdin)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	code = execute(ctx, root, &stderr)
	return stdout.String(), stderr.String(), code
}

func (w *resetWorld) resetJSON(t *testing.T, args ...string) (r resetReport, said string, code int) {
	t.Helper()
	out, said, code := w.reset(t, strings.NewReader(""), append(args, "--output", "json", "--tenants", w.tenants)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s%s", err, out, said)
	}
	return r, said, code
}

// Each place to move to is planned, and then done as planned.
func TestOffsetsResetMovesAsItSaid(t *testing.T) {
	t.Parallel()
	tag := lane.TagOf("acme").String()
	cursor := resetCursor{Tenant: "acme", Tag: tag, Partition: 1, Cursor: 2}
	becomes := func(what string, again int64) []resetCursor {
		c := cursor
		c.Becomes, c.SentAgain = what, again
		return []resetCursor{c}
	}
	six := new(queue.Offset(6))
	clean := metadata(t, lane.Metadata{Partitions: 3, Owner: lane.Clean})
	held := metadata(t, lane.Metadata{Partitions: 3, Owner: lane.Clean, Cursors: []lane.Cursor{{Tag: lane.TagOf("acme"), From: 2, Cause: lane.CauseMisconfigured}}})
	w0 := newResetWorld(t)
	at := w0.first.Add(3 * time.Minute).Format(time.RFC3339)
	waits := metadata(t, w0.waits)
	for _, c := range []struct {
		args       []string
		partitions []resetPartition
		cursors    []resetCursor
		commits    map[int]queue.Committed
	}{
		{
			[]string{"--to-earliest"},
			[]resetPartition{{Partition: 0}, {Partition: 1, Commit: six, SentAgain: 5}, {Partition: 2}}, // 0, 1, 3, 4 and 5
			becomes(cursorVoid, 2),
			map[int]queue.Committed{0: {Metadata: clean}, 1: {Metadata: clean}, 2: {Metadata: clean}},
		},
		{
			[]string{"--to-latest"},
			[]resetPartition{{Partition: 0, To: 4, Skipped: 4}, {Partition: 1, Commit: six, To: 10, Skipped: 2}, {Partition: 2}}, // 7 and 9
			becomes(cursorKept, 0),
			map[int]queue.Committed{0: {Offset: 4, Metadata: clean}, 1: {Offset: 10, Metadata: waits}, 2: {Metadata: clean}},
		},
		{
			[]string{"--to-time", at},
			[]resetPartition{{Partition: 0}, {Partition: 1, Commit: six, To: 3, SentAgain: 3}, {Partition: 2}}, // 3, 4 and 5
			becomes(cursorForgets, 1),
			map[int]queue.Committed{0: {Metadata: clean}, 1: {Offset: 3, Metadata: held}, 2: {Metadata: clean}},
		},
		{
			[]string{"--to-offset", "2", "--partition", "1"},
			[]resetPartition{{Partition: 1, Commit: six, To: 2, SentAgain: 3}},
			becomes(cursorVoid, 1),
			map[int]queue.Committed{1: {Offset: 2, Metadata: clean}},
		},
		{
			[]string{"--to-offset", "6", "--partition", "1"},
			[]resetPartition{{Partition: 1, Commit: six, To: 6, Moved: true}},
			becomes(cursorKept, 0),
			map[int]queue.Committed{1: {Offset: 6, Metadata: waits}},
		},
		{
			[]string{"--to-latest", "--partition", "2", "--partition", "0"},
			[]resetPartition{{Partition: 0, To: 4, Skipped: 4}, {Partition: 2}},
			[]resetCursor{},
			map[int]queue.Committed{0: {Offset: 4, Metadata: clean}, 1: {Offset: 6, Metadata: waits}, 2: {Metadata: clean}},
		},
	} {
		t.Run(fmt.Sprint(c.args), func(t *testing.T) {
			t.Parallel()
			w := newResetWorld(t)
			w.first = w0.first
			want := resetReport{Group: "refiner-source", Topic: "refiner.events", Partitions: c.partitions, Cursors: c.cursors}
			for _, p := range c.partitions {
				want.SentAgain += p.SentAgain
				want.Skipped += p.Skipped
			}
			ignore := cmpopts.IgnoreUnexported(resetPartition{})
			got, said, code := w.resetJSON(t, c.args...)
			if diff := cmp.Diff(want, got, ignore); diff != "" || code != exitDone {
				t.Errorf("the plan ended with %d and %q (-want +got):\n%s", code, said, diff)
			}
			if diff := cmp.Diff(map[int]queue.Committed{1: {Offset: 6, Metadata: waits}}, w.committed(t)); diff != "" {
				t.Errorf("the plan changed commits (-want +got):\n%s", diff)
			}
			got, said, code = w.resetJSON(t, append(c.args, "--execute", "--yes")...)
			want.Executed = true
			for i := range want.Partitions {
				want.Partitions[i].Moved = true
			}
			if diff := cmp.Diff(want, got, ignore); diff != "" || code != exitDone {
				t.Errorf("it ended with %d and %q (-want +got):\n%s", code, said, diff)
			}
			if diff := cmp.Diff(c.commits, w.committed(t)); diff != "" {
				t.Errorf("commits (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOffsetsResetAsks(t *testing.T) {
	t.Parallel()
	w := newResetWorld(t)
	before := w.committed(t)
	out, said, code := w.reset(t, strings.NewReader("\n"), "--to-latest", "--execute")
	if code != exitFailed || !strings.Contains(said, "Move 3 commits, send 0 events again, and skip 6 for good? [y/N]") || !strings.Contains(said, "nothing was moved") {
		t.Errorf("it ended with %d and %q", code, said)
	}
	if diff := cmp.Diff(before, w.committed(t)); diff != "" {
		t.Errorf("commits without a yes (-want +got):\n%s", diff)
	}
	for _, word := range []string{"tag " + lane.TagOf("acme").String(), "kept"} {
		if !strings.Contains(out, word) {
			t.Errorf("the table lacks %q:\n%s", word, out)
		}
	}
	out, said, code = w.reset(t, strings.NewReader("yes\n"), "--to-latest", "--execute", "--tenants", w.tenants)
	if code != exitDone || !strings.Contains(out, "0 events are sent again, 6 are skipped, and never delivered. It is done.") || !strings.Contains(out, "acme") {
		t.Errorf("it ended with %d, %q and %q", code, out, said)
	}
	if got := w.committed(t)[1].Offset; got != 10 {
		t.Errorf("the commit is %d, want 10", got)
	}
}

// Who works knows nothing of a commit that somebody else makes.
func TestOffsetsResetIsRefusedWhileTheGroupHasMembers(t *testing.T) {
	t.Parallel()
	w := newResetWorld(t)
	before := w.committed(t)
	group, err := w.log.Group(queue.GroupOptions{ID: "refiner-source", Topic: "refiner.events"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	joined, left := make(chan struct{}), make(chan error)
	go func() {
		left <- group.Run(ctx, func(ctx context.Context, _ *queue.Generation) {
			close(joined)
			<-ctx.Done()
		})
	}()
	<-joined
	got, said, code := w.resetJSON(t, "--to-earliest")
	if code != exitFailed || got.Members != 1 || got.SentAgain != 5 || !strings.Contains(said, "active members: 1 of group refiner-source; stop the workers first") {
		t.Errorf("the plan ended with %d, %+v and %q", code, got, said)
	}
	if got, said, code = w.resetJSON(t, "--to-earliest", "--execute", "--yes"); code != exitFailed || got.Executed || !strings.Contains(said, "stop the workers first") {
		t.Errorf("it ended with %d, %+v and %q", code, got, said)
	}
	// One that has joined since it was asked: the commit itself is refused.
	w.broker.Cluster().ControlKey(int16(kmsg.DescribeGroups), func(req kmsg.Request) (kmsg.Response, error, bool) {
		res, ok := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
		if !ok {
			return nil, nil, false
		}
		g := kmsg.NewDescribeGroupsResponseGroup()
		g.Group, g.State = "refiner-source", "Empty"
		res.Groups = append(res.Groups, g)
		return res, nil, true
	})
	if got, said, code = w.resetJSON(t, "--to-earliest", "--execute", "--yes"); code != exitFailed || got.Executed || !strings.Contains(said, "0 of 3 commits are moved: stop the workers") {
		t.Errorf("it ended with %d, %+v and %q", code, got, said)
	}
	if diff := cmp.Diff(before, w.committed(t)); diff != "" {
		t.Errorf("commits (-want +got):\n%s", diff)
	}
	leave()
	if err := <-left; err != nil {
		t.Error(err)
	}
	if got, said, code = w.resetJSON(t, "--to-earliest", "--execute", "--yes"); code != exitDone || !got.Executed {
		t.Errorf("after the member has left it ended with %d, %+v and %q", code, got, said)
	}
}

func TestOffsetsResetThatStopsHalfWayGoesOn(t *testing.T) {
	t.Parallel()
	w := newResetWorld(t)
	w.broker.Cluster().ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		commit, ok := req.(*kmsg.OffsetCommitRequest)
		if !ok {
			return nil, nil, false
		}
		w.broker.Cluster().DropControl()
		commit.Topics[0].Partitions = commit.Topics[0].Partitions[:2] // the third has no answer
		return nil, nil, false
	})
	got, said, code := w.resetJSON(t, "--to-latest", "--execute", "--yes")
	if code != exitFailed || got.Executed || !got.Partitions[0].Moved || !got.Partitions[1].Moved || got.Partitions[2].Moved ||
		!strings.Contains(said, "2 of 3 commits are moved: run it again") {
		t.Errorf("it ended with %d, %+v and %q", code, got, said)
	}
	got, said, code = w.resetJSON(t, "--to-latest", "--execute", "--yes")
	if code != exitDone || !got.Executed || got.Skipped != 0 || len(w.committed(t)) != 3 {
		t.Errorf("again it ended with %d, %+v and %q; commits %+v", code, got, said, w.committed(t))
	}
}

// meanwhile answers yes, after something else has happened.
type meanwhile func()

func (m meanwhile) Read(b []byte) (int, error) {
	m()
	return copy(b, "y\n"), nil
}

func TestOffsetsResetIsRefusedWhereTheGroupHasCommittedSince(t *testing.T) {
	t.Parallel()
	w := newResetWorld(t)
	since := metadata(t, lane.Metadata{Partitions: 3})
	_, said, code := w.reset(t, meanwhile(func() { w.commit(t, 0, 1, since) }), "--to-latest", "--execute")
	if code != exitFailed || !strings.Contains(said, "partition 0 was committed since the plan was made") {
		t.Errorf("it ended with %d and %q", code, said)
	}
	if got := w.committed(t)[0]; got != (queue.Committed{Offset: 1, Metadata: since}) {
		t.Errorf("the commit is %+v", got)
	}
}

// Invariant 10: a commit that is not understood may hold tenants that wait.
func TestOffsetsResetLeavesAnUnreadableCommitAlone(t *testing.T) {
	t.Parallel()
	w := newResetWorld(t)
	w.commit(t, 0, 2, "r2.of-a-newer-version")
	before := w.committed(t)
	got, said, code := w.resetJSON(t, "--to-latest", "--execute", "--yes")
	if code != exitFailed || got.Executed || !strings.Contains(got.Partitions[0].Error, "cannot be understood") || !strings.Contains(said, "--forget-unreadable") {
		t.Errorf("it ended with %d, %+v and %q", code, got, said)
	}
	if diff := cmp.Diff(before, w.committed(t)); diff != "" {
		t.Errorf("commits (-want +got):\n%s", diff)
	}
	if got, said, code = w.resetJSON(t, "--to-latest", "--execute", "--yes", "--partition", "1"); code != exitDone || !got.Executed {
		t.Errorf("of another partition it ended with %d, %+v and %q", code, got, said)
	}
	if got, said, code = w.resetJSON(t, "--to-latest", "--execute", "--yes", "--forget-unreadable"); code != exitDone || !got.Executed || got.Skipped != 2 {
		t.Errorf("it ended with %d, %+v and %q", code, got, said)
	}
	want := queue.Committed{Offset: 4, Metadata: metadata(t, lane.Metadata{Partitions: 3, Owner: lane.Cut})}
	if got := w.committed(t)[0]; got != want {
		t.Errorf("the commit is %+v, want %+v", got, want)
	}
}

// Whether users have moved between partitions is for the worker to ask about, after
// a reset as before it.
func TestOffsetsResetKeepsTheNumberOfPartitions(t *testing.T) {
	t.Parallel()
	w := newResetWorld(t)
	w.waits.Partitions = 2
	w.commit(t, 1, 6, metadata(t, w.waits))
	if got, said, code := w.resetJSON(t, "--to-earliest", "--execute", "--yes"); code != exitDone {
		t.Errorf("it ended with %d, %+v and %q", code, got, said)
	}
	if m, err := lane.Decode(w.committed(t)[1].Metadata); err != nil || m.Partitions != 2 {
		t.Errorf("the commit is one of %d partitions, %v", m.Partitions, err)
	}
}

// What retention took is neither sent again nor skipped.
func TestOffsetsResetCountsOnlyWhatTheLogHas(t *testing.T) {
	t.Parallel()
	w := newResetWorld(t)
	w.deleteBefore(t, 1, 7)
	w.commit(t, 0, 9, metadata(t, lane.Metadata{Partitions: 3}))
	got, said, code := w.resetJSON(t, "--to-latest")
	if code != exitDone || got.Partitions[1].Skipped != 2 { // 7 and 9
		t.Errorf("it ended with %d, %+v and %q", code, got, said)
	}
	got, said, code = w.resetJSON(t, "--to-earliest")
	if code != exitDone || got.Partitions[0].SentAgain != 4 || got.Partitions[1].To != 7 || got.Partitions[1].Skipped != 0 {
		t.Errorf("it ended with %d, %+v and %q", code, got, said)
	}
}

func TestOffsetsResetNamesAPlaceThatThereIsNot(t *testing.T) {
	t.Parallel()
	w := newResetWorld(t)
	for want, args := range map[string][]string{
		"--partition 3: refiner.events has the partitions 0 to 2": {"--to-latest", "--partition", "3"},
		"--to-offset 11: partition 1 goes from 0 to 10":           {"--to-offset", "11", "--partition", "1"},
		"--to-offset -1: partition 1 goes from 0 to 10":           {"--to-offset", "-1", "--partition", "1"},
	} {
		if out, said, code := w.reset(t, strings.NewReader(""), args...); code != exitUsage || out != "" || !strings.Contains(said, want) {
			t.Errorf("%v: it ended with %d, %q and %q", args, code, out, said)
		}
	}
}
