package main

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"refinersource/internal/attribution"
	"refinersource/internal/tenant"
)

func newTenants() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tenants",
		Short:   "Check the tenants file",
		Example: "  refiner-source tenants check tenants.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Help()
			return usagef("name a command: tenants check")
		},
	}
	cmd.AddCommand(newTenantsCheck())
	return cmd
}

func newTenantsCheck() *cobra.Command {
	var (
		output        string
		allowNoTokens bool
	)
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Report every fault of a tenants file with its line and remedy",
		Long: "Report every fault of a tenants file with its line and remedy, and exit 1 if there is one.\n\n" +
			"${ENV} and file: are resolved, so run it where the service runs. Of a secret only the\n" +
			"first 8 hex digits of its SHA-256 are shown.",
		Example: "  refiner-source tenants check tenants.yaml\n  refiner-source tenants check tenants.yaml --output json",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&output, "output", "table", "table or json")
	cmd.Flags().BoolVar(&allowNoTokens, "allow-no-tokens", false,
		"pass tenants for whom nobody can send, as dev and worker do; ingress does not")
	cmd.RunE = work(func(cmd *cobra.Command, args []string) error {
		if output != "table" && output != "json" {
			return usagef("--output %q: want table or json", output)
		}
		load := tenant.LoadForSenders
		if allowNoTokens {
			load = tenant.Load
		}
		r, err := load(args[0], os.LookupEnv)
		faults, found := errors.AsType[tenant.Faults](err)
		if err != nil && !found {
			return usageError{err}
		}
		report := tenantsReport{Valid: !found, Faults: faults}
		if !found {
			report.Tenants = summarize(r)
		}
		if err := report.print(cmd.OutOrStdout(), args[0], output); err != nil {
			return err
		}
		if found {
			return errReported
		}
		return nil
	})
	return cmd
}

// tenantsReport is what tenants check --output json prints: the faults, or else
// the tenants.
type tenantsReport struct {
	Valid   bool            `json:"valid"`
	Faults  []tenant.Fault  `json:"faults,omitzero"`
	Tenants []tenantSummary `json:"tenants,omitzero"`
}

type tenantSummary struct {
	ID             tenant.ID           `json:"id"`
	Endpoint       string              `json:"endpoint"`
	OrderBy        attribution.OrderBy `json:"order_by"`
	Pairing        tenant.Pairing      `json:"pairing"`
	WriteKey       tenant.Secret       `json:"write_key"`
	Tokens         []tenant.Secret     `json:"tokens"`
	SigningSecrets []tenant.Secret     `json:"signing_secrets"`
	NoAuth         bool                `json:"no_auth"`
	Paused         bool                `json:"paused"`
}

func summarize(r *tenant.Registry) []tenantSummary {
	summaries := make([]tenantSummary, 0, r.Len())
	for t := range r.All() {
		summaries = append(summaries, tenantSummary{
			ID: t.ID, Endpoint: t.Endpoint, OrderBy: t.Rules.OrderBy, Pairing: t.Pairing, WriteKey: t.WriteKey,
			Tokens: t.Tokens, SigningSecrets: t.SigningSecrets, NoAuth: t.NoAuth, Paused: t.Paused,
		})
	}
	return summaries
}

func (r *tenantsReport) print(out io.Writer, file, output string) error {
	if output == "json" {
		if err := json.MarshalWrite(out, r, jsontext.WithIndent("  ")); err != nil {
			return err
		}
		_, err := fmt.Fprintln(out)
		return err
	}
	if !r.Valid {
		for _, f := range r.Faults {
			if _, err := fmt.Fprintf(out, "%s: %s\n", file, f); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ID\tENDPOINT\tORDER BY\tPAIRING\tCREDENTIALS\tWRITE KEY\tTOKENS AND SIGNING SECRETS")
	for i := range r.Tenants {
		t := &r.Tenants[i]
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n",
			t.ID, t.Endpoint, t.OrderBy, t.Pairing, len(t.Tokens)+len(t.SigningSecrets), t.WriteKey, t.credentials())
	}
	return w.Flush()
}

// credentials shows who may send.
func (t *tenantSummary) credentials() string {
	if t.NoAuth {
		return "everybody (auth: none)"
	}
	var shown []string
	for _, s := range t.Tokens {
		shown = append(shown, s.String())
	}
	for _, s := range t.SigningSecrets {
		shown = append(shown, s.String())
	}
	if len(shown) == 0 {
		return "nobody"
	}
	return strings.Join(shown, " ")
}
