"""The report of the paper's experiments: tables, figures, verdicts."""
