"""Verdicts, their evidence, the rows made of them, and the store that keeps both."""
