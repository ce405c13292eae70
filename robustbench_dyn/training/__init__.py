"""Training of architectures: recipes, losses, optimizers, adversarial and certified training."""
