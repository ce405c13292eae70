"""Data sets in files that nothing registered, one module a form of files."""
