package main

import (
	"bytes"
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
