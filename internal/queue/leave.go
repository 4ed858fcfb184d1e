package queue

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/leavegroup"
)

// leave makes sure that a member is out of the group, for which the others would
// wait until its session is over. kafka-go does not: it closes without leaving when
// the group rebalances just then, and after any other error of joining, such as its
// coordinator moving, it forgets the member and joins as a new one. It tries until
// ctx ends.
func (g *Group) leave(ctx context.Context, memberID string) {
	err := retry(ctx, nil, func() error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout/2)
		defer cancel()
		res, err := g.log.transport.RoundTrip(ctx, g.log.client.Addr, leaveRequest{group: g.opts.ID, member: memberID})
		if err != nil {
			return err
		}
		code := kafka.Error(res.(*leavegroup.Response).ErrorCode)
		if code == 0 || errors.Is(code, kafka.UnknownMemberId) || errors.Is(code, kafka.GroupIdNotFound) {
			return nil // it is out
		}
		return code
	})
	if err != nil {
		g.onError(fmt.Errorf("leave group %s: %w", g.opts.ID, err))
	}
}

// leaveRequest is a LeaveGroup request in version 0. kafka-go would take version 4,
// which it encodes wrongly: the broker finds no member in it, and says that all went
// well. Of the answers it decodes only that of version 0 rightly.
type leaveRequest struct{ group, member string }

var (
	_ protocol.GroupMessage = leaveRequest{}
	_ protocol.RawExchanger = leaveRequest{}
)

const leaveVersion = 0

// ApiKey implements protocol.Message.
//
//nolint:staticcheck // kafka-go's name
func (leaveRequest) ApiKey() protocol.ApiKey { return protocol.LeaveGroup }

// Group implements protocol.GroupMessage, which takes the request to the coordinator.
func (r leaveRequest) Group() string { return r.group }

// Required implements protocol.RawExchanger.
func (leaveRequest) Required(map[protocol.ApiKey]int16) bool { return true }

// RawExchange implements protocol.RawExchanger. A connection has one request under
// way at a time, so that any correlation id will do.
func (r leaveRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	return protocol.RoundTrip(rw, leaveVersion, 0, DefaultClientID, &leavegroup.Request{GroupID: r.group, MemberID: r.member})
}
