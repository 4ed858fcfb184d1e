package checker

import (
	"bufio"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Names of a history's files.
const (
	TenantsFile  = "tenants.jsonl"
	SentFile     = "sent.jsonl"
	LogFile      = "log.jsonl"
	BoundsFile   = "bounds.jsonl"
	ReceivedFile = "received.jsonl"
	CommitsFile  = "commits.jsonl"
	RequestsFile = "commit_requests.jsonl"
	LettersFile  = "letters.jsonl"
	FaultsFile   = "faults.jsonl"
	FinalFile    = "final.json"
)

// Load opens a recorded history. What is large (sent, log, received, the requests
// for commits) stays where it is, and Check reads it once: dir must stay readable until then. A line that
// cannot be read is an error here or a violation of Recorded there: nothing is
// passed over.
func Load(dir fs.FS) (*History, error) {
	h := &History{dir: dir}
	err := errors.Join(
		readAll(dir, TenantsFile, false, &h.Tenants),
		readAll(dir, BoundsFile, false, &h.Bounds),
		readAll(dir, CommitsFile, true, &h.Commits),
		readAll(dir, LettersFile, false, &h.Letters),
		readAll(dir, FaultsFile, true, &h.Faults),
	)
	if err != nil {
		return nil, err
	}
	var final []Final
	if err := readAll(dir, FinalFile, false, &final); err != nil {
		return nil, err
	}
	if len(final) != 1 {
		return nil, fmt.Errorf("read %s: %d objects, want one", FinalFile, len(final))
	}
	h.Final = final[0]
	for _, name := range []string{SentFile, LogFile, ReceivedFile} {
		if _, err := fs.Stat(dir, name); err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
	}
	return h, nil
}

// readAll reads a whole file.
func readAll[T any](dir fs.FS, name string, optional bool, into *[]T) error {
	err := readEach(dir, name, func(v *T) { *into = append(*into, *v) })
	if optional && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// readEach calls f for every object of a file. What f is given is its own to
// keep, but for v itself.
func readEach[T any](dir fs.FS, name string, f func(v *T)) (err error) {
	file, err := dir.Open(name)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	d := jsontext.NewDecoder(bufio.NewReaderSize(file, 1<<20))
	for n := 1; ; n++ {
		var v T
		switch err := json.UnmarshalDecode(d, &v); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read %s, object %d: %w", name, n, err)
		}
		f(&v)
	}
}

// The large parts, from memory or from their files.
func (h *History) eachSent(f func(*Sent)) error { return each(h, SentFile, h.Sent, f) }

func (h *History) eachRecord(f func(*Record)) error { return each(h, LogFile, h.Log, f) }

func (h *History) eachRequest(f func(*Request)) error { return each(h, ReceivedFile, h.Received, f) }

func (h *History) eachCommitRequest(f func(*CommitRequest)) error {
	return each(h, RequestsFile, h.CommitRequests, f)
}

// hasCommitRequests reports whether somebody saw the requests for commits.
func (h *History) hasCommitRequests() bool {
	if h.dir == nil {
		return h.CommitRequests != nil
	}
	_, err := fs.Stat(h.dir, RequestsFile)
	return !errors.Is(err, fs.ErrNotExist)
}

func each[T any](h *History, name string, in []T, f func(*T)) error {
	if h.dir != nil {
		return readEach(h.dir, name, f)
	}
	for i := range in {
		f(&in[i])
	}
	return nil
}
