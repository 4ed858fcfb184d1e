package replay

import (
	"fmt"
	"io"
	"sync"
)

// Lines writes calls as JSON lines, the calls of an event in the order in which they
// would be sent and the events of a partition in the order of the log; those of
// several partitions side by side.
type Lines struct {
	mu sync.Mutex // never held but for a write
	w  io.Writer
}

// NewLines returns Lines that write to w.
func NewLines(w io.Writer) *Lines { return &Lines{w: w} }

// Partition is a visitor that writes the calls of one partition's events.
func (l *Lines) Partition() Visitor { return &lines{to: l} }

type lines struct {
	to  *Lines
	buf []byte
}

// linesBytes is how much is gathered before it is written.
const linesBytes = 64 << 10

// Visit takes in the calls of an event.
func (l *lines) Visit(e *Event) error {
	for i := range e.Result.Calls {
		l.buf = append(e.Result.Calls[i].AppendJSON(l.buf), '\n')
	}
	if len(l.buf) >= linesBytes {
		return l.Flush()
	}
	return nil
}

// Flush writes what is gathered.
func (l *lines) Flush() error {
	if len(l.buf) == 0 {
		return nil
	}
	l.to.mu.Lock()
	_, err := l.to.w.Write(l.buf)
	l.to.mu.Unlock()
	l.buf = l.buf[:0]
	if err != nil {
		return fmt.Errorf("write calls: %w", err)
	}
	return nil
}
