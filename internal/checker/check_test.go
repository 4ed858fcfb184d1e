package checker_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/checker"
)

func report(r checker.Report) string {
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		return err.Error()
	}
	return b.String()
}

func TestRunsThatKeepThePromisePass(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(testing.TB) *world{"calm": calm, "outage": outage, "rough": rough} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := checker.Check(make(t).close(), checker.Options{MaxLatencyRatio: 2})
			if !r.OK() {
				t.Error(report(r))
			}
		})
	}
}

func TestReportCountsWhatHappened(t *testing.T) {
	t.Parallel()
	h := rough(t).close()
	r := checker.Check(h, checker.Options{})
	if d := cmp.Diff(checker.Ended{Delivered: 27, Dead: 3, Ignored: 3, Copies: 1}, r.Ended); d != "" {
		t.Errorf("ended (-want +got):\n%s", d)
	}
	repeats := r.Repeats
	repeats.Share, repeats.Avoidable = 0, 0
	if d := cmp.Diff(checker.Repeats{Calls: 5, Unavoidable: 2, Unknown: 1, Takeover: 1, Continued: 3, Faults: map[string]int{"F1": 4}}, repeats); d != "" {
		t.Errorf("repeats (-want +got):\n%s", d)
	}
	if r.Events != len(h.Log) || r.Promised != len(h.Log) || r.Requests != len(h.Received) || r.Letters != 3 || r.MaxCursors != 1 {
		t.Errorf("counts are wrong:\n%s", report(r))
	}
	if l := r.Latency; l.FailedTenants != 2 || l.Before.P50 != 2*time.Millisecond || l.Before.P99 != 4*time.Millisecond || l.Before.Events != 8 {
		t.Errorf("latency is wrong:\n%s", report(r))
	}
	text, err := json.Marshal(r)
	if err != nil || !bytes.Contains(text, []byte(`"counts":{}`)) {
		t.Errorf("JSON: %s, %v", text, err)
	}
}
