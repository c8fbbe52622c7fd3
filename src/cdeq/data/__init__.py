"""Data sets, addressed by sample index."""
