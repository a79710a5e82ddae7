"""One run: a round, the scan over rounds, its host side and its checkpoints."""
