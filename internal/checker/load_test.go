package checker_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/checker"
)

// record writes a history down as the programs that make one do.
func record(t testing.TB, h *checker.History) fstest.MapFS {
	t.Helper()
	dir := make(fstest.MapFS)
	lines(t, dir, checker.TenantsFile, h.Tenants)
	lines(t, dir, checker.SentFile, h.Sent)
	lines(t, dir, checker.LogFile, h.Log)
	lines(t, dir, checker.BoundsFile, h.Bounds)
	lines(t, dir, checker.ReceivedFile, h.Received)
	lines(t, dir, checker.CommitsFile, h.Commits)
	if h.CommitRequests != nil {
		lines(t, dir, checker.RequestsFile, h.CommitRequests)
	}
	lines(t, dir, checker.LettersFile, h.Letters)
	lines(t, dir, checker.FaultsFile, h.Faults)
	lines(t, dir, checker.FinalFile, []checker.Final{h.Final})
	return dir
}

func lines[T any](t testing.TB, dir fstest.MapFS, name string, all []T) {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for i := range all {
		if err := e.Encode(&all[i]); err != nil {
			t.Fatal(err)
		}
	}
	dir[name] = &fstest.MapFile{Data: b.Bytes()}
}

func TestRecordedHistoryIsCheckedAsInMemory(t *testing.T) {
	t.Parallel()
	w := asked(rough)(t)
	w.ask(0, 2, "m0", true, 0)
	w.event("acme", "u7", "lost", 1)
	h := w.close()
	loaded, err := checker.Load(record(t, h))
	if err != nil {
		t.Fatal(err)
	}
	got, want := checker.Check(loaded, checker.Options{}), checker.Check(h, checker.Options{})
	if d := cmp.Diff(want, got); d != "" || got.Counts[checker.Complete] != 1 || got.Counts[checker.Commits] != 1 {
		t.Errorf("report (-in memory +recorded):\n%s", d)
	}
}

func TestNothingOfARecordIsPassedOver(t *testing.T) {
	t.Parallel()
	h := asked(outage)(t).close()
	for _, name := range []string{checker.TenantsFile, checker.BoundsFile, checker.CommitsFile, checker.LettersFile, checker.FinalFile} {
		dir := record(t, h)
		dir[name] = &fstest.MapFile{Data: append(dir[name].Data, `{"cut`...)}
		if _, err := checker.Load(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a broken %s gives the error %v", name, err)
		}
	}
	for _, name := range []string{checker.SentFile, checker.LogFile, checker.ReceivedFile, checker.RequestsFile} {
		dir := record(t, h)
		dir[name] = &fstest.MapFile{Data: append(dir[name].Data, `{"cut`...)}
		loaded, err := checker.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		if r := checker.Check(loaded, checker.Options{}); r.Counts[checker.Recorded] == 0 {
			t.Errorf("a broken %s is not reported:\n%s", name, report(r))
		}
		delete(dir, name)
		if _, err := checker.Load(dir); err == nil && name != checker.RequestsFile {
			t.Errorf("a history without %s can be loaded", name)
		}
	}
	for _, name := range []string{checker.CommitsFile, checker.FaultsFile} {
		dir := record(t, calm(t).close())
		delete(dir, name)
		loaded, err := checker.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		if r := checker.Check(loaded, checker.Options{}); !r.OK() {
			t.Errorf("without %s:\n%s", name, report(r))
		}
	}
	dir := record(t, h)
	dir[checker.FinalFile] = &fstest.MapFile{}
	if _, err := checker.Load(dir); err == nil {
		t.Error("a history without an end can be loaded")
	}
}

func TestReportNamesTheEventAndWhatDiffers(t *testing.T) {
	t.Parallel()
	w := calm(t)
	phantom(`"refiner_how_big_is_your_team":7`, `"refiner_how_big_is_your_team":"<secret>"`)(w)
	r := checker.Check(w.close(), checker.Options{})
	if len(r.Violations) != 1 {
		t.Fatal(report(r))
	}
	v := r.Violations[0]
	if v.User != "acme/u7" || v.Event != "e" || v.Tenant != "acme" || !strings.Contains(v.Text, "different in [/traits/refiner_how_big_is_your_team]") {
		t.Errorf("violation %+v", v)
	}
	text, err := json.Marshal(r)
	if err != nil || bytes.Contains(text, []byte("secret")) || !bytes.Contains(text, []byte(`"rule":"phantom"`)) {
		t.Errorf("JSON: %s, %v", text, err)
	}
	var back checker.Report
	if err := json.Unmarshal(text, &back); err != nil || back.Counts[checker.Phantom] != 1 {
		t.Errorf("read back: %+v, %v", back.Counts, err)
	}
}

func TestViolationsOfARuleAreBounded(t *testing.T) {
	t.Parallel()
	w := calm(t)
	for range 50 {
		w.post("acme", "survey-event", "x", []byte("[1]"))
		w.ends[0] += 2000 // so that they are no copies
	}
	for i := range w.h.Sent {
		w.h.Sent[i].Source = ""
	}
	r := checker.Check(w.close(), checker.Options{MaxPerRule: 3})
	n := 0
	for _, v := range r.Violations {
		if v.Rule == checker.Durable {
			n++
		}
	}
	if n != 3 || r.Counts[checker.Durable] != len(w.h.Sent) {
		t.Errorf("%d reported, %d counted", n, r.Counts[checker.Durable])
	}
	if !strings.Contains(report(r), "more") {
		t.Errorf("the report hides that there are more:\n%s", report(r))
	}
}
