package chaos

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"refinersource/internal/checker"
)

// cursorTag names a tenant in a commit.
type cursorTag [6]byte

func cursorTagOf(tenant string) (t cursorTag) {
	sum := sha256.Sum256([]byte(tenant))
	copy(t[:], sum[:])
	return t
}

// Causes of cursors: a tenant that goes on sending, and a commit that had no room
// to say.
const (
	slowCause   = 6
	untoldCause = -1
)

// waiter is a tenant at a cursor.
type waiter struct {
	tag   cursorTag
	cause int
}

var errBroken = errors.New("its metadata is broken")

// waitersIn reads who waits, as docs/decisions/0010-tenant-cursors.md writes it.
func waitersIn(metadata string) ([]waiter, error) {
	if metadata == "" {
		return nil, nil
	}
	payload, ok := strings.CutPrefix(metadata, "r1.")
	if !ok {
		return nil, errors.New("its metadata is of another version")
	}
	b, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil || len(b) < 1 {
		return nil, errBroken
	}
	flags := b[0]
	b = b[1:]
	bad := false
	varint := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[n:]
		return v
	}
	varint()           // partitions
	if flags&32 != 0 { // the installation
		b = b[min(len(cursorTag{}), len(b)):]
	}
	count := varint()
	if count > 4096 {
		return nil, errBroken
	}
	all := make([]waiter, count)
	for i := range all {
		if len(b) < len(cursorTag{}) {
			return nil, errBroken
		}
		b = b[copy(all[i].tag[:], b):]
		all[i].cause = untoldCause
		varint() // from
	}
	if flags&16 != 0 { // which of them are of single keys
		for n := varint(); n > 0 && !bad; n-- {
			varint()
			if len(b) < len(cursorTag{}) {
				return nil, errBroken
			}
			b = b[len(cursorTag{}):]
			varint()
		}
	}
	if flags&4 != 0 {
		varint() // base
		for i := range all {
			all[i].cause = int(varint() & 15)
		}
	}
	if bad {
		return nil, errBroken
	}
	return all, nil
}

// waits is who waits in the group's commits at one moment.
type waits struct {
	places  map[place]int // with the cause
	cursors map[int]int   // by partition
	longest int           // metadata, in bytes
}

// tenants counts those that wait somewhere.
func (w waits) tenants() int {
	seen := make(map[int]bool)
	for at := range w.places {
		seen[at.tenant] = true
	}
	return len(seen)
}

// most is the largest number of cursors in one partition.
func (w waits) most() int {
	most := 0
	for _, n := range w.cursors {
		most = max(most, n)
	}
	return most
}

// waitsNow asks Kafka who waits. Tenants that are not known have the number -1.
func (n *numbers) waitsNow(ctx context.Context) (waits, error) {
	w := waits{places: make(map[place]int), cursors: make(map[int]int)}
	all, err := n.cluster.positions(ctx, n.group, n.events(), n.run.o.Partitions)
	if err != nil {
		return w, err
	}
	for _, p := range all {
		in, err := waitersIn(p.Metadata)
		if err != nil {
			return w, fmt.Errorf("read the commit of partition %d: %w", p.Partition, err)
		}
		w.cursors[p.Partition] = len(in)
		w.longest = max(w.longest, len(p.Metadata))
		for _, one := range in {
			w.places[place{n.numberOf(one.tag), p.Partition}] = one.cause
		}
	}
	return w, nil
}

func (n *numbers) numberOf(t cursorTag) int {
	if i, ok := n.tags[t]; ok {
		return i
	}
	return -1
}

// eachCommit reads the recorded commits.
func eachCommit(history string, f func(checker.Commit)) error {
	file, err := os.Open(filepath.Join(history, checker.CommitsFile))
	if err != nil {
		return fmt.Errorf("open the commits: %w", err)
	}
	defer func() { _ = file.Close() }()
	for d := json.NewDecoder(bufio.NewReaderSize(file, 1<<20)); ; {
		var c checker.Commit
		if err := d.Decode(&c); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the commits: %w", err)
		}
		f(c)
	}
}

// longestMetadata is the largest of the recorded commits, in bytes.
func (n *numbers) longestMetadata() (int, error) {
	longest := 0
	err := eachCommit(n.history, func(c checker.Commit) { longest = max(longest, len(c.Metadata)) })
	return longest, err
}

// suspendedMessage is what a worker logs when it suspends a tenant in a partition.
const suspendedMessage = "suspend a tenant"

// suspensions are the times at which the workers suspended each place, as their logs
// say. A commit says it later: when it has come to the tenant's events.
func (n *numbers) suspensions() (map[place][]int64, error) {
	all := make(map[place][]int64)
	for _, m := range n.workers {
		if err := suspensionsIn(filepath.Join(n.procs.logs, workerName(m.index)+".log"), all); err != nil {
			return nil, err
		}
	}
	for _, times := range all {
		slices.Sort(times)
	}
	return all, nil
}

func suspensionsIn(file string, all map[place][]int64) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open a worker's log: %w", err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), []byte(suspendedMessage)) {
			continue
		}
		var line struct {
			Message   string    `json:"msg"`
			At        time.Time `json:"ts"`
			Tenant    string    `json:"tenant"`
			Partition int       `json:"partition"`
		}
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Message != suspendedMessage {
			continue
		}
		if i, err := strconv.Atoi(strings.TrimPrefix(line.Tenant, "t")); err == nil {
			at := place{i, line.Partition}
			all[at] = append(all[at], line.At.UnixNano())
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read a worker's log: %w", err)
	}
	return nil
}
