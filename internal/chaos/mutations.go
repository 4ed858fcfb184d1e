package chaos

import "refinersource/internal/checker"

// Mutants are the mistakes that the checker must find, each in a scenario where
// it shows.
func Mutants() []Mutant {
	return []Mutant{
		{
			Name: "swap-identify-and-group", Why: "the group is sent first",
			Edits: []Edit{{
				File: "internal/attribution/attribution.go",
				Old:  "\tm.add(Identify, nil, traits(newUser))\n\tif group {\n\t\tm.add(Group, nil, traits(newAccount))\n\t}\n",
				New:  "\tif group {\n\t\tm.add(Group, nil, traits(newAccount))\n\t}\n\tm.add(Identify, nil, traits(newUser))\n",
			}},
			Scenario: "calm", Rules: []checker.Rule{checker.Pair},
		},
		{
			Name: "random-message-ids", Why: "the receiver cannot know a repeat",
			Edits: []Edit{{
				File: "internal/attribution/calls.go",
				Old:  "\treturn id.String()\n",
				New:  "\t_ = id\n\treturn uuid.NewString()\n",
			}},
			Scenario: "calm", Rules: []checker.Rule{checker.Phantom, checker.Determinism},
		},
		{
			Name: "another-tenants-key", Why: "all travel under the first tenant's key",
			Edits: []Edit{
				{
					File: "internal/segment/segment.go",
					Old:  "\tclient, err := analytics.NewWithConfig(to.WriteKey.Reveal(), ",
					New:  "\tif firstKey == \"\" {\n\t\tfirstKey = to.WriteKey.Reveal()\n\t}\n\tclient, err := analytics.NewWithConfig(firstKey, ",
				},
				{
					File: "internal/segment/segment.go",
					Old:  "// checkBatch holds the calls",
					New:  "var firstKey string\n\n// checkBatch holds the calls",
				},
			},
			Scenario: "keys", Rules: []checker.Rule{checker.Keys},
		},
		{
			Name: "commit-one-too-far", Why: "the event at the commit point is lost if the worker is",
			Edits: []Edit{{
				File: "internal/queue/commit.go",
				Old:  "Offset: int64(c.Offset), Metadata: c.Metadata})",
				New:  "Offset: int64(c.Offset) + 1, Metadata: c.Metadata})",
			}},
			Scenario: "calm", Rules: []checker.Rule{checker.Commits},
		},
		{
			Name: "401-is-the-events-fault", Why: "a wrong key burns the backlog",
			Edits: []Edit{{
				File: "internal/segment/class.go",
				Old:  "\tcase http.StatusBadRequest, // 400\n",
				New:  "\tcase http.StatusUnauthorized, http.StatusBadRequest, // 400\n",
			}},
			Scenario: "failing", Rules: []checker.Rule{checker.DeadLetters},
		},
		{
			Name: "commit-before-the-send", Why: "what was fetched counts as done",
			Edits: []Edit{{
				File: "internal/lane/lane.go",
				Old:  "\treturn p.window.first().Offset\n",
				New:  "\treturn p.next\n",
			}},
			Scenario: "kill", Rules: []checker.Rule{checker.Commits},
		},
		{
			Name: "lose-the-last-batch", Why: "on SIGTERM what is under way counts as done",
			Edits: []Edit{
				{
					File: "internal/lane/lane.go",
					Old:  "\tif p.window.len() == 0 {\n\t\treturn p.next\n\t}\n\treturn p.window.first().Offset\n",
					New:  "\tif p.window.len() == 0 || p.draining {\n\t\treturn p.next\n\t}\n\treturn p.window.first().Offset\n",
				},
				{
					File: "internal/lane/lane.go",
					Old:  "return p.draining && p.open == 0 && p.ready.len() == 0",
					New:  "return p.draining && p.open == 0",
				},
			},
			Scenario: "restart", Rules: []checker.Rule{checker.Commits, checker.Complete},
		},
		{
			Name: "probe-without-pause", Why: "a tenant that takes nothing is asked again at once",
			Edits: []Edit{{
				File: "internal/worker/suspend.go",
				Old:  "now.Add(max(p.w.deliverer.Jitter(minProbe, maxProbe, s.failures), v.RetryAfter))",
				New:  "now.Add(max(50*time.Millisecond, v.RetryAfter))",
			}},
			Scenario: "failing", Rules: []checker.Rule{checker.Politeness},
		},
		{
			Name: "skip-the-rest-of-a-pair", Why: "after a retry the group is left out",
			Edits: []Edit{{
				File: "internal/worker/send.go",
				Old:  "\t\t\td.outcomes[i], d.accepted = lane.Accepted, true\n",
				New:  "\t\t\td.outcomes[i], d.accepted = lane.Accepted, true\n\t\t\tif e.attempts > 1 {\n\t\t\t\td.outcomes[i] = lane.Ended\n\t\t\t}\n",
			}},
			Scenario: "failing", Rules: []checker.Rule{checker.Complete},
		},
		{
			Name: "go-on-without-the-letter", Why: "an event is over although its letter was not written",
			Edits: []Edit{{
				File: "internal/worker/send.go",
				Old:  "\t\t_, err := w.o.Letters.Write(ctx, *e.letter)\n\t\treturn err\n",
				New:  "\t\t_, _ = w.o.Letters.Write(ctx, *e.letter)\n\t\treturn nil\n",
			}},
			Scenario: "letters", Rules: []checker.Rule{checker.Complete, checker.Commits},
		},
		{
			Name: "ignore-a-partitions-commit-error", Why: "a commit that was refused counts as made",
			Edits: []Edit{{
				File: "internal/queue/commit.go",
				Old:  "\t\t\tfailed[p.Partition] = classify(p.Error)\n",
				New:  "\t\t\t_ = classify(p.Error)\n",
			}},
			Scenario: "refused", Rules: []checker.Rule{checker.Commits, checker.Order, checker.Duplicates},
		},
		{
			Name: "no-fence", Why: "a worker goes on although the group has gone on without it",
			Edits: []Edit{
				{
					File: "internal/worker/lease.go",
					Old:  "return s != nil && time.Since(s.last) <= s.good",
					New:  "return s != nil",
				},
				{
					File: "internal/queue/errors.go",
					Old:  "ErrGenerationEnded = errors.New(\"generation ended\")",
					New:  "ErrGenerationEnded = ErrUnavailable",
				},
				{
					File: "internal/queue/group.go",
					Old:  "context.AfterFunc(ended, func() { cancel(ErrGenerationEnded) })",
					New:  "context.AfterFunc(ended, func() { time.AfterFunc(40*time.Second, func() { cancel(ErrGenerationEnded) }) })",
				},
			},
			Scenario: "cut", Rules: []checker.Rule{checker.Order, checker.Duplicates, checker.Commits},
		},
		{
			Name: "drop-a-cursor", Why: "of the tenants that wait a commit has room for one",
			Edits: []Edit{{
				File: "internal/lane/behind.go",
				Old:  "\t\tc, ok := q.cursor(to)\n",
				New:  "\t\tc, ok := q.cursor(to)\n\t\tok = ok && len(cursors) < 1\n",
			}},
			Scenario: "suspended", Rules: []checker.Rule{checker.Commits, checker.Cursors, checker.Complete},
		},
		{
			Name: "resume-one-past-the-cursor", Why: "the event at the cursor is lost",
			Edits: []Edit{{
				File: "internal/lane/behind.go",
				Old:  "q.behind, q.unread, q.known, q.until, q.upTo = true, c.From, ",
				New:  "q.behind, q.unread, q.known, q.until, q.upTo = true, c.From+1, ",
			}},
			Scenario: "suspended", Rules: []checker.Rule{checker.Complete, checker.Commits},
		},
		{
			Name: "order-by-arrival-of-copies", Why: "a copy in the log brings old answers back",
			Edits: []Edit{{
				File: "internal/copies/copies.go",
				Old:  "\tif w.table[w.find(k)] != 0 {\n\t\treturn true\n",
				New:  "\tif w.table[w.find(k)] != 0 {\n\t\treturn false\n",
			}},
			Scenario: "copies", Rules: []checker.Rule{checker.Convergence, checker.Duplicates, checker.Order},
		},
	}
}
