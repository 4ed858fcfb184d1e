package chaos_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"refinersource/internal/chaos"
)

// The keys of two of Kafka's requests.
const produce, commit = 0, 8

// request is a frame of Kafka's protocol with a number and so many bytes more. The
// server of a world sends it back as it is; so its answer has the number where the
// key and the version stand, and these must make it.
func request(api, version int16, number int32, more int) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+more))
	b = binary.BigEndian.AppendUint16(b, uint16(api))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(number))
	return append(b, bytes.Repeat([]byte{7}, more)...)
}

// same is a request whose number is its key and version, so that its echo is its
// answer.
func same(api, version int16, more int) []byte {
	return request(api, version, int32(api)<<16|int32(version), more)
}

// sights collects what a watch sees.
func sights(p *chaos.Proxy) *[]chaos.Sight {
	var seen []chaos.Sight
	p.Watch(func(s chaos.Sight) (bool, func()) {
		seen = append(seen, s)
		return false, nil
	})
	return &seen
}

func TestWatchSeesRequestsAndTheirAnswers(t *testing.T) {
	t.Parallel()
	sent := slices.Concat(same(produce, 7, 0), same(commit, 2, 2000), same(18, 0, 3))
	want := []chaos.Sight{
		{Up: true, API: produce, Size: 8},
		{Up: true, API: commit, Size: 2008},
		{Up: true, API: 18, Size: 11},
		{API: produce, Size: 8},
		{API: commit, Size: 2008},
		{API: 18, Size: 11},
	}
	for _, piece := range []int{1, 3, 5, 11, 1000, len(sent)} {
		synctest.Test(t, func(t *testing.T) {
			write := func(c net.Conn, b []byte) {
				for part := range slices.Chunk(b, piece) {
					_, _ = c.Write(part)
				}
			}
			clients := newPipes()
			proxy, err := chaos.NewProxy(func() (net.Listener, error) { return clients, nil }, func(context.Context) (net.Conn, error) {
				near, far := net.Pipe()
				go func() { // it answers when it has read everything
					b := make([]byte, len(sent))
					if _, err := io.ReadFull(far, b); err == nil {
						write(far, b)
					}
				}()
				return near, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			defer proxy.Close()
			proxy.SpeakKafka()
			seen := sights(proxy)
			c, err := clients.connect()
			if err != nil {
				t.Fatal(err)
			}
			go write(c, sent)
			got := make([]byte, len(sent))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("pieces of %d: what was watched came back otherwise: %v", piece, err)
			}
			if d := cmp.Diff(want, *seen); d != "" {
				t.Errorf("pieces of %d (-want +got):\n%s", piece, d)
			}
		})
	}
}

func TestWatchSeesPiecesWhereItIsNotKafka(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.proxy.Close()
		seen := sights(w.proxy)
		if _, _, err := echo(w.connect(), []byte("POST /v1/batch")); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]chaos.Sight{{Up: true, API: chaos.NoAPI, Size: 14}, {API: chaos.NoAPI, Size: 14}}, *seen); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	})
}

// lost sends two requests at once and returns what comes back until the end.
func lost(w *world, one, two []byte) []byte {
	w.t.Helper()
	c := w.connect()
	go func() { _, _ = c.Write(slices.Concat(one, two)) }()
	got, _ := io.ReadAll(c)
	return got
}

func TestWatchLosesAnAnswerAndCutsTheConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.proxy.Close()
		w.proxy.SpeakKafka()
		asked := 0
		w.proxy.Watch(func(s chaos.Sight) (bool, func()) {
			if s.Up && s.API == commit {
				asked++
			}
			return !s.Up && s.API == commit, nil
		})
		before := same(produce, 7, 5)
		if got := lost(w, before, same(commit, 2, 50)); !bytes.Equal(got, before) {
			t.Errorf("%d bytes came back, want the answer before the lost one: %d", len(got), len(before))
		}
		if asked != 1 {
			t.Errorf("%d commits passed, want 1", asked)
		}
		w.proxy.Watch(nil)
		if _, _, err := echo(w.connect(), same(commit, 2, 50)); err != nil {
			t.Errorf("after it: %v", err)
		}
	})
}

func TestWatchLosesARequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.proxy.Close()
		w.proxy.SpeakKafka()
		answered := 0
		w.proxy.Watch(func(s chaos.Sight) (bool, func()) {
			if !s.Up {
				answered++
			}
			return s.Up && s.API == commit, nil
		})
		if got := lost(w, same(commit, 2, 50), same(produce, 7, 5)); len(got) != 0 || answered != 0 {
			t.Errorf("%d bytes and %d answers came back, want none", len(got), answered)
		}
	})
}

func TestWhatIsAfterComesWhenItHasGoneOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.proxy.Close()
		w.proxy.SpeakKafka()
		c := w.connect()
		read := make(chan struct{})
		w.proxy.Watch(func(s chaos.Sight) (bool, func()) {
			if s.Up {
				return false, nil
			}
			return false, func() {
				<-read
				w.proxy.Cut()
			}
		})
		sent := same(commit, 2, 10)
		go func() { _, _ = c.Write(sent) }()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes came: %v", len(got), err)
		}
		close(read)
		if _, err := c.Read(got); err == nil {
			t.Error("the connection outlived what was to be done after")
		}
	})
}

// What is not the protocol that it is taken for must pass all the same.
func TestWatchIsNotInTheWayOfWhatIsNoKafka(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.proxy.Close()
		w.proxy.SpeakKafka()
		seen := sights(w.proxy)
		sent := bytes.Repeat([]byte{0, 0, 0, 1, 0xff}, 10)
		if got, _, err := echo(w.connect(), sent); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%x came back: %v", got, err)
		}
		if len(*seen) != 0 {
			t.Errorf("saw %v", *seen)
		}
	})
}
