// Package internal_test holds the module to its import policy: which package
// may know which. ARCHITECTURE.md, Imports, shows the same table.
package internal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "refinersource"

// row is a line of the import table.
type row struct {
	pkg  string
	may  []string // packages of this module that it may import
	owns string   // what belongs there, and so where other code does not
}

// table is the policy for imports within the module, in the order in which a
// completion flows. Directories stand below internal/, but for cmd.
var table = []row{
	{"survey", nil, "what an event looks like: decoding"},
	{"attribution", []string{"survey"}, "whose answer it is, what its trait is called, the calls"},
	{"tenant", []string{"attribution"}, "tenants, their secrets and rules"},
	{"lane", nil, "what may be sent and committed now"},
	{"queue", nil, "the log, over kafka-go"},
	{"queue/queuetest", []string{"queue"}, "the queue's conformance suite"},
	{"broker", nil, "the embedded broker"},
	{"segment", []string{"attribution", "tenant"}, "one attempt, classified; capture"},
	{"deadletter", []string{"queue", "receipt", "survey"}, "dead letters"},
	{"receipt", []string{"attribution", "queue", "survey"}, "receipts"},
	{"delivery", []string{"attribution", "segment", "tenant"}, "from attempts to an outcome: retries, bisecting"},
	{"copies", []string{"queue", "survey"}, "copies of an event, told from new ones"},
	{"redrive", []string{"attribution", "copies", "deadletter", "queue", "survey", "tenant"}, "dead letters put back: their mark, what they make, the plan"},
	{"worker", []string{"attribution", "copies", "deadletter", "delivery", "lane", "queue", "receipt", "redrive", "survey", "tenant"}, "the loop from fetch to commit"},
	{"replay", []string{"attribution", "copies", "deadletter", "lane", "queue", "receipt", "redrive", "survey", "tenant"}, "what a range of the log makes, how that differs from what was sent, and plans to send it again"},
	{"ingress", []string{"queue", "survey", "tenant"}, "the HTTP front"},
	{"console", []string{"attribution", "deadletter", "queue", "receipt", "tenant"}, "the live page"},
	{"audit", []string{"deadletter", "lane", "queue", "receipt", "redrive"}, "what became of events, from the log alone: trace, audit"},
	{"refiner", []string{"ingress", "queue", "tenant"}, "Refiner's REST API, and what is imported from it"},
	{"sample", nil, "generated surveys"},
	{"app", []string{
		"attribution", "broker", "console", "deadletter", "delivery", "ingress", "lane", "queue", "receipt", "replay", "segment", "survey", "tenant", "worker",
	}, "wiring"},
	{"allocs", nil, "what an operation may allocate, for tests"},
	{"e2e", nil, "tests of whole processes, from outside"},
	{"checker", nil, "recorded histories, held against the promise"},
	{"simulation", []string{"attribution", "broker", "checker", "deadletter", "delivery", "ingress", "lane", "queue", "segment", "survey", "tenant", "worker"}, "seeded runs of the whole system in virtual time"},
	{"chaos", []string{"checker"}, "runs of whole processes under faults"},
	{"cmd/refiner-source", []string{
		"app", "attribution", "audit", "broker", "console", "deadletter", "lane", "queue", "receipt", "redrive", "refiner", "replay", "sample", "segment", "simulation", "survey", "tenant",
	}, "flags, signals, exit codes"},
	{"cmd/refiner-chaos", []string{"chaos", "checker"}, "flags of the proof's runs"},
}

// only says which packages may import something from outside the module.
type only struct {
	lib     string   // with everything below it
	in      []string // packages that may
	why     string
	instead string
}

var libraries = []only{
	{
		lib:     "github.com/segmentio/kafka-go",
		in:      []string{"queue"},
		why:     "one queue implementation knows kafka-go's traps",
		instead: "put it in queue, behind a Publisher, Reader or Group",
	},
	{
		lib:     "github.com/segmentio/analytics-go",
		in:      []string{"segment"},
		why:     "one attempt is one POST only with segment's settings",
		instead: "put it in segment, behind Send",
	},
	{
		lib:     "github.com/twmb/franz-go",
		in:      []string{"broker", "chaos", "queue/queuetest", "simulation"},
		why:     "the service must run against real Kafka as it is tested",
		instead: "put it in broker, or in a test",
	},
	{
		lib:     "github.com/spf13",
		in:      []string{"cmd/refiner-chaos", "cmd/refiner-source"},
		why:     "what works must be callable without a command line",
		instead: "read the flag in cmd/refiner-source and hand on the value",
	},
	{
		lib:     "go.uber.org/zap",
		in:      []string{"app", "broker", "cmd/refiner-source", "ingress", "queue", "worker"},
		why:     "errors are returned or logged, never both",
		instead: "return the error; worker, ingress or app logs it",
	},
	{
		lib:     "log",
		why:     "there is one logger, and it is an argument",
		instead: "take a *zap.Logger, or return the error",
	},
	{
		lib:     "net/http",
		in:      []string{"app", "chaos", "cmd/refiner-source", "console", "ingress", "refiner", "segment", "simulation"},
		why:     "what decides must be testable without a network",
		instead: "put requests in segment or refiner, handlers in ingress or console",
	},
	{
		lib:     "os",
		in:      []string{"app", "broker", "chaos", "cmd/refiner-chaos", "cmd/refiner-source", "simulation", "tenant"},
		why:     "files and environment are read at the edge",
		instead: "take the bytes, or a lookup function, as an argument",
	},
	{
		lib:     "net",
		in:      []string{"app", "broker", "chaos", "cmd/refiner-source", "console", "ingress", "queue", "queue/queuetest", "refiner", "segment", "simulation"},
		why:     "the core has no network",
		instead: "put it in the adapter: queue, segment or broker",
	},
	{
		lib:     "math/rand",
		in:      []string{"chaos", "delivery", "queue/queuetest", "sample", "simulation"},
		why:     "same bytes and same rules give the same calls (invariant 6)",
		instead: "decide it in delivery, or take the number as an argument",
	},
	{
		lib:     "crypto/rand",
		in:      []string{"console"},
		why:     "same bytes and same rules give the same calls (invariant 6)",
		instead: "derive ids from the event, as attribution does",
	},
	{
		lib:     "github.com/google/uuid",
		in:      []string{"attribution"},
		why:     "message ids are derived, never drawn (invariant 6)",
		instead: "use attribution's message ids",
	},
}

// vague are names that hide no decision.
var vague = []string{"util", "utils", "common", "misc", "helper", "helpers", "types", "models", "base", "core", "pkg", "shared", "manager", "config", "telemetry"}

// listed is a package as go list shows it.
type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-e", "-json=ImportPath,Imports,Deps"}, args...)...)
	cmd.Dir = ".."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
}

// name is a package as the table calls it.
func name(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module+"/"), "internal/")
}

// violations are all breaches of the policy. Imports of tests are free: they do
// not reach the binary.
func violations(packages []listed) []string {
	var all []string
	for _, p := range packages {
		pkg := name(p.ImportPath)
		if pkg == "internal" || pkg == "deploy" || pkg == "schemas" {
			continue // nothing but tests and files
		}
		if slices.Contains(vague, path.Base(pkg)) {
			all = append(all, fmt.Sprintf("%s: a package is named after the decision that it hides, not %q", pkg, path.Base(pkg)))
		}
		at := slices.IndexFunc(table, func(r row) bool { return r.pkg == pkg })
		if at < 0 {
			all = append(all, fmt.Sprintf("%s: is not in the import table; add a row here and in ARCHITECTURE.md, or a file to a package there is", pkg))
			continue
		}
		for _, i := range p.Imports {
			if strings.HasPrefix(i, module+"/") {
				if other := name(i); !slices.Contains(table[at].may, other) {
					all = append(all, fmt.Sprintf("%s imports %s: the table allows it %s alone; %s owns %s: take what you need of %s as an argument or a small interface, or move the code to a package that may",
						pkg, other, cell(table[at].may), pkg, table[at].owns, other))
				}
				continue
			}
			for _, rule := range libraries {
				if below(i, rule.lib) && !slices.Contains(rule.in, pkg) {
					all = append(all, fmt.Sprintf("%s imports %s: %s; %s", pkg, i, rule.why, rule.instead))
				}
			}
		}
	}
	return all
}

// below tells whether an import is lib or stands below it. Of the standard
// library only the package itself is meant, but for the versions of math/rand.
func below(i, lib string) bool {
	std := !strings.Contains(strings.Split(lib, "/")[0], ".")
	return i == lib || strings.HasPrefix(i, lib+"/") && (!std || strings.HasPrefix(i, lib+"/v"))
}

func cell(packages []string) string {
	if len(packages) == 0 {
		return "–"
	}
	return strings.Join(packages, ", ")
}

func TestImportsFollowThePolicy(t *testing.T) {
	t.Parallel()
	for _, v := range violations(list(t, "./...")) {
		t.Error(v)
	}
}

// Package testing is the exception: virtual time is had through it alone, and the
// command simulate runs in virtual time.
func TestBinaryLinksNothingMadeForTests(t *testing.T) {
	t.Parallel()
	packages := list(t, "./cmd/refiner-source")
	for _, lib := range []string{
		"github.com/google/go-cmp", "pgregory.net/rapid", "go.uber.org/goleak",
		"github.com/rogpeppe/go-internal", "github.com/santhosh-tekuri/jsonschema", module + "/internal/queue/queuetest",
	} {
		for _, d := range packages[0].Deps {
			if d == lib || strings.HasPrefix(d, lib+"/") {
				t.Errorf("cmd/refiner-source links %s: it is made for tests; move its use to a _test.go file", d)
			}
		}
	}
}

func TestArchitectureShowsTheImportTable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range table {
		if want := fmt.Sprintf("| `%s` | %s | %s |\n", r.pkg, r.owns, cell(r.may)); !strings.Contains(string(text), want) {
			t.Errorf("ARCHITECTURE.md lacks the row\n%s", want)
		}
	}
}

func TestViolationsNameTheRuleAndTheRemedy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		in   listed
		want string
	}{
		{
			"an import that the table does not allow",
			listed{ImportPath: module + "/internal/survey", Imports: []string{module + "/internal/tenant"}},
			"survey imports tenant: the table allows it – alone; survey owns what an event looks like: decoding: " +
				"take what you need of tenant as an argument or a small interface, or move the code to a package that may",
		},
		{
			"a library outside its adapter",
			listed{ImportPath: module + "/internal/worker", Imports: []string{"github.com/segmentio/kafka-go/protocol"}},
			"worker imports github.com/segmentio/kafka-go/protocol: one queue implementation knows kafka-go's traps; put it in queue, behind a Publisher, Reader or Group",
		},
		{
			"a part of the standard library outside its place",
			listed{ImportPath: module + "/internal/lane", Imports: []string{"net/url", "math/rand/v2"}},
			"lane imports math/rand/v2: same bytes and same rules give the same calls (invariant 6); decide it in delivery, or take the number as an argument",
		},
		{
			"a package without a row",
			listed{ImportPath: module + "/internal/parking"},
			"parking: is not in the import table; add a row here and in ARCHITECTURE.md, or a file to a package there is",
		},
		{
			"what is allowed",
			listed{ImportPath: module + "/cmd/refiner-source", Imports: []string{"net/http", "os", "github.com/spf13/cobra", module + "/internal/app"}},
			"",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if d := cmp.Diff(c.want, strings.Join(violations([]listed{c.in}), "\n")); d != "" {
				t.Errorf("violations (-want +got):\n%s", d)
			}
		})
	}
	got := violations([]listed{{ImportPath: module + "/internal/helpers"}})
	if len(got) != 2 || !strings.Contains(got[0], `not "helpers"`) {
		t.Errorf("a vague package name is reported as %q", got)
	}
}
