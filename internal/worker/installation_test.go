package worker_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"refinersource/internal/tenant"
	"refinersource/internal/worker"
)

// Invariants 5 and 10: a worker with the tenants file of another installation, which has
// other endpoints and keys, does not work in the group, whether it comes while that works or
// later.
func TestWorkerOfAnotherInstallationIsRefused(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *world) {
		of := func(installation string) func(*worker.Options) {
			file := "tenants:\n"
			if installation != "" {
				file = fmt.Sprintf("installation: %s\n%s", installation, file)
			}
			for t := range w.tenants.All() {
				file += fmt.Sprintf("- {id: %s, write_key: key-of-%[1]s, endpoint: 'http://receiver.invalid'}\n", t.ID)
			}
			r, err := tenant.Parse("tenants.yaml", []byte(file), func(string) (string, bool) { return "", false })
			if err != nil {
				t.Fatal(err)
			}
			return func(o *worker.Options) { o.Tenants = func() *tenant.Registry { return r } }
		}
		refused := func(installation string) {
			t.Helper()
			m := w.start(of(installation))
			if err := <-m.ended; !errors.Is(err, worker.ErrInstallation) || !strings.Contains(err.Error(), fmt.Sprintf("(installation: %q)", installation)) {
				t.Errorf("installation %q: Run returned %v, want %v", installation, err, worker.ErrInstallation)
			}
			m.stop()
			_ = m.letters.Close()
			m.log.Close()
			if n := m.delivered(""); n > 0 {
				t.Errorf("installation %q: %d events were delivered", installation, n)
			}
		}

		// A group that has no name takes any, and keeps the first.
		m := w.join()
		w.publishAll(5, 1)
		w.until("all to be delivered", w.settled)
		m.terminate()
		m = w.join(of("production"))
		w.publishAll(5, 1)
		w.until("all to be delivered", w.settled)

		refused("staging")
		refused("")
		w.publishAll(5, 1)
		w.until("all to be delivered", w.settled)
		m.terminate()
		w.publishAll(5, 1)
		refused("staging")
		refused("")
		second := w.join(of("production"))
		w.until("all to be delivered", w.settled)
		w.verify(never)
		second.terminate()
		if n := w.lag(); n != 0 {
			t.Errorf("a lag of %d", n)
		}
	})
}
