package replay

import (
	"time"

	"refinersource/internal/attribution"
	"refinersource/internal/survey"
)

// SentEventBytes is what an event takes in the table of what was sent.
const SentEventBytes = sentEventBytes

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
