package tenant_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/tenant"
)

const (
	oneTenant  = "tenants:\n  - {id: a, write_key: k}\n"
	twoTenants = oneTenant + "  - {id: b, write_key: k}\n"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) *tenant.File {
	t.Helper()
	f, err := tenant.OpenFile(path, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// change is what Watch tells.
type change struct {
	registry *tenant.Registry
	err      error
}

// watch watches the file at path until the test ends, by notifications alone. They
// are on when it returns: Watch has told of a change that was made before it.
func watch(t *testing.T, f *tenant.File, path string) <-chan change {
	t.Helper()
	f.NoPolling()
	write(t, path, "# changed\n"+oneTenant)
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan change, 16)
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := f.Watch(ctx, func(r *tenant.Registry, err error) { changes <- change{r, err} }); err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	next(t, f, changes, 1)
	return changes
}

// next waits for a change after which there are so many tenants.
func next(t *testing.T, f *tenant.File, changes <-chan change, tenants int) {
	t.Helper()
	for c := range changes {
		// An editor's half-written file may be refused on the way.
		if c.err == nil && c.registry.Len() == tenants {
			if f.Current() != c.registry {
				t.Error("what Watch told is not in force")
			}
			return
		}
	}
}

func TestWatchAppliesAChangeHoweverItIsMade(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]func(t *testing.T, path string){
		"written in place": func(t *testing.T, path string) { write(t, path, twoTenants) },
		"replaced by a rename": func(t *testing.T, path string) {
			write(t, path+".new", twoTenants)
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		},
		"removed and created": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			write(t, path, twoTenants)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "tenants.yaml")
			write(t, path, oneTenant)
			f := open(t, path)
			changes := watch(t, f, path)
			replace(t, path)
			next(t, f, changes, 2)
		})
	}
}

// TestWatchFollowsAMountedVolume swaps a symlink to a directory, as Kubernetes
// does for the files of a ConfigMap.
func TestWatchFollowsAMountedVolume(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for version, content := range map[string]string{"..1": oneTenant, "..2": twoTenants} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "tenants.yaml"), content)
	}
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link(filepath.Join("..data", "tenants.yaml"), "tenants.yaml")
	path := filepath.Join(dir, "tenants.yaml")
	f := open(t, path)
	changes := watch(t, f, path)
	link("..2", "..data_tmp")
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	next(t, f, changes, 2)
}

// TestPollingFindsEachChangeOnce runs in virtual time, without notifications.
func TestPollingFindsEachChangeOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, secret := filepath.Join(dir, "tenants.yaml"), filepath.Join(dir, "secret")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, oneTenant)
		write(t, secret, "k1")
		f := open(t, path)
		first := f.Current()
		changes := make(chan change, 16)
		var polling sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		polling.Go(func() {
			f.FollowPolling(ctx, func(r *tenant.Registry, err error) { changes <- change{r, err} })
		})
		// told returns what was told in a minute, in which the file is looked at often.
		told := func() []change {
			t.Helper()
			time.Sleep(time.Minute) // virtual
			synctest.Wait()
			var all []change
			for len(changes) > 0 {
				all = append(all, <-changes)
			}
			return all
		}

		if got := told(); len(got) != 0 {
			t.Errorf("nothing changed: got %v", got)
		}
		write(t, path, "tenants: [")
		if got := told(); len(got) != 1 || got[0].err == nil || f.Current() != first {
			t.Errorf("broken: got %v, want it refused once and the last good one in force", got)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if got := told(); len(got) != 1 || !errors.Is(got[0].err, os.ErrNotExist) || f.Current() != first {
			t.Errorf("removed: got %v, want it refused once and the last good one in force", got)
		}
		write(t, path, "tenants:\n  - {id: a, write_key: 'file:"+secret+"'}\n")
		if got := told(); len(got) != 1 || got[0].err != nil || f.Current() != got[0].registry || f.Current() == first {
			t.Errorf("mended: got %v, want it in force", got)
		}
		write(t, secret, "k2")
		if got := told(); len(got) != 1 || got[0].err != nil {
			t.Errorf("secret rotated: got %v, want it in force", got)
		}
		if a, _ := f.Current().Get("a"); a.WriteKey.Reveal() != "k2" {
			t.Error("the old secret is in force")
		}
		if err := os.Remove(secret); err != nil {
			t.Fatal(err)
		}
		if got := told(); len(got) != 1 || got[0].err == nil {
			t.Errorf("secret removed: got %v, want it refused once", got)
		}
		write(t, secret, "k2")
		if got := told(); len(got) != 1 || got[0].err != nil {
			t.Errorf("secret back: got %v, want it in force", got)
		}
		cancel()
		polling.Wait()
	})
}

func TestWatchRunsOnceAtATime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tenants.yaml")
	write(t, path, oneTenant)
	f := open(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch(t, f, path)
	if err := f.Watch(ctx, func(*tenant.Registry, error) {}); err == nil {
		t.Error("a second Watch ran beside the first")
	}
}

// The commits of a group carry the installation's name for good: while something runs, a
// file with another one is refused, and the last good one stays in force.
func TestInstallationKeepsItsNameWhileSomethingRuns(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tenants.yaml")
	write(t, path, "installation: production\n"+oneTenant)
	f := open(t, path)
	changes := make(chan change, 16)
	f.NoPolling()
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { _ = f.Watch(ctx, func(r *tenant.Registry, err error) { changes <- change{r, err} }) })
	defer watching.Wait()
	defer cancel()
	for _, name := range []string{"installation: prod\n", ""} {
		write(t, path, name+twoTenants)
		var faults tenant.Faults
		if c := <-changes; !errors.As(c.err, &faults) || len(faults) != 1 || faults[0].Field != "installation" {
			t.Errorf("%q: got %v, want a fault of the installation", name, c.err)
		}
		if got := f.Current(); got.Len() != 1 || got.Installation() != "production" {
			t.Errorf("%q: %d tenants of installation %q are in force", name, got.Len(), got.Installation())
		}
	}
	write(t, path, "installation: production\n"+twoTenants)
	if c := <-changes; c.err != nil || f.Current().Len() != 2 {
		t.Errorf("got %v and %d tenants, want 2", c.err, f.Current().Len())
	}
}

func TestOpenFileRefusesABrokenFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tenants.yaml")
	write(t, path, "tenants: []")
	if _, err := tenant.OpenFile(path, noEnv); err == nil {
		t.Error("opened")
	}
}
