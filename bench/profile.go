package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/google/pprof/profile"
)

// profileFor is how long a profile is taken, of a worker that has run for profileAfter.
const (
	profileAfter = time.Second
	profileFor   = 5 * time.Second
)

// profile takes a CPU profile of a worker while it runs, and returns what waits for it
// and keeps it.
func (b *bench) profile(ctx context.Context, admin string) (keep func() error) {
	type taken struct {
		profile *profile.Profile
		err     error
	}
	done := make(chan taken, 1)
	go func() {
		select {
		case <-time.After(profileAfter):
			p, err := fetchProfile(ctx, admin)
			done <- taken{p, err}
		case <-ctx.Done():
			done <- taken{nil, context.Cause(ctx)}
		}
	}()
	return func() error {
		t := <-done
		if t.err == nil {
			b.profiles = append(b.profiles, t.profile)
		}
		return t.err
	}
}

func fetchProfile(ctx context.Context, admin string) (_ *profile.Profile, err error) {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", admin, int(profileFor.Seconds()))
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("take profile: %w", err)
	}
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, fmt.Errorf("take profile: %w", err)
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("take profile: %s", res.Status)
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("take profile: %w", err)
	}
	p, err := profile.ParseData(text)
	if err != nil {
		return nil, fmt.Errorf("read profile: %w", err)
	}
	return p, nil
}

// writeProfile writes all profiles as one, without the names of this machine's files: a
// compiler goes by functions and lines.
func writeProfile(path string, all []*profile.Profile) error {
	merged, err := profile.Merge(all)
	if err != nil {
		return fmt.Errorf("merge profiles: %w", err)
	}
	for _, m := range merged.Mapping {
		m.File = ""
	}
	for _, f := range merged.Function {
		f.Filename = ""
	}
	var out bytes.Buffer
	if err := merged.Write(&out); err != nil {
		return fmt.Errorf("write profile: %w", err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil { //nolint:gosec // it is no secret
		return fmt.Errorf("write profile: %w", err)
	}
	return nil
}
