"""Evaluation: metric versus evaluations of f, convergence, cost."""
