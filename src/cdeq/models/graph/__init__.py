"""Graph models: a graph is one sample, its state one row a node."""
