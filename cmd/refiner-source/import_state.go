package main

import (
	"encoding/json/v2"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"refinersource/internal/refiner"
)

// stateFile is the file of --state.
type stateFile struct {
	path string
	of   importOf
}

// importOf says which import a state is of.
type importOf struct {
	Tenant  string `json:"tenant"`
	BaseURL string `json:"base_url"`
	Since   string `json:"since"`
}

// stateForm is the file's content.
type stateForm struct {
	Version int      `json:"version"`
	Of      importOf `json:"of"`
	Day     string   `json:"day"`
	// At and ID are those of the last response of the day that is in the log; absent
	// if none is.
	At time.Time `json:"at,omitzero"`
	ID string    `json:"id,omitzero"`
}

const stateVersion = 1

func (f *importFlags) stateFile() *stateFile {
	return &stateFile{path: f.state, of: importOf{Tenant: f.tenant, BaseURL: f.baseURL, Since: f.since}}
}

// load returns the state, that of a new import if there is no file. What it does
// not understand it refuses (invariant 10, fail closed).
func (s *stateFile) load() (refiner.State, error) {
	if s.path == "" {
		return refiner.State{}, nil
	}
	text, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return refiner.State{}, nil
	}
	if err != nil {
		return refiner.State{}, usagef("--state: %w", err)
	}
	var form stateForm
	if err := json.Unmarshal(text, &form, json.RejectUnknownMembers(true)); err != nil || form.Version != stateVersion {
		return refiner.State{}, usagef("--state: %s is no state of an import, or one of another version: name another file, or remove it to begin again", s.path)
	}
	if form.Of != s.of {
		return refiner.State{}, usagef("--state: %s is of the import of tenant %q from %s since %s: name another file for this one",
			s.path, form.Of.Tenant, form.Of.BaseURL, form.Of.Since)
	}
	day, err := time.Parse(time.DateOnly, form.Day)
	if err != nil {
		return refiner.State{}, usagef("--state: %s has a day that is none: remove it to begin again", s.path)
	}
	return refiner.State{Day: day, At: form.At, ID: form.ID}, nil
}

// save replaces the file at once: whoever reads it sees the old state or the new one,
// also after a crash.
func (s *stateFile) save(state refiner.State) error {
	text, err := json.Marshal(stateForm{Version: stateVersion, Of: s.of, Day: state.Day.Format(time.DateOnly), At: state.At, ID: state.ID})
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(s.path), filepath.Base(s.path)+".*")
	if err != nil {
		return err
	}
	_, err = file.Write(append(text, '\n'))
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(file.Name(), s.path)
	}
	if err != nil {
		return fmt.Errorf("%w", errors.Join(err, os.Remove(file.Name())))
	}
	return nil
}
