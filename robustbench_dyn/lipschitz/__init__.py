"""Upper bounds of operator norms, and of the Lipschitz constants of networks."""
