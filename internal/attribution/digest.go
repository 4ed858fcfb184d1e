package attribution

import "crypto/sha256"

// DigestBytes is the length of a call's digest.
const DigestBytes = 16

// Digest tells whether two calls are the same: the first bytes of the SHA-256 of
// what AppendJSON appends. It uses scratch for that, and returns it as it has grown.
func (c *Call) Digest(scratch []byte) (digest [DigestBytes]byte, _ []byte) {
	scratch = c.AppendJSON(scratch[:0])
	sum := sha256.Sum256(scratch)
	copy(digest[:], sum[:])
	return digest, scratch
}
