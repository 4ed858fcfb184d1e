package survey

import "strings"

// refiner reads Refiner's webhook or its REST form. The webhook has the
// response under "response" and the user at the root; the REST form is itself
// the response and has the user, with the account inside, under "contact".
func (d *decoder) refiner(c *Completion, who *respondent) {
	var (
		webhook, rest           response
		contact                 respondent
		hasResponse, hasContact bool
	)
	for d.root(); d.more(); {
		switch name := d.name(); string(name) {
		case "remote_id":
			d.identity(&who.user, "", "remote_id")
		case "cookie_uuid":
			d.identity(&who.cookie, "", "cookie_uuid")
		case "uuid":
			d.identity(&who.contact, "", "uuid")
			rest.id = who.contact.value
		case "email":
			who.email = d.textOf(d.read())
		case "attributes":
			who.attributes = d.attributeNames()
		case "account":
			d.account(&who.account, "/account", "remote_id")
		case "contact":
			earlier := contact
			contact = respondent{}
			hasContact = d.contact(&contact) || hasContact
			contact.after(&earlier)
		case "form":
			d.survey(c, "uuid")
		case "response":
			webhook = response{}
			if hasResponse = d.object("/response"); hasResponse {
				for d.more() {
					d.responseField(&webhook, d.name(), "/response/data")
				}
			}
		default:
			d.responseField(&rest, name, "/data")
		}
	}
	if hasContact {
		// The root's uuid is the response's then, but two user or account ids
		// that differ are two respondents.
		contact.user.after(who.user)
		contact.account.id.after(who.account.id)
		*who = contact
	}
	switch {
	case hasResponse:
		webhook.complete(c)
	case hasContact:
		rest.complete(c)
	default:
		c.Ignored = NoResponse
	}
}

// contact reads the user of the REST form and reports whether there is one.
func (d *decoder) contact(who *respondent) bool {
	if !d.object("/contact") {
		return false
	}
	for d.more() {
		switch string(d.name()) {
		case "remote_id":
			d.identity(&who.user, "/contact", "remote_id")
		case "cookie_uuid":
			d.identity(&who.cookie, "/contact", "cookie_uuid")
		case "uuid":
			d.identity(&who.contact, "/contact", "uuid")
		case "email":
			who.email = d.textOf(d.read())
		case "attributes":
			who.attributes = d.attributeNames()
		case "account":
			d.account(&who.account, "/contact/account", "remote_id")
		default:
			d.skip()
		}
	}
	return true
}

// response is one response to a survey.
type response struct {
	id       string
	answers  []Answer
	answered bool // there is an answer, also where answers are not kept

	completed moment
	revised   moment // last_data_reception_at: a resubmission moves it
	received  moment
}

func (d *decoder) responseField(r *response, name []byte, dataPointer string) {
	switch string(name) {
	case "uuid":
		r.id = d.textOf(d.read())
	case "completed_at":
		r.completed = d.moment()
	case "last_data_reception_at":
		r.revised = d.moment()
	case "received_at":
		r.received = d.moment()
	case "data":
		r.answers, r.answered = nil, false
		if !d.object(dataPointer) {
			return
		}
		if !d.peek {
			r.answers = take(&d.spare.answers)
		}
		for d.more() {
			property := d.property()
			if value, ok := d.answer(); ok {
				r.answered = true
				if !d.peek {
					r.answers = append(r.answers, Answer{Property: property, Value: value})
				}
			}
		}
	default:
		d.skip()
	}
}

// complete writes the response into the completion. A partial response is
// another revision than the completed one, even if both are of one second.
func (r *response) complete(c *Completion) {
	c.ID, c.Answers = r.id, r.answers
	c.when(r.completed, r.revised, r.received)
	c.Revision = revision(r.revised, r.completed, r.received)
	switch {
	case r.completed.given():
	case r.answered:
		c.Ignored = Partial
		c.Revision = strings.TrimSpace(c.Revision + " partial")
	default:
		c.Ignored = NotCompleted
	}
}
