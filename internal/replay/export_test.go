package replay

import (
	"time"
	"unsafe"

	"refinersource/internal/attribution"
	"refinersource/internal/survey"
)

// What an event is said to take in the table of what was sent, and what it takes.
const (
	SentEventBytes = sentEventBytes
	SentEventSize  = int(unsafe.Sizeof(sentEvent{}))
)

// Compare compares what two sets of rules make of a completion.
func Compare(c *survey.Completion, then, now *attribution.Rules, at time.Time) []Change {
	return compare(madeBy(c, then, at), madeBy(c, now, at))
}

func madeBy(c *survey.Completion, r *attribution.Rules, at time.Time) *made {
	result, err := attribution.Attribute(*c, r, "acme", at)
	switch {
	case err != nil:
		return &made{why: died(err)}
	case result.Ignored != survey.NotIgnored:
		return &made{why: "ignored: " + string(result.Ignored)}
	default:
		return &made{calls: result.Calls, completion: c, rules: r}
	}
}
