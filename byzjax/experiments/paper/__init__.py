"""The experiments of the paper, as data, and what becomes of their results."""
