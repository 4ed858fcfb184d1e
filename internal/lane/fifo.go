package lane

// fifo is a queue in a slice. Its memory follows its length down as well as up.
type fifo[E any] struct {
	items []E
	head  int
}

func (f *fifo[E]) len() int { return len(f.items) - f.head }

func (f *fifo[E]) push(e E) { f.items = append(f.items, e) }

func (f *fifo[E]) first() E { return f.items[f.head] }

// all are the items, the first one first. They are the queue's own.
func (f *fifo[E]) all() []E { return f.items[f.head:] }

func (f *fifo[E]) pop() E {
	var zero E
	e := f.items[f.head]
	f.items[f.head] = zero
	f.head++
	switch {
	case f.head == len(f.items):
		f.items, f.head = f.items[:0], 0
		if cap(f.items) > 1024 {
			f.items = nil
		}
	case f.head >= 64 && f.head*2 >= len(f.items):
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	return e
}

func (f *fifo[E]) popLast() {
	last := len(f.items) - 1
	clear(f.items[last:])
	f.items = f.items[:last]
}

// heap holds the items of a lane whose step may be sent, the oldest on top.
type heap[T any] []*Item[T]

func (h *heap[T]) push(it *Item[T]) {
	s := append(*h, it)
	i := len(s) - 1
	for i > 0 {
		up := (i - 1) / 2
		if s[up].Offset <= s[i].Offset {
			break
		}
		s[up], s[i] = s[i], s[up]
		i = up
	}
	*h = s
}

func (h *heap[T]) pop() *Item[T] {
	s := *h
	top, last := s[0], len(s)-1
	s[0], s[last] = s[last], nil
	s = s[:last]
	for i := 0; ; {
		c := 2*i + 1
		if c >= last {
			break
		}
		if c+1 < last && s[c+1].Offset < s[c].Offset {
			c++
		}
		if s[i].Offset <= s[c].Offset {
			break
		}
		s[i], s[c] = s[c], s[i]
		i = c
	}
	*h = s
	return top
}

// popNth takes out the item that n others are older than.
func (h *heap[T]) popNth(n int) *Item[T] {
	older := make([]*Item[T], n)
	for i := range older {
		older[i] = h.pop()
	}
	it := h.pop()
	for _, o := range older {
		h.push(o)
	}
	return it
}
