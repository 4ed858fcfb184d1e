package checker

import (
	"cmp"
	"slices"
	"sort"
	"time"
)

// generations follows the requests for commits: none is made in the name of a
// generation when one of a later generation has been, none from outside of the
// group, and in a generation each partition is committed by one member (Commits).
// What is not known to have been made is no breach.
func (c *checking) generations() {
	if !c.h.hasCommitRequests() {
		return
	}
	c.made = make(map[string][]Time)
	g := generations{checking: c, owners: make(map[owner]string), seen: make(map[place]seen)}
	if err := c.h.eachCommitRequest(g.request); err != nil {
		c.breach(Recorded, 0, "%v", err)
	}
	for _, times := range c.made {
		slices.Sort(times)
	}
	g.compare()
	c.report.Asked.Generations = len(g.steps)
}

// generations are those of the requests so far.
type generations struct {
	*checking
	last   Time // when the one before was answered
	steps  []step
	owners map[owner]string // the member that committed
	seen   map[place]seen
}

// step is that a commit of a generation, later than all before, had been made by a
// time. Both rise from step to step.
type step struct {
	at         Time
	generation int
}

type owner struct{ generation, partition int }

type place struct {
	partition int
	offset    int64
}

// seen is how often a commit was asked for, and made by what its answer says.
type seen struct{ asked, made int }

func (g *generations) request(r *CommitRequest) {
	g.report.Asked.Requests++
	if r.Answered == 0 {
		g.report.Asked.Unanswered++
	} else {
		if r.Answered < g.last || r.Answered < r.At {
			g.breach(Recorded, r.At, "a request for commits stands before one that was answered sooner, or was answered before it was made")
		}
		g.last = max(g.last, r.Answered)
	}
	made := false
	for _, part := range r.Asked {
		at := place{part.Partition, part.Offset}
		n := g.seen[at]
		n.asked++
		switch {
		case r.Answered == 0:
		case part.Error != 0:
			g.report.Asked.Refused++
		default:
			n.made++
			made = true
			g.owned(r, part.Partition)
		}
		g.seen[at] = n
	}
	if made {
		g.checking.made[r.Worker] = append(g.checking.made[r.Worker], r.At)
		g.made(r)
	}
}

// fenced verifies that a worker begins nothing when none of its commits has been made
// for long: others may have its partitions, and what it sends would come again. The
// receiver's time is that of the request, but where the worker or its link stood still.
func (c *checking) fenced(r *Request) {
	times := c.made[r.Worker]
	n, _ := slices.BinarySearch(times, r.Begun)
	if c.o.Fence <= 0 || n == 0 || r.Begun-times[n-1] <= int64(c.o.Fence) {
		return
	}
	if c.fault(times[n-1], r.Begun, func(f *Fault) bool { return len(f.Tenants) == 0 && f.strikes(r.Worker) && f.ofWorkers() }, Frozen, AnswersLost) >= 0 {
		return
	}
	c.note(Violation{Rule: Commits, Partition: -1, Offset: -1, At: r.Begun},
		"%s began a request %v after its last commit that was made, over %v", r.Worker, time.Duration(r.Begun-times[n-1]), c.o.Fence)
}

// owned verifies that a partition has one owner in a generation.
func (g *generations) owned(r *CommitRequest, partition int) {
	of := owner{r.Generation, partition}
	switch other, ok := g.owners[of]; {
	case r.Generation < 0:
	case !ok:
		g.owners[of] = r.Member
	case other != r.Member:
		g.note(Violation{Rule: Commits, Partition: partition, Offset: -1, At: r.At}, "two members committed partition %d in generation %d", partition, r.Generation)
	}
}

// made verifies the generation of a request of which something was committed. One
// whose time overlaps with another's may have come before it.
func (g *generations) made(r *CommitRequest) {
	v := Violation{Rule: Commits, Partition: r.Asked[0].Partition, Offset: -1, At: r.At}
	if r.Generation < 0 {
		if !g.during(r.At, r.Answered, "", Rewind) {
			g.note(v, "a worker committed partition %d from outside of the group", v.Partition)
		}
		return
	}
	before := sort.Search(len(g.steps), func(i int) bool { return g.steps[i].at >= r.At })
	if before > 0 && r.Generation < g.steps[before-1].generation {
		g.note(v, "generation %d committed partition %d when generation %d had committed", r.Generation, v.Partition, g.steps[before-1].generation)
	}
	if n := len(g.steps); n == 0 || r.Generation > g.steps[n-1].generation {
		g.steps = append(g.steps, step{r.Answered, r.Generation})
	}
}

// compare verifies that whoever wrote the requests down saw what the coordinator
// stored (Recorded).
func (g *generations) compare() {
	stored := make(map[place]int, len(g.seen))
	for i := range g.h.Commits {
		k := &g.h.Commits[i]
		at := place{k.Partition, k.Offset}
		if stored[at]++; stored[at] > g.seen[at].asked && !g.during(0, k.At, "", Rewind) {
			g.breach(Recorded, k.At, "partition %d was committed at %d, and no worker was seen to ask for it", k.Partition, k.Offset)
		}
	}
	var lost []place
	for at, n := range g.seen {
		if n.made > stored[at] {
			lost = append(lost, at)
		}
	}
	slices.SortFunc(lost, func(a, b place) int { return cmp.Or(a.partition-b.partition, cmp.Compare(a.offset, b.offset)) })
	for _, at := range lost {
		g.breach(Recorded, 0, "a commit of partition %d at %d was answered as made, and it was not", at.partition, at.offset)
	}
}
