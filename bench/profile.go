package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// profileFor is how long a profile is taken, of a worker that has run for profileAfter.
const (
	profileAfter = time.Second
	profileFor   = 5 * time.Second
)

// profile takes a CPU profile of a worker while it runs, into a file of the system's
// name, and returns what waits for it.
func (b *bench) profile(ctx context.Context, name, admin string) (wait func() error) {
	done := make(chan error, 1)
	go func() {
		select {
		case <-time.After(profileAfter):
			done <- b.fetchProfile(ctx, name, admin)
		case <-ctx.Done():
			done <- context.Cause(ctx)
		}
	}()
	return func() error { return <-done }
}

func (b *bench) fetchProfile(ctx context.Context, name, admin string) (err error) {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", admin, int(profileFor.Seconds()))
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("take profile: %w", err)
	}
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		return fmt.Errorf("take profile: %w", err)
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("take profile: %s", res.Status)
	}
	f, err := os.Create(filepath.Join(b.profiles, name+".pb.gz"))
	if err != nil {
		return fmt.Errorf("keep profile: %w", err)
	}
	if _, err = io.Copy(f, res.Body); err != nil {
		err = fmt.Errorf("keep profile: %w", err)
	}
	return errors.Join(err, f.Close())
}
