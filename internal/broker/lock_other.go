//go:build !unix

package broker

import "os"

// lockFile does nothing: the ports of dev are what keeps a second process away.
func lockFile(*os.File) error { return nil }
