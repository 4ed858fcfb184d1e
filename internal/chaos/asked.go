package chaos

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/checker"
)

// commitRecorder writes down every request of workers for commits of a group for a
// topic, and what was answered: Kafka does not keep in whose name it has made a
// commit. It sees what the links to the brokers carry (Proxy.record): a request
// before the broker has it, an answer when the broker has given it, whether or not
// the worker gets it. It is safe for concurrent use.
type commitRecorder struct {
	group, topic string

	mu   sync.Mutex
	out  *lines // nil when it is closed
	open map[*commitRequest]struct{}
	err  error // the first that was not understood, so that the record is not whole
}

// commitRequest is a request on its way.
type commitRequest struct {
	by *commitRecorder
	as checker.CommitRequest
}

func newCommitRecorder(dir, group, topic string) (*commitRecorder, error) {
	out, err := createLines(dir, checker.RequestsFile)
	if err != nil {
		return nil, err
	}
	return &commitRecorder{group: group, topic: topic, out: out, open: make(map[*commitRequest]struct{})}, nil
}

// close ends the file. What has no answer yet will have none.
func (c *commitRecorder) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out == nil {
		return c.err
	}
	for r := range c.open {
		c.out.write(&r.as)
	}
	clear(c.open)
	c.err = errors.Join(c.err, c.out.close())
	c.out = nil
	return c.err
}

// asked takes in a request, and returns it if it is one for these commits.
func (c *commitRecorder) asked(worker string, frame []byte) *commitRequest {
	q, err := readCommitRequest(frame)
	if err == nil && q.Group != c.group {
		return nil
	}
	r := &commitRequest{by: c, as: checker.CommitRequest{Worker: worker}}
	if err == nil {
		r.as.Generation, r.as.Member = int(q.Generation), q.MemberID
		for _, t := range q.Topics {
			if q.Version >= topicIDs {
				err = fmt.Errorf("a request for commits of version %d has no names of topics", q.Version)
			}
			if t.Topic != c.topic {
				continue
			}
			for _, p := range t.Partitions {
				r.as.Asked = append(r.as.Asked, checker.CommitPart{Partition: int(p.Partition), Offset: p.Offset})
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.miss(err)
		return nil
	}
	if len(r.as.Asked) == 0 || c.out == nil {
		return nil
	}
	r.as.At = time.Now().UnixNano()
	c.open[r] = struct{}{}
	return r
}

// missed says that a request was not read, so that the record is not whole.
func (c *commitRecorder) missed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.miss(err)
}

func (c *commitRecorder) miss(err error) {
	if c.err == nil {
		c.err = err
	}
}

// answered takes in the answer to a request; nil is none, and none will come.
func (r *commitRequest) answered(version int16, frame []byte) {
	c := r.by
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.open[r]; !ok {
		return
	}
	delete(c.open, r)
	if frame != nil {
		codes, err := readCommitAnswer(version, frame, c.topic)
		if err != nil {
			c.miss(err)
			return
		}
		for i := range r.as.Asked {
			p := &r.as.Asked[i]
			code, ok := codes[p.Partition]
			if p.Error = code; !ok {
				p.Error = notAnswered
			}
		}
		r.as.Answered = time.Now().UnixNano() // under mu: the lines are in this order
	}
	c.out.write(&r.as)
}

const (
	// maxCommitFrame bounds what is kept of a request, in bytes: a worker asks for a
	// quarter of it at most.
	maxCommitFrame = 2 << 20
	// topicIDs is the version from which on topics have ids in the place of names.
	topicIDs = 10
	// notAnswered is the code of a partition that is not in the answer: unknown.
	notAnswered = -1
)

// readCommitRequest reads a frame, without its size: key, version and number, the
// client's name, and the request.
func readCommitRequest(frame []byte) (*kmsg.OffsetCommitRequest, error) {
	q := kmsg.NewPtrOffsetCommitRequest()
	if len(frame) < requestHead-sizeBytes+2 {
		return nil, errors.New("a request for commits is cut")
	}
	q.SetVersion(int16(binary.BigEndian.Uint16(frame[2:])))
	rest := frame[requestHead-sizeBytes:]
	name := max(0, int(int16(binary.BigEndian.Uint16(rest)))) // -1 is none
	rest = rest[2:]
	if name > len(rest) {
		return nil, errors.New("a request for commits is cut")
	}
	rest, err := skipTags(rest[name:], q.IsFlexible())
	if err == nil {
		err = q.ReadFrom(rest)
	}
	if err != nil {
		return nil, fmt.Errorf("read a request for commits of version %d: %w", q.Version, err)
	}
	return q, nil
}

// readCommitAnswer reads a frame, without its size: the number and the answer. It
// returns the codes by partition.
func readCommitAnswer(version int16, frame []byte, topic string) (map[int]int, error) {
	a := kmsg.NewPtrOffsetCommitResponse()
	a.SetVersion(version)
	rest, err := skipTags(frame[answerHead-sizeBytes:], a.IsFlexible())
	if err == nil {
		err = a.ReadFrom(rest)
	}
	if err != nil {
		return nil, fmt.Errorf("read an answer about commits of version %d: %w", version, err)
	}
	codes := make(map[int]int)
	for _, t := range a.Topics {
		if t.Topic != topic {
			continue
		}
		for _, p := range t.Partitions {
			codes[int(p.Partition)] = int(p.ErrorCode)
		}
	}
	return codes, nil
}

// skipTags passes over the tagged fields at the end of a flexible version's head:
// how many, and of each its tag, its size and so many bytes.
func skipTags(b []byte, flexible bool) ([]byte, error) {
	if !flexible {
		return b, nil
	}
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			b = nil
			return 0
		}
		b = b[n:]
		return v
	}
	for range next() {
		next()
		size := next()
		if b == nil || size > uint64(len(b)) {
			return nil, errors.New("its tags are cut")
		}
		b = b[size:]
	}
	if b == nil {
		return nil, errors.New("its tags are cut")
	}
	return b, nil
}
