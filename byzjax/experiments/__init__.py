"""Experiments as data: what is run, and what is shown of it."""
