"""Equilibrium models that restore images."""
