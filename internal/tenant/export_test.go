package tenant

import (
	"context"
	"time"
)

// KnownKeys are the keys that the parser knows.
func KnownKeys() []string { return knownKeys() }

// FollowPolling is Watch where no notifications are to be had.
func (f *File) FollowPolling(ctx context.Context, changed func(*Registry, error)) {
	f.follow(ctx, nil, nil, changed)
}

// NoPolling makes Watch rely on notifications.
func (f *File) NoPolling() { f.poll = 24 * time.Hour }
