"""Bounds of every value of a network over a ball: intervals, linear relaxations."""
