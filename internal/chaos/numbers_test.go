package chaos_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"refinersource/internal/chaos"
)

func TestQuantilesAreByNearestRank(t *testing.T) {
	t.Parallel()
	seconds := func(n int) []time.Duration {
		var all []time.Duration
		for i := n; i >= 1; i-- {
			all = append(all, time.Duration(i)*time.Second)
		}
		return all
	}
	for _, c := range []struct{ n, p50, p99, most int }{{1, 1, 1, 1}, {2, 1, 2, 2}, {100, 50, 99, 100}, {101, 51, 100, 101}, {1000, 500, 990, 1000}} {
		want := chaos.Quantiles{N: c.n, P50: time.Duration(c.p50) * time.Second, P99: time.Duration(c.p99) * time.Second, Max: time.Duration(c.most) * time.Second}
		if got := chaos.QuantilesOf(seconds(c.n)); got != want {
			t.Errorf("of 1 to %d s: %+v, want %+v", c.n, got, want)
		}
	}
	if got := chaos.QuantilesOf(nil); got != (chaos.Quantiles{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestGateOfTheLatencyIsTheLargerOfRatioAndGrace(t *testing.T) {
	t.Parallel()
	for before, want := range map[time.Duration]time.Duration{
		20 * time.Millisecond:  120 * time.Millisecond,
		200 * time.Millisecond: 300 * time.Millisecond,
		time.Second:            1500 * time.Millisecond,
	} {
		if got := chaos.LatencyBound(before); got != want {
			t.Errorf("p99 of %v before: at most %v, want %v", before, got, want)
		}
	}
}

func TestPartsOfTheTenantsDoNotOverlap(t *testing.T) {
	t.Parallel()
	for _, percent := range []int{1, 10, 30, 33, 50} {
		o := chaos.NumbersOptions{Tenants: 2000, Active: 600, Failing: percent, Recovering: 50, Suspended: 200}
		healthy, failing, others := chaos.TenantParts(o)
		if len(failing) != 600*percent/100 || len(healthy)+len(failing) != 600 {
			t.Errorf("%d %%: %d fail and %d are healthy, of 600", percent, len(failing), len(healthy))
		}
		seen := make(map[int]bool)
		for _, i := range slices.Concat(healthy, failing, others) {
			if seen[i] || i >= o.Tenants {
				t.Fatalf("%d %%: tenant %d has two parts, or is none", percent, i)
			}
			seen[i] = true
		}
	}
}

func TestOptionsThatCannotBeMeasuredAreRefused(t *testing.T) {
	t.Parallel()
	if err := chaos.ValidateNumbers(chaos.NumbersOptions{}); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	for name, o := range map[string]chaos.NumbersOptions{
		"too few tenants": {Tenants: 1500},
		"no such part":    {Only: []string{"tenants", "taxes"}},
		"all fail":        {Failing: 100},
		"nobody fails":    {Active: 5, Failing: 10, Rate: -1},
	} {
		if chaos.ValidateNumbers(o) == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestVariantsComeFromTheSeed(t *testing.T) {
	t.Parallel()
	const n = 105
	first, again, other := chaos.Variants(7, n), chaos.Variants(7, n), chaos.Variants(8, n)
	same := 0
	for i := range n {
		if first[i] != again[i] {
			t.Fatalf("variant %d differs with the same seed", i)
		}
		if first[i] == other[i] {
			same++
		}
	}
	if same > n/4 {
		t.Errorf("%d of %d variants are the same with another seed", same, n)
	}
}

func TestVariantsHaveEveryClass(t *testing.T) {
	t.Parallel()
	const n = 420
	count := make(map[string]int)
	valid := make(map[string]int)
	slow, chunked, over := 0, 0, 0
	for _, v := range chaos.Variants(1, n) {
		count[v.Class]++
		if json.Valid([]byte(v.Body)) {
			valid[v.Class]++
		}
		if v.Slow {
			slow++
		}
		if v.Chunked {
			chunked++
		}
		if len(v.Body) > 1<<20 {
			over++
		}
	}
	want := []string{
		"good", "truncated", "nesting", "numbers", "types", "utf-8", "nul", "duplicate-keys", "large", "many-keys", "flipped", "around", "headers",
		"credentials", "identity", "hostile", "names", "times", "ids", "batches", "routes",
	}
	for _, class := range want {
		if count[class] < n/len(want) {
			t.Errorf("%d variants are %s, want at least %d", count[class], class, n/len(want))
		}
	}
	if len(count) != len(want) {
		t.Errorf("%d classes, want %d: %v", len(count), len(want), count)
	}
	// What is to be odd in its values must still be JSON, or nothing looks at them.
	for _, class := range []string{"good", "types", "duplicate-keys", "large", "many-keys", "identity", "hostile", "names", "times", "ids", "headers"} {
		if valid[class] != count[class] {
			t.Errorf("%d of %d variants of class %s are JSON, want all", valid[class], count[class], class)
		}
	}
	if v := valid["truncated"]; v > count["truncated"]/10 {
		t.Errorf("%d of %d truncated variants are whole", v, count["truncated"])
	}
	if slow == 0 || slow > n/100 || chunked <= slow || over == 0 {
		t.Errorf("%d slow, %d in chunks, %d over the limit of a body: want a few, some and some", slow, chunked, over)
	}
}

func TestVariantsDiffer(t *testing.T) {
	t.Parallel()
	seen := make(map[string]int)
	for i, v := range chaos.Variants(1, 420) {
		if v.Class == "around" || v.Class == "nesting" || v.Class == "truncated" || v.Class == "batches" {
			continue
		}
		if before, ok := seen[v.Body]; ok {
			t.Fatalf("variants %d and %d have the same body", before, i)
		}
		seen[v.Body] = i
	}
}

func TestWaitersAreReadFromMetadata(t *testing.T) {
	t.Parallel()
	tag := func(tenant string) string { sum := sha256.Sum256([]byte(tenant)); return string(sum[:6]) }
	// Flags, 12 partitions, two cursors at 300 and 301, since base 1, why, checksum.
	told := "\x04\x0c\x02" + tag("t0001") + "\xb0\x09" + tag("t0002") + "\x06" + "\x01\x13\x16" + "\x00\x00\x00\x00"
	untold := "\x00\x0c\x01" + tag("t0001") + "\x00" + "\x00\x00\x00\x00"
	for payload, want := range map[string]string{told: "1:3 2:6", untold: "1:-1"} {
		all, err := chaos.WaitersIn("r1." + base64.RawURLEncoding.EncodeToString([]byte(payload)))
		var got []string
		for _, w := range all {
			tenant, cause := chaos.Waiter(w, "t0001", "t0002")
			got = append(got, fmt.Sprintf("%d:%d", tenant, cause))
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%x: %v, %v; want %s", payload, got, err, want)
		}
	}
	if got, err := chaos.WaitersIn(""); err != nil || got != nil {
		t.Errorf("no metadata: %v, %v", got, err)
	}
	for _, text := range []string{"r2.AAAA", "r1.!", "r1.", "r1.BAwC"} {
		if got, err := chaos.WaitersIn(text); err == nil {
			t.Errorf("%q: read as %v", text, got)
		}
	}
}

func TestSuspendedTenantsAreSpreadOverThePartitions(t *testing.T) {
	t.Parallel()
	where := make(map[int][]int)
	var tenants []int
	for i := range 40 {
		tenants = append(tenants, i)
		where[i] = []int{i % 4, i % 4, (i + 1) % 4, (i / 4) % 4}
	}
	chosen, places := chaos.SpreadOut(tenants, where, 20)
	taken := make(map[int]int)
	total := 0
	for tenant, users := range chosen {
		in := make(map[int]bool)
		for _, k := range users {
			p := where[tenant][k]
			if in[p] {
				t.Errorf("tenant %d waits twice in partition %d", tenant, p)
			}
			in[p] = true
			taken[p]++
			total++
		}
	}
	if len(chosen) != len(tenants) || total != places {
		t.Errorf("%d of %d tenants wait, in %d places, said %d", len(chosen), len(tenants), total, places)
	}
	for p := range 4 {
		if taken[p] != 20 {
			t.Errorf("%d wait in partition %d, want 20", taken[p], p)
		}
	}
}

func TestSuspensionsAreReadFromALog(t *testing.T) {
	t.Parallel()
	got, err := chaos.SuspensionsIn(strings.Join([]string{
		`{"level":"warn","ts":"2026-11-24T13:00:32.200345619Z","msg":"suspend a tenant","partition":1,"tenant":"t0010","cause":"throttled"}`,
		`{"level":"warn","ts":"2026-11-24T13:00:33Z","msg":"retry a request","tenant":"t0011","error":"suspend a tenant"}`,
		`panic: suspend a tenant`,
		`{"level":"warn","ts":"2026-11-24T13:00:34Z","msg":"suspend a tenant","partition":2,"tenant":"t0010","cause":"throttled"}`,
		`{"level":"warn","ts":"2026-11-24T13:00:3`,
	}, "\n"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	want := time.Date(2026, 11, 24, 13, 0, 32, 200345619, time.UTC).UnixNano()
	if len(got) != 2 || len(got["10/1"]) != 1 || got["10/1"][0] != want || len(got["10/2"]) != 1 {
		t.Errorf("read %v, want 10/1 at %d and 10/2", got, want)
	}
}

func TestPeakOfMemoryIsRead(t *testing.T) {
	t.Parallel()
	got, err := chaos.PeakIn("Name:\tx\nVmPeak:\t  999 kB\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n")
	if err != nil || got != 2<<20 {
		t.Errorf("%d, %v; want %d", got, err, 2<<20)
	}
	if _, err := chaos.PeakIn("Name:\tx\n"); err == nil {
		t.Error("a status without a peak is read")
	}
}
