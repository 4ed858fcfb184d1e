package attribution

import "crypto/sha256"

// DigestBytes is the length of a call's digest.
const DigestBytes = 16

// Digest tells whether two calls are the same: the first bytes of the SHA-256 of
// what AppendJSON appends. It uses scratch, where the digest is not known yet, and
// returns it as it has grown.
func (c *Call) Digest(scratch []byte) (digest [DigestBytes]byte, _ []byte) {
	if c.digest != [DigestBytes]byte{} {
		return c.digest, scratch
	}
	scratch = c.AppendJSON(scratch[:0])
	return digestOf(scratch), scratch
}

func digestOf(encoded []byte) [DigestBytes]byte {
	sum := sha256.Sum256(encoded)
	return [DigestBytes]byte(sum[:])
}
