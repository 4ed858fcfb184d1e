package lane_test

import (
	"fmt"
	"slices"
	"testing"

	"refinersource/internal/allocs"
	"refinersource/internal/lane"
)

// Budgets: how often an event of an identify and a group may allocate on its way
// through a partition of many tenants, and the cursors of 250 tenants on their way
// into a commit and out of it.
const (
	eventAllocs         = 8
	encodeCursorsAllocs = 3
	decodeCursorsAllocs = 32
)

// passage takes one event after another through a partition of so many tenants: it is
// taken in, its identify is sent and accepted, then its group, and the commit point
// moves past it.
func passage(tb testing.TB, tenants int) func() {
	tb.Helper()
	p := lane.New[int](lane.Limits{RequestCalls: 2000, RequestBytes: 450_000, WindowEvents: 4096, WindowBytes: 8 << 20}, 0)
	names, users := make([]string, tenants), make([]string, tenants)
	for i := range tenants {
		names[i], users[i] = fmt.Sprint("tenant-", i), fmt.Sprint("user-", i)
	}
	offset := lane.Offset(0)
	accepted := slices.Repeat([]lane.Outcome{lane.Accepted}, 1)
	return func() {
		i := int(offset) % tenants
		p.Add(lane.Event[int]{Offset: offset, Lane: names[i], Key: users[i], Steps: pair, Bytes: 1000})
		offset++
		for range pair {
			r, ok := p.Next()
			if !ok || len(r.Parts) != 1 {
				tb.Fatalf("Next: %v with %d parts, want one step", ok, len(r.Parts))
			}
			p.Done(r, accepted)
		}
		if got := p.CommitPoint(); got != offset {
			tb.Fatalf("commit point %d, want %d", got, offset)
		}
	}
}

func TestAllocationBudgetOfAnEventInItsLane(t *testing.T) {
	allocs.Hold(t, eventAllocs, passage(t, 1000))
}

func TestAllocationBudgetOfCursorsInACommit(t *testing.T) {
	m := typical(250)
	text, _ := encode(t, m)
	t.Run("encode", func(t *testing.T) {
		allocs.Hold(t, encodeCursorsAllocs, func() {
			if _, _, err := m.Encode(); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("decode", func(t *testing.T) {
		allocs.Hold(t, decodeCursorsAllocs, func() {
			if _, err := lane.Decode(text); err != nil {
				t.Error(err)
			}
		})
	})
}

func BenchmarkEvent(b *testing.B) {
	pass := passage(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		pass()
	}
}
