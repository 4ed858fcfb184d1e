package delivery

import "time"

// Jitter is a random pause of at least least, up to a ceiling that doubles with
// each failure after the first, from least to most: full jitter.
func (d *Deliverer) Jitter(least, most time.Duration, failures int) time.Duration {
	b := fullJitter{min: least, max: most, rand: d.o.Rand, retries: max(0, failures-1)}
	return max(least, b.NextBackOff())
}
