// Command bento is Bento with the components that the comparison needs: a build of
// its public packages by the same Go as the worker's.
package main

import (
	"context"
	"net/http"

	_ "github.com/warpstreamlabs/bento/public/components/io"
	_ "github.com/warpstreamlabs/bento/public/components/kafka"
	_ "github.com/warpstreamlabs/bento/public/components/pure"
	"github.com/warpstreamlabs/bento/public/service"
)

func main() {
	// Its HTTP client keeps two connections to a host otherwise, and would pay for
	// a new one with most requests.
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		t.MaxIdleConnsPerHost = 256
		t.MaxIdleConns = 256
	}
	service.RunCLI(context.Background())
}
