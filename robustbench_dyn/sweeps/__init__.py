"""Many evaluations from one file, in local processes or on a Ray cluster."""
