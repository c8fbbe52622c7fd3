"""Language models: a deep equilibrium Transformer, and explicit networks beside it."""
