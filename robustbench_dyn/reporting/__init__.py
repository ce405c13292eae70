"""Leaderboards, exported tables, curves and plots, all drawn from results."""
