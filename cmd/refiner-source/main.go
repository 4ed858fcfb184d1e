// Command refiner-source turns completed Refiner surveys into Segment identify
// and group calls. See README.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

// run turns signals into the end of a context and errors into exit codes; all
// else stands in the commands, one file each. The first signal drains; after
// it the default handling is back, so that a second one ends the process.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return execute(ctx, newRoot(), os.Stderr)
}
