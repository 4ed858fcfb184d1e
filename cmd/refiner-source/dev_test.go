package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/tenant"
)

// lockedBuffer is what a running command writes to while a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// The README's first command: it prints the pairs of its samples, goes on until
// it is ended, exits with 0, and started again it goes on with its data.
func TestDevPrintsThePairsOfItsSamples(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		root := newRoot()
		root.SetArgs([]string{"dev", "--sample", "3", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data", dir, "--log-level", "error"})
		out, in := io.Pipe()
		var said lockedBuffer
		root.SetOut(in)
		root.SetErr(&said)
		ended := make(chan int, 1)
		go func() {
			ended <- execute(ctx, root, &said)
			_ = in.Close()
		}()
		lines := make(chan string)
		go func() {
			defer close(lines)
			for s := bufio.NewScanner(out); s.Scan(); {
				lines <- s.Text()
			}
		}()
		open := make(map[string]int) // by user: identifies without their group
		for n := range 6 {
			select {
			case line := <-lines:
				var call struct{ Type, UserID string }
				if err := json.Unmarshal([]byte(line), &call); err != nil {
					t.Fatalf("line %d is no JSON: %v", n, err)
				}
				switch call.Type {
				case "identify":
					open[call.UserID]++
				case "group":
					if open[call.UserID]--; open[call.UserID] < 0 {
						t.Errorf("line %d: a group of %s before its identify", n, call.UserID)
					}
				default:
					t.Errorf("line %d is a %q", n, call.Type)
				}
			case code := <-ended:
				t.Fatalf("dev ended with %d after %d lines: %s", code, n, said.String())
			case <-time.After(time.Minute):
				t.Fatalf("%d lines came, want 6: %s", n, said.String())
			}
		}
		for user, n := range open {
			if n != 0 {
				t.Errorf("%s has %d identifies without their group", user, n)
			}
		}
		for _, want := range []string{"Live page:", "curl -sS", "/v1/webhooks/refiner/demo"} {
			if !strings.Contains(said.String(), want) {
				t.Errorf("stderr does not tell %q: %s", want, said.String())
			}
		}
		cancel()
		if line, more := <-lines; more {
			t.Errorf("a line more than the three pairs: %s", line)
		}
		if code := <-ended; code != exitDone {
			t.Errorf("dev ended with %d, want 0: %s", code, said.String())
		}
	}
}

// dev cannot sign: its samples and its curl go to the first tenant that takes a
// token, or everything.
func TestDevSendsToATenantThatWantsNoSignature(t *testing.T) {
	t.Parallel()
	const secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
	signed := tenant.Tenant{ID: "a", WriteKey: tenant.NewSecret("k"), SigningSecrets: []tenant.Secret{tenant.NewSecret(secret)}, Rules: attribution.DefaultRules()}
	open, both := signed, signed
	open.ID, open.SigningSecrets = "b", nil
	both.ID, both.Tokens = "c", []tenant.Secret{tenant.NewSecret("t")}
	for _, c := range []struct {
		tenants []*tenant.Tenant
		want    string
	}{
		{[]*tenant.Tenant{&signed, &open, &both}, "/b"},
		{[]*tenant.Tenant{&signed, &both, &open}, "/c"},
		{[]*tenant.Tenant{&signed}, ""},
	} {
		to, found := newTarget("127.0.0.1:8080", slices.Values(c.tenants))
		if found != (c.want != "") || !strings.HasSuffix(to.url, c.want) {
			t.Errorf("got %v %q, want one that ends with %q", found, to.url, c.want)
		}
	}
}

// The ready curl has a body that makes calls.
func TestExampleEventIsACompletedSurvey(t *testing.T) {
	t.Parallel()
	root := newRoot()
	var out, said bytes.Buffer
	root.SetArgs([]string{"map", "-"})
	root.SetIn(strings.NewReader(exampleEvent))
	root.SetOut(&out)
	root.SetErr(&said)
	if code := execute(t.Context(), root, &said); code != exitDone || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("map ended with %d and printed %q: %s", code, out.String(), said.String())
	}
}
