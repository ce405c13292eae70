"""What is made of results: leaderboards, exported tables, curves, plots."""
