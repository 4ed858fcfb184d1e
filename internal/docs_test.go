package internal_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentsNameWhatExists holds the documents to the tests, files and
// packages that they name.
func TestDocumentsNameWhatExists(t *testing.T) {
	t.Parallel()
	root := os.DirFS("..")
	var documents, tests strings.Builder
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") && d.Name() != ".ci":
			return fs.SkipDir
		case strings.HasSuffix(path, "_test.go"):
			text, err := fs.ReadFile(root, path)
			tests.Write(text)
			return err
		case filepath.Ext(path) == ".md":
			text, err := fs.ReadFile(root, path)
			documents.Write(text)
			for _, link := range links.FindAllStringSubmatch(string(text), -1) {
				if _, err := fs.Stat(root, filepath.ToSlash(filepath.Join(filepath.Dir(path), link[1]))); err != nil {
					t.Errorf("%s links to %s, which is not there", path, link[1])
				}
			}
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range testNames.FindAllString(documents.String(), -1) {
		if !strings.Contains(tests.String(), "func "+name+"(") {
			t.Errorf("a document names %s, which is not a test", name)
		}
	}
	for _, name := range packages.FindAllStringSubmatch(documents.String(), -1) {
		if _, err := fs.Stat(root, strings.TrimSuffix(name[1], "/...")); err != nil {
			t.Errorf("a document names %s, which is not there", name[1])
		}
	}
}

// What documents name: links within the repository, tests, and packages or
// files as `internal/…`.
var (
	links     = regexp.MustCompile(`\]\(([^):#]+)(?:#[^)]*)?\)`)
	testNames = regexp.MustCompile(`\bTest[A-Z]\w+`)
	packages  = regexp.MustCompile("[` /]((?:internal|cmd|scripts|schemas|deploy)/[a-zA-Z0-9/._-]+[a-zA-Z0-9])")
)
