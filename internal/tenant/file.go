package tenant

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Times of following the file.
const (
	// settle is how long the directory must be quiet after a change: editors and
	// mounted volumes change a file in several steps.
	settle = 100 * time.Millisecond
	// poll finds what no notification told, such as on network file systems, and
	// changes of the files that secrets stand in.
	poll = 10 * time.Second
)

// File is a tenants file that may change. The last good content stays in force
// when a change is refused.
type File struct {
	path     string
	env      func(string) (string, bool)
	current  atomic.Pointer[Registry]
	watching atomic.Bool
	poll     time.Duration
	// What was loaded or refused last: of the file, and by path of those that its
	// secrets stand in. It belongs to OpenFile, then to Watch.
	seen    digest
	secrets map[string]digest
}

// OpenFile loads the file as Load does. Nothing follows its changes until Watch.
func OpenFile(path string, env func(string) (string, bool)) (*File, error) {
	f := &File{path: path, env: env, poll: poll}
	if _, err := f.load(); err != nil {
		return nil, err
	}
	return f, nil
}

// Current returns the tenants in force. It is safe for concurrent use.
func (f *File) Current() *Registry { return f.current.Load() }

// Watch follows the file until ctx ends, and then returns nil. For each change it
// calls changed, from one goroutine: with the registry that is now in force, or
// with why the change is refused. It may run once at a time; a second is an error.
func (f *File) Watch(ctx context.Context, changed func(*Registry, error)) error {
	if !f.watching.CompareAndSwap(false, true) {
		return errors.New("watch tenants file: it is watched already")
	}
	defer f.watching.Store(false)
	// The directory, since the file itself is replaced by editors and by a mounted
	// volume's symlinks. Where that cannot be had, polling alone finds the changes.
	var events <-chan fsnotify.Event
	var lost <-chan error
	if w, err := fsnotify.NewWatcher(); err == nil {
		defer func() { _ = w.Close() }()
		if w.Add(filepath.Dir(f.path)) == nil {
			events, lost = w.Events, w.Errors
		}
	}
	f.follow(ctx, events, lost, changed)
	return nil
}

// follow checks the file when events tell of a change in its directory or lost
// says that one was missed, and now and then.
func (f *File) follow(ctx context.Context, events <-chan fsnotify.Event, lost <-chan error, changed func(*Registry, error)) {
	ticker := time.NewTicker(f.poll)
	defer ticker.Stop()
	settled := time.NewTimer(0) // what changed since OpenFile
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			settled.Reset(settle)
			continue
		case <-lost: //nolint:errcheck // whatever was lost, a look at the file tells
			settled.Reset(settle)
			continue
		case <-settled.C:
		case <-ticker.C:
		}
		if f.isSeen() {
			continue
		}
		changed(f.load())
	}
}

// load reads the file, puts it in force if it is in order, and remembers what it
// saw in either case.
func (f *File) load() (*Registry, error) {
	p := newParser(f.env)
	data, err := readBounded(f.path, MaxFileBytes)
	f.seen, f.secrets = digestOf(data, err), nil
	if err != nil {
		return nil, fmt.Errorf("read tenants file: %w", err)
	}
	r, err := p.registry(f.path, data)
	f.secrets = p.files
	if err != nil {
		return nil, err
	}
	if now := f.current.Load(); now != nil && now.installation != r.installation {
		return nil, fmt.Errorf("%s: %w", f.path, Faults{{
			Field: "installation", Problem: fmt.Sprintf("is %q, and was %q", r.installation, now.installation),
			Remedy: "change it while nothing runs: the commits of a consumer group carry it for good",
		}})
	}
	f.current.Store(r)
	return r, nil
}

// isSeen reports whether all that load saw is still the same.
func (f *File) isSeen() bool {
	if digestOf(readBounded(f.path, MaxFileBytes)) != f.seen {
		return false
	}
	for path, seen := range f.secrets {
		if digestOf(readBounded(path, maxSecretBytes)) != seen {
			return false
		}
	}
	return true
}

// digest tells contents of a file apart.
type digest [sha256.Size]byte

// digestOf returns the digest of what was read, or of why it could not be.
func digestOf(data []byte, err error) digest {
	if err != nil {
		data = []byte(err.Error())
	}
	return sha256.Sum256(data)
}
