"""Named places that run Work."""
