package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The password for the brokers is changed under load, there first and here when all
// connections have broken: the brokers ask for it again every 3 s, and close a connection
// that does not say it. Nothing that was accepted is lost, and nothing overtakes.
func TestCredentialsAreChangedUnderLoad(t *testing.T) {
	guarded := os.Getenv("KAFKA_SASL_BROKERS")
	if guarded == "" {
		t.Skip("KAFKA_SASL_BROKERS is not set; scripts/kafka run-with 1 -- go test -count=1 ./internal/e2e sets it")
	}
	const user = "refiner"
	file := filepath.Join(t.TempDir(), "password")
	here := func(password string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	there := func(password string) {
		t.Helper()
		tool(t, "kafka.admin.ConfigCommand", "--bootstrap-server", brokers(t), "--alter", "--entity-type", "users", "--entity-name", user,
			"--add-config", "SCRAM-SHA-512=[password="+password+"]")
	}
	here("the-first")
	there("the-first")
	t.Setenv("REFINER_SOURCE_KAFKA_SASL", "scram-sha-512")
	t.Setenv("REFINER_SOURCE_KAFKA_USER", user)
	t.Setenv("REFINER_SOURCE_KAFKA_PASSWORD", "file:"+file)

	s := newSystemAt(t, guarded, 20)
	l := &load{tenants: 20, users: 400, each: 6, positions: make(map[person][]position)}
	begun := time.Now()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for seq := range l.each {
			l.sendRounds(t.Context(), s.ingress, seq+1, seq+1)
			time.Sleep(2 * time.Second) // on real brokers, whose sessions take their time
		}
	}()
	s.receiver.await(t, l.users, patience)
	there("the-second")
	time.Sleep(4 * time.Second) // until every connection has been closed
	here("the-second")
	<-sent
	s.receiver.await(t, 2*l.users*l.each, patience)
	repeated := l.check(t, s.receiver, func(position) bool { return true }) // who loses its connection loses its place in the group
	s.figures(l, begun, repeated)
	s.settle()
	refused := 0
	for _, p := range append(s.workers, s.front) {
		text, err := os.ReadFile(p.log)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "the-first") || strings.Contains(string(text), "the-second") {
			t.Errorf("the log of %s shows a password", p.name)
		}
		refused += strings.Count(string(text), "SASL Authentication Failed")
		p.terminate()
	}
	if refused == 0 {
		t.Error("no process says that its password was not accepted: nothing was changed under it")
	}
	t.Logf("the password was not accepted %d times", refused)
}
