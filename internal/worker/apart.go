package worker

import (
	"bytes"
	"strings"
	"time"

	"go.uber.org/zap"

	"refinersource/internal/lane"
	"refinersource/internal/tenant"
)

// setApart gives the key that has most of a lane's events in memory a lane of its
// own, where there is no room left for others: a user who makes more than his turn
// allows then holds up himself alone. What is set apart is the key of the records,
// which no change of the rules changes; so not where one order key is that of
// several. It reports whether it did.
func (p *partition) setApart(name string, now time.Time) bool {
	if 2*p.lanes.Unfinished(name) < p.w.o.Limits.BehindEvents {
		return false // nor has any key so many
	}
	order, n, items := p.lanes.Heaviest(name)
	if n < 2 || 2*n < p.lanes.Unfinished(name) || 2*n < p.w.o.Limits.BehindEvents {
		return false
	}
	var key []byte
	for it := range items {
		k := it.Payload.record.Key
		if len(k) == 0 || key != nil && !bytes.Equal(k, key) {
			return false
		}
		key = k
	}
	if !p.lanes.SetApart(name, key, order, now) {
		return false
	}
	p.log.Info("a user has most of a tenant's events: from here on they wait for themselves alone", tenantField(name), zap.Int("events", n))
	return true
}

// laneOf is the lane that an event belongs to now.
func (p *partition) laneOf(e *event) string {
	return p.lanes.LaneOf(e.owner, e.record.Key, lane.Offset(e.record.Offset))
}

// ownerOf is the name of a tenant as a lane can have it: what stands behind a NUL
// in a lane's name is a key.
func ownerOf(header string) string { return strings.ReplaceAll(header, "\x00", "\ufffd") }

// tenantOf is the tenant of a lane.
func tenantOf(name string) tenant.ID {
	id, _, _ := strings.Cut(name, "\x00")
	return tenant.ID(id)
}

// tenantField names the tenant of a lane in the log.
func tenantField(name string) zap.Field { return zap.String("tenant", string(tenantOf(name))) }
