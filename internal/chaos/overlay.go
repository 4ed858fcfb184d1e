package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Edit replaces a text of a source file that stands there exactly once.
type Edit struct {
	File     string // below the module's root
	Old, New string
}

// writeOverlay writes the edited files into dir, and the file that tells the Go
// command to read them in place of those under root. It returns that file's path.
// A text that is not there, or more than once, is an error: the mutant would be
// another one, or none.
func writeOverlay(root, dir string, edits []Edit) (string, error) {
	texts := make(map[string]string)
	for _, e := range edits {
		text, ok := texts[e.File]
		if !ok {
			raw, err := os.ReadFile(filepath.Join(root, e.File))
			if err != nil {
				return "", fmt.Errorf("read the file to mutate: %w", err)
			}
			text = string(raw)
		}
		if n := strings.Count(text, e.Old); n != 1 {
			return "", fmt.Errorf("%s has this text %d times, want once; bring the mutant up to date:\n%s", e.File, n, e.Old)
		}
		if e.Old == e.New {
			return "", fmt.Errorf("%s: the mutant changes nothing", e.File)
		}
		texts[e.File] = strings.Replace(text, e.Old, e.New, 1)
	}
	replace := make(map[string]string, len(texts))
	for file, text := range texts {
		path := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return "", fmt.Errorf("write the mutated file: %w", err)
		}
		replace[filepath.Join(root, file)] = path
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", fmt.Errorf("encode the overlay: %w", err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, overlay, 0o644); err != nil {
		return "", fmt.Errorf("write the overlay: %w", err)
	}
	return path, nil
}
