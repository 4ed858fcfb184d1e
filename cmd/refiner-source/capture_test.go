package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"refinersource/internal/segment"
)

// startCapture runs the command and returns its URL, its lines and its end.
func startCapture(ctx context.Context, t *testing.T, script *captureScript, stdout io.Writer) (url string, ended <-chan error) {
	t.Helper()
	logs, logged := io.Pipe()
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(logged), zap.InfoLevel))
	end := make(chan error, 1)
	go func() {
		end <- runCapture(ctx, "127.0.0.1:0", script, stdout, log)
		_ = logged.Close()
	}()
	lines := bufio.NewScanner(logs)
	var line struct {
		URL string `json:"url"`
	}
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &line) != nil || line.URL == "" {
		t.Fatalf("got %q, want the line that says the URL", lines.Text())
	}
	go func() { _, _ = io.Copy(io.Discard, logs) }()
	return line.URL, end
}

// send posts a batch of one call to a capture and returns the answer.
func send(t *testing.T, url, call string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/batch", strings.NewReader(`{"batch":[`+call+`]}`))
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("canary-write-key", "")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res
}

func TestCapturePrintsAcceptedCallsAndDrains(t *testing.T) {
	t.Parallel()
	script, err := newCaptureScript("", 0, []string{"user-17"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var stdout bytes.Buffer
	url, ended := startCapture(ctx, t, script, &stdout)
	const accepted = `{"type":"identify","userId":"user-16"}`
	if got := send(t, url, accepted).StatusCode; got != http.StatusOK {
		t.Errorf("got %d, want 200", got)
	}
	if got := send(t, url, accepted+`,{"type":"identify","userId":"user-17"}`).StatusCode; got != http.StatusBadRequest {
		t.Errorf("a batch with a refused user: got %d, want 400", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("got %v, want a clean end", err)
	}
	var got []string
	for line := range strings.Lines(stdout.String()) {
		var printed struct {
			Call jsontext.Value `json:"call"`
		}
		if err := json.Unmarshal([]byte(line), &printed); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		got = append(got, string(printed.Call))
	}
	if diff := cmp.Diff([]string{accepted}, got); diff != "" {
		t.Errorf("printed calls (-want +got)\n%s", diff)
	}
	if strings.Contains(stdout.String(), "canary") {
		t.Errorf("the write key was printed: %s", stdout.String())
	}
}

func TestCaptureGivesItsAnswer(t *testing.T) {
	t.Parallel()
	script, err := newCaptureScript("429:2", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var stdout bytes.Buffer
	url, ended := startCapture(ctx, t, script, &stdout)
	res := send(t, url, `{"type":"identify","userId":"u"}`)
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "2" {
		t.Errorf("got %d with Retry-After %q, want 429 with 2", res.StatusCode, res.Header.Get("Retry-After"))
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if stdout.Len() > 0 {
		t.Errorf("printed %s", &stdout)
	}
}

func TestCaptureAnswersSoFromTheStartAndThen200(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		script, err := newCaptureScript("503", 30*time.Second, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for range 3 {
			got = append(got, script.reply(nil, segment.Batch{}).Status)
			time.Sleep(29 * time.Second)
		}
		if diff := cmp.Diff([]int{503, 503, 0}, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

type brokenWriter struct{}

var errBrokenPipe = errors.New("broken pipe")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBrokenPipe }

func TestCaptureEndsWhenItCannotPrint(t *testing.T) {
	t.Parallel()
	script, err := newCaptureScript("", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	url, ended := startCapture(t.Context(), t, script, brokenWriter{})
	send(t, url, `{"type":"identify","userId":"u"}`)
	if err := <-ended; !errors.Is(err, errBrokenPipe) {
		t.Errorf("got %v, want %v", err, errBrokenPipe)
	}
}
