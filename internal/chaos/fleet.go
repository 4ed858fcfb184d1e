package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"refinersource/internal/checker"
)

// Tenant is one tenant as the whole run knows it.
type Tenant struct {
	ID        string
	Token     string
	Keys      []checker.WriteKey // over the run; the last one is valid
	OrderBy   string
	Pairing   string
	RateLimit int
	// Forgotten are the users to forget, and since when; see checker.Tenant.
	Forgotten   []string
	ForgottenAt checker.Time
}

// Fleet is all tenants and the files that name them: one for the ingress and one
// for each worker, which differ in where the receiver is found.
type Fleet struct {
	dir       string
	endpoints []string // by worker

	mu      sync.Mutex
	tenants []*Tenant
	byID    map[string]*Tenant
}

// newFleet makes n tenants. Every tenth or so keeps order by account, sends pairs
// in one request, or has a rate.
func newFleet(n int, dir string) *Fleet {
	f := &Fleet{dir: dir, byID: make(map[string]*Tenant, n)}
	for i := range n {
		id := fmt.Sprintf("t%04d", i)
		t := &Tenant{ID: id, Token: "token-of-" + id, Keys: []checker.WriteKey{{Key: "key-1-of-" + id}}, OrderBy: "user", Pairing: "strict"}
		switch i % 16 {
		case 3:
			t.OrderBy = "account"
		case 7:
			t.Pairing = "batch"
		case 11:
			t.RateLimit = 200
		}
		f.tenants = append(f.tenants, t)
		f.byID[id] = t
	}
	return f
}

// file is the tenants file of the ingress (-1) or of a worker.
func (f *Fleet) file(worker int) string {
	if worker < 0 {
		return filepath.Join(f.dir, "tenants-ingress.yaml")
	}
	return filepath.Join(f.dir, fmt.Sprintf("tenants-worker-%d.yaml", worker+1))
}

// write writes all files, each in one step, as a running program expects it.
func (f *Fleet) write() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for worker := -1; worker < len(f.endpoints); worker++ {
		endpoint := "http://127.0.0.1:9" // nobody asks the ingress
		if worker >= 0 {
			endpoint = f.endpoints[worker]
		}
		path := f.file(worker)
		if err := os.WriteFile(path+".new", f.text(endpoint), 0o600); err != nil {
			return fmt.Errorf("write tenants file: %w", err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("replace tenants file: %w", err)
		}
	}
	return nil
}

// text is a tenants file. Each tenant has a path of its own at the receiver, so
// that a call at another's endpoint is seen.
func (f *Fleet) text(endpoint string) []byte {
	var b strings.Builder
	b.WriteString("installation: chaos\ntenants:\n")
	for _, t := range f.tenants {
		fmt.Fprintf(&b, "  - {id: %s, write_key: %s, endpoint: %q, tokens: [%s], order_by: %s, pairing: %s, rate_limit: %d, forgotten: [%s]}\n",
			t.ID, t.Keys[len(t.Keys)-1].Key, endpoint+"/"+t.ID, t.Token, t.OrderBy, t.Pairing, t.RateLimit, strings.Join(t.Forgotten, ", "))
	}
	return []byte(b.String())
}

// writeStrangers writes the tenants file of an installation that has the same tenants,
// with other endpoints and keys, and returns its path.
func (f *Fleet) writeStrangers() (string, error) {
	var b strings.Builder
	b.WriteString("installation: stranger\ntenants:\n")
	for _, t := range f.tenants {
		fmt.Fprintf(&b, "  - {id: %s, write_key: key-of-a-stranger, endpoint: %q}\n", t.ID, f.endpoints[0]+"/stranger")
	}
	path := filepath.Join(f.dir, "tenants-stranger.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return "", fmt.Errorf("write the stranger's tenants file: %w", err)
	}
	return path, nil
}

// forget has a tenant forget users, once in a run, which the files have when write was
// called.
func (f *Fleet) forget(id string, users []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.byID[id]; t.Forgotten == nil {
		t.Forgotten, t.ForgottenAt = users, time.Now().UnixNano()
	}
}

// rotate gives a tenant a new write key, which the receiver asks for at once and
// the files have when write was called.
func (f *Fleet) rotate(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.byID[id]
	now := time.Now().UnixNano()
	t.Keys = append(t.Keys, checker.WriteKey{Key: fmt.Sprintf("key-%d-of-%s", len(t.Keys)+1, id), From: now})
}

// retire ends the validity of a tenant's keys but the last.
func (f *Fleet) retire(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.byID[id]
	for i := range t.Keys[:len(t.Keys)-1] {
		if t.Keys[i].Until == 0 {
			t.Keys[i].Until = time.Now().UnixNano()
		}
	}
}

// validKey reports whether a tenant's write key is the one in force.
func (f *Fleet) validKey(id, key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.byID[id]
	return t != nil && t.Keys[len(t.Keys)-1].Key == key
}

// history is what the checker is to know of the tenants.
func (f *Fleet) history() []checker.Tenant {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]checker.Tenant, 0, len(f.tenants))
	for _, t := range f.tenants {
		all = append(all, checker.Tenant{ID: t.ID, WriteKeys: t.Keys, Endpoint: t.ID, OrderBy: t.OrderBy, Pairing: t.Pairing, Forgotten: t.Forgotten, ForgottenAt: t.ForgottenAt})
	}
	return all
}
