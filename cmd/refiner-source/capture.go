package main

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"refinersource/internal/segment"
)

// captureDrain is how long the requests under way may take when the command is
// ended. No sender of ours waits longer for an answer.
const captureDrain = 10 * time.Second

func newCapture() *cobra.Command {
	var (
		listen    string
		answer    string
		answerFor time.Duration
		refuse    []string
	)
	cmd := &cobra.Command{
		Use:   "capture",
		Short: "Receive calls as Segment does and print them",
		Long: `Receives calls as Segment does, on POST /v1/batch, /v1/identify, /v1/group and
/v1/track, and prints each accepted call on stdout as one JSON object a line:
when it came, a fingerprint of its write key, its type and the call itself. It
sends nothing on and accepts any write key.

--answer and --refuse-user make it a receiver in trouble. What it does not
answer with 2xx it does not accept and does not print.`,
		Example: `  refiner-source capture --listen 127.0.0.1:8090
  refiner-source capture --answer 429:2 --answer-for 30s
  refiner-source capture --refuse-user user-17`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&listen, "listen", "127.0.0.1:8090", "address to listen on")
	flags.StringVar(&answer, "answer", "", "answer all requests with this status, `CODE[:RETRY_AFTER]`: 200 to 599, and the value of Retry-After")
	flags.DurationVar(&answerFor, "answer-for", 0, "give --answer for that long from the start and 200 afterwards; 0 is always")
	flags.StringArrayVar(&refuse, "refuse-user", nil, "answer 400 to every request with a call of this user `ID`; repeatable")
	logs := addLogFlags(cmd)
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		script, err := newCaptureScript(answer, answerFor, refuse)
		if err != nil {
			return err
		}
		log, err := logs.logger()
		if err != nil {
			return err
		}
		return runCapture(cmd.Context(), listen, script, cmd.OutOrStdout(), log)
	})
	return cmd
}

// captureScript says how requests are answered.
type captureScript struct {
	answer segment.Answer
	until  time.Time // of answer; zero is for ever
	refuse map[string]struct{}
}

func newCaptureScript(answer string, answerFor time.Duration, refuse []string) (*captureScript, error) {
	s := &captureScript{refuse: make(map[string]struct{}, len(refuse))}
	for _, id := range refuse {
		s.refuse[id] = struct{}{}
	}
	switch {
	case answerFor < 0:
		return nil, usagef("--answer-for is %v; give a duration such as 30s", answerFor)
	case answerFor > 0 && answer == "":
		return nil, usagef("--answer-for needs --answer")
	case answer == "":
		return s, nil
	}
	code, retryAfter, _ := strings.Cut(answer, ":")
	status, err := strconv.Atoi(code)
	if err != nil || status < 200 || status > 599 {
		return nil, usagef("--answer is %q; give a status from 200 to 599, such as 503 or 429:2", answer)
	}
	s.answer = segment.Answer{Status: status, RetryAfter: retryAfter}
	if answerFor > 0 {
		s.until = time.Now().Add(answerFor)
	}
	return s, nil
}

// reply is the Answer of a segment.Capture.
func (s *captureScript) reply(_ *http.Request, b segment.Batch) segment.Answer {
	if s.answer.Status != 0 && (s.until.IsZero() || time.Now().Before(s.until)) {
		return s.answer
	}
	for _, c := range b.Calls {
		if _, ok := s.refuse[c.UserID]; ok {
			return segment.Answer{Status: http.StatusBadRequest}
		}
	}
	return segment.Answer{}
}

// runCapture serves until ctx ends, then drains. It ends early, with the error,
// if a call cannot be printed.
func runCapture(ctx context.Context, listen string, script *captureScript, stdout io.Writer, log *zap.Logger) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	server := &http.Server{
		Handler: segment.NewCapture(segment.CaptureOptions{
			Keep:   1,
			Answer: script.reply,
			OnCall: func(c segment.Captured) {
				if err := printCall(stdout, c); err != nil {
					stop(err)
				}
			},
		}),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		// Longer than a sender keeps an idle connection, so that it is the sender
		// who closes it and no request meets a closed one.
		IdleTimeout: 2 * time.Minute,
		ErrorLog:    zap.NewStdLog(log),
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	log.Info("capture listens", zap.String("url", "http://"+listener.Addr().String()))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), captureDrain)
	defer cancel()
	err = server.Shutdown(drain)
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	if failed, ok := errors.AsType[printError](context.Cause(ctx)); ok {
		return failed
	}
	if err != nil {
		return fmt.Errorf("drain: %w", errors.Join(err, server.Close()))
	}
	return nil
}

// printError is an error of stdout.
type printError struct{ error }

// Unwrap returns the writer's error.
func (e printError) Unwrap() error { return e.error }

// printCall prints a call as one line.
func printCall(w io.Writer, c segment.Captured) error {
	line, err := json.Marshal(c)
	if err == nil {
		_, err = w.Write(append(line, '\n'))
	}
	if err != nil {
		return printError{fmt.Errorf("print call: %w", err)}
	}
	return nil
}
