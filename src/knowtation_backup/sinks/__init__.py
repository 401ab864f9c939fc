"""Where blobs go: stores behind fsspec, and wrappers around them."""
