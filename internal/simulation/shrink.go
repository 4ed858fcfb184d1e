package simulation

// Shrink looks for fewer faults that fail as well, and returns the options of the
// smallest failing run that it found, with its report. Each try is a run, made by
// run in a bubble of its own; there are at most so many. failed is the report of
// the run with o.
func Shrink(o Options, failed Report, tries int, run func(Options) Report) (Options, Report) {
	numbers := faultNumbers(o)
	fails := func(only []int) bool {
		if tries == 0 {
			return false
		}
		tries--
		smaller := o
		smaller.Only = only
		r := run(smaller)
		if len(r.Violations) == 0 {
			return false
		}
		o, failed = smaller, r
		return true
	}
	// Halves, quarters and so on are left out as long as what is left fails.
	for size := len(numbers); size > 0; {
		left := false
		for from := 0; from < len(numbers); {
			to := min(from+size, len(numbers))
			// Never nil, which would be all of them.
			rest := append(append(make([]int, 0, len(numbers)), numbers[:from]...), numbers[to:]...)
			if fails(rest) {
				numbers, left = rest, true
			} else {
				from = to
			}
		}
		if !left || size == 1 {
			size /= 2
		}
	}
	return o, failed
}

// faultNumbers are the numbers of the faults that a run with o has.
func faultNumbers(o Options) []int {
	numbers := []int{}
	for _, f := range newPlan(o).faults {
		numbers = append(numbers, f.number)
	}
	return numbers
}
