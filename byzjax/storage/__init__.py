"""What is kept on disk: written whole or not at all, shared between processes, content-addressed."""
