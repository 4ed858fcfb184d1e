package segment

import (
	"bytes"
	"encoding/json"
	"encoding/json/jsontext"
	"fmt"

	"github.com/segmentio/analytics-go/v3"

	"refinersource/internal/attribution"
)

// messages makes analytics-go's messages of calls. What analytics-go encodes of
// a message is, byte for byte, what attribution.Call.AppendJSON appends. The
// calls of one batch share a tenant, so that consecutive ones mostly share their
// integrations and their context too; both are only read.
type messages struct {
	integrations    analytics.Integrations
	integrationsRaw jsontext.Value
	context         *analytics.Context
}

// of returns the message of one call.
func (m *messages) of(c *attribution.Call) (analytics.Message, error) {
	if err := m.setIntegrations(c.Integrations); err != nil {
		return nil, err
	}
	switch c.Kind {
	case attribution.Identify:
		m.setContext(c.Library, c.GroupID)
		return analytics.Identify{
			MessageId: c.MessageID, UserId: c.UserID, AnonymousId: c.AnonymousID, Timestamp: c.Timestamp,
			Context: m.context, Traits: analytics.Traits(traits(c)), Integrations: m.integrations,
		}, nil
	case attribution.Group:
		m.setContext(c.Library, "")
		return analytics.Group{
			MessageId: c.MessageID, UserId: c.UserID, AnonymousId: c.AnonymousID, GroupId: c.GroupID, Timestamp: c.Timestamp,
			Context: m.context, Traits: analytics.Traits(traits(c)), Integrations: m.integrations,
		}, nil
	case attribution.Track:
		m.setContext(c.Library, c.GroupID)
		return analytics.Track{
			MessageId: c.MessageID, UserId: c.UserID, AnonymousId: c.AnonymousID, Event: c.Event, Timestamp: c.Timestamp,
			Context: m.context, Properties: analytics.Properties(traits(c)), Integrations: m.integrations,
		}, nil
	default:
		return nil, fmt.Errorf("make message: call is of no kind: %d", c.Kind)
	}
}

func (m *messages) setIntegrations(raw jsontext.Value) error {
	if bytes.Equal(m.integrationsRaw, raw) {
		return nil
	}
	var fields map[string]json.RawMessage
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &fields); err != nil {
			return fmt.Errorf("decode integrations: %w", err)
		}
	}
	m.integrations = make(analytics.Integrations, len(fields))
	for name, value := range fields {
		m.integrations[name] = value
	}
	m.integrationsRaw = raw
	return nil
}

func (m *messages) setContext(version, groupID string) {
	if m.context != nil && m.context.Library.Version == version && m.context.GroupID == groupID {
		return
	}
	m.context = &analytics.Context{
		Library: analytics.LibraryInfo{Name: attribution.LibraryName, Version: version},
		GroupID: groupID,
	}
}

// traits is the call's traits, or its properties, as analytics-go takes them:
// the values as JSON text, so that a number keeps its digits.
func traits(c *attribution.Call) map[string]any {
	if len(c.Traits) == 0 {
		return nil
	}
	t := make(map[string]any, len(c.Traits))
	for i := range c.Traits {
		t[string(c.Traits[i].Name)] = &c.Traits[i].Value
	}
	return t
}
