"""The effect of a network's own rounding on proofs about it."""
