package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

func TestScalingTellsWhatMoreWorkersBring(t *testing.T) {
	t.Parallel()
	f := &scalingFlags{
		common: &common{Users: 1, Tenants: 1, Partitions: 1, Runs: 2, output: "table"}, Events: 1,
		Workers: []int{1, 2}, OnPartitions: []int{12}, Delays: []time.Duration{0},
	}
	one, two := scalingName(12, 1), scalingName(12, 2)
	all := results{
		{System: one, Rate: 1_000, Run: 0},
		{System: two, Rate: 1_500, Run: 0},
		{System: one, Rate: 1_000, Run: 1},
		{System: two, Rate: 9_000, Run: 1, Found: violations{Order: 1}},
	}
	var out bytes.Buffer
	if err := f.write(&out, "a broker", all); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"events/s with 2 workers / 1: 1.50\n", "FAILED: 1 out of order"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, out.String())
		}
	}
}

func TestScalingRefusesWorkersThatWouldHaveNothing(t *testing.T) {
	t.Parallel()
	cmd := newScaling()
	cmd.SetArgs([]string{"--workers", "1,4", "--on-partitions", "3"})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "nothing to do") {
		t.Errorf("error %v, want that a worker has nothing to do", err)
	}
}

// Members that join, and those that have nothing yet, are not at work.
func TestGroupIsCompleteOnlyWithAllMembersAtWork(t *testing.T) {
	t.Parallel()
	for name, g := range map[string]kadm.DescribedGroup{
		"rebalancing":         {State: "PreparingRebalance", Members: make([]kadm.DescribedGroupMember, 2)},
		"one of two":          {State: "Stable", Members: make([]kadm.DescribedGroupMember, 1)},
		"without assignments": {State: "Stable", Members: make([]kadm.DescribedGroupMember, 2)},
	} {
		if isComplete(g, 2) {
			t.Errorf("%s: complete, want not", name)
		}
	}
}
