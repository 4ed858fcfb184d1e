package queuetest

import (
	"testing"
	"time"

	"refinersource/internal/queue"
)

func (s suite) retention(t *testing.T) {
	l := s.open(t)
	for name, c := range map[string]struct {
		config map[string]string
		want   queue.Retention
	}{
		"both": {
			map[string]string{"retention.ms": "90000", "retention.bytes": "5000000"},
			queue.Retention{Time: 90 * time.Second, Bytes: 5_000_000},
		},
		"none": {
			map[string]string{"retention.ms": "-1", "retention.bytes": "-1"},
			queue.Retention{Time: queue.Unlimited, Bytes: queue.Unlimited},
		},
		"longer than a duration": {
			map[string]string{"retention.ms": "9223372036854775807"},
			queue.Retention{Time: queue.Unlimited, Bytes: queue.Unlimited},
		},
		"of the cluster": {nil, queue.Retention{Time: 7 * 24 * time.Hour, Bytes: queue.Unlimited}},
	} {
		got, err := l.Retention(deadline(t), s.topic(t, l, 1, c.config))
		if err != nil || got != c.want {
			t.Errorf("%s: got %+v and error %v, want %+v", name, got, err, c.want)
		}
	}
	_, err := l.Retention(deadline(t), unique(t))
	wantClass(t, err, queue.ErrUnavailable)
}
