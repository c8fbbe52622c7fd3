"""Models: each domain imports `base` and the core, never another domain."""
