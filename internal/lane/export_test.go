package lane

// Kept is how many lanes and keys the partition holds something for.
func (p *Partition[T]) Kept() int {
	n := len(p.lanes)
	for _, q := range p.lanes {
		n += len(q.keys)
	}
	return n
}

// CountUncommitted counts what Uncommitted says.
func (p *Partition[T]) CountUncommitted() (n int) {
	for _, it := range p.window.all() {
		if it.finished && !it.passed {
			n++
		}
	}
	return n
}
