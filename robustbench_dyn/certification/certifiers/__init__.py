"""The certifiers, one a file: names and settings. Their proofs import torch, and come later."""
