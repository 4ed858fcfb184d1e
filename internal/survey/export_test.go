package survey

import "unsafe"

// DecodeWithJSONText is Decode without the scanner.
func DecodeWithJSONText(source Source, raw []byte) (Completion, error) {
	d := newDecoder(raw)
	defer d.close()
	d.text = unsafe.String(unsafe.SliceData(raw), len(raw))
	d.restart()
	return d.decode(source, raw)
}

// IsScanned reports whether Decode needs the scanner alone.
func IsScanned(source Source, raw []byte) bool {
	d := newDecoder(raw)
	defer d.close()
	_, _ = d.decode(source, raw)
	return d.fast
}
