package chaos

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// lines is a file of the history: one JSON object a line. It is safe for
// concurrent use; its first error stays until close.
type lines struct {
	mu   sync.Mutex
	file *os.File
	out  *bufio.Writer
	n    int
	err  error
}

func createLines(dir, name string) (*lines, error) {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("create a file of the history: %w", err)
	}
	return &lines{file: f, out: bufio.NewWriterSize(f, 256<<10)}, nil
}

// write adds an object.
func (l *lines) write(v any) {
	line, err := json.Marshal(v)
	l.raw(append(line, '\n'), err)
}

// raw adds a line that is encoded already, unless err says that it could not be.
func (l *lines) raw(line []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		_, err = l.out.Write(line)
	}
	if l.err == nil && err != nil {
		l.err = fmt.Errorf("write %s: %w", filepath.Base(l.file.Name()), err)
	}
	l.n++
}

// close ends the file; further calls do nothing more.
func (l *lines) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return l.err
	}
	if err := l.out.Flush(); l.err == nil && err != nil {
		l.err = fmt.Errorf("write %s: %w", filepath.Base(l.file.Name()), err)
	}
	if err := l.file.Close(); l.err == nil && err != nil {
		l.err = fmt.Errorf("close %s: %w", filepath.Base(l.file.Name()), err)
	}
	l.file = nil
	return l.err
}

// writeAll writes a whole file of the history.
func writeAll[T any](dir, name string, all []T) error {
	l, err := createLines(dir, name)
	if err != nil {
		return err
	}
	for i := range all {
		l.write(&all[i])
	}
	return l.close()
}
