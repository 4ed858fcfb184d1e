package ingress_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"refinersource/internal/ingress"
)

// signed returns the headers of a request that is signed with each of the secrets.
func signed(at time.Time, body string, secrets ...string) []string {
	const id = "msg_1"
	timestamp := strconv.FormatInt(at.Unix(), 10)
	var signatures []string
	for _, secret := range secrets {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil {
			panic(err)
		}
		h := hmac.New(sha256.New, key)
		h.Write([]byte(id + "." + timestamp + "." + body))
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
	}
	return []string{"Webhook-Id", id, "Webhook-Timestamp", timestamp, "Webhook-Signature", strings.Join(signatures, " ")}
}

// TestStandardWebhooksSignature has the example of the specification's authors,
// whose time is the test's.
func TestStandardWebhooksSignature(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		at := time.Unix(1614265330, 0)
		time.Sleep(time.Until(at)) // virtual
		log := &fakeLog{}
		w := send(t, newHandler(t, log, ingress.Options{}), http.MethodPost, webhookPath, `{"test": 2432232314}`,
			"Webhook-Id", "msg_p5jXN8AQM9LWM0D4loKWxJek", "Webhook-Timestamp", "1614265330",
			"Webhook-Signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
		if w.Code != http.StatusAccepted {
			t.Errorf("got %d %s, want 202", w.Code, w.Body)
		}
	})
}

func TestSignedRequests(t *testing.T) {
	t.Parallel()
	const other = "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		// change replaces the value of a header.
		change := func(header []string, name, value string) []string {
			header = append([]string(nil), header...)
			for i := 0; i < len(header); i += 2 {
				if header[i] == name {
					header[i+1] = value
				}
			}
			return header
		}
		valid := signed(now, webhook, signingKey)
		five := signed(now, webhook, other, other, other, other, signingKey)
		six := signed(now, webhook, other, other, other, other, other, signingKey)
		for name, c := range map[string]struct {
			header []string
			status int
		}{
			"valid":                     {valid, 202},
			"valid with the old secret": {signed(now, webhook, oldSigning), 202},
			"one of two valid":          {signed(now, webhook, other, signingKey), 202},
			"the fifth valid":           {five, 202},
			"the sixth is not read":     {six, 401},
			"1,000 signatures":          {signed(now, webhook, strings.Split(strings.Repeat(other+" ", 999)+signingKey, " ")...), 401},
			"300 s old":                 {signed(now.Add(-300*time.Second), webhook, signingKey), 202},
			"301 s old":                 {signed(now.Add(-301*time.Second), webhook, signingKey), 401},
			"300 s ahead":               {signed(now.Add(300*time.Second), webhook, signingKey), 202},
			"301 s ahead":               {signed(now.Add(301*time.Second), webhook, signingKey), 401},
			"another secret":            {signed(now, webhook, other), 401},
			"no secret":                 {signed(now, webhook, ""), 401},
			"another body":              {signed(now, strings.Replace(webhook, ":", ": ", 1), signingKey), 401},
			"another id":                {change(valid, "Webhook-Id", "msg_2"), 401},
			"no id":                     {change(valid, "Webhook-Id", ""), 401},
			"another time":              {change(valid, "Webhook-Timestamp", strconv.FormatInt(now.Unix()+1, 10)), 401},
			"no time":                   {change(valid, "Webhook-Timestamp", "soon"), 401},
			"time out of range":         {change(valid, "Webhook-Timestamp", "9223372036854775807"), 401},
			"other version":             {change(valid, "Webhook-Signature", "v1a"+strings.TrimPrefix(valid[5], "v1")), 401},
			"no base64":                 {change(valid, "Webhook-Signature", "v1,%%%"), 401},
			"empty mac":                 {change(valid, "Webhook-Signature", "v1,"), 401},
			"no signature":              {change(valid, "Webhook-Signature", ""), 401},
			"wrong token besides":       {append([]string{"X-Refiner-Token", "nope"}, valid...), 202},
		} {
			log := &fakeLog{}
			w := send(t, newHandler(t, log, ingress.Options{}), http.MethodPost, webhookPath, webhook, c.header...)
			if w.Code != c.status {
				t.Errorf("%s: got %d %s, want %d", name, w.Code, w.Body, c.status)
			}
			if got, want := len(log.records), map[bool]int{true: 1}[c.status == 202]; got != want {
				t.Errorf("%s: got %d records, want %d", name, got, want)
			}
		}
	})
}
