package chaos_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/chaos"
	"refinersource/internal/checker"
)

// What a broker brings back after it was deleted is in the history once.
func TestWhatWasDeletedIsKeptOnce(t *testing.T) {
	t.Parallel()
	var kept chaos.Trimmed
	record := func(partition int, offset int64) checker.Record {
		return checker.Record{Partition: partition, Offset: offset}
	}
	for _, r := range []checker.Record{record(4, 0), record(4, 1), record(7, 0), record(4, 3)} { // 2 is a marker
		if !kept.Take(r) {
			t.Errorf("%+v is not taken", r)
		}
	}
	if got, want := kept.Left(checker.Bounds{Partition: 4, Start: 1, End: 6}), (checker.Bounds{Partition: 4, Start: 4, End: 6}); got != want {
		t.Errorf("left of a log that begins at 1 again: %+v, want %+v", got, want)
	}
	if got, want := kept.Left(checker.Bounds{Partition: 9, Start: 5, End: 6}), (checker.Bounds{Partition: 9, Start: 5, End: 6}); got != want {
		t.Errorf("left of another partition: %+v, want %+v", got, want)
	}
	for offset := range int64(6) {
		if got, want := kept.Take(record(4, offset)), offset > 3; got != want {
			t.Errorf("offset %d is taken again: %v, want %v", offset, got, want)
		}
	}
	want := []checker.Record{record(4, 0), record(4, 1), record(7, 0), record(4, 3), record(4, 4), record(4, 5)}
	if diff := cmp.Diff(want, kept.Records()); diff != "" {
		t.Errorf("kept (-want +got)\n%s", diff)
	}
}
