package chaos_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/offsetcommit"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/chaos"
	"refinersource/internal/checker"
)

// coordinator is a link to a server that gives an answer to each request, or none,
// and writes down what is asked to commit.
type coordinator struct {
	t       *testing.T
	dir     string
	client  net.Conn
	proxy   *chaos.Proxy
	commits *chaos.CommitRecorder
}

// newCoordinator makes one that gives these answers, a second after their requests.
func newCoordinator(t *testing.T, answers ...[]byte) *coordinator {
	t.Helper()
	w := &coordinator{t: t, dir: t.TempDir()}
	clients := newPipes()
	var err error
	w.proxy, err = chaos.NewProxy(func() (net.Listener, error) { return clients, nil }, func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			for _, a := range answers {
				size := make([]byte, 4)
				if _, err := io.ReadFull(far, size); err != nil {
					return
				}
				_, _ = io.CopyN(io.Discard, far, int64(binary.BigEndian.Uint32(size)))
				<-time.After(time.Second)
				_, _ = far.Write(a)
			}
			_, _ = io.Copy(io.Discard, far)
		}()
		return near, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.proxy.SpeakKafka()
	if w.commits, err = chaos.NewCommitRecorder(w.dir, "workers", "events"); err != nil {
		t.Fatal(err)
	}
	w.proxy.Record(w.commits, "worker-1")
	if w.client, err = clients.connect(); err != nil {
		t.Fatal(err)
	}
	return w
}

// ask sends a request in pieces, and returns what comes back of so many bytes.
func (w *coordinator) ask(request []byte, piece, answer int) []byte {
	go func() {
		for part := range slices.Chunk(request, piece) {
			_, _ = w.client.Write(part)
		}
	}()
	got := make([]byte, answer)
	n, _ := io.ReadFull(w.client, got)
	return got[:n]
}

// written is what was written down, with times since the beginning.
func (w *coordinator) written(begun time.Time) []checker.CommitRequest {
	w.t.Helper()
	w.proxy.Close()
	if err := w.commits.Close(); err != nil {
		w.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(w.dir, checker.RequestsFile))
	if err != nil {
		w.t.Fatal(err)
	}
	var all []checker.CommitRequest
	for line := range bytes.Lines(text) {
		var r checker.CommitRequest
		if err := json.Unmarshal(line, &r); err != nil {
			w.t.Fatal(err)
		}
		r.At -= begun.UnixNano()
		if r.Answered != 0 {
			r.Answered -= begun.UnixNano()
		}
		all = append(all, r)
	}
	return all
}

// wire is an exchange as a client and a broker really encode it.
type wire struct {
	name            string
	request, answer []byte
}

// ofKafkaGo encodes as the service does.
func ofKafkaGo(t *testing.T, version int16, group string, codes ...int16) wire {
	t.Helper()
	q := offsetcommit.Request{GroupID: group, GenerationID: 7, MemberID: "member-1", Topics: []offsetcommit.RequestTopic{
		{Name: "other", Partitions: []offsetcommit.RequestPartition{{PartitionIndex: 5, CommittedOffset: 1}}},
		{Name: "events"},
	}}
	a := offsetcommit.Response{Topics: []offsetcommit.ResponseTopic{
		{Name: "other", Partitions: []offsetcommit.ResponsePartition{{PartitionIndex: 5, ErrorCode: 99}}}, {Name: "events"},
	}}
	for i, code := range codes {
		q.Topics[1].Partitions = append(q.Topics[1].Partitions, offsetcommit.RequestPartition{
			PartitionIndex: int32(i), CommittedOffset: 1<<40 + int64(i), CommittedMetadata: "r1." + string(bytes.Repeat([]byte("x"), 4000)),
		})
		a.Topics[1].Partitions = append(a.Topics[1].Partitions, offsetcommit.ResponsePartition{PartitionIndex: int32(i), ErrorCode: code})
	}
	var request, answer bytes.Buffer
	if err := protocol.WriteRequest(&request, version, 11, "refiner", &q); err != nil {
		t.Fatal(err)
	}
	if err := protocol.WriteResponse(&answer, version, 11, &a); err != nil {
		t.Fatal(err)
	}
	return wire{"kafka-go", request.Bytes(), answer.Bytes()}
}

// ofKmsg encodes as franz-go does, flexible versions too.
func ofKmsg(version int16, group string, codes ...int16) wire {
	q, a := kmsg.NewPtrOffsetCommitRequest(), kmsg.NewPtrOffsetCommitResponse()
	q.SetVersion(version)
	a.SetVersion(version)
	q.Group, q.Generation, q.MemberID = group, 7, "member-1"
	qt, at := kmsg.NewOffsetCommitRequestTopic(), kmsg.NewOffsetCommitResponseTopic()
	qt.Topic, at.Topic = "events", "events"
	for i, code := range codes {
		qp, ap := kmsg.NewOffsetCommitRequestTopicPartition(), kmsg.NewOffsetCommitResponseTopicPartition()
		qp.Partition, qp.Offset = int32(i), 1<<40+int64(i)
		ap.Partition, ap.ErrorCode = int32(i), code
		qt.Partitions, at.Partitions = append(qt.Partitions, qp), append(at.Partitions, ap)
	}
	q.Topics, a.Topics = append(q.Topics, qt), append(a.Topics, at)
	head := binary.BigEndian.AppendUint32(nil, 11)
	if a.IsFlexible() {
		head = append(head, 1, 9, 2, 0xaa, 0xbb) // a tag that nobody knows
	}
	answer := a.AppendTo(head)
	return wire{
		"kmsg", kmsg.NewRequestFormatter().AppendRequest(nil, q, 11),
		append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...),
	}
}

func TestRequestsForCommitsAreWrittenDown(t *testing.T) {
	t.Parallel()
	codes := []int16{0, 22, 0}
	var all []wire
	for version := int16(1); version <= 7; version++ {
		all = append(all, ofKafkaGo(t, version, "workers", codes...))
	}
	for version := int16(1); version <= 9; version++ {
		all = append(all, ofKmsg(version, "workers", codes...))
	}
	for i, x := range all {
		for _, piece := range []int{1, 7, 1 << 20} {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				w := newCoordinator(t, x.answer)
				if got := w.ask(x.request, piece, len(x.answer)); !bytes.Equal(got, x.answer) {
					t.Errorf("%d bytes came back, want %d", len(got), len(x.answer))
				}
				want := []checker.CommitRequest{{
					Answered: int64(time.Second), Worker: "worker-1", Generation: 7, Member: "member-1",
					Asked: []checker.CommitPart{{Partition: 0, Offset: 1 << 40}, {Partition: 1, Offset: 1<<40 + 1, Error: 22}, {Partition: 2, Offset: 1<<40 + 2}},
				}}
				if d := cmp.Diff(want, w.written(begun)); d != "" {
					t.Errorf("%s, exchange %d, in pieces of %d (-want +got):\n%s", x.name, i, piece, d)
				}
			})
		}
	}
}

func TestCommitWhoseAnswerIsLostIsUnknown(t *testing.T) {
	t.Parallel()
	x := ofKafkaGo(t, 7, "workers", 0)
	want := []checker.CommitRequest{{
		Worker: "worker-1", Generation: 7, Member: "member-1", Asked: []checker.CommitPart{{Offset: 1 << 40}},
	}}
	for name, of := range map[string]struct {
		answers [][]byte
		watch   chaos.Watch
		do      func(*coordinator)
	}{
		"the watch takes it":         {[][]byte{x.answer}, func(s chaos.Sight) (bool, func()) { return !s.Up, nil }, nil},
		"the connection ends before": {nil, nil, func(w *coordinator) { w.proxy.Cut() }},
		"half of it comes":           {[][]byte{x.answer[:20]}, nil, func(w *coordinator) { w.proxy.Cut() }},
		"the record ends before":     {nil, nil, func(w *coordinator) { _ = w.commits.Close() }},
	} {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			w := newCoordinator(t, of.answers...)
			w.proxy.Watch(of.watch)
			if of.do != nil {
				time.AfterFunc(2*time.Second, func() { of.do(w); w.proxy.Cut() })
			}
			w.ask(x.request, 100, len(x.answer))
			if d := cmp.Diff(want, w.written(begun)); d != "" {
				t.Errorf("%s (-want +got):\n%s", name, d)
			}
		})
	}
}

func TestPartitionThatIsNotAnsweredIsUnknown(t *testing.T) {
	t.Parallel()
	two, one := ofKafkaGo(t, 7, "workers", 0, 0), ofKafkaGo(t, 7, "workers", 0)
	synctest.Test(t, func(t *testing.T) {
		w := newCoordinator(t, one.answer)
		w.ask(two.request, 100, len(one.answer))
		got := w.written(time.Now())
		if len(got) != 1 || got[0].Asked[0].Error != 0 || got[0].Asked[1].Error != -1 {
			t.Errorf("written down: %+v", got)
		}
	})
}

func TestWhatOthersCommitIsNotWrittenDown(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]wire{
		"another group": ofKafkaGo(t, 7, "others", 0), "nothing of the topic": ofKafkaGo(t, 7, "workers"),
		"no commit": {request: same(produce, 7, 30), answer: same(produce, 7, 30)},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newCoordinator(t, x.answer)
			w.ask(x.request, 100, len(x.answer))
			if got := w.written(time.Now()); got != nil {
				t.Errorf("%s: %+v", name, got)
			}
		})
	}
}

// A record that misses something must not pass for whole.
func TestRequestThatIsNotUnderstoodIsSaid(t *testing.T) {
	t.Parallel()
	for name, request := range map[string][]byte{
		"cut":                  same(commit, 7, 3),
		"with ids for topics":  ofKmsg(10, "workers", 0).request,
		"larger than any":      binary.BigEndian.AppendUint32(nil, 3<<20),
		"with tags that break": append(binary.BigEndian.AppendUint32(nil, 12), 0, 8, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0x85, 0x80),
	} {
		if len(request) == 4 {
			request = append(request, same(commit, 7, 0)[4:]...)
		}
		synctest.Test(t, func(t *testing.T) {
			w := newCoordinator(t)
			time.AfterFunc(time.Second, w.proxy.Cut)
			w.ask(request, 100, 1)
			w.proxy.Close()
			if err := w.commits.Close(); err == nil {
				t.Errorf("a request %s is passed over", name)
			}
		})
	}
}
