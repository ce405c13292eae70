"""The default budgets of relaxations, in a module that imports no torch."""

# Steps of gradient ascent on the slopes of an example's objectives.
N_ITERATIONS = 20
# Multiplications that bounding one example's intermediate values may take.
BUDGET = 5_000_000_000
