"""A sweep of runs: its grid, its plan, its chunks, and the data set that comes of it."""
