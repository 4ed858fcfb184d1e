package tenant

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with the tenants. It never holds a secret.
type Fault struct {
	Line    int    `json:"line,omitzero"` // from 1; 0 where there is no file
	Field   string `json:"field"`         // such as tenants[2].endpoint, "" for the whole file
	Problem string `json:"problem"`
	Remedy  string `json:"remedy"`
}

// String returns line, field, problem and remedy.
func (f Fault) String() string {
	var b strings.Builder
	if f.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", f.Line)
	}
	if f.Field != "" {
		b.WriteString(f.Field + " ")
	}
	b.WriteString(f.Problem + "; " + f.Remedy)
	return b.String()
}

// Faults is an error: all that is wrong with the tenants, in the order of the
// file. It is never empty.
type Faults []Fault

// maxShown bounds what Error says of a file that is all wrong.
const maxShown = 10

// Error returns the first faults, one a line, and how many there are more.
func (f Faults) Error() string {
	shown := make([]string, 0, maxShown+1)
	for _, fault := range f[:min(len(f), maxShown)] {
		shown = append(shown, fault.String())
	}
	if more := len(f) - maxShown; more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more faults", more))
	}
	return strings.Join(shown, "\n")
}

// err returns the faults sorted as an error, nil if there are none.
func (f Faults) err() error {
	if len(f) == 0 {
		return nil
	}
	slices.SortStableFunc(f, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
	return f
}
