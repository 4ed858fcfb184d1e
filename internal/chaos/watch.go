package chaos

import (
	"encoding/binary"
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

// sighted shows a piece of one direction to the watch. It returns how much of it
// goes on, whether the connection ends then, and what is to be done afterwards.
func (c *pair) sighted(up bool, f *frames, data []byte) (passes int, lose bool, after []func()) {
	c.proxy.mu.Lock()
	watch := c.proxy.watch
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
	passes = f.read(data, up, func(size int, head []byte) bool {
		if up {
			api, number := int16(binary.BigEndian.Uint16(head)), int32(binary.BigEndian.Uint32(head[4:]))
			c.asked.put(number, api)
			return show(Sight{Up: true, API: api, Size: size})
		}
		return show(Sight{API: c.asked.take(int32(binary.BigEndian.Uint32(head))), Size: size})
	})
	return passes, passes < len(data), after
}

// asked are the kinds of a connection's requests without an answer, by the number
// that the answer has as well.
type asked struct {
	mu   sync.Mutex
	apis map[int32]int16
}

func newAsked() *asked { return &asked{apis: make(map[int32]int16)} }

func (a *asked) put(number int32, api int16) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.apis[number] = api
}

func (a *asked) take(number int32) int16 {
	a.mu.Lock()
	defer a.mu.Unlock()
	api, ok := a.apis[number]
	if !ok {
		return NoAPI
	}
	delete(a.apis, number)
	return api
}

// frames finds the frames of one direction of a connection in Kafka's protocol:
// the size in four bytes; then, of a request, its key and its version in two each;
// then the number that the request and its answer share, in four.
type frames struct {
	head  []byte // of a frame whose head is not there in full
	left  int    // bytes of the last frame that are still to come
	blind bool   // it is not that protocol
}

// Bytes of a frame that are read.
const (
	requestHead = 12
	answerHead  = 8
	sizeBytes   = 4
)

// read shows each frame that has its head in what comes next: its size, and its
// head behind that. It returns how much of data lies before the frame that show
// does not let pass, or all.
func (f *frames) read(data []byte, up bool, show func(size int, head []byte) bool) int {
	need := answerHead
	if up {
		need = requestHead
	}
	for i := 0; i < len(data) && !f.blind; {
		if f.left > 0 {
			n := min(f.left, len(data)-i)
			f.left, i = f.left-n, i+n
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
		if !f.blind && !show(size, f.head[sizeBytes:]) {
			return begun
		}
		f.head = f.head[:0]
	}
	return len(data)
}
