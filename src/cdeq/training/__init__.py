"""Training: what is minimised is pure; who minimises it is `engine`."""
