package worker

import (
	"context"

	"refinersource/internal/tenant"
)

// Pacer is a pacer, for a test of how it shares a limit out.
type Pacer struct{ *pacer }

// NewPacer makes one.
func NewPacer() Pacer { return Pacer{newPacer()} }

// SetShare sets the worker's share.
func (p Pacer) SetShare(assigned, all int) { p.setShare(assigned, all) }

// Wait waits as a request does.
func (p Pacer) Wait(ctx context.Context, t *tenant.Tenant, calls int, catchUp bool) error {
	return p.wait(ctx, t, calls, catchUp)
}

// Try is try.
func (p Pacer) Try(t *tenant.Tenant, calls int, catchUp bool) bool { return p.try(t, calls, catchUp) }
