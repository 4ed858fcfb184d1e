// Package deploy_test reads what is deployed as the programs that deploy it
// would: the commands, flags, files and names in it must exist.
package deploy_test

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// compose is docker-compose.yml, as far as it is used. Other keys are faults.
type compose struct {
	Name       string
	Services   map[string]service
	Volumes    map[string]*struct{}
	Extensions map[string]any `yaml:",inline"`
}

type service struct {
	Build           string
	Image           string
	Restart         string
	Command         []string
	Environment     map[string]string
	Volumes         []string
	Ports           []string
	StopGracePeriod string `yaml:"stop_grace_period"`
	DependsOn       map[string]struct {
		Condition string
	} `yaml:"depends_on"`
	Healthcheck *struct {
		Test              []string
		Interval, Timeout string
		Retries           int
	}
}

func load(t *testing.T) compose {
	t.Helper()
	data, err := os.ReadFile("../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	var c compose
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		t.Fatal(err)
	}
	for key := range c.Extensions {
		if !strings.HasPrefix(key, "x-") {
			t.Errorf("%s: is no key of a compose file", key)
		}
	}
	if len(c.Services) == 0 {
		t.Fatal("no services")
	}
	return c
}

// run runs the binary of the services and returns what it prints.
func run(t *testing.T, environment []string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", "../cmd/refiner-source"}, args...)...)
	cmd.Env = environment
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// expand fills in ${NAME:-default} as compose does when NAME is not set.
func expand(value string) string {
	return regexp.MustCompile(`\$\{\w+:-([^}]*)\}`).ReplaceAllString(value, "$1")
}

// setting is a flag of the service's command, from the command line or else
// from its variable.
func (s service) setting(flag string) string {
	if i := slices.Index(s.Command, "--"+flag); i >= 0 && i+1 < len(s.Command) {
		return s.Command[i+1]
	}
	return expand(s.Environment["REFINER_SOURCE_"+strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))])
}

func TestServicesRunCommandsAndFlagsThatExist(t *testing.T) {
	t.Parallel()
	for name, s := range load(t).Services {
		if s.Build == "" {
			continue // not ours
		}
		// With --help at the end all flags before it are parsed, and nothing runs.
		out, err := run(t, nil, append(slices.Clone(s.Command), "--help")...)
		if err != nil {
			t.Errorf("%s: %s: %v\n%s", name, strings.Join(s.Command, " "), err, out)
			continue
		}
		var words []string
		for _, word := range s.Command {
			if strings.HasPrefix(word, "-") {
				break
			}
			words = append(words, word)
		}
		if usage := "refiner-source " + strings.Join(words, " ") + " [flags]"; len(words) == 0 || !strings.Contains(out, usage) {
			t.Errorf("%s: there is no command %q", name, strings.Join(words, " "))
		}
		for variable := range s.Environment {
			flag, ours := strings.CutPrefix(variable, "REFINER_SOURCE_")
			if flag = "--" + strings.ToLower(strings.ReplaceAll(flag, "_", "-")); ours && !regexp.MustCompile(flag+`\s`).MatchString(out) {
				t.Errorf("%s: %s is the variable of no flag of %s", name, variable, strings.Join(words, " "))
			}
		}
	}
}

func TestServicesDependOnWhatExists(t *testing.T) {
	t.Parallel()
	c := load(t)
	for name, s := range c.Services {
		for on, d := range s.DependsOn {
			target, ok := c.Services[on]
			if !ok {
				t.Errorf("%s depends on %s, which is not there", name, on)
				continue
			}
			switch d.Condition {
			case "service_started":
			case "service_healthy":
				if target.Healthcheck == nil {
					t.Errorf("%s waits for the health of %s, which has no healthcheck", name, on)
				}
			case "service_completed_successfully":
				if target.Restart != "no" {
					t.Errorf("%s waits for the end of %s, which is restarted", name, on)
				}
			default:
				t.Errorf("%s waits for the unknown condition %q of %s", name, d.Condition, on)
			}
		}
	}
}

func TestMountedFilesExist(t *testing.T) {
	t.Parallel()
	c := load(t)
	for name, s := range c.Services {
		for _, v := range s.Volumes {
			from, to, _ := strings.Cut(v, ":")
			if !strings.HasPrefix(from, ".") {
				if _, ok := c.Volumes[from]; !ok {
					t.Errorf("%s mounts the volume %s, which is not declared", name, from)
				}
				continue
			}
			if _, err := os.Stat(filepath.Join("..", from)); err != nil {
				t.Errorf("%s mounts %v", name, err)
			}
			if file := s.setting("tenants"); file != "" {
				path, below := strings.CutPrefix(file, strings.TrimSuffix(to, ":ro")+"/")
				if _, err := os.Stat(filepath.Join("..", from, path)); !below || err != nil {
					t.Errorf("%s: --tenants %s is not in its mount %s", name, file, v)
				}
			}
		}
	}
}

func TestPortsAreOfThisMachineAloneAndListenedOn(t *testing.T) {
	t.Parallel()
	taken := map[string]string{}
	for name, s := range load(t).Services {
		for _, p := range s.Ports {
			part := strings.Split(p, ":")
			if len(part) != 3 || part[0] != "127.0.0.1" {
				t.Errorf("%s: port %s is open to the network; write 127.0.0.1:HOST:CONTAINER", name, p)
				continue
			}
			if other, ok := taken[part[1]]; ok {
				t.Errorf("%s and %s both take port %s", name, other, part[1])
			}
			taken[part[1]] = name
			listens := []string{s.setting("listen"), s.setting("admin-listen")}
			if !slices.Contains(listens, "0.0.0.0:"+part[2]) {
				t.Errorf("%s: port %s leads to %s, but it listens on %q", name, p, part[2], listens)
			}
		}
	}
}

func TestAddressesNameServices(t *testing.T) {
	t.Parallel()
	c := load(t)
	for name, s := range c.Services {
		brokers := s.setting("brokers")
		if brokers == "" {
			continue
		}
		host, port, err := net.SplitHostPort(brokers)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := fmt.Sprintf("PLAINTEXT://%s:%s", host, port); c.Services[host].Environment["KAFKA_ADVERTISED_LISTENERS"] != want {
			t.Errorf("%s: the service %q does not advertise %s", name, host, want)
		}
	}
}

func TestTenantsFileIsValidAndItsEndpointIsAService(t *testing.T) {
	t.Parallel()
	c := load(t)
	environment := os.Environ()
	for key, value := range c.Services["ingress"].Environment {
		environment = append(environment, key+"="+expand(value))
	}
	if out, err := run(t, environment, "tenants", "check", "compose/tenants.yaml"); err != nil {
		t.Errorf("tenants check: %v\n%s", err, out)
	}

	data, err := os.ReadFile("compose/tenants.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Tenants []struct{ ID, Endpoint string }
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	for _, tenant := range file.Tenants {
		u, err := url.Parse(tenant.Endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := c.Services[u.Hostname()].setting("listen"), "0.0.0.0:"+u.Port(); got != want {
			t.Errorf("tenant %s sends to %s, but that service listens on %q", tenant.ID, tenant.Endpoint, got)
		}
	}
}

func TestWorkersAndIngressSeeTheSameTenants(t *testing.T) {
	t.Parallel()
	c := load(t)
	want := c.Services["ingress"].Environment
	for name, s := range c.Services {
		if slices.Contains(s.Command, "worker") && !maps.Equal(s.Environment, want) {
			t.Errorf("%s has another environment than ingress: %v, %v", name, s.Environment, want)
		}
	}
}

func TestImageIsBuiltWithTheModulesGoAndRunsAsNobody(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		data, err := os.ReadFile("../" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	dockerfile, module := read("Dockerfile"), read("go.mod")
	version := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(module)
	if len(version) != 2 || !strings.Contains(dockerfile, "FROM golang:"+version[1]+" ") {
		t.Errorf("the Dockerfile does not build with the Go of go.mod, %q", version)
	}
	if !regexp.MustCompile(`(?m)^USER [1-9]\d*:[1-9]\d*$`).MatchString(dockerfile) {
		t.Error("the Dockerfile names no user by number; Kubernetes cannot tell that a named one is not root")
	}
}

func TestImageIsBuiltFromAllThatTheBinaryNeeds(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	var allowed []string
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
			allowed = append(allowed, path)
		}
	}
	const format = `{{if .Module}}{{if .Module.Main}}{{.ImportPath}}{{end}}{{end}}`
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", format, "../cmd/refiner-source").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(string(out))
	if len(packages) < 2 {
		t.Fatalf("the binary is made of %q", packages)
	}
	for _, path := range append(packages, "refinersource/go.mod", "refinersource/go.sum") {
		top := strings.Split(path, "/")[1]
		if !slices.Contains(allowed, top) {
			t.Errorf(".dockerignore keeps %s out of the image's build", path)
		}
	}
	for _, path := range allowed {
		if _, err := os.Stat("../" + path); err != nil {
			t.Errorf(".dockerignore lets in %v", err)
		}
	}
}
