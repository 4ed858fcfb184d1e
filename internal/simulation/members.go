package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"refinersource/internal/deadletter"
	"refinersource/internal/delivery"
	"refinersource/internal/queue"
	"refinersource/internal/worker"
)

// member is a worker.
type member struct {
	name     string
	kafka    *link // its network to the broker
	receiver *link // and to the receivers
	worker   *worker.Worker
	log      *queue.Log
	letters  *queue.Publisher
	stop     context.CancelFunc
	ended    chan error
}

// join starts a worker in a slot that has none.
func (w *world) join(slot int) {
	w.mu.Lock()
	taken := w.slots[slot] != nil
	w.made++
	number := w.made
	w.mu.Unlock()
	if taken {
		return
	}
	m, err := w.newMember(number)
	if err != nil {
		w.violate("make a worker: %v", err)
		return
	}
	w.mu.Lock()
	w.slots[slot] = m
	w.mu.Unlock()
	w.happens("%s begins in slot %d", m.name, slot)
}

func (w *world) newMember(number int) (*member, error) {
	m := &member{
		name: fmt.Sprintf("worker-%d", number), ended: make(chan error, 1),
		kafka: newLink(w.network.DialContext), receiver: newLink(nil),
	}
	var err error
	if m.log, err = w.openLog(m.kafka); err != nil {
		return nil, err
	}
	m.letters = m.log.Publisher(w.topics.Dead(), queue.PublisherOptions{MaxRecordBytes: queue.DeadRecordBytes})
	var s delivery.Sender = sender{to: w.receivers, link: m.receiver, worker: m.name}
	if w.o.Sender != nil {
		s = w.o.Sender(s)
	}
	jitter := &lockedRandom{random: w.plan.random(streamJitter, number)}
	o := worker.Options{
		Log: m.log, Topics: w.topics, Group: group, Tenants: w.tenants.Load,
		Delivery: delivery.Options{Sender: s, Rand: jitter.Float64, TurnCalls: 64, Writers: 2},
		Receipts: true,
		Letters:  deadletter.NewWriter(m.letters, w.topics.Dead()),
		Limits:   w.plan.limits,
		// Shorter than a session: kfake lets the session of a member end that waits for
		// what a frozen leader is to assign, counts one too few that wait ever after, and
		// begins the timeout anew with each that joins. In Kafka such a member lives on.
		GroupOptions: queue.GroupOptions{RebalanceTimeout: queue.DefaultSessionTimeout * 4 / 5},
	}
	if w.o.Worker != nil {
		w.o.Worker(&o)
	}
	if m.worker, err = worker.New(o); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	go func() { m.ended <- m.worker.Run(ctx) }()
	return m, nil
}

// lockedRandom is for several goroutines.
type lockedRandom struct {
	mu     sync.Mutex
	random *rand.Rand
}

// Float64 is a number in [0, 1).
func (r *lockedRandom) Float64() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.random.Float64()
}

// take takes the worker out of its slot, to be ended.
func (w *world) take(slot int) *member {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.slots[slot]
	w.slots[slot] = nil
	return m
}

// in is the worker of a slot, nil if there is none.
func (w *world) in(slot int) *member {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.slots[slot]
}

// end makes a worker drain and leave, and waits for it elsewhere. How it is cut
// off before is the caller's; then it has nobody to drain to.
func (w *world) end(m *member, how string) {
	w.happens("%s %s", m.name, how)
	m.stop()
	w.ending.Go(func() {
		timer := time.NewTimer(endBound)
		defer timer.Stop()
		select {
		case err := <-m.ended:
			if err != nil {
				w.violate("%s returned %v, want nil", m.name, err)
			}
		case <-timer.C:
			w.violate("%s has not ended %v after it was told to", m.name, endBound)
			m.kafka.cut(true)
			m.receiver.cut(true)
			if err := <-m.ended; err != nil {
				w.violate("%s returned %v, want nil", m.name, err)
			}
		}
		_ = m.letters.Close() // it waits for what is under way
		m.log.Close()
	})
}

// crash takes a worker out as kill -9 does: nothing of it goes out any more.
func (w *world) crash(m *member) {
	m.kafka.cut(true)
	m.receiver.cut(true)
	w.end(m, "crashes")
}
