"""Equilibrium models of images."""
