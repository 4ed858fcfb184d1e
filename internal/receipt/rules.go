package receipt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"refinersource/internal/queue"
)

// RulesPartition is where rules stand in the topic `tenants`.
const RulesPartition = 0

// RulesKey names rules that were in force, as a receipt does.
type RulesKey struct {
	Tenant      string
	Fingerprint string // Receipt.RulesOf
}

// String is the key of the rules' record.
func (k RulesKey) String() string { return k.Tenant + "/" + k.Fingerprint }

// RulesOf returns the rules in the log that receipts name: their text, which
// tenant.ParseRules understands. Rules are in the log before the first receipt that
// names them.
func RulesOf(ctx context.Context, log *queue.Log, topics queue.Topics) (map[RulesKey][]byte, error) {
	rules := make(map[RulesKey][]byte)
	bounds, err := log.Bounds(ctx, topics.Tenants())
	if err != nil {
		return nil, fmt.Errorf("read the rules of before: %w", err)
	}
	b := bounds[RulesPartition]
	r := log.Reader(topics.Tenants(), RulesPartition, b.Start, queue.ReaderOptions{})
	for r.Offset() < b.End {
		batch, err := r.Next(ctx)
		if errors.Is(err, queue.ErrGap) { // the topic is compacted
			r.SkipGap()
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the rules of before: %w", err)
		}
		if len(batch.Records) == 0 && batch.End <= r.Offset() {
			break
		}
		for i := range batch.Records {
			rec := &batch.Records[i]
			name, fingerprint, ok := strings.Cut(string(rec.Key), "/")
			if !ok {
				continue
			}
			k := RulesKey{Tenant: name, Fingerprint: fingerprint}
			if rec.Value == nil {
				delete(rules, k)
				continue
			}
			rules[k] = rec.Value
		}
	}
	return rules, nil
}
