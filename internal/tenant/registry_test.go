package tenant_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"refinersource/internal/attribution"
	"refinersource/internal/tenant"
)

func newTenant(id tenant.ID) tenant.Tenant {
	return tenant.Tenant{ID: id, WriteKey: tenant.NewSecret("k"), Rules: attribution.DefaultRules()}
}

func TestRegistryFindsEachTenantAndYieldsThemInOrder(t *testing.T) {
	t.Parallel()
	r, err := tenant.NewRegistry(newTenant("b"), newTenant("c"), newTenant("a"))
	if err != nil {
		t.Fatal(err)
	}
	var ids []tenant.ID
	for tn := range r.All() {
		ids = append(ids, tn.ID)
		if got, ok := r.Get(tn.ID); !ok || got != tn {
			t.Errorf("Get(%s): got %v, %v, want what All yields", tn.ID, got, ok)
		}
		if tn.Endpoint != tenant.DefaultEndpoint || tn.Pairing != tenant.Strict {
			t.Errorf("%s: endpoint %q and pairing %q are no defaults", tn.ID, tn.Endpoint, tn.Pairing)
		}
	}
	if want := []tenant.ID{"a", "b", "c"}; !slices.Equal(ids, want) || r.Len() != len(want) {
		t.Errorf("got %v and length %d, want %v", ids, r.Len(), want)
	}
	if _, ok := r.Get("d"); ok {
		t.Error("Get found a tenant that is not there")
	}
}

func TestRegistryRefusesWhatAFileMayNotHave(t *testing.T) {
	t.Parallel()
	bad := newTenant("c")
	bad.Rules = attribution.Rules{}
	bad.Endpoint = "nowhere"
	_, err := tenant.NewRegistry(newTenant("a"), newTenant("b"), newTenant("a"), bad)
	got, _ := errors.AsType[tenant.Faults](err)
	want := tenant.Faults{
		{Field: "tenants[2].id", Problem: "is also that of tenants[0]"},
		{Field: "tenants[3].endpoint", Problem: "has neither https nor http as its scheme"},
		{Field: "tenants[3].prefix", Problem: "cannot begin trait names"},
		{Field: "tenants[3].order_by", Problem: "is not known"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(tenant.Fault{}, "Remedy")); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestRequireCredentialsNamesTenantsForWhomNobodyCouldSend(t *testing.T) {
	t.Parallel()
	r, err := tenant.Parse("tenants.yaml", []byte(`tenants:
  - {id: token, write_key: k, tokens: [t]}
  - {id: neither, write_key: k}
  - {id: signed, write_key: k, signing_secrets: [`+signingSecret+`]}
  - {id: open, write_key: k, auth: none}
  - {id: empty, write_key: k, tokens: []}
`), noEnv)
	if err != nil {
		t.Fatalf("tenants without credentials must load, a worker needs none: %v", err)
	}
	got, _ := errors.AsType[tenant.Faults](r.RequireCredentials())
	want := tenant.Faults{{Line: 3, Field: "tenants[1].tokens"}, {Line: 6, Field: "tenants[4].tokens"}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(tenant.Fault{}, "Problem", "Remedy")); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	r, err = tenant.NewRegistry()
	if err != nil || r.RequireCredentials() != nil {
		t.Errorf("no tenants: got %v and %v, want no faults", err, r.RequireCredentials())
	}
}
