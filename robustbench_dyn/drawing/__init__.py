"""Pictures of results: brackets, curves, examples, radii, flows; on figures and in HTML."""
