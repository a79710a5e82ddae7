"""The study of server steps: one method, many norms, under attack."""
