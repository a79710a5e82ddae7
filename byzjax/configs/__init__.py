"""Rules, runs and grids as text."""
