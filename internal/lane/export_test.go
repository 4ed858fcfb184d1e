package lane

// Kept is how many lanes and keys the partition holds something for.
func (p *Partition[T]) Kept() int {
	n := len(p.lanes)
	for _, q := range p.lanes {
		n += len(q.keys)
	}
	return n
}
