package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Ways to fail. Of the failing ones all but "slow" are suspended: that one is
// served, late. Those that wait at once are told that they are misconfigured or too
// many: of tenants without any answer, most of a host's, the host is waited for,
// and nobody is suspended.
var (
	failingWays    = []string{"500", "429", "silent", "reset", "slow", "401", "302", "5xx"}
	recoveringWays = []string{"500", "401", "5xx", "429"}
	suspendedWays  = []string{"401", "403", "302", "404", "429"}
)

// measureFailing makes some of the active tenants fail for a while.
func (n *numbers) measureFailing(ctx context.Context) (err error) {
	if n.trouble, err = n.fail(n.o.failing(), failingWays); err != nil {
		return err
	}
	pause(ctx, n.o.Trouble)
	n.mend(&n.trouble)
	return context.Cause(ctx)
}

// recovery is what there is to know of a recovery; its end is when all was
// delivered, or was no longer waited for.
type recovery struct {
	trouble
	done      window // from the heal to the last delivery
	delivered bool
	left      int
}

// Bounds of the parts' waits.
const (
	recoveryPatience  = 4 * time.Minute
	suspendedPatience = time.Minute
	quietPatience     = 2 * time.Minute
	suspendedHold     = 10 * time.Second
)

// backlogUsers are the users of a tenant that recovers.
const backlogUsers = 100

// account's user: one of those that have an account, by number.
func userOf(k int) int { return k/9*10 + k%9 }

// measureRecovery fills a backlog for tenants that fail, and heals them.
func (n *numbers) measureRecovery(ctx context.Context) (err error) {
	tenants := n.o.recovering()
	if n.recovery.trouble, err = n.fail(tenants, recoveringWays); err != nil {
		return err
	}
	// Each POST has an event of each user, so that a user's are one after another.
	err = n.forTenants(ctx, tenants, 12, func(ctx context.Context, r *rand.Rand, tenant int) error {
		for left := n.o.Waiting; left > 0; {
			users := make([]int, min(left, backlogUsers))
			for k := range users {
				users[k] = userOf(k)
			}
			if _, err := n.postList(ctx, r, tenant, users); err != nil {
				return err
			}
			left -= len(users)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !pause(ctx, time.Second) {
		return context.Cause(ctx)
	}
	n.mend(&n.recovery.trouble)
	n.logger("recovery: %d tenants heal after %v", len(tenants), short(n.recovery.to.Sub(n.recovery.from)))
	limited, cancel := context.WithTimeout(ctx, recoveryPatience)
	defer cancel()
	err = await(limited, "the backlog", 200*time.Millisecond, func(context.Context) bool {
		n.recovery.left = n.watch.waiting(tenants)
		return n.recovery.left == 0
	})
	n.recovery.delivered = err == nil
	n.recovery.done = window{n.recovery.to, time.Now()}
	if n.recovery.delivered {
		n.recovery.done.to = n.watch.lastDelivered(tenants)
	}
	return context.Cause(ctx)
}

// suspended is what there is to know of many tenants that wait at once.
type suspended struct {
	trouble
	planned int   // places
	seen    waits // the moment at which most tenants waited
	until   time.Time
}

// Users of a tenant that is to be suspended, and how many of a partition's cursors
// are taken: 255 fit whatever the tags are.
const (
	placedUsers   = 5
	cursorsWanted = 254
)

// measureSuspended makes many tenants wait at once, in as many places as there is
// room for.
func (n *numbers) measureSuspended(ctx context.Context) error {
	s := &n.suspended
	n.awaitQuiet(ctx)
	tenants := n.o.suspended()
	users := make([]int, placedUsers)
	for k := range users {
		users[k] = userOf(k)
	}
	// Where a user's events go is learned from one that is delivered.
	where := make(map[int][]int)
	var mu sync.Mutex
	err := n.forTenants(ctx, tenants, 8, func(ctx context.Context, r *rand.Rand, tenant int) error {
		partitions, err := n.postList(ctx, r, tenant, users)
		mu.Lock()
		defer mu.Unlock()
		where[tenant] = partitions
		return err
	})
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, suspendedPatience)
	defer cancel()
	if err := await(limited, "what is delivered before", 200*time.Millisecond, func(context.Context) bool { return n.watch.waiting(tenants) == 0 }); err != nil {
		return err
	}
	chosen, planned := spreadOut(tenants, where, cursorsWanted)
	s.planned = planned
	if s.trouble, err = n.fail(tenants, suspendedWays); err != nil {
		return err
	}
	err = n.forTenants(ctx, tenants, 8, func(ctx context.Context, r *rand.Rand, tenant int) error {
		var to []int
		for _, k := range chosen[tenant] {
			to = append(to, users[k])
		}
		_, err := n.postList(ctx, r, tenant, to)
		return err
	})
	if err != nil {
		return err
	}
	limited, cancel = context.WithTimeout(ctx, suspendedPatience)
	defer cancel()
	all := time.Time{} // when all waited
	wanted := make(map[int]bool, len(tenants))
	for _, i := range tenants {
		wanted[i] = true
	}
	_ = await(limited, "all to wait", 500*time.Millisecond, func(ctx context.Context) bool {
		w, err := n.waitsNow(ctx)
		if err != nil {
			n.logger("suspended: %v", err)
			return false
		}
		for at, cause := range w.places {
			if !wanted[at.tenant] || cause == slowCause {
				delete(w.places, at)
			}
		}
		if len(w.places) > len(s.seen.places) {
			s.seen = w
		}
		if all.IsZero() && len(w.places) >= planned {
			all = time.Now()
		}
		return !all.IsZero() && time.Since(all) >= suspendedHold
	})
	s.until = time.Now()
	n.logger("suspended: %d tenants in %d of %d places, at most %d cursors and %d bytes in a partition",
		s.seen.tenants(), len(s.seen.places), planned, s.seen.most(), s.seen.longest)
	n.mend(&s.trouble)
	return context.Cause(ctx)
}

// awaitQuiet waits until nobody waits at a cursor, for a while.
func (n *numbers) awaitQuiet(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, quietPatience)
	defer cancel()
	since := time.Now()
	if err := await(limited, "quiet", 500*time.Millisecond, func(ctx context.Context) bool {
		w, err := n.waitsNow(ctx)
		return err == nil && len(w.places) == 0
	}); err != nil {
		n.logger("cursors are left of what was before")
	}
	n.logger("quiet after %v", short(time.Since(since)))
}

// spreadOut chooses users, so that every tenant waits somewhere and no partition
// has more than so many cursors, where that can be. It returns the indexes of each
// tenant's users, and how many places they are.
func spreadOut(tenants []int, where map[int][]int, most int) (chosen map[int][]int, places int) {
	chosen = make(map[int][]int, len(tenants))
	taken := make(map[int]int)
	used := make(map[place]bool)
	take := func(tenant, k int) {
		at := place{tenant, where[tenant][k]}
		used[at] = true
		taken[at.partition]++
		chosen[tenant] = append(chosen[tenant], k)
		places++
	}
	for _, t := range tenants {
		least := -1
		for k, p := range where[t] {
			if least < 0 || taken[p] < taken[where[t][least]] {
				least = k
			}
		}
		if least >= 0 {
			take(t, least)
		}
	}
	for k := range placedUsers {
		for _, t := range tenants {
			if k < len(where[t]) && taken[where[t][k]] < most && !used[place{t, where[t][k]}] {
				take(t, k)
			}
		}
	}
	return chosen, places
}

// forTenants does something for each tenant, some at a time, until the first error.
func (n *numbers) forTenants(ctx context.Context, tenants []int, atOnce int, do func(context.Context, *rand.Rand, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	for w := range atOnce {
		r := rand.New(rand.NewPCG(n.o.Seed, 5000+uint64(w)))
		running.Go(func() {
			for i := w; i < len(tenants) && ctx.Err() == nil; i += atOnce {
				if err := do(ctx, r, tenants[i]); err != nil {
					cancel(fmt.Errorf("%s: %w", tenantName(tenants[i]), err))
				}
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}
