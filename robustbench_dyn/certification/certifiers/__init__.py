"""The certifiers, one a file."""
