"""Modules made to fool the examiner: each a few lines, with what must be said of it."""
