package checker_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"testing"

	"refinersource/internal/checker"
	"refinersource/internal/lane"
)

// hot is a tenant with one user who is set apart, and others in the same partition.
type hot struct {
	*world
	p      int
	others []string
	n      int
}

func newHot(w *world) *hot {
	h := &hot{world: w, p: partitionOf("dove", "hot")}
	for i := 0; len(h.others) < 3; i++ {
		if user := fmt.Sprintf("calm-%d", i); partitionOf("dove", user) == h.p {
			h.others = append(h.others, user)
		}
	}
	return h
}

// posts has an event accepted of each user: 0 is the one who is set apart, the
// others are those from 1 on.
func (h *hot) posts(users ...int) []posted {
	all := make([]posted, 0, len(users))
	for _, u := range users {
		user := "hot"
		if u > 0 {
			user = h.others[u-1]
		}
		h.n++
		all = append(all, h.event("dove", user, fmt.Sprintf("%s-%d", user, h.n), h.n))
	}
	return all
}

// of is the cursor of the tenant's own lane.
func (h *hot) of(from posted, runs ...lane.Run) lane.Cursor {
	return lane.Cursor{Tag: lane.TagOf("dove"), From: lane.Offset(from.offset), Runs: runs}
}

// key is that of the user who is set apart.
func (h *hot) key(split posted, from int64, runs ...lane.Run) lane.Cursor {
	return lane.Cursor{
		Tag: lane.TagOf("dove"), Key: lane.TagOf("dove/hot"), Split: lane.Offset(split.offset), From: lane.Offset(from), Runs: runs,
	}
}

// end commits everything there is, with cursors.
func (h *hot) end(cursors ...lane.Cursor) { h.commit(h.p, h.ends[h.p], cursors...) }

// leftOut makes the last commit one that had no room for all runs.
func (h *hot) leftOut(owner lane.Owner) {
	k := &h.h.Commits[len(h.h.Commits)-1]
	b := must(base64.RawURLEncoding.DecodeString(k.Metadata[len("r1."):]))
	b = b[:len(b)-4]
	b[0] |= 8 | byte(owner)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	k.Metadata = "r1." + base64.RawURLEncoding.EncodeToString(b)
}

// stay ends the run while the tenant fails, and nobody has seen the commits.
func (h *hot) stay() {
	last := h.h.Commits[len(h.h.Commits)-1]
	h.h.Commits = nil
	h.h.Final.Failing = []string{"dove"}
	h.h.Final.Positions = []checker.Position{{Partition: last.Partition, Committed: last.Offset, Metadata: last.Metadata}}
}

// with makes a scenario of one that has a user who is set apart.
func with(do func(h *hot)) func(*world) { return func(w *world) { do(newHot(w)) } }

func runOf(events int, state lane.RunState) lane.Run { return lane.Run{Events: events, State: state} }

func TestKeyThatIsSetApartIsNoBreach(t *testing.T) {
	t.Parallel()
	repeats := func(r *checker.Report) int { return r.Repeats.Calls }
	for _, c := range []struct {
		name  string
		do    func(h *hot)
		count func(r *checker.Report) int
		want  int
	}{
		{"behind, while its tenant goes on", func(h *hot) {
			e := h.posts(0, 1, 0, 0, 2, 0)
			h.deliver(e[0], e[1])
			h.end(h.of(e[4]), h.key(e[2], e[2].offset))
			h.deliver(e[4], e[2])
			h.end(h.key(e[2], e[3].offset))
			h.request(e[3].tenant, taken, e[3].calls[0])
			h.end(h.key(e[2], e[3].offset, runOf(1, lane.AfterFirst)))
			h.request(e[3].tenant, taken, e[3].calls[1])
			h.deliver(e[5])
			h.end()
		}, repeats, 0},
		{"behind, with what comes before its split in its tenant's lane", func(h *hot) {
			e := h.posts(0, 0, 0)
			h.end(h.of(e[0]), h.key(e[2], e[2].offset))
			h.deliver(e[0])
			h.end(h.of(e[1]), h.key(e[2], e[2].offset))
			h.deliver(e[1])
			h.end(h.key(e[2], e[2].offset))
			h.deliver(e[2])
			h.end()
		}, repeats, 0},
		{"caught up, from above the commit", func(h *hot) {
			e := h.posts(1, 2, 0, 0)
			h.deliver(e[2])
			h.commit(h.p, e[1].offset, h.of(e[0]), h.key(e[2], e[3].offset))
			h.deliver(e[0], e[1], e[3])
			h.end()
		}, repeats, 0},
		{"not passed yet, from above the commit", func(h *hot) {
			e := h.posts(1, 2, 0, 0)
			h.commit(h.p, e[1].offset, h.of(e[0]), h.key(e[3], e[3].offset))
			h.deliver(e...)
			h.end()
		}, repeats, 0},
		{"of a tenant that is suspended, and counts without it", func(h *hot) {
			e := h.posts(1, 0, 0, 2, 0, 3, 0)
			h.deliver(e[3], e[1])
			h.request(e[5].tenant, taken, e[5].calls[0])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(1, lane.Done), runOf(1, lane.AfterFirst)), h.key(e[1], e[2].offset))
			h.request(e[5].tenant, taken, e[5].calls[1])
			h.deliver(e[2])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(2, lane.Done)), h.key(e[1], e[4].offset))
			until := h.of(e[0], runOf(1, lane.Pending))
			until.Until = lane.Offset(h.ends[h.p])
			h.end(until, h.key(e[1], e[4].offset))
			h.deliver(e[4], e[6])
			until.Until = lane.Offset(h.ends[h.p])
			h.end(until, h.key(e[1], h.ends[h.p]))
			h.deliver(e[0])
			h.end()
		}, repeats, 0},
		{"counted up to its split", func(h *hot) {
			e := h.posts(1, 0, 2, 0, 3)
			h.deliver(e[1], e[4])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(1, lane.Done), runOf(1, lane.Pending), runOf(1, lane.Done)), h.key(e[3], e[3].offset))
			h.deliver(e[0], e[2], e[3])
			h.end()
		}, repeats, 0},
		{"half done on both sides of it", func(h *hot) {
			e := h.posts(1, 0, 2, 3)
			h.request(e[0].tenant, taken, e[0].calls[0])
			h.request(e[2].tenant, taken, e[2].calls[0])
			h.end(h.of(e[0], runOf(2, lane.AfterFirst)), h.key(e[1], e[1].offset))
			h.request(e[0].tenant, taken, e[0].calls[1])
			h.request(e[2].tenant, taken, e[2].calls[1])
			h.deliver(e[1], e[3])
			h.end()
		}, repeats, 0},
		{"handed over, with what comes before its split not done", func(h *hot) {
			e := h.posts(0, 1, 0)
			h.end(h.of(e[0]), h.key(e[2], e[2].offset))
			h.deliver(e[0])
			h.kill()
			h.deliver(e...)
			h.end()
		}, func(r *checker.Report) int { return r.Repeats.Takeover + r.Repeats.Continued }, 2},
		{"counted by itself", func(h *hot) {
			e := h.posts(0, 1, 0, 2, 0, 0)
			h.deliver(e[1])
			h.letter(e[2], "outlived", 0)
			h.letter(e[4], "outlived", 0)
			h.h.Faults = append(h.h.Faults, checker.Fault{At: h.now, Fault: "F38"})
			h.end(h.of(e[3]), h.key(e[0], e[0].offset, runOf(1, lane.Pending), runOf(2, lane.Done)))
			h.deliver(e[0], e[3], e[5])
			h.end()
		}, repeats, 0},
		{"handed over in the middle", func(h *hot) {
			e := h.posts(0, 1, 0, 0, 0)
			h.deliver(e[1], e[0])
			h.request(e[2].tenant, taken, e[2].calls[0])
			h.end(h.key(e[0], e[2].offset, runOf(1, lane.AfterFirst)))
			h.request(e[2].tenant, taken, e[2].calls[1])
			h.deliver(e[3])
			h.kill()
			h.request(e[2].tenant, taken, e[2].calls[1])
			h.deliver(e[3], e[4])
			h.end()
		}, func(r *checker.Report) int { return r.Repeats.Takeover + r.Repeats.Continued }, 3},
		{"handed over with its tenant", func(h *hot) {
			e := h.posts(1, 0, 2, 0, 3)
			h.deliver(e[1], e[2], e[4])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(1, lane.Done)), h.key(e[1], e[3].offset))
			h.kill()
			h.deliver(e[0], e[4], e[3]) // the last one of its tenant again: the runs do not say that it is done
			h.end()
		}, func(r *checker.Report) int { return r.Repeats.Takeover + r.Repeats.Continued }, 2},
		{"back in its tenant's lane, which has no cursor", func(h *hot) {
			e := h.posts(0, 1, 0)
			h.end(h.of(e[1]), h.key(e[0], e[0].offset))
			h.deliver(e...)
			h.end()
			e = h.posts(1, 0, 2)
			h.deliver(e[1])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(1, lane.Done)))
			h.deliver(e[0], e[2])
			h.end()
		}, repeats, 0},
		{"back in its tenant's lane between two commits", func(h *hot) {
			e := h.posts(1, 0)
			h.end(h.of(e[0]), h.key(e[1], e[1].offset))
			h.deliver(e...)
			e = h.posts(1, 0, 2)
			h.deliver(e[1])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(1, lane.Done)))
			h.deliver(e[0], e[2])
			h.end()
		}, repeats, 0},
		{"back, and set apart anew", func(h *hot) {
			e := h.posts(1, 0)
			h.end(h.of(e[0]), h.key(e[1], e[1].offset))
			h.deliver(e...)
			e = h.posts(1, 0, 0)
			h.end(h.of(e[0]), h.key(e[2], e[2].offset))
			h.deliver(e...)
			h.end()
		}, repeats, 0},
		{"by its commit as one lane again, all its events not done", func(h *hot) {
			e := h.posts(1, 0, 0)
			h.deliver(e[0], e[1])
			h.commit(h.p, e[1].offset, h.key(e[1], e[2].offset))
			h.commit(h.p, e[1].offset)
			h.kill()
			h.deliver(e[1], e[2])
			h.end()
		}, func(r *checker.Report) int { return r.Repeats.Takeover + r.Repeats.Continued }, 2},
		{"all of it again, when runs were left out", func(h *hot) {
			e := h.posts(1, 0, 0, 0)
			h.deliver(e[1], e[2])
			h.end(h.of(e[0]), h.key(e[1], e[3].offset))
			h.leftOut(lane.Working)
			h.h.Faults = append(h.h.Faults, checker.Fault{At: h.now, Fault: "F3"})
			h.pass(second)
			h.deliver(e...)
			h.end()
		}, func(r *checker.Report) int { return r.Repeats.Forgotten + r.Repeats.Continued }, 4},
		{"all of it again, when retention tore its tenant's runs", func(h *hot) {
			tornApart(h, true)
		}, func(r *checker.Report) int { return r.Repeats.Forgotten + r.Repeats.Continued }, 2},
		{"waits for a tenant that fails", func(h *hot) {
			e := h.posts(1, 0, 0, 2, 0)
			h.deliver(e[1], e[3])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(1, lane.Done)), h.key(e[1], e[2].offset))
			h.h.Final.Failing = []string{"dove"}
		}, func(r *checker.Report) int { return r.Ended.Waiting }, 3},
		{"a frozen worker's request beside its tenant's", func(h *hot) {
			frozenApart(h, 0, 1)
		}, func(r *checker.Report) int { return r.Repeats.Late }, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := calm(t)
			c.do(newHot(w))
			r := checker.Check(w.close(), checker.Options{})
			if got := c.count(&r); !r.OK() || got != c.want {
				t.Errorf("counted %d, want %d:\n%s", got, c.want, report(r))
			}
		})
	}
}

// tornApart has events of a key sent again that its cursor says are done: when
// retention took what its tenant's cursor counts from, or although it did not.
func tornApart(h *hot, trimmed bool) {
	e := h.posts(1, 2, 0)
	h.deliver(e[2])
	h.end(h.of(e[0]), h.key(e[2], h.ends[h.p]))
	h.h.Faults = append(h.h.Faults, checker.Fault{At: h.now, Fault: "F38"})
	if h.trim = trimmed; !trimmed {
		h.deliver(e[0])
	}
	h.deliver(e[1])
	h.pass(second)
	h.deliver(e[2])
}

// frozenApart has requests of a frozen worker come late, for events of the users.
func frozenApart(h *hot, users ...int) {
	e := h.posts(users...)
	h.end(h.of(e[1]), h.key(e[0], e[0].offset))
	h.deliver(e...)
	h.end()
	h.h.Faults = append(h.h.Faults, checker.Fault{At: h.now, Until: h.now + 40*second, Fault: "F5", Target: "worker-2"})
	h.pass(41 * second)
	for i := range e {
		h.request(e[i].tenant, taken, e[i].calls[1]).Worker = "worker-2"
	}
}

// apartControls are what mutants would leave behind that set a key apart.
func apartControls() []control {
	all := []control{
		{name: "of a key, dropped while its tenant has one", do: with(func(h *hot) {
			e := h.posts(1, 0, 0)
			h.deliver(e[1])
			h.end(h.of(e[0]), h.key(e[1], e[2].offset))
			h.end(h.of(e[0]))
			h.deliver(e[0], e[2])
			h.end()
		}), want: checker.Cursors},
		{name: "of a key, dropped when it had caught up, while its tenant has one", do: with(func(h *hot) {
			e := h.posts(1, 0)
			h.deliver(e[1])
			h.end(h.of(e[0]), h.key(e[1], h.ends[h.p]))
			h.end(h.of(e[0]))
			h.deliver(e[0])
			h.end()
		}), want: checker.Cursors},
		{name: "of a key, split off anew while its tenant has one", do: with(func(h *hot) {
			e := h.posts(1, 0, 0)
			h.deliver(e[1])
			h.end(h.of(e[0]), h.key(e[1], e[2].offset))
			h.end(h.of(e[0]), h.key(e[2], e[2].offset))
			h.deliver(e[0], e[2])
			h.end()
		}), want: checker.Cursors},
		{name: "of a key, dropped with its tenant's", do: with(func(h *hot) {
			e := h.posts(1, 0)
			h.deliver(e[0])
			h.end(h.key(e[1], e[1].offset))
			h.end()
			h.deliver(e[1])
		}), want: checker.Cursors},
		{name: "of a key, behind its events, and its tenant's would hold them", do: with(func(h *hot) {
			e := h.posts(1, 0, 0)
			h.end(h.of(e[0]))
			h.end(h.of(e[0]), h.key(e[1], e[2].offset))
			h.deliver(e...)
			h.end()
		}), want: checker.Cursors},
		{name: "of a key, back to its tenant's in part, which has none", do: with(func(h *hot) {
			e := h.posts(0, 0)
			h.end(h.key(e[0], e[0].offset))
			h.end(h.key(e[1], e[1].offset))
			h.deliver(e...)
			h.end()
		}), want: checker.Cursors},
		{name: "of a key, moved on one too far", do: with(func(h *hot) {
			e := h.posts(0, 1, 0)
			h.deliver(e[1])
			h.end(h.key(e[0], e[0].offset))
			h.end(h.key(e[0], e[0].offset+1))
			h.deliver(e[0], e[2])
			h.end()
		}), want: checker.Cursors},
		{name: "of a key, over events that are not there", do: with(func(h *hot) {
			e := h.posts(0, 1, 0)
			h.end(h.of(e[1]), h.key(e[0], e[0].offset, runOf(3, lane.Done)))
			h.deliver(e...)
		}), want: checker.Cursors},
		{name: "of a tenant, over events of a key that is set apart", do: with(func(h *hot) {
			e := h.posts(1, 0, 0)
			h.deliver(e[1], e[2])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(2, lane.Done)), h.key(e[1], h.ends[h.p]))
			h.deliver(e[0])
			h.end()
		}), want: checker.Cursors},

		{name: "of a key, one too far", do: with(func(h *hot) {
			e := h.posts(0, 1, 0)
			h.end(h.of(e[1]), h.key(e[0], e[2].offset))
			h.deliver(e...)
			h.end()
		}), want: checker.Commits},
		{name: "of a key, one too far above the commit", do: with(func(h *hot) {
			e := h.posts(1, 2, 0, 0)
			h.commit(h.p, e[1].offset, h.of(e[0]), h.key(e[2], e[3].offset))
			h.deliver(e...)
			h.end()
		}), want: checker.Commits},
		{name: "of a key, which does not hold what comes before its split", do: with(func(h *hot) {
			e := h.posts(0, 0)
			h.end(h.key(e[1], e[1].offset))
			h.deliver(e...)
		}), want: checker.Commits},
		{name: "of a tenant, which does not hold what is set apart", do: with(func(h *hot) {
			e := h.posts(0, 1, 0)
			h.deliver(e[0], e[1])
			h.end(h.of(e[1]), h.key(e[0], e[2].offset+1))
			h.deliver(e[2])
			h.end()
		}), want: checker.Commits},
		{name: "counts the events of a key that is set apart", do: with(func(h *hot) {
			e := h.posts(1, 0, 2, 3)
			h.deliver(e[1])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(1, lane.Done)), h.key(e[1], h.ends[h.p]))
			h.deliver(e[0], e[2], e[3])
			h.end()
		}), want: checker.Commits},
		{name: "counts the events of a key that is set apart as half done", do: with(func(h *hot) {
			e := h.posts(1, 0, 2, 3)
			h.request(e[1].tenant, taken, e[1].calls[0])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(1, lane.AfterFirst)), h.key(e[1], e[1].offset))
			h.request(e[1].tenant, taken, e[1].calls[1])
			h.deliver(e[0], e[2], e[3])
			h.end()
		}), want: checker.Commits},
		{name: "does not count the events of a key before its split", do: with(func(h *hot) {
			e := h.posts(1, 0, 2, 0)
			h.deliver(e[2])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(1, lane.Done)), h.key(e[3], e[3].offset))
			h.deliver(e[0], e[1], e[3])
			h.end()
		}), want: checker.Commits},
		{name: "counts the others' events in the lane of a key", do: with(func(h *hot) {
			e := h.posts(0, 1, 0)
			h.deliver(e[1])
			h.end(h.key(e[0], e[0].offset, runOf(1, lane.Pending), runOf(1, lane.Done)))
			h.deliver(e[0], e[2])
			h.end()
		}), want: checker.Commits},
		{name: "says until where a tenant is done, and means its key", do: with(func(h *hot) {
			e := h.posts(1, 0, 2)
			h.deliver(e[1])
			c := h.of(e[0], runOf(1, lane.Pending))
			c.Until = lane.Offset(h.ends[h.p])
			h.end(c, h.key(e[1], h.ends[h.p]))
			h.deliver(e[0], e[2])
			h.end()
		}), want: checker.Commits},

		{name: "of a key, overtaking across the split", do: with(func(h *hot) {
			e := h.posts(0, 0)
			h.end(h.of(e[0]), h.key(e[1], e[1].offset))
			h.deliver(e[1])
			h.end(h.of(e[0]), h.key(e[1], h.ends[h.p]))
			h.deliver(e[0])
			h.end()
		}), want: checker.Order},
		{name: "of a key again, although its cursor is behind it", do: with(func(h *hot) {
			e := h.posts(1, 0, 0)
			h.deliver(e[1])
			h.end(h.of(e[0]), h.key(e[1], e[2].offset))
			h.kill()
			h.deliver(e[1], e[0], e[2])
			h.end()
		}), want: checker.Order},
		{name: "of a key again above the commit, although its cursor is behind it", do: with(func(h *hot) {
			e := h.posts(1, 2, 0, 0)
			h.deliver(e[2])
			h.commit(h.p, e[1].offset, h.of(e[0]), h.key(e[2], e[3].offset))
			h.kill()
			h.deliver(e...)
			h.end()
		}), want: checker.Order},
		{name: "of a key again, although its runs say that it is done", do: with(func(h *hot) {
			e := h.posts(0, 1, 0)
			h.letter(e[0], "outlived", 0)
			h.h.Faults = append(h.h.Faults, checker.Fault{At: h.now, Fault: "F38"})
			h.deliver(e[2])
			h.letter(e[1], "outlived", 0)
			h.end(h.key(e[0], e[0].offset, runOf(2, lane.Done)))
			h.kill()
			h.deliver(e[2])
			h.end()
		}), want: checker.Order},
		{name: "of a tenant again, although its runs say that it is done", do: with(func(h *hot) {
			e := h.posts(1, 0, 2)
			h.deliver(e[2])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(1, lane.Done)), h.key(e[1], e[1].offset))
			h.kill()
			h.deliver(e...)
			h.end()
		}), want: checker.Order},
		{name: "of a frozen worker, two of a key's lane", do: with(func(h *hot) { frozenApart(h, 0, 0) }), want: checker.Order},
		{name: "all of a key again, when runs were left out by an owner who drained", do: with(func(h *hot) {
			e := h.posts(1, 0, 0)
			h.deliver(e[1])
			h.end(h.of(e[0]), h.key(e[1], e[2].offset))
			h.leftOut(lane.Clean)
			h.h.Faults = append(h.h.Faults, checker.Fault{At: h.now, Fault: "F3"})
			h.pass(second)
			h.deliver(e...)
			h.end()
		}), want: checker.Duplicates},
		{name: "all of a key again, though retention tore nothing", do: with(func(h *hot) { tornApart(h, false) }), want: checker.Duplicates},
		{name: "of a key, passed by its cursor while its tenant fails", do: with(func(h *hot) {
			e := h.posts(1, 0, 0)
			h.end(h.of(e[0]), h.key(e[1], e[2].offset))
			h.stay()
		}), want: checker.Complete},
		{name: "of a key, passed by its cursor above the commit while its tenant fails", do: with(func(h *hot) {
			e := h.posts(1, 2, 0, 0)
			h.commit(h.p, e[1].offset, h.of(e[0]), h.key(e[2], e[3].offset))
			h.stay()
		}), want: checker.Complete},
		{name: "of a key, done by its tenant's runs while that fails", do: with(func(h *hot) {
			e := h.posts(1, 0, 2, 3)
			h.deliver(e[2])
			h.end(h.of(e[0], runOf(1, lane.Pending), runOf(2, lane.Done)), h.key(e[1], e[1].offset))
			h.stay()
		}), want: checker.Complete},
	}
	for i := range all {
		all[i].of = calm
	}
	return all
}
