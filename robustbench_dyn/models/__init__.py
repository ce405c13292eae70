"""The model under test: architectures and their weights, identity, validation, counted passes."""
