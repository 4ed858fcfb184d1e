package survey

import "unicode/utf8"

// respondent is the user, and the account, who answered.
type respondent struct {
	user       identity
	cookie     identity // what an anonymous respondent is known by
	contact    identity // the survey tool's own id of the respondent, the next best
	email      string
	attributes []string // names of the user's attributes
	account    account
}

// account is what an event says of the respondent's account.
type account struct {
	id         identity
	attributes []Attribute
}

// identity is one field that says who answered.
type identity struct {
	value         string // trimmed; "" is missing
	given         bool   // the field stood in the event, be it null
	fault         *Fault // the field is no id, or stood there twice with different values
	parent, field string // where it stood
}

// after compares an identity with what the same field said before.
func (i *identity) after(earlier identity) {
	if !earlier.given {
		return
	}
	switch {
	case earlier.fault != nil:
		i.fault = earlier.fault
	case i.fault == nil && i.value != earlier.value:
		i.fault = &Fault{AmbiguousIdentity, earlier.pointer(), "given twice with different values; send it once"}
	}
	if !i.given {
		i.given, i.parent, i.field = true, earlier.parent, earlier.field
	}
}

func (i *identity) pointer() string { return i.parent + "/" + i.field }

// after compares a respondent with what the same field said before.
func (w *respondent) after(earlier *respondent) {
	w.user.after(earlier.user)
	w.cookie.after(earlier.cookie)
	w.contact.after(earlier.contact)
	w.account.id.after(earlier.account.id)
}

// identify writes the respondent into the completion and returns the first
// fault of the identity. What only an anonymous respondent is known by is at
// fault only where it is needed.
func (w *respondent) identify(c *Completion) *Fault {
	c.UserID, c.AnonymousID, c.AccountID = w.user.value, w.cookie.value, w.account.id.value
	if c.AnonymousID == "" {
		c.AnonymousID = w.contact.value
	}
	c.Email = w.email
	c.UserAttributes, c.AccountAttributes = w.attributes, w.account.attributes
	switch anonymous := c.UserID == ""; {
	case w.user.fault != nil:
		return w.user.fault
	case anonymous && w.cookie.fault != nil:
		return w.cookie.fault
	case anonymous && w.cookie.value == "" && w.contact.fault != nil:
		return w.contact.fault
	case anonymous && c.AnonymousID == "":
		return &Fault{NoIdentity, "", "neither a user id nor an anonymous id; send one of them"}
	case w.account.id.fault != nil:
		return w.account.id.fault
	case len(c.AccountID) > MaxAccountID && utf8.RuneCountInString(c.AccountID) > MaxAccountID:
		c.AccountID = ""
		return &Fault{BadIdentity, w.account.id.pointer(), "over 500 characters, which Segment would drop; send a shorter id"}
	default:
		return nil
	}
}
