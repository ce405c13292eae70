"""The progress of an evaluation: what it reports, and its display in terminals and notebooks."""
