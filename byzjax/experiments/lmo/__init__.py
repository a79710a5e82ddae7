"""The study of server steps: one method, many norms, under attack."""

from byzjax.experiments.lmo.experiment import QUICK, experiments

__all__ = ["QUICK", "experiments"]
