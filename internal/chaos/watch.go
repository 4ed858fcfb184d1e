package chaos

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// Sight is what a watch sees of a link: a request or an answer of Kafka's protocol
// as soon as its head is there, or, on a link of another protocol, what was read
// at once.
type Sight struct {
	Up   bool  // from the client to the server
	API  int16 // key of the request, or of the one that is answered; NoAPI where it is not Kafka
	Size int   // in bytes, without Kafka's four of the size itself
}

// NoAPI is the kind of what is not Kafka's protocol.
const NoAPI int16 = -1

// Kafka's keys of the requests that are watched.
const (
	apiProduce      int16 = 0
	apiFetch        int16 = 1
	apiOffsetCommit int16 = 8
)

// Watch looks at everything that goes over a link, before it goes on. With lose
// neither that nor anything behind it goes on, and the connection is reset. What
// after does is done once it has gone on. Nothing of that direction moves while a
// watch or its after has not returned.
type Watch func(Sight) (lose bool, after func())

// SpeakKafka makes the proxy understand the frames of Kafka's protocol, on
// connections that come from now on.
func (p *Proxy) SpeakKafka() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kafka = true
}

// Watch sets who looks at what goes over the link, also over connections there
// are; nil is nobody.
func (p *Proxy) Watch(w Watch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watch = w
}

// record sets who writes down the requests for commits that go over the link, and
// their answers, and who is said to have made them; nil is nobody.
func (p *Proxy) record(commits *commitRecorder, client string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.commits, p.client = commits, client
}

// sighted shows a piece of one direction to the watch. It returns how much of it
// goes on, whether the connection ends then, and what is to be done afterwards.
func (c *pair) sighted(up bool, f *frames, data []byte) (passes int, lose bool, after []func()) {
	c.proxy.mu.Lock()
	watch, commits, client := c.proxy.watch, c.proxy.commits, c.proxy.client
	c.proxy.mu.Unlock()
	show := func(s Sight) bool {
		if watch == nil {
			return true
		}
		gone, then := watch(s)
		if then != nil {
			after = append(after, then)
		}
		return !gone
	}
	if c.asked == nil {
		if !show(Sight{Up: up, API: NoAPI, Size: len(data)}) {
			return 0, true, after
		}
		return len(data), false, after
	}
	passes = f.read(data, up, func(size int, head []byte) (pass bool, whole func([]byte)) {
		if !up {
			q := c.asked.take(int32(binary.BigEndian.Uint32(head)))
			pass = show(Sight{API: q.api, Size: size})
			switch {
			case q.commits == nil:
			case pass && size <= maxCommitFrame:
				whole = func(frame []byte) { q.commits.answered(q.version, frame) }
			default:
				q.commits.answered(q.version, nil)
			}
			return pass, whole
		}
		q := question{api: int16(binary.BigEndian.Uint16(head)), version: int16(binary.BigEndian.Uint16(head[2:]))}
		number := int32(binary.BigEndian.Uint32(head[4:]))
		c.asked.put(number, q)
		switch {
		case q.api != apiOffsetCommit || commits == nil:
		case size > maxCommitFrame:
			commits.missed(fmt.Errorf("a request for commits has %d bytes", size))
		default:
			whole = func(frame []byte) {
				if q.commits = commits.asked(client, frame); q.commits != nil {
					c.asked.put(number, q)
				}
			}
		}
		return show(Sight{Up: true, API: q.api, Size: size}), whole
	})
	return passes, passes < len(data), after
}

// asked are a connection's requests without an answer, by the number that the
// answer has as well.
type asked struct {
	mu   sync.Mutex
	open map[int32]question
}

// question is a request: its kind, its version, and what it asks to commit if that
// is written down.
type question struct {
	api, version int16
	commits      *commitRequest
}

func newAsked() *asked { return &asked{open: make(map[int32]question)} }

func (a *asked) put(number int32, q question) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[number] = q
}

func (a *asked) take(number int32) question {
	a.mu.Lock()
	defer a.mu.Unlock()
	q, ok := a.open[number]
	if !ok {
		return question{api: NoAPI}
	}
	delete(a.open, number)
	return q
}

// end says that nothing is answered any more.
func (a *asked) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, q := range a.open {
		if q.commits != nil {
			q.commits.answered(q.version, nil)
		}
	}
	clear(a.open)
}

// frames finds the frames of one direction of a connection in Kafka's protocol:
// the size in four bytes; then, of a request, its key and its version in two each;
// then the number that the request and its answer share, in four.
type frames struct {
	head  []byte // of a frame whose head is not there in full
	left  int    // bytes of the last frame that are still to come
	blind bool   // it is not that protocol
	// whole is given the last frame, which is kept until then; nil is nobody.
	whole func(frame []byte)
	kept  []byte
}

// Bytes of a frame that are read.
const (
	requestHead = 12
	answerHead  = 8
	sizeBytes   = 4
)

// read shows each frame that has its head in what comes next: its size, and its
// head behind that. Who is returned then is given the frame, without its size, once
// it is all there. It returns how much of data lies before the frame that show does
// not let pass, or all.
func (f *frames) read(data []byte, up bool, show func(size int, head []byte) (pass bool, whole func([]byte))) int {
	need := answerHead
	if up {
		need = requestHead
	}
	for i := 0; i < len(data) && !f.blind; {
		if f.left > 0 {
			n := min(f.left, len(data)-i)
			f.keep(data[i : i+n])
			f.left, i = f.left-n, i+n
			f.done()
			continue
		}
		begun := i
		n := min(need-len(f.head), len(data)-i)
		f.head, i = append(f.head, data[i:i+n]...), i+n
		if len(f.head) < need {
			break
		}
		size := int(int32(binary.BigEndian.Uint32(f.head)))
		f.left = size - (need - sizeBytes)
		f.blind = f.left < 0
		if !f.blind {
			pass, whole := show(size, f.head[sizeBytes:])
			if !pass {
				return begun
			}
			f.whole = whole
			f.keep(f.head[sizeBytes:])
			f.done()
		}
		f.head = f.head[:0]
	}
	return len(data)
}

// keep keeps a part of a frame that somebody wants.
func (f *frames) keep(part []byte) {
	if f.whole != nil {
		f.kept = append(f.kept, part...)
	}
}

// done gives a frame that is all there to who wants it.
func (f *frames) done() {
	if f.left == 0 && f.whole != nil {
		f.whole(f.kept)
		f.whole, f.kept = nil, nil
	}
}
