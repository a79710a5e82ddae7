"""Robustness coefficients κ of Definition 1 (appendix C of the Byz-NSGDM paper).

A rule is (δ, κ)-robust if, whatever the at most B = f hostile rows hold,
``‖ARAgg(v_1, …, v_n) − v̄_G‖ ≤ (κ/G) Σ_{i ∈ G} ‖v_i − v̄_G‖``. The bound is linear; the κ of Allouah et al. bounds
squares.
"""

from __future__ import annotations

import math


def kappa(rule: str, *, num_workers: int, f: int, dim: int = 1) -> float:
    """κ of a rule without pre-aggregation.

    ``2 (1 + f/(n − 2f))`` for the geometric median (Proposition 1), √d times that for the coordinate-wise median
    (Proposition 2). Both are about the exact minimiser: a few Weiszfeld steps may miss it.

    Args:
      rule: "geometric_median" (or "rfa") or "median".
      num_workers: n.
      f: number of Byzantine workers, 2f < n.
      dim: d, for the median.

    Raises:
      ValueError: 2f ≥ n, or a rule for which the paper gives no linear κ.

    >>> kappa("geometric_median", num_workers=20, f=3)
    2.4285714285714284
    """
    if f < 0 or 2 * f >= num_workers:
        raise ValueError(f"kappa: f = {f} of n = {num_workers} must satisfy 0 ≤ 2f < n.")
    base = 2 * (1 + f / (num_workers - 2 * f))
    if rule in ("geometric_median", "rfa"):
        return base
    if rule == "median":
        return base * math.sqrt(dim)
    raise ValueError(f"kappa: no linear coefficient is published for rule = {rule!r}; known: geometric_median, median.")


def kappa_after_nnm(kappa: float, *, num_workers: int, f: int, leverage: float) -> float:
    """κ' = (8κ + 4) α C of a (δ, κ)-robust rule after nearest-neighbour mixing (Lemma 12), with α = f/(n − f).

    Args:
      kappa: κ of the rule.
      num_workers: n.
      f: number of Byzantine workers, 2f < n.
      leverage: C of Assumption 5, the largest honest deviation over the mean one; at most n − f.

    Raises:
      ValueError: 2f ≥ n.

    >>> round(kappa_after_nnm(2.0, num_workers=20, f=4, leverage=2.0), 6)
    10.0
    """
    if f < 0 or 2 * f >= num_workers:
        raise ValueError(f"kappa_after_nnm: f = {f} of n = {num_workers} must satisfy 0 ≤ 2f < n.")
    return (8 * kappa + 4) * f / (num_workers - f) * leverage
