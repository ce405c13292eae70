"""Searches for adversarial examples: our own, and those of torchattacks and AutoAttack."""
