"""Batch systems: they run scripts and know nothing of Pods."""
