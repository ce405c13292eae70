"""Pictures of results: brackets, curves, examples, flows."""
