package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/protocol/produce"
)

// When a record is sent. Requests to one broker start at least Linger apart. Each
// takes what waits for those of the broker's partitions that have no request under
// way, up to MaxRecordBytes a partition and requestBytes in all. So an idle publisher
// sends at once, a busy one in large requests, a partition's records keep the
// order in which they came, and a partition that is slow holds up itself alone.

// requestBytes bounds a produce request, well below the 100 MB that a broker takes
// by default.
const requestBytes = 8 << 20

// outbox is what waits for one partition.
type outbox struct {
	waiting []*letter
	busy    bool // there is a request under way
}

// letter is a record on its way, which one call of Publish waits for.
type letter struct {
	record    Record
	size      int
	sent      bool // under Publisher.mu, as withdrawn
	withdrawn bool // nobody waits any more
	done      chan struct{}

	// What became of it, from done on. The partition is there in any case.
	position Position
	err      error // of a class
	shared   bool  // its batch held other records too
}

// newLetter returns a letter that was used before, if there is one.
func (p *Publisher) newLetter() *letter {
	if l, ok := p.letters.Get().(*letter); ok {
		return l
	}
	return &letter{done: make(chan struct{}, 1)}
}

// recycle has the letter used again. Only after a success: kafka-go may read from a
// request for some time after it has given up on it.
func (p *Publisher) recycle(l *letter) {
	*l = letter{done: l.done}
	p.letters.Put(l)
}

// departures are the requests to one broker.
type departures struct {
	last      time.Time // when one started
	scheduled bool      // the next one
}

const noLeader = -1

// enqueue puts a record into the outbox of its partition.
func (p *Publisher) enqueue(ctx context.Context, rec *Record) (*letter, error) {
	p.mu.Lock()
	for len(p.leaders) == 0 && !p.closed {
		p.mu.Unlock()
		leaders, err := p.look(ctx)
		if err != nil {
			return nil, classify(err)
		}
		p.mu.Lock()
		p.adopt(leaders)
	}
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	partition := balancer.Balance(kafka.Message{Key: rec.Key}, p.partitions...)
	l := p.newLetter()
	l.record, l.size, l.position = *rec, p.sizeOf(rec), Position{Topic: p.topic, Partition: partition}
	box := &p.outboxes[partition]
	box.waiting = append(box.waiting, l)
	if !box.busy {
		p.schedule(p.leaders[partition])
	}
	return l, nil
}

// withdraw takes a record back if it has not been sent.
func (p *Publisher) withdraw(l *letter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.sent {
		l.withdrawn, l.record = true, Record{}
	}
}

// look returns the leaders of the topic's partitions as the transport knows it, a second old at most.
func (p *Publisher) look(ctx context.Context) (leaders []int32, err error) {
	res, err := p.log.transport.RoundTrip(ctx, p.log.client.Addr, &metadata.Request{TopicNames: []string{p.topic}})
	if err != nil {
		return nil, err
	}
	topics := res.(*metadata.Response).Topics
	switch {
	case len(topics) != 1 || topics[0].ErrorCode == 0 && len(topics[0].Partitions) == 0:
		return nil, kafka.UnknownTopicOrPartition
	case topics[0].ErrorCode != 0:
		return nil, kafka.Error(topics[0].ErrorCode)
	}
	leaders = make([]int32, len(topics[0].Partitions))
	for _, partition := range topics[0].Partitions {
		if i := int(partition.PartitionIndex); i < len(leaders) {
			leaders[i] = max(partition.LeaderID, noLeader)
		}
	}
	return leaders, nil
}

// adopt makes them those in force. Records for partitions that are gone find
// no leader, and then another partition.
func (p *Publisher) adopt(leaders []int32) {
	n := len(leaders)
	if n != len(p.partitions) {
		p.partitions = sequence(n)
	}
	for len(leaders) < len(p.outboxes) {
		leaders = append(leaders, noLeader)
	}
	p.leaders = leaders
	for len(p.outboxes) < n {
		p.outboxes = append(p.outboxes, outbox{})
	}
}

// schedule has a request start as soon as the broker's turn is.
func (p *Publisher) schedule(broker int32) {
	b := p.brokers[broker]
	if b == nil {
		b = new(departures)
		p.brokers[broker] = b
	}
	if b.scheduled {
		return
	}
	b.scheduled = true
	p.departing.Add(1)
	if wait := p.opts.Linger - time.Since(b.last); wait > 0 {
		time.AfterFunc(wait, func() { p.depart(broker) })
	} else {
		go p.depart(broker)
	}
}

// depart makes one request to a broker with what waits for its partitions.
func (p *Publisher) depart(broker int32) {
	defer p.departing.Done()
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	leaders, err := p.look(ctx)
	p.mu.Lock()
	if err == nil {
		p.adopt(leaders)
	}
	parcels := p.load(broker)
	b := p.brokers[broker]
	b.last, b.scheduled = time.Now(), false
	p.scheduleRest()
	p.mu.Unlock()
	if len(parcels) == 0 {
		return
	}
	if err == nil && broker == noLeader {
		err = kafka.LeaderNotAvailable
	}
	if err == nil {
		err = p.request(ctx, parcels)
	}
	for i := range parcels {
		p.deliver(&parcels[i], err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range parcels {
		p.outboxes[parcels[i].partition].busy = false
	}
	p.scheduleRest()
}

// parcel is what a request has for one partition, and the answer for it.
type parcel struct {
	partition int
	letters   []*letter
	answer    *produce.ResponsePartition // nil if there is none
}

// load takes what waits for the broker's partitions.
func (p *Publisher) load(broker int32) []parcel {
	var parcels []parcel
	total := 0
	for i := range p.outboxes {
		box := &p.outboxes[i]
		if box.busy || p.leaders[i] != broker || total >= requestBytes {
			continue
		}
		taken, size := box.take(p.opts.MaxRecordBytes)
		if len(taken) > 0 {
			box.busy = true
			parcels = append(parcels, parcel{partition: i, letters: taken})
			total += size
		}
	}
	return parcels
}

// take takes waiting letters of at most that size, at least one if there is one.
func (b *outbox) take(limit int) (taken []*letter, size int) {
	taken = make([]*letter, 0, len(b.waiting))
	n := 0
	for _, l := range b.waiting {
		if !l.withdrawn {
			if size > 0 && size+l.size > limit {
				break
			}
			size += l.size
			l.sent = true
			taken = append(taken, l)
		}
		n++
	}
	b.waiting = slices.Delete(b.waiting, 0, n)
	return taken, size
}

// scheduleRest schedules requests for what waits for a partition that has none
// under way.
func (p *Publisher) scheduleRest() {
	for i := range p.outboxes {
		if box := &p.outboxes[i]; len(box.waiting) > 0 && !box.busy {
			p.schedule(p.leaders[i])
		}
	}
}

// request makes the round trip.
func (p *Publisher) request(ctx context.Context, parcels []parcel) error {
	topic := produce.RequestTopic{Topic: p.topic, Partitions: make([]produce.RequestPartition, len(parcels))}
	for i := range parcels {
		topic.Partitions[i] = produce.RequestPartition{
			Partition: int32(parcels[i].partition),
			RecordSet: protocol.RecordSet{Records: &letterReader{rest: parcels[i].letters}},
		}
	}
	res, err := p.log.transport.RoundTrip(ctx, p.log.client.Addr, &produce.Request{
		Acks:    int16(kafka.RequireAll),
		Timeout: int32(ackTimeout.Milliseconds()),
		Topics:  []produce.RequestTopic{topic},
	})
	if err != nil {
		return err
	}
	for _, t := range res.(*produce.Response).Topics {
		for i := range t.Partitions {
			answer := &t.Partitions[i]
			at := slices.IndexFunc(parcels, func(x parcel) bool { return x.partition == int(answer.Partition) })
			if at >= 0 && t.Topic == p.topic {
				parcels[at].answer = answer
			}
		}
	}
	return nil
}

// errNoAnswer is of a partition that the answer does not name.
var errNoAnswer = errors.New("no answer for the partition")

// deliver tells the letters of a parcel what became of them.
func (p *Publisher) deliver(x *parcel, err error) {
	switch {
	case err != nil:
	case x.answer == nil:
		err = errNoAnswer
	case x.answer.ErrorCode != 0 && x.answer.ErrorMessage != "":
		err = fmt.Errorf("%w: %s", kafka.Error(x.answer.ErrorCode), x.answer.ErrorMessage)
	case x.answer.ErrorCode != 0:
		err = kafka.Error(x.answer.ErrorCode)
	}
	if err != nil && p.log.errorLog != nil {
		p.log.errorLog.Printf("append %d records to %s/%d: %v", len(x.letters), p.topic, x.partition, err)
	}
	err = classify(err)
	for i, l := range x.letters {
		l.err, l.shared = err, len(x.letters) > 1
		if err == nil {
			l.position.Offset = Offset(x.answer.BaseOffset + int64(i))
		}
		l.done <- struct{}{}
	}
}

// letterReader hands out the letters' records to kafka-go's encoder, which is done
// with one before it asks for the next.
type letterReader struct {
	rest       []*letter
	record     kafka.Record
	key, value stretch
}

// ReadRecord implements kafka.RecordReader.
func (r *letterReader) ReadRecord() (*kafka.Record, error) {
	if len(r.rest) == 0 {
		return nil, io.EOF
	}
	rec := &r.rest[0].record
	r.rest = r.rest[1:]
	r.key.rest, r.value.rest = rec.Key, rec.Value
	r.record = kafka.Record{Headers: rec.Headers, Time: rec.Time}
	if rec.Key != nil { // which is not the same as an empty one
		r.record.Key = &r.key
	}
	if rec.Value != nil {
		r.record.Value = &r.value
	}
	return &r.record, nil
}
