"""Pictures and labels: sources, the Manifest, decoding, transforms, loading."""
