package app

// ConfigError is of a Start that cannot succeed with these Options: a tenants file
// that is broken, an address on which nobody can listen. Another try with the same
// ones fails likewise.
type ConfigError struct {
	Option Option
	Err    error
}

// Option names a field of Options.
type Option string

// The options of which a ConfigError can be.
const (
	OptionBrokers     Option = "Brokers"
	OptionTenantsFile Option = "TenantsFile"
	OptionAdminListen Option = "AdminListen"
	OptionListen      Option = "Ingress.Listen"
)

// Error returns what is wrong.
func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong.
func (e *ConfigError) Unwrap() error { return e.Err }
