package app_test

import (
	"bufio"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// The admin listener answers as schemas/admin.openapi.yaml says.
func TestAdminListenerIsAsDescribed(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../schemas/admin.openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var description struct {
		Paths map[string]map[string]struct {
			Responses map[string]struct{ Content map[string]any }
		}
		Components map[string]any
	}
	if err := yaml.Unmarshal(text, &description); err != nil {
		t.Fatal(err)
	}
	paths := slices.Sorted(maps.Keys(description.Paths))
	if d := cmp.Diff([]string{"/", "/api/live", "/healthz", "/metrics", "/readyz"}, paths); d != "" {
		t.Errorf("paths (-want +got):\n%s", d)
	}

	calls := make(chan string, 10)
	a := start(t, dev(t.TempDir(), calls))
	submit(t, a, "demo", webhook("ann", "CEO"))
	take(t, calls, 2)
	eventually(t, "/readyz to be 200", func() bool {
		status, _ := admin(t, a, "/readyz")
		return status == http.StatusOK
	})
	for path, operations := range description.Paths {
		for method, operation := range operations {
			r, err := http.NewRequestWithContext(t.Context(), strings.ToUpper(method), "http://"+a.AdminAddr().String()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			media, _, _ := strings.Cut(answer.Header.Get("Content-Type"), ";")
			if _, ok := operation.Responses["200"].Content[media]; !ok || answer.StatusCode != http.StatusOK {
				t.Errorf("%s %s answered %d %s, which is not described", method, path, answer.StatusCode, media)
			}
			if path == "/api/live" {
				validateFrame(t, bufio.NewScanner(answer.Body), description.Components)
			}
			_ = answer.Body.Close()
		}
	}
}

// validateFrame holds the first event of the stream to its schema.
func validateFrame(t *testing.T, lines *bufio.Scanner, components map[string]any) {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("admin.json", map[string]any{"components": components}); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("admin.json#/components/schemas/update")
	if err != nil {
		t.Fatal(err)
	}
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("an update is not as described: %v\n%s", err, data)
		}
		if !strings.Contains(data, "r-ann") {
			t.Errorf("the update does not show the event: %s", data)
		}
		return
	}
	t.Errorf("the stream ended without an update: %v", lines.Err())
}
