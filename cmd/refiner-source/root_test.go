package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command explains itself by an example, and every flag has its variable.
func TestHelpOfEveryCommandShowsAnExample(t *testing.T) {
	t.Parallel()
	var walk func(path []string, cmd *cobra.Command)
	walk = func(path []string, cmd *cobra.Command) {
		if cmd.Name() == "help" {
			return
		}
		var out bytes.Buffer
		root := newRoot()
		root.SetArgs(append(path, "--help"))
		root.SetOut(&out)
		if code := execute(t.Context(), root, &out); code != exitDone {
			t.Errorf("%v --help ended with %d", path, code)
		}
		if !strings.Contains(out.String(), "Examples:\n  refiner-source") {
			t.Errorf("%v --help shows no example:\n%s", path, out.String())
		}
		for _, sub := range cmd.Commands() {
			walk(append(slices.Clip(path), sub.Name()), sub)
		}
	}
	walk(nil, newRoot())
}

func TestAFlagWinsOverItsVariable(t *testing.T) {
	for _, c := range []struct {
		env  string
		args []string
		code int
		said string
	}{
		{"nonsense", []string{"dev"}, exitUsage, "REFINER_SOURCE_SAMPLE"},
		{"-1", []string{"dev"}, exitUsage, "--sample is -1"},
		{"-1", []string{"dev", "--sample", "-2"}, exitUsage, "--sample is -2"},
		{"1", []string{"no-such-command"}, exitUsage, "no-such-command"},
		{"1", []string{"worker"}, exitUsage, "--tenants"},
		{"1", []string{"worker", "--no-such-flag"}, exitUsage, "no-such-flag"},
		{"1", []string{"version", "too much"}, exitUsage, "too much"},
	} {
		t.Setenv("REFINER_SOURCE_SAMPLE", c.env)
		root := newRoot()
		root.SetArgs(c.args)
		var said bytes.Buffer
		root.SetOut(&said)
		if code := execute(t.Context(), root, &said); code != c.code || !strings.Contains(said.String(), c.said) {
			t.Errorf("%v with %s in the environment ended with %d and %q, want %d and %q", c.args, c.env, code, said.String(), c.code, c.said)
		}
	}
}

// What is wrong with the configuration ends with 2, and names the flag, also where
// it shows only when the process starts.
func TestWrongConfigurationNamesItsFlag(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	broken := file("broken.yaml", "tenants:\n  - {id: acme, endpiont: x}\n")
	nobody := file("nobody.yaml", "tenants:\n  - {id: acme, write_key: k}\n")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	for _, c := range []struct {
		said string
		args []string
	}{
		{"--tenants: read tenants file", []string{"worker", "--brokers", "127.0.0.1:1", "--tenants", filepath.Join(dir, "none.yaml")}},
		{"--tenants: " + broken + ": line 2:", []string{"worker", "--brokers", "127.0.0.1:1", "--tenants", broken}},
		{"--tenants: " + broken + ": line 2:", []string{"dev", "--tenants", broken}},
		{"--tenants: " + nobody + ": line 2: tenants[0].tokens are missing", []string{"ingress", "--brokers", "127.0.0.1:1", "--tenants", nobody}},
		{`--brokers: open log: broker "kafka": want host:port`, []string{"worker", "--brokers", "kafka", "--tenants", nobody}},
		{`--topic-prefix "our/": want`, []string{"worker", "--brokers", "127.0.0.1:1", "--tenants", nobody, "--topic-prefix", "our/"}},
		{`--topic-prefix "our/": want`, []string{"topics", "check", "--brokers", "127.0.0.1:1", "--topic-prefix", "our/"}},
		{"--listen: listen for events: ", []string{"dev", "--listen", taken.Addr().String()}},
		{"--admin-listen: listen for the admin: ", []string{"dev", "--admin-listen", taken.Addr().String()}},
	} {
		args := slices.Clone(c.args)
		if args[0] != "topics" && !slices.Contains(args, "--admin-listen") {
			args = append(args, "--admin-listen", "127.0.0.1:0")
		}
		if args[0] == "dev" {
			args = append(args, "--data", t.TempDir())
		}
		root := newRoot()
		root.SetArgs(args)
		var said bytes.Buffer
		root.SetOut(&said)
		root.SetErr(&said)
		if code := execute(t.Context(), root, &said); code != exitUsage || !strings.Contains(said.String(), c.said) {
			t.Errorf("%v ended with %d and %q, want %d and %q", c.args, code, said.String(), exitUsage, c.said)
		}
	}
}
