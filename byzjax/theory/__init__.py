"""What the paper proves, as functions: robustness coefficients."""

from byzjax.theory.kappa import kappa, kappa_after_nnm, kappa_squared

__all__ = ["kappa", "kappa_after_nnm", "kappa_squared"]
