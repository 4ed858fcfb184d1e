package redrive_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	"refinersource/internal/attribution"
	"refinersource/internal/broker"
	"refinersource/internal/queue"
	"refinersource/internal/redrive"
	"refinersource/internal/survey"
	"refinersource/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func marked(key string, offset queue.Offset, mark string) queue.Record {
	r := queue.Record{Position: queue.Position{Topic: "events", Offset: offset}, Key: []byte(key)}
	if mark != "" {
		r.Headers = []queue.Header{{Key: queue.HeaderRedrive, Value: []byte(mark)}}
	}
	return r
}

func mark(of, first, seen queue.Offset) string {
	return fmt.Sprintf(`{"of":%d,"first":%d,"seen":%d,"rules":"1/ab"}`, of, first, seen)
}

func TestMarkIsOfItsSchema(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../schemas/redrive.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("redrive", doc); err != nil {
		t.Fatal(err)
	}
	schema := compiler.MustCompile("redrive")
	for text, sound := range map[string]bool{
		mark(3, 3, 8): true,
		`{"of":5,"first":3,"seen":8,"rules":"1/0a","since":{"user":["refiner_x"],"account":["refiner_y"],"known":true,"member":true}}`: true,
		`{"of":5,"first":3,"seen":8,"rules":"1/0a","since":{"known":true,"moved":true}}`:                                               true,
		`{"of":5,"first":3,"seen":8,"rules":"1/0a","other":1}`:                                                                         false,
		`{"of":5,"first":-1,"seen":8,"rules":"1/0a"}`:                                                                                  false,
		`{"of":"5"}`: false,
		`x`:          false,
		`null`:       false,
	} {
		r := marked("k", 9, text)
		m, err := redrive.MarkOf(&r)
		if (err == nil) != sound {
			t.Errorf("%s: %v", text, err)
		}
		doc, parsed := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(text)))
		if parsed == nil && (schema.Validate(doc) == nil) != sound {
			t.Errorf("%s: the schema does not agree", text)
		}
		if sound && (m.First != 3 || m.Seen != 8) {
			t.Errorf("%s: got %+v", text, m)
		}
	}
	for name, text := range map[string]string{"dies before it stands": mark(3, 4, 8), "is seen before it dies": mark(8, 3, 8), "looks ahead": mark(3, 3, 10)} {
		r := marked("k", 9, text)
		if _, err := redrive.MarkOf(&r); err == nil {
			t.Errorf("a mark that %s is taken", name)
		}
	}
	r := marked("k", 9, "")
	if m, err := redrive.MarkOf(&r); m != nil || err != nil {
		t.Errorf("no mark: %v %v", m, err)
	}
}

func TestMarkHoldsUntilItsUserSaysMore(t *testing.T) {
	t.Parallel()
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	log, err := queue.Open(queue.Options{Brokers: b.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for i, c := range []struct {
		rule    string
		between []queue.Record
		holds   bool
	}{
		{"nothing came", nil, true},
		{"others came", []queue.Record{marked("other", 0, "")}, true},
		{"the user said more", []queue.Record{marked("other", 0, ""), marked("k", 0, "")}, false},
		{"an older event of his was redriven", []queue.Record{marked("k", 0, mark(0, 0, 1))}, true},
		{"the same one was redriven", []queue.Record{marked("k", 0, mark(1, 1, 2))}, false},
		{"a newer one was redriven", []queue.Record{marked("k", 0, mark(2, 2, 3))}, false},
		{"nobody knows what came", []queue.Record{marked("k", 0, "?")}, false},
	} {
		topic := fmt.Sprintf("t%d", i)
		if err := log.EnsureTopics(t.Context(), []queue.TopicSpec{{Name: topic, Partitions: 1}}); err != nil {
			t.Fatal(err)
		}
		// Three events of before, which the mark has seen, and what came since.
		all := append([]queue.Record{marked("k", 0, ""), marked("k", 0, ""), marked("k", 0, "")}, c.between...)
		all = append(all, marked("k", 0, mark(1, 1, 3)))
		bundle := new(queue.Bundle)
		for j := range all {
			bundle.Add(&all[j])
		}
		if err := log.AppendBundle(t.Context(), topic, 0, bundle, nil); err != nil {
			t.Fatal(err)
		}
		batch, err := log.Reader(topic, 0, 0, queue.ReaderOptions{}).Next(t.Context())
		if err != nil || len(batch.Records) != len(all) {
			t.Fatalf("%d records: %v", len(batch.Records), err)
		}
		for from := range batch.Records { // however much of it has been read
			got, err := redrive.Read(t.Context(), log, batch.Records[from:])
			if err != nil || got == nil || got.Holds != c.holds {
				t.Errorf("%s, read from %d on: got %+v %v, want %v", c.rule, from, got, err, c.holds)
			}
		}
		if got, err := redrive.Read(t.Context(), log, batch.Records[:1]); got != nil || err != nil {
			t.Errorf("of an event that was not redriven: %+v %v", got, err)
		}
	}
	far := marked("k", redrive.MaxBehind+10, mark(1, 1, 9))
	if got, err := redrive.Read(t.Context(), nil, []queue.Record{far}); err != nil || got.Holds {
		t.Errorf("so far behind: %+v %v", got, err)
	}
	if got, err := redrive.Read(t.Context(), nil, []queue.Record{marked("k", 9, "?")}); err != nil || got.Holds {
		t.Errorf("what is no mark: %+v %v", got, err)
	}
}

func TestRedriveHasMessageIDsOfItsOwnAndAlwaysTheSame(t *testing.T) {
	t.Parallel()
	tenants, err := tenant.NewRegistry(tenant.Tenant{ID: "acme", WriteKey: tenant.NewSecret("k"), Rules: attribution.DefaultRules(), NoAuth: true})
	if err != nil {
		t.Fatal(err)
	}
	acme, _ := tenants.Get("acme")
	c := survey.Completion{ID: "r", UserID: "ann", AccountID: "acc"}
	ids := func(m redrive.Mark) (ids []string) {
		m.Rules = redrive.RulesOf(acme)
		res, err := (&redrive.Redriven{Mark: &m, Holds: true}).Attribute(c, acme, time.Unix(0, 0), false)
		if err != nil || len(res.Calls) != 2 {
			t.Fatalf("%+v %v", res, err)
		}
		return []string{res.Calls[0].MessageID, res.Calls[1].MessageID}
	}
	first, err := attribution.Attribute(c, &acme.Rules, "acme", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	one := ids(redrive.Mark{Of: 1, First: 1, Seen: 2})
	if diff := cmp.Diff(one, ids(redrive.Mark{Of: 1, First: 1, Seen: 7})); diff != "" {
		t.Errorf("the same, published again:\n%s", diff)
	}
	for name, other := range map[string][]string{
		"the first delivery":     {first.Calls[0].MessageID, first.Calls[1].MessageID},
		"one that leaves out":    ids(redrive.Mark{Of: 1, First: 1, Seen: 2, Since: attribution.Since{User: []attribution.TraitName{"refiner_x"}}}),
		"a redrive of a redrive": ids(redrive.Mark{Of: 5, First: 1, Seen: 6}),
	} {
		if one[0] == other[0] || one[1] == other[1] {
			t.Errorf("%s has the same message ids", name)
		}
	}
}
