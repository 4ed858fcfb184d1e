package survey

import "strconv"

// event reads a canonical survey event (schemas/survey-event.schema.json). It
// is always a completion.
func (d *decoder) event(c *Completion, who *respondent) {
	var completed moment
	for d.root(); d.more(); {
		switch string(d.name()) {
		case "id":
			c.ID = d.textOf(d.read())
		case "completed_at":
			completed = d.moment()
		case "survey":
			d.survey(c, "id")
		case "user":
			earlier := *who
			*who = respondent{account: who.account}
			d.user(who)
			earlier.account = account{}
			who.after(&earlier)
		case "account":
			d.account(&who.account, "/account", "id")
		case "answers":
			d.answers(c)
		default:
			d.skip()
		}
	}
	c.when(completed)
	c.Revision = revision(completed)
}

func (d *decoder) user(who *respondent) {
	if !d.object("/user") {
		return
	}
	for d.more() {
		switch string(d.name()) {
		case "id":
			d.identity(&who.user, "/user", "id")
		case "anonymous_id":
			d.identity(&who.cookie, "/user", "anonymous_id")
		case "email":
			who.email = d.textOf(d.read())
		default:
			d.skip()
		}
	}
}

func (d *decoder) answers(c *Completion) {
	c.Answers = nil
	if !d.array("/answers") {
		return
	}
	for i := 0; d.more(); i++ {
		a, ok := d.answerObject(i)
		if ok && !d.peek {
			if c.Answers == nil {
				c.Answers = take(&d.spare.answers)
			}
			c.Answers = append(c.Answers, a)
		}
	}
}

// answerObject reads the answer at index i and reports whether there is one.
func (d *decoder) answerObject(i int) (a Answer, ok bool) {
	at := func(field string) string { return "/answers/" + strconv.Itoa(i) + field }
	if !d.isObject() {
		d.undecodable(at(""), "must be an object")
		return a, false
	}
	for d.object(""); d.more(); {
		switch string(d.name()) {
		case "question":
			a.Question = d.label(func() string { return at("/question") })
		case "property":
			a.Property = d.label(func() string { return at("/property") })
		case "belongs_to":
			a.BelongsTo = Level(d.label(func() string { return at("/belongs_to") }))
			switch a.BelongsTo {
			case LevelUnknown, LevelUser, LevelAccount:
			default:
				d.undecodable(at("/belongs_to"), `must be "user", "account" or null`)
			}
		case "value":
			a.Value, ok = d.answer()
		default:
			d.skip()
		}
	}
	return a, ok
}
