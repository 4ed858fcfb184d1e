// Package console is the live page of the admin listener: the last finished
// events with the calls they made, counts by outcome and lag by partition. It
// owns how they are shown, nothing else, and changes nothing.
//
// Answers are hostile text (invariant 9). They reach the page only through
// html/template's escaping and the script's textContent; the content security
// policy allows no inline script or style and, where the browser knows Trusted
// Types, no HTML made from text at all.
//
// The page is whole without its script. With it, events arrive as they happen
// over server-sent events.
package console

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// DefaultTitle is the page's title unless Options say otherwise.
const DefaultTitle = "refiner-source"

// Options are what the page shows. Feed is required.
type Options struct {
	Feed *Feed
	// Lag returns the state of each partition this process works on, in the order
	// in which they are shown; nil for a process without a worker. It is called
	// about once a second for each reader and must not block.
	Lag     func() []PartitionLag
	Title   string // "" is DefaultTitle
	Role    string // what the process does, such as "worker"; may be empty
	TryIt   string // a command that submits a survey, shown until the first event; may be empty
	Version string // may be empty
}

// PartitionLag is how far a partition has been worked off.
type PartitionLag struct {
	Partition  int
	Committed  int64   // the commit point
	End        int64   // the offset that the next record will get
	LagSeconds float64 // age of the oldest event that is not finished, 0 if there is none
}

// Validate reports what is missing.
func (o Options) Validate() error {
	if o.Feed == nil {
		return errors.New("console: Feed is missing")
	}
	return nil
}

//go:embed assets
var files embed.FS

// assets are the files that the page loads, with their types: a type guessed
// from the name would depend on the machine's own tables.
var assets = map[string]string{
	"console.css": "text/css; charset=utf-8",
	"console.js":  "text/javascript; charset=utf-8",
	"icon.svg":    "image/svg+xml",
}

const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

type console struct {
	Options
	page *template.Template
}

// New returns the handler of the page: GET / , /api/live (server-sent events)
// and /assets/. Everything else is not found.
func New(o Options) (http.Handler, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Title == "" {
		o.Title = DefaultTitle
	}
	page, err := template.ParseFS(files, "assets/page.html")
	if err != nil {
		return nil, fmt.Errorf("parse the page: %w", err)
	}
	c := &console{Options: o, page: page}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", c.index)
	mux.HandleFunc("GET /api/live", c.live)
	for name, contentType := range assets {
		content, err := files.ReadFile("assets/" + name)
		if err != nil {
			return nil, fmt.Errorf("read asset: %w", err)
		}
		mux.HandleFunc("GET /assets/"+name, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = w.Write(content)
		})
	}
	return guard(mux), nil
}

// guard sets the headers of every answer, and refuses a foreign host name on a
// loopback connection: there, another site's page could have its own name
// resolve to this machine and read the answers (DNS rebinding).
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if onLoopback(r) && !isLocalName(r.Host) {
			http.Error(w, "open this page as localhost or by IP address; a proxy in front must send such a Host", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func onLoopback(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}

func isLocalName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

func (c *console) index(w http.ResponseWriter, _ *http.Request) {
	var page bytes.Buffer
	if err := c.page.ExecuteTemplate(&page, "page", c.pageView()); err != nil {
		http.Error(w, "render the page: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(page.Bytes())
}
