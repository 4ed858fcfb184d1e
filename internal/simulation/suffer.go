package simulation

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"refinersource/internal/checker"
	"refinersource/internal/queue"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

// suffer lets a fault happen at its time, and undoes it at its end.
func (w *world) suffer(ctx context.Context, f fault) {
	if !pause(ctx, f.at-w.elapsed()) {
		return
	}
	undo := w.inflict(ctx, f)
	if undo == nil {
		w.happens("#%d %s does not come about", f.number, f.kind)
		return
	}
	w.happens("%s", w.plan.describeFault(f))
	w.mu.Lock()
	w.happened++
	w.mu.Unlock()
	entry := w.record.fault(f, now())
	if f.length == forEver {
		w.record.faultOver(entry, 0)
		return
	}
	pause(ctx, f.length)
	undo()
	w.record.faultOver(entry, now())
	if f.length > 0 {
		w.happens("#%d %s is over", f.number, f.kind)
	}
}

// inflict makes a fault happen and returns what undoes it; nil if it cannot
// happen now.
func (w *world) inflict(ctx context.Context, f fault) (undo func()) {
	nothing := func() {}
	switch f.kind {
	case Joins:
		return w.joins(f)
	case Leaves, Crashes, Freezes, Isolated:
		return w.ofWorker(f)
	case CoordinatorMoves:
		w.cluster().RehashCoordinators()
		return nothing
	case LeadersMove:
		node := int32(f.amount % w.plan.brokers)
		if err := w.cluster().MoveTopicPartition(w.topics.Events(), int32(f.partition), node); err != nil {
			w.violate("move a leader: %v", err)
		}
		return nothing
	case IngressCut:
		w.front.cut(false)
		return nothing
	case PublishRefused, PublishUnsure, FetchRefused, CommitRefused, CommitUnsure, CoordinatorErrors, LettersRefused:
		return w.cluster().Fault(w.ofBroker(f)...).Remove
	case Trimmed, TrimmedAhead:
		return w.trim(ctx, f)
	case Copies:
		return w.copies(ctx, f)
	case Garbage:
		return w.garbage(ctx, f)
	case Paused:
		id := w.plan.tenants[f.tenant].ID
		w.changeTenant(id, func(t *tenant.Tenant) { t.Paused = true })
		return func() { w.changeTenant(id, func(t *tenant.Tenant) { t.Paused = false }) }
	case Rotated:
		id := w.plan.tenants[f.tenant].ID
		key := fmt.Sprintf("key-%d-of-%s", f.number, id)
		w.changeTenant(id, func(t *tenant.Tenant) { t.WriteKey = tenant.NewSecret(key) })
		w.record.rotated(string(id), key)
		return nothing
	case Forgotten:
		id := w.plan.tenants[f.tenant].ID
		user := w.plan.chains[f.amount%len(w.plan.chains)].user
		if !w.record.forgotten(string(id), user) {
			return nil // the tenant has one already
		}
		w.changeTenant(id, func(t *tenant.Tenant) { t.Rules.Forgotten = map[string]struct{}{user: {}} })
		return nothing
	default: // of a receiver
		w.receivers.begin(f)
		return func() { w.receivers.end(f) }
	}
}

// joins adds a worker for a while.
func (w *world) joins(f fault) func() {
	w.mu.Lock()
	slot := len(w.slots)
	w.slots = append(w.slots, nil)
	w.mu.Unlock()
	w.join(slot)
	return func() {
		if m := w.take(slot); m != nil {
			w.end(m, fmt.Sprintf("leaves (#%d)", f.number))
		}
	}
}

// ofWorker is what happens to a worker.
func (w *world) ofWorker(f fault) func() {
	m := w.in(f.worker)
	if m == nil {
		return nil
	}
	switch f.kind {
	case Leaves:
		if w.take(f.worker) != m {
			return nil
		}
		w.end(m, "leaves")
		return func() { w.join(f.worker) }
	case Crashes:
		if w.take(f.worker) != m {
			return nil
		}
		w.crash(m)
		return func() { w.join(f.worker) }
	case Freezes:
		m.kafka.freeze()
		m.receiver.freeze()
	case Isolated:
		m.kafka.freeze()
	default:
		return nil
	}
	return func() {
		m.kafka.thaw()
		m.receiver.thaw()
	}
}

// ofBroker is a fault of the broker. It meets some of the requests, so that
// what is tried again gets through at times.
func (w *world) ofBroker(f fault) []kfake.Fault {
	r := w.plan.random(streamFaultsAtWork, f.number)
	percent := 30 + f.amount%71
	some := func(kmsg.Request) bool { return chance(r, percent) } // one at a time
	pick := func(errs ...*kerr.Error) *kerr.Error { return errs[f.amount%len(errs)] }
	one := kfake.Fault{Count: -1, When: some}
	switch f.kind {
	case PublishRefused:
		one.Keys, one.Topic = []kmsg.Key{kmsg.Produce}, w.topics.Events()
		one.Err = pick(kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.UnknownServerError)
	case PublishUnsure:
		one.Keys, one.Topic = []kmsg.Key{kmsg.Produce}, w.topics.Events()
		one.Err = pick(kerr.NotEnoughReplicasAfterAppend, kerr.RequestTimedOut)
	case LettersRefused:
		one.Keys, one.Topic = []kmsg.Key{kmsg.Produce}, w.topics.Dead()
		one.Err = pick(kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend)
	case FetchRefused:
		one.Keys, one.Topic = []kmsg.Key{kmsg.Fetch}, w.topics.Events()
		one.Err = pick(kerr.NotLeaderForPartition, kerr.UnknownServerError, kerr.LeaderNotAvailable)
	case CommitRefused:
		one.Keys, one.Group = []kmsg.Key{kmsg.OffsetCommit}, group
		one.Err = pick(kerr.CoordinatorLoadInProgress, kerr.NotCoordinator, kerr.IllegalGeneration, kerr.RebalanceInProgress)
	case CommitUnsure:
		one.Keys, one.Group, one.Err = []kmsg.Key{kmsg.OffsetCommit}, group, kerr.RequestTimedOut
	case CoordinatorErrors:
		one.Group = group
		one.Keys = []kmsg.Key{kmsg.Heartbeat, kmsg.JoinGroup, kmsg.SyncGroup, kmsg.OffsetFetch, kmsg.FindCoordinator}
		one.Err = pick(kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress)
	default:
	}
	return []kfake.Fault{one}
}

// trim deletes the oldest records of a partition. They are read before, since
// they belong to the history.
func (w *world) trim(ctx context.Context, f fault) func() {
	info := w.cluster().PartitionInfo(w.topics.Events(), int32(f.partition))
	if info == nil {
		return nil
	}
	end := info.HighWatermark
	if f.kind == Trimmed {
		end = finishedBefore(w.commits()[int32(f.partition)])
	}
	if end <= info.LogStartOffset {
		return nil
	}
	if err := w.record.dump(ctx, w); err != nil {
		w.violate("read the log before it is trimmed: %v", err)
		return nil
	}
	to := info.LogStartOffset + 1 + int64(f.amount)%(end-info.LogStartOffset)
	if err := w.cluster().DeleteRecords(w.topics.Events(), int32(f.partition), to); err != nil {
		w.violate("trim the log: %v", err)
		return nil
	}
	w.record.trimmed(f.partition, to)
	return func() {}
}

// copies sends events of a tenant once more that were sent before, as a sender
// does that did not get its answer.
func (w *world) copies(ctx context.Context, f fault) func() {
	before := slices.DeleteFunc(w.record.promised(), func(s checker.Sent) bool { return s.Tenant != string(w.plan.tenants[f.tenant].ID) })
	if len(before) == 0 {
		return nil
	}
	for i := range 1 + f.amount%3 {
		s := before[(f.amount+i*7)%len(before)]
		w.post(ctx, tenant.ID(s.Tenant), survey.Source(s.Source), s.Body)
	}
	return func() {}
}

// garbage appends records that no ingress writes.
func (w *world) garbage(ctx context.Context, f fault) func() {
	id := string(w.plan.tenants[f.tenant].ID)
	header := func(tenantID, source string) []queue.Header {
		return []queue.Header{
			{Key: queue.HeaderTenant, Value: []byte(tenantID)},
			{Key: queue.HeaderSource, Value: []byte(source)},
			{Key: queue.HeaderReceivedAt, Value: []byte(time.Now().UTC().Format(time.RFC3339Nano))},
		}
	}
	records := []queue.Record{
		{Value: []byte(`{"response":`), Headers: header(id, string(survey.RefinerWebhook))},
		{Value: []byte("\xff\x00not JSON"), Headers: header(id, string(survey.SurveyEvent))},
		{Value: []byte(`{"response":{"uuid":"r","completed_at":"2000-01-01T00:00:00Z"}}`), Headers: header("nobody", string(survey.RefinerWebhook))},
		{Value: []byte(`[]`), Headers: header(id, "no-such-source")},
		{Value: nil, Headers: nil},
	}
	ctx, cancel := context.WithTimeout(ctx, tidyBound)
	defer cancel()
	for i := range 1 + f.amount%3 {
		r := records[(f.amount+i)%len(records)]
		r.Key = fmt.Appendf(nil, "%s/garbage-%d", id, f.amount+i)
		_, _ = w.direct.Publish(ctx, r) // it is in the log or not; nothing was promised
	}
	return func() {}
}
