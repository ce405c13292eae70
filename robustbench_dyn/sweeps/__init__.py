"""Many evaluations from one file, on processes or a Ray cluster."""
