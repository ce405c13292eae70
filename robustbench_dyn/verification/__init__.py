"""Verification: do the rows of tables hold, by their evidence and by running the model again?"""
