"""What a network's own rounding may do to a proof about it."""
