package delivery

// Known is how many tenants and hosts are known.
func (d *Deliverer) Known() (tenants, hosts int) {
	d.state.mu.Lock()
	defer d.state.mu.Unlock()
	return len(d.state.tenants), len(d.state.hosts)
}
