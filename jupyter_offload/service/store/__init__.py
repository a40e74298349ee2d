"""The store: `base` is the seam, `sqlite` the implementation."""
